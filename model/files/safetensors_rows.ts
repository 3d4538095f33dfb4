/** The rows of a safetensors file's tensors, handed on as they are. */
import { MicrogptError } from "../../device/errors.ts";
import type { ParameterEntry } from "../parameters.ts";
import { type ReadableFile, readFull } from "./digest.ts";
import type { TensorInfo } from "./safetensors.ts";
import { badWeightError, rowPieces, type WeightSink } from "./weight_source.ts";

/**
 * Hands on a tensor's rows from the file's position on.
 * @param path what error messages call the file
 * @param tensor as `readHeader` found it
 * @throws {MicrogptError} when the file shrank, or `sink` did not take a number
 */
export async function sendRows(
  file: ReadableFile,
  path: string,
  { dtype, bytes }: TensorInfo,
  entry: ParameterEntry,
  sink: WeightSink,
): Promise<void> {
  const rowBytes = bytes / entry.rows;
  let buffer = new Uint8Array(0);
  for (const { first, count } of rowPieces(entry.rows, rowBytes)) {
    const size = count * rowBytes;
    if (buffer.length < size) buffer = new Uint8Array(size);
    const part = buffer.subarray(0, size);
    if (!await readFull(file, part)) {
      throw new MicrogptError(`${path}: the file shrank while it was read`);
    }
    const bad = sink(entry, first, dtype, part);
    if (!bad) continue;
    const row = first + Math.floor(bad.index / entry.cols);
    const where = `[${row}, ${bad.index % entry.cols}]`;
    throw badWeightError(
      bad,
      `${path}: tensor ${entry.name}`,
      where,
      "the weights are broken; use an earlier checkpoint",
    );
  }
}
