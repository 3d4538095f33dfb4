/** Writes a GGUF file, version 3, from front to back: nothing of its tensors is held but a chunk. */
import { MicrogptError } from "../../../device/errors.ts";
import { type FileDigest, type HashedFile, writeHashed } from "../digest.ts";
import { printable } from "../directory.ts";
import { HeaderWriter } from "./header_writer.ts";
import { quantize, type WrittenType } from "./quantize.ts";
import { bytesOf, DEFAULT_ALIGNMENT, type GgufValue, padded, TENSOR_TYPES } from "./types.ts";

/** A tensor to be written. */
export interface TensorToWrite {
  /** at most 63 bytes, which is what llama.cpp reads */
  name: string;
  type: WrittenType;
  /** outermost first; a matrix is [out, in] */
  shape: number[];
  /**
   * Fills `into` with rows (innermost dimension) from row `first` on. Called in order, each row once.
   * @param into [some rows, row]
   */
  rows(first: number, into: Float32Array<ArrayBuffer>): void | Promise<void>;
}

/** Values asked for at a time, unless a row is longer. */
const CHUNK_ELEMENTS = 1 << 18;

/**
 * Writes a new file and flushes it to disk. When it fails the beginning of the file is left.
 * @param path must not exist
 * @param metadata in the order of the file; `general.alignment`, where given, is kept to
 * @returns size and SHA-256
 * @throws {MicrogptError} when a value does not fit its type, or rows are not whole blocks
 * @throws {RangeError} for names, shapes and metadata that the format cannot hold
 */
export async function writeGguf(
  path: string,
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: TensorToWrite[],
): Promise<FileDigest> {
  const alignment = alignmentOf(metadata);
  const header = headerBytes(metadata, tensors, alignment);
  return await writeHashed(path, async (file) => {
    await file.write(header);
    const zeros = new Uint8Array(alignment);
    for (const tensor of tensors) {
      const bytes = await writeTensor(file, tensor);
      await file.write(zeros.subarray(0, padded(bytes, alignment) - bytes));
    }
  });
}

function alignmentOf(metadata: ReadonlyMap<string, GgufValue>): number {
  const given = metadata.get("general.alignment");
  if (!given) return DEFAULT_ALIGNMENT;
  if (given.type !== "u32" || !(given.value > 0) || (given.value & (given.value - 1)) !== 0) {
    throw new RangeError("general.alignment must be a u32 and a power of two");
  }
  return given.value;
}

/** Everything before the data, with its padding. */
function headerBytes(
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: TensorToWrite[],
  alignment: number,
): Uint8Array {
  if (new Set(tensors.map(({ name }) => name)).size !== tensors.length) {
    throw new RangeError("two tensors have the same name");
  }
  const header = new HeaderWriter();
  header.raw("GGUF");
  header.number("u32", 3);
  header.number("u64", BigInt(tensors.length));
  header.number("u64", BigInt(metadata.size));
  for (const [key, value] of metadata) {
    header.string(key);
    header.value(value);
  }
  let offset = 0;
  for (const { name, type, shape } of tensors) {
    header.string(checkedName(name));
    header.number("u32", shape.length);
    for (const length of checkedShape(name, type, shape).toReversed()) header.number("u64", BigInt(length));
    header.number("u32", TENSOR_TYPES[type].id);
    header.number("u64", BigInt(offset));
    offset += padded(bytesOf(type, elementsOf(shape)), alignment);
  }
  return header.bytes(alignment);
}

function elementsOf(shape: number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

function checkedName(name: string): string {
  const bytes = new TextEncoder().encode(name).length;
  if (bytes === 0 || bytes > 63) {
    throw new RangeError(`a tensor's name of ${bytes} bytes; 1 to 63 are allowed`);
  }
  return name;
}

function checkedShape(name: string, type: WrittenType, shape: number[]): number[] {
  if (shape.length < 1 || shape.length > 4 || !shape.every((n) => Number.isSafeInteger(n) && n > 0)) {
    throw new RangeError(`${name}: shape [${shape.join(", ")}]; 1 to 4 lengths above 0 are allowed`);
  }
  const { elements } = TENSOR_TYPES[type];
  if (shape.at(-1)! % elements !== 0) {
    throw new MicrogptError(
      `cannot save tensor ${name} as ${type}: its rows of ${
        shape.at(-1)
      } values are no multiple of ${elements}`,
      { hint: "write f16 or bf16 instead" },
    );
  }
  return shape;
}

/** @returns bytes written, without padding */
async function writeTensor(file: HashedFile, tensor: TensorToWrite): Promise<number> {
  const { name, type, shape } = tensor;
  const length = shape.at(-1)!;
  const rows = elementsOf(shape) / length;
  const rowsAtOnce = Math.max(1, Math.min(rows, Math.floor(CHUNK_ELEMENTS / length)));
  const values = new Float32Array(rowsAtOnce * length);
  const bytes = new Uint8Array(bytesOf(type, values.length));
  for (let first = 0; first < rows; first += rowsAtOnce) {
    const part = values.subarray(0, Math.min(rowsAtOnce, rows - first) * length);
    await tensor.rows(first, part);
    const encoded = bytes.subarray(0, bytesOf(type, part.length));
    const wrong = quantize(type, part, encoded);
    if (wrong >= 0) throw doesNotFit(name, type, part[wrong]!);
    await file.write(encoded);
  }
  return bytesOf(type, rows * length);
}

function doesNotFit(name: string, type: WrittenType, value: number): MicrogptError {
  const tensor = `cannot save tensor ${printable(name)}`;
  if (!Number.isFinite(value)) return new MicrogptError(`${tensor}: it holds ${value}`);
  return new MicrogptError(`${tensor}: ${value} is too large for ${type}`, { hint: "write f32 instead" });
}
