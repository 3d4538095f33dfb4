/** The flat array that holds all parameters of a model: which lies where in it. What they are is up to the network. */
import type { Allocator, Device, ElementType, Purpose, Tensor } from "../device/device.ts";
import { mixSeed, normal } from "../device/random.ts";

/**
 * What a parameter is to an optimizer: a row a token or position (`embedding`), a row a token on the way out (`head`),
 * a matrix between hidden vectors (`matrix`), or what decays to nowhere: the factors of a norm (`norm`) and what a product
 * adds (`bias`).
 */
export type ParameterRole = "embedding" | "head" | "matrix" | "norm" | "bias";

/** A parameter as a network declares it: [rows, cols], or [cols] where it is one row of factors. */
export interface ParameterSpec {
  name: string;
  shape: readonly [rows: number, cols: number] | readonly [cols: number];
  role: ParameterRole;
  /** the layer that it belongs to, from 0 */
  layer?: number;
  /** it has a row for each token of the vocabulary */
  perToken?: true;
}

/** Where a named parameter lies in the flat array. A weight [rows, cols] acts as y = x · Wᵀ. */
export interface ParameterEntry extends ParameterSpec {
  /** 1 where the shape is [cols] */
  rows: number;
  cols: number;
  /** first element in the flat array */
  offset: number;
}

/** Parameters that are neighbours, and one matrix where they have rows of one length. */
export interface ParameterBlock {
  entries: ParameterEntry[];
  /** elements `offset` … `end` of the flat array */
  offset: number;
  end: number;
}

/** The flat array that weights, gradients and moments share. */
export interface ParameterLayout {
  /** in the order of their offsets */
  entries: ParameterEntry[];
  blocks: ParameterBlock[];
  byName: Map<string, ParameterEntry>;
  /** elements, including the zeros between blocks */
  length: number;
  /** elements without those zeros: the number of parameters */
  count: number;
}

/** Blocks start at multiples of this many elements, so that a GPU can bind each alone (256 bytes, of bf16 too). */
const ALIGNMENT = 128;

const aligned = (offset: number) => Math.ceil(offset / ALIGNMENT) * ALIGNMENT;

/** Lays blocks out one after the other. The parameters of a block are neighbours, so that they can be one matrix. */
export function layOut(blocks: readonly (readonly ParameterSpec[])[]): ParameterLayout {
  const laidOut: ParameterBlock[] = [];
  let offset = 0;
  let count = 0;
  for (const specs of blocks) {
    const block: ParameterBlock = { entries: [], offset: aligned(offset), end: 0 };
    offset = block.offset;
    for (const spec of specs) {
      const [rows, cols] = spec.shape.length === 1 ? [1, spec.shape[0]] : spec.shape;
      block.entries.push({ ...spec, rows, cols, offset });
      offset += rows * cols;
      count += rows * cols;
    }
    laidOut.push({ ...block, end: offset });
  }
  const entries = laidOut.flatMap((block) => block.entries);
  const byName = new Map(entries.map((entry) => [entry.name, entry]));
  return { entries, blocks: laidOut, byName, length: aligned(offset), count };
}

/** Elements `start` … `end` of the flat array. */
export interface ParameterRange<Key> {
  start: number;
  end: number;
  key: Key;
}

/**
 * Cuts the flat array where the key of its entries changes: an optimizer that treats them differently calls a kernel a
 * range. Together the ranges are the whole array.
 */
export function rangesOf<Key>(
  layout: ParameterLayout,
  keyOf: (entry: ParameterEntry) => Key,
): ParameterRange<Key>[] {
  const ranges: ParameterRange<Key>[] = [];
  for (const entry of layout.entries) {
    const [last, key] = [ranges.at(-1), keyOf(entry)];
    if (last?.key === key) continue;
    if (last) last.end = entry.offset;
    ranges.push({ start: entry.offset, end: layout.length, key });
  }
  return ranges;
}

/** A parameter as a matrix of the flat array; with `rows`, together with the parameters that follow it in its block. */
export function parameterView(
  device: Device,
  flat: Tensor,
  layout: ParameterLayout,
  name: string,
  rows?: number,
): Tensor {
  const entry = layout.byName.get(name)!;
  return device.view(flat, entry.offset, rows ?? entry.rows, entry.cols);
}

/**
 * Allocates a flat array in the layout's length: f32 for masters, gradients and moments, `work` for the working copy.
 */
export function flatTensor(
  allocator: Allocator,
  label: string,
  layout: ParameterLayout,
  type: ElementType,
  purpose: Purpose = "weights",
): Tensor {
  return allocator.tensor(label, 1, layout.length, type, purpose);
}

/** Standard deviation of a new model's weights, chosen by experiment (docs/log.md). */
const INITIAL_STD = 0.02;

/**
 * Draws initial weights: 1 for the factors of norms, 0 for biases, else normal with standard deviation `std`, and std / sqrt(2L) for
 * projections that add to the residual stream (Radford et al. 2019).
 * @param nLayer L
 * @param addsToResidual which parameters those projections are
 * @param zero they and the head begin at 0, so that each layer begins as none, and every token equally likely (Zhang et al. 2019)
 * @returns [layout.length]
 */
export function initialParameters(
  layout: ParameterLayout,
  nLayer: number,
  addsToResidual: (name: string) => boolean,
  seed: number,
  std = INITIAL_STD,
  zero = false,
): Float32Array<ArrayBuffer> {
  const flat = new Float32Array(layout.length);
  const mixed = mixSeed(seed);
  for (const { name, role, rows, cols, offset } of layout.entries) {
    const end = offset + rows * cols;
    const scale = addsToResidual(name) ? std / Math.sqrt(2 * nLayer) : std;
    if (role === "bias" || zero && (role === "head" || addsToResidual(name))) continue;
    if (role === "norm") flat.fill(1, offset, end);
    else for (let i = offset; i < end; i++) flat[i] = scale * normal(mixed, i);
  }
  return flat;
}
