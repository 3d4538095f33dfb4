/** Weights on their way from a file to a device, a few rows at a time and as the file has them. */
import type { FileType } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { ParameterEntry, ParameterLayout } from "../parameters.ts";
import { CHUNK_BYTES } from "./digest.ts";
import { dequantize } from "./gguf/dequantize.ts";
import { bytesOf, TENSOR_TYPES, type TensorType } from "./gguf/types.ts";

/** A number that its taker cannot hold. */
export interface BadWeight {
  /** its place in the bytes, in numbers */
  index: number;
  value: number;
}

/**
 * Takes rows of a parameter, from row `first` on.
 * @param bytes whole rows; they are the caller's again afterwards
 * @returns the first number that is not finite or too large for the type it is held in
 */
export type WeightSink = (
  entry: ParameterEntry,
  first: number,
  type: FileType,
  bytes: Uint8Array<ArrayBuffer>,
) => BadWeight | undefined;

/** Where weights come from. */
export interface WeightSource {
  /** how the file holds each parameter, by its name */
  types: ReadonlyMap<string, TensorType>;
  /**
   * Reads all weights, each once.
   * @param layout of the config's network
   * @throws {MicrogptError} when a file changed since it was looked at, or `sink` did not take a number
   */
  readWeights(layout: ParameterLayout, sink: WeightSink): Promise<void>;
}

/**
 * Cuts the rows of a parameter into pieces of about a megabyte.
 * @param unit rows that must stay together
 */
export function rowPieces(rows: number, rowBytes: number, unit = 1): { first: number; count: number }[] {
  const most = unit * Math.max(1, Math.floor(CHUNK_BYTES / (unit * rowBytes)));
  return Array.from({ length: Math.ceil(rows / most) }, (_, i) => {
    return { first: i * most, count: Math.min(most, rows - i * most) };
  });
}

/** Numbers of a file as f32. */
export function decoded(type: FileType, bytes: Uint8Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  const block = TENSOR_TYPES[type];
  const values = new Float32Array(bytes.length / block.bytes * block.elements);
  dequantize(type, bytes, values);
  return values;
}

/** A sink that looks whether every number is finite, and hands f32 on. */
export function f32Sink(
  take: (entry: ParameterEntry, first: number, values: Float32Array) => void,
): WeightSink {
  return (entry, first, type, bytes) => {
    const values = decoded(type, bytes);
    const index = values.findIndex((value) => !Number.isFinite(value));
    if (index >= 0) return { index, value: values[index]! };
    take(entry, first, values);
  };
}

/** One number of a file's. */
export function numberAt(type: FileType, bytes: Uint8Array<ArrayBuffer>, index: number): number {
  const block = TENSOR_TYPES[type];
  const inBlock = index % block.elements;
  const start = bytesOf(type, index - inBlock);
  return decoded(type, bytes.subarray(start, start + block.bytes))[inBlock]!;
}

/** What is wrong with a number that was not taken, but for where it is. @param where "[row, column]" as the file's kind has it */
export function badWeightError(
  { value }: BadWeight,
  tensor: string,
  where: string,
  hint: string,
): MicrogptError {
  return Number.isFinite(value)
    ? new MicrogptError(`${tensor} holds ${value} at ${where}, too large for the type it would be held in`, {
      hint: "use `dtype` bf16 or f32",
    })
    : new MicrogptError(`${tensor} holds ${value} at ${where}`, { hint });
}
