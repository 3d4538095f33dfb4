/** What the cases of the device suite are made of: random numbers, documents and rows, the same on every device. */
import type { Batch, DecodeRows, Device, ElementType, PackedDocuments, Tensor } from "../../device/device.ts";
import { mixSeed, normal, uniform } from "../../device/random.ts";

/** A case of the device suite. */
export interface DeviceCase {
  name: string;
  /** largest allowed |difference| / (1 + |expected|) of an f32 device */
  tolerance: number;
  run(d: Device): Promise<Record<string, ArrayLike<number>>>;
}

/** Normal random numbers, the same on every device. */
export function gaussian(length: number, seed: number, scale = 1): Float32Array {
  const mixed = mixSeed(seed);
  return Float32Array.from({ length }, (_, i) => scale * normal(mixed, i));
}

/** A matrix of normal random numbers. */
export function filled(
  d: Device,
  rows: number,
  cols: number,
  seed: number,
  type: ElementType = "f32",
  scale = 1,
): Tensor {
  const tensor = d.tensor(`case ${seed}`, rows, cols, type);
  d.write(tensor, gaussian(rows * cols, seed, scale));
  return tensor;
}

/** Packs documents of the given lengths with random ids below V. */
export function randomDocuments(lengths: number[], V: number, seed: number): PackedDocuments {
  const starts = new Uint32Array(lengths.length + 1);
  lengths.forEach((length, i) => starts[i + 1] = starts[i]! + length);
  const mixed = mixSeed(seed);
  const ids = (salt: number) =>
    Uint32Array.from({ length: starts.at(-1)! }, (_, t) => Math.floor(uniform(mixed, 2 * t + salt) * V));
  return { tokens: ids(0), targets: ids(1), starts };
}

/** Documents on the device. */
export function loaded(d: Device, documents: PackedDocuments): Batch {
  const batch = d.createBatch(documents.tokens.length, documents.starts.length - 1);
  d.loadBatch(batch, documents);
  return batch;
}

/** `AdamState.control` after so many steps. */
export function control(d: Device, adamStep = 0): Tensor {
  const tensor = d.tensor("control", 1, 4);
  d.write(tensor, new Float32Array([adamStep, 1, 0, 0]));
  return tensor;
}

/** Rows of a decoding step. */
export function decodeRows(
  d: Device,
  tokens: number[],
  positions: number[],
  sequences: number[],
): DecodeRows {
  const column = (label: string, values: number[]) => {
    const tensor = d.tensor(label, values.length, 1, "u32");
    d.write(tensor, Uint32Array.from(values));
    return tensor;
  };
  return {
    tokens: column("tokens", tokens),
    positions: column("positions", positions),
    sequences: column("sequences", sequences),
  };
}
