/** The values of a GGUF file's tensors, read by range straight to where they are wanted. */
import { MicrogptError } from "../../../device/errors.ts";
import { printable } from "../directory.ts";
import { dequantize } from "./dequantize.ts";
import type { GgufTensors } from "./read.ts";
import { bytesOf, type GgufTensor, TENSOR_TYPES } from "./types.ts";

/** Dequantized at a time: a few milliseconds, between which other work goes on. A multiple of every block. */
const CHUNK_ELEMENTS = 1 << 18;

/** Rows `first` to `end − 1` of a tensor, its last dimension being the rows' length. */
export interface RowRange {
  first: number;
  end: number;
}

/** Length of a tensor's rows: its innermost dimension. */
export function rowLength(tensor: GgufTensor): number {
  return tensor.shape.at(-1)!;
}

/**
 * Reads a tensor, or some rows of it, as f32. Takes 1 MB beside `into` at most.
 * @param into [rows, rowLength], receives the values
 * @throws {MicrogptError} when the file shrank, or holds a value that is not finite
 * @throws {RangeError} when `into` is not the rows' size
 */
export async function readTensor(
  gguf: GgufTensors,
  tensor: GgufTensor,
  into: Float32Array<ArrayBuffer>,
  rows: RowRange = { first: 0, end: tensor.elements / rowLength(tensor) },
): Promise<void> {
  const start = checkedStart(tensor, rows, into.length);
  const scratch = new Uint8Array(
    tensor.type === "F32" ? 0 : bytesOf(tensor.type, Math.min(into.length, CHUNK_ELEMENTS)),
  );
  for (let done = 0; done < into.length; done += CHUNK_ELEMENTS) {
    const values = into.subarray(done, done + CHUNK_ELEMENTS);
    const offset = tensor.offset + bytesOf(tensor.type, start + done);
    if (tensor.type === "F32") {
      await fill(gguf, offset, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    } else {
      const bytes = scratch.subarray(0, bytesOf(tensor.type, values.length));
      await fill(gguf, offset, bytes);
      dequantize(tensor.type, bytes, values);
    }
    checkFinite(gguf, tensor, values, start + done);
  }
}

/**
 * Reads a tensor, or some rows of it, as the blocks that it has in the file.
 * @param into receives the bytes
 * @throws {MicrogptError} when the file shrank
 * @throws {RangeError} when `into` is not the rows' size
 */
export async function readBlocks(
  gguf: GgufTensors,
  tensor: GgufTensor,
  into: Uint8Array<ArrayBuffer>,
  rows: RowRange = { first: 0, end: tensor.elements / rowLength(tensor) },
): Promise<void> {
  const block = TENSOR_TYPES[tensor.type];
  const start = checkedStart(tensor, rows, into.length / block.bytes * block.elements);
  await fill(gguf, tensor.offset + bytesOf(tensor.type, start), into);
}

/** The first element of some rows, of which there must be `elements`. */
function checkedStart(tensor: GgufTensor, { first, end }: RowRange, elements: number): number {
  const length = rowLength(tensor);
  const isRange = first >= 0 && first <= end && end * length <= tensor.elements;
  if (!isRange || (end - first) * length !== elements) {
    throw new RangeError(`${tensor.name}: rows ${first} to ${end} of ${length} are not ${elements} elements`);
  }
  return first * length;
}

async function fill(
  gguf: GgufTensors,
  offset: number,
  into: Uint8Array<ArrayBuffer>,
): Promise<void> {
  if (!await gguf.source.readAt(offset, into)) {
    throw new MicrogptError(`${gguf.path}: the file shrank while it was read`);
  }
}

function checkFinite(gguf: GgufTensors, tensor: GgufTensor, values: Float32Array, start: number): void {
  // x − x is 0 for all numbers but NaN and the infinities; their NaN stays in the sum.
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]! - values[i]!;
  if (sum === 0) return;
  const i = values.findIndex((value) => !Number.isFinite(value));
  const row = Math.floor((start + i) / rowLength(tensor));
  const place = `row ${row}, column ${(start + i) % rowLength(tensor)}`;
  throw new MicrogptError(`${gguf.path}: tensor ${printable(tensor.name)} holds ${values[i]} at ${place}`, {
    hint: "the weights are broken; download the file again, or take another",
  });
}
