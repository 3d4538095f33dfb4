import type { ModelConfig } from "./config.ts";
import type { Allocator, Device, Tensor } from "./device.ts";
import { mixSeed, normal } from "./random.ts";

/** Where a named parameter lies in the flat array. A weight [rows, cols] acts as y = x · Wᵀ. */
export interface ParameterEntry {
  name: string;
  rows: number;
  cols: number;
  /** first element in the flat array */
  offset: number;
}

/** The flat array that weights, gradients and moments share. */
export interface ParameterLayout {
  /** in the order of their offsets; `attn_wq`, `attn_wk`, `attn_wv` of a layer are neighbours: one [3E, E] matrix */
  entries: ParameterEntry[];
  byName: Map<string, ParameterEntry>;
  /** elements, the zeros between blocks counted in */
  length: number;
  /** elements without those zeros: the number of parameters */
  count: number;
}

/** Blocks start at multiples of this many elements, so that a GPU can bind each alone (256 bytes, of bf16 too). */
const ALIGNMENT = 128;

/** Lays out all parameters of a model: names and shapes are the file format's. */
export function parameterLayout(config: ModelConfig): ParameterLayout {
  const { vocab_size: V, n_embd: E, block_size: B, n_layer: L } = config;
  const entries: ParameterEntry[] = [];
  let offset = 0;
  let count = 0;
  const block = (...parameters: [name: string, rows: number, cols: number][]) => {
    offset = Math.ceil(offset / ALIGNMENT) * ALIGNMENT;
    for (const [name, rows, cols] of parameters) {
      entries.push({ name, rows, cols, offset });
      offset += rows * cols;
      count += rows * cols;
    }
  };
  block(["wte", V, E]);
  block(["wpe", B, E]);
  block(["lm_head", V, E]);
  for (let i = 0; i < L; i++) {
    const layer = `layer${i}`;
    block([`${layer}.attn_wq`, E, E], [`${layer}.attn_wk`, E, E], [`${layer}.attn_wv`, E, E]);
    block([`${layer}.attn_wo`, E, E]);
    block([`${layer}.mlp_fc1`, 4 * E, E]);
    block([`${layer}.mlp_fc2`, E, 4 * E]);
  }
  const length = Math.ceil(offset / ALIGNMENT) * ALIGNMENT;
  return { entries, byName: new Map(entries.map((entry) => [entry.name, entry])), length, count };
}

/** Standard deviation of a new model's weights, chosen by experiment (docs/log.md). */
const INITIAL_STD = 0.02;

/**
 * Draws initial weights: normal with standard deviation `std`, and std / sqrt(2L) for the two projections of a layer
 * that add to the residual stream (Radford et al. 2019).
 * @returns the flat array, [layout.length]; zeros between blocks
 */
export function initialParameters(
  layout: ParameterLayout,
  { n_layer: nLayer }: ModelConfig,
  seed: number,
  std = INITIAL_STD,
): Float32Array {
  const flat = new Float32Array(layout.length);
  const mixed = mixSeed(seed);
  for (const { name, rows, cols, offset } of layout.entries) {
    const residual = name.endsWith("attn_wo") || name.endsWith("mlp_fc2");
    const scale = residual ? std / Math.sqrt(2 * nLayer) : std;
    for (let i = offset; i < offset + rows * cols; i++) flat[i] = scale * normal(mixed, i);
  }
  return flat;
}

/** The weights of one layer, as views of the flat array. */
export interface LayerWeights {
  /** [3E, E] */
  qkv: Tensor;
  /** [E, E] */
  attnWo: Tensor;
  /** [4E, E] */
  mlpFc1: Tensor;
  /** [E, 4E] */
  mlpFc2: Tensor;
}

/** The weights of a model (or their gradients), as views of the flat array. */
export interface Weights {
  /** [V, E] */
  wte: Tensor;
  /** [B, E] */
  wpe: Tensor;
  /** [V, E] */
  lmHead: Tensor;
  layers: LayerWeights[];
}

/** Views of `flat` [1, layout.length] as the matrices of the model. */
export function weightViews(device: Device, flat: Tensor, layout: ParameterLayout, nLayer: number): Weights {
  const view = (name: string, rows?: number) => {
    const entry = layout.byName.get(name)!;
    return device.view(flat, entry.offset, rows ?? entry.rows, entry.cols);
  };
  return {
    wte: view("wte"),
    wpe: view("wpe"),
    lmHead: view("lm_head"),
    layers: Array.from({ length: nLayer }, (_, i) => ({
      qkv: view(`layer${i}.attn_wq`, 3 * layout.byName.get(`layer${i}.attn_wq`)!.rows),
      attnWo: view(`layer${i}.attn_wo`),
      mlpFc1: view(`layer${i}.mlp_fc1`),
      mlpFc2: view(`layer${i}.mlp_fc2`),
    })),
  };
}

/** Allocates a flat array in the layout's length: f32 for masters, gradients and moments, `work` for the working copy. */
export function flatTensor(
  allocator: Allocator,
  label: string,
  layout: ParameterLayout,
  type: "f32" | "work",
): Tensor {
  return allocator.tensor(label, 1, layout.length, type);
}
