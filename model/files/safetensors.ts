/**
 * Parameters in the safetensors format (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length,
 * a JSON header {name: {dtype, shape, data_offsets}}, then the tensors' bytes without gaps. Files come from anywhere,
 * so nothing a header claims is believed, and nothing is allocated for it, before the file's size proves it.
 */
import { type FileHandle, SEEK_START } from "../../platform/files.ts";
import { MicrogptError } from "../../device/errors.ts";
import { CHUNK_BYTES, type FileDigest, type ReadableFile, readFull, writeHashed } from "./digest.ts";
import { printable, wrongContent } from "./directory.ts";
import type { ParameterEntry, ParameterLayout } from "../parameters.ts";

/** Element types that are read. Others exist in the format, but not in a model of this program. */
export type FileDtype = "F32" | "BF16" | "F16";

const ITEM_BYTES: Record<FileDtype, number> = { F32: 4, BF16: 2, F16: 2 };

/** One tensor of a file. */
export interface TensorInfo {
  name: string;
  dtype: FileDtype;
  shape: number[];
  /** first byte, counted from the start of the file */
  offset: number;
  bytes: number;
}

/** A header of this size describes ten times the tensors of the largest model; the format's own limit is 100 MB. */
const MAX_HEADER_BYTES = 8 << 20;

/**
 * Reads and checks the header of a file opened at its start, as strictly as the safetensors library: valid UTF-8 and
 * JSON, no name twice, bytes that agree with dtype and shape, offsets that cover the file without hole or overlap.
 * @param path what error messages call the file
 * @returns the tensors in the order of their bytes
 * @throws {MicrogptError} naming the file, the tensor and what is wrong
 */
export async function readHeader(file: ReadableFile, path: string): Promise<TensorInfo[]> {
  const { header, dataStart, size } = await readHeaderJson(file, path);
  const tensors = Object.entries(header)
    .filter(([name]) => name !== "__metadata__")
    .map(([name, value]) => tensorInfo(name, value, path))
    .sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  checkCoverage(tensors, size - dataStart, path);
  for (const tensor of tensors) tensor.offset += dataStart;
  return tensors;
}

/**
 * Reads the `__metadata__` of a file opened at its start.
 * @returns an empty record where there is none
 * @throws {MicrogptError} when the file is no safetensors file
 */
export async function readMetadata(file: ReadableFile, path: string): Promise<Record<string, string>> {
  const { header } = await readHeaderJson(file, path);
  return (header["__metadata__"] ?? {}) as Record<string, string>;
}

async function readHeaderJson(file: ReadableFile, path: string) {
  const size = (await file.stat()).size;
  const prefix = new Uint8Array(8);
  if (size < 8 || !await readFull(file, prefix)) {
    throw wrongContent(`${path}: ${size} bytes are too few for a safetensors file`);
  }
  const claimed = new DataView(prefix.buffer).getBigUint64(0, true);
  if (claimed > BigInt(size - 8)) {
    throw new MicrogptError(`${path}: the header claims ${claimed} bytes, the file has ${size}`, {
      hint: "the file is cut off, or is not a safetensors file",
    });
  }
  if (claimed > MAX_HEADER_BYTES) {
    throw new MicrogptError(`${path}: a header of ${claimed} bytes, at most ${MAX_HEADER_BYTES} are read`);
  }
  const bytes = new Uint8Array(Number(claimed));
  if (!await readFull(file, bytes)) throw new MicrogptError(`${path}: the file shrank while it was read`);
  return { header: parseHeader(bytes, path), dataStart: 8 + bytes.length, size };
}

/** The header's JSON as an object whose names are unique. */
function parseHeader(bytes: Uint8Array, path: string): Record<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new MicrogptError(`${path}: the header is not valid UTF-8`, { cause });
  }
  const problem = headerProblem(text);
  if (problem) throw new MicrogptError(`${path}: the header ${problem}`);
  let header: unknown;
  try {
    header = JSON.parse(text);
  } catch (cause) {
    throw new MicrogptError(`${path}: the header is not valid JSON`, { cause });
  }
  if (!isObject(header)) throw new MicrogptError(`${path}: the header is not a JSON object`);
  const metadata = header["__metadata__"];
  if (metadata !== undefined) {
    if (!isObject(metadata) || Object.values(metadata).some((value) => typeof value !== "string")) {
      throw new MicrogptError(`${path}: __metadata__ must map names to strings`);
    }
  }
  return header;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * What JSON.parse would let through: a name given twice in one object (it keeps the last), and nesting that no header
 * has. Looks only at quotes, brackets and commas; whether the rest is JSON is for JSON.parse to say.
 */
function headerProblem(text: string): string | undefined {
  const names: Set<string>[] = [];
  let nameNext = false;
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case "{":
      case "[":
        if (names.length === 3) return "is nested too deep";
        names.push(new Set());
        nameNext = text[i] === "{";
        break;
      case "}":
      case "]":
        names.pop();
        nameNext = false;
        break;
      case ",":
        nameNext = names.length < 3; // the third level is arrays of numbers
        break;
      case '"': {
        const start = i;
        for (i++; i < text.length && text[i] !== '"'; i++) if (text[i] === "\\") i++;
        if (!nameNext) break;
        const name = unescaped(text.slice(start, i + 1));
        const seen = names.at(-1);
        if (seen?.has(name)) return `names ${JSON.stringify(name)} twice`;
        seen?.add(name);
        nameNext = false;
      }
    }
  }
}

/** A JSON string's value, or its own text when it is not one, which JSON.parse of the whole will report. */
function unescaped(literal: string): string {
  if (!literal.includes("\\")) return literal.slice(1, -1);
  try {
    return JSON.parse(literal);
  } catch {
    return literal;
  }
}

/** One entry of the header, checked alone. `offset` still counts from the start of the data. */
function tensorInfo(name: string, value: unknown, path: string): TensorInfo {
  const fail = (what: string) => new MicrogptError(`${path}: tensor ${printable(name)} ${what}`);
  if (!isObject(value)) throw fail("has no dtype, shape and data_offsets");
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(ITEM_BYTES, dtype)) {
    throw fail(`has dtype ${printable(JSON.stringify(dtype) ?? "none")}; F32, BF16 and F16 are read`);
  }
  const isCount = (n: unknown) => Number.isSafeInteger(n) && (n as number) >= 0;
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    throw fail(`has shape ${printable(JSON.stringify(shape) ?? "none")}, which is no list of lengths`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount) || offsets[0] > offsets[1]) {
    throw fail(
      `has data_offsets ${printable(JSON.stringify(offsets) ?? "none")}, which are no range of bytes`,
    );
  }
  const [begin, end] = offsets as [number, number];
  const bytes = shape.reduce((product, n) => product * n, 1) * ITEM_BYTES[dtype as FileDtype];
  if (bytes !== end - begin) {
    throw fail(`has ${end - begin} bytes; ${dtype} ${shapeText(shape)} takes ${bytes}`);
  }
  return { name, dtype: dtype as FileDtype, shape, offset: begin, bytes };
}

function shapeText(shape: readonly number[]): string {
  return printable(`[${shape.join(", ")}]`);
}

/** Every byte of the data must belong to exactly one tensor. */
function checkCoverage(tensors: TensorInfo[], dataBytes: number, path: string): void {
  let end = 0;
  for (const { name, offset, bytes } of tensors) {
    if (offset !== end) {
      const what = offset > end ? "leaves a hole before it" : "overlaps the one before it";
      throw new MicrogptError(
        `${path}: tensor ${printable(name)} ${what} (at byte ${offset}, expected ${end})`,
      );
    }
    end += bytes;
  }
  if (end !== dataBytes) {
    throw new MicrogptError(`${path}: the tensors take ${end} bytes, the file has ${dataBytes} for them`, {
      hint: end > dataBytes ? "the file is cut off" : "the file has something after its last tensor",
    });
  }
}

/**
 * Checks that a file holds exactly the parameters of a layout.
 * @throws {MicrogptError} for a missing or extra tensor, or another shape than meta.json asks for
 */
export function checkTensors(tensors: TensorInfo[], layout: ParameterLayout, path: string): void {
  const hint = "the files come from different models; copy the whole directory";
  for (const { name, shape } of tensors) {
    const entry = layout.byName.get(name);
    if (!entry) {
      throw new MicrogptError(`${path}: tensor ${printable(name)} is no part of this model`, { hint });
    }
    if (shape.length !== entry.shape.length || shape.some((n, i) => n !== entry.shape[i])) {
      throw new MicrogptError(
        `${path}: tensor ${name} has shape ${shapeText(shape)}, meta.json asks for ${shapeText(entry.shape)}`,
        { hint },
      );
    }
  }
  const present = new Set(tensors.map((tensor) => tensor.name));
  for (const { name } of layout.entries) {
    if (!present.has(name)) throw new MicrogptError(`${path}: tensor ${name} is missing`, { hint });
  }
}

/** Parameters (or moments) as they were in a file. */
export interface FileParameters {
  /** [layout.length], zeros between blocks */
  flat: Float32Array<ArrayBuffer>;
  /** "F32", or several joined with "+" */
  dtype: string;
}

/** The element types of a file's tensors, for people. */
export function dtypeOf(tensors: TensorInfo[]): string {
  return [...new Set(tensors.map((tensor) => tensor.dtype))].join("+");
}

/**
 * Reads all tensors of a file opened at its start, each straight to its place in the flat array.
 * @throws {MicrogptError} when the file is malformed, belongs to another architecture, or holds a value that is not
 * finite
 */
export async function readParameters(
  file: ReadableFile,
  path: string,
  layout: ParameterLayout,
): Promise<FileParameters> {
  const tensors = await readHeader(file, path);
  checkTensors(tensors, layout, path);
  const flat = newParameters(layout, path);
  for (const tensor of tensors) {
    await readInto(file, path, tensor.dtype, layout.byName.get(tensor.name)!, flat);
  }
  return { flat, dtype: dtypeOf(tensors) };
}

/**
 * Memory for all parameters of a file.
 * @returns [layout.length], zeros
 * @throws {MicrogptError} when there is none
 */
export function newParameters(layout: ParameterLayout, path: string): Float32Array<ArrayBuffer> {
  try {
    return new Float32Array(layout.length);
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    const megabytes = Math.ceil(layout.length * 4 / 1e6);
    throw new MicrogptError(`${path}: no memory for its parameters (${megabytes} MB)`, { cause });
  }
}

/**
 * Reads one tensor of an open file, wherever it lies, to its place in a flat array.
 * @param path what error messages call the file
 * @param tensor as `readHeader` found it
 * @throws {MicrogptError} when the file shrank, or holds a value that is not finite
 */
export async function readTensorValues(
  file: FileHandle,
  path: string,
  tensor: TensorInfo,
  entry: ParameterEntry,
  flat: Float32Array<ArrayBuffer>,
): Promise<void> {
  await file.seek(tensor.offset, SEEK_START);
  await readInto(file, path, tensor.dtype, entry, flat);
}

/** Reads an entry's values from the file's position on. */
async function readInto(
  file: ReadableFile,
  path: string,
  dtype: FileDtype,
  entry: ParameterEntry,
  flat: Float32Array<ArrayBuffer>,
): Promise<void> {
  const values = flat.subarray(entry.offset, entry.offset + entry.rows * entry.cols);
  if (!await readValues(file, dtype, values)) {
    throw new MicrogptError(`${path}: the file shrank while it was read`);
  }
  checkFinite(values, entry, path);
}

/** Reads `into.length` elements at the file's position. @returns false when the file ends first */
async function readValues(
  file: ReadableFile,
  dtype: FileDtype,
  into: Float32Array<ArrayBuffer>,
): Promise<boolean> {
  if (dtype === "F32") {
    return await readFull(file, new Uint8Array(into.buffer, into.byteOffset, into.byteLength));
  }
  const bits = new Uint32Array(into.buffer, into.byteOffset, into.length);
  const scratch = new Uint16Array(Math.min(into.length, CHUNK_BYTES / 2));
  for (let start = 0; start < into.length; start += scratch.length) {
    const part = scratch.subarray(0, Math.min(scratch.length, into.length - start));
    if (!await readFull(file, new Uint8Array(part.buffer, 0, part.byteLength))) return false;
    // bf16 is the upper half of an f32
    if (dtype === "BF16") { for (let i = 0; i < part.length; i++) bits[start + i] = part[i]! << 16; }
    else into.set(new Float16Array(part.buffer, 0, part.length), start);
  }
  return true;
}

/** Index of the first NaN or infinity, or −1. */
function firstNotFinite(values: Float32Array | Float16Array): number {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return i;
  return -1;
}

function checkFinite(values: Float32Array, entry: ParameterEntry, path: string): void {
  const i = firstNotFinite(values);
  if (i < 0) return;
  const place = `[${Math.floor(i / entry.cols)}, ${i % entry.cols}]`;
  throw new MicrogptError(`${path}: tensor ${entry.name} holds ${values[i]} at ${place}`, {
    hint: "the weights are broken; use an earlier checkpoint",
  });
}

/** Reads one parameter (or what is kept of it) when its turn comes. @returns [rows · cols] */
export type EntryReader = (entry: ParameterEntry) => Promise<Float32Array>;

/**
 * Writes a flat array as a new safetensors file, tensors in the order of their names as the Rust library has them, and
 * flushes it to disk. Works in chunks and gives way between them.
 * @param flat [layout.length], or what reads it; must not change until the promise resolves
 * @param metadata the file's `__metadata__`; default: it has none
 * @throws {MicrogptError} when a value is not finite or does not fit the type
 */
export async function writeParameters(
  path: string,
  layout: ParameterLayout,
  flat: Float32Array | EntryReader,
  dtype: FileDtype,
  metadata?: Record<string, string>,
): Promise<FileDigest> {
  const entries = layout.entries.toSorted((a, b) => a.name < b.name ? -1 : 1);
  return await writeHashed(path, async (file) => {
    await file.write(headerBytes(entries, dtype, metadata));
    const chunk = new Uint8Array(CHUNK_BYTES);
    let used = 0;
    const capacity = CHUNK_BYTES / ITEM_BYTES[dtype];
    for (const entry of entries) {
      const all = typeof flat === "function"
        ? await flat(entry)
        : flat.subarray(entry.offset, entry.offset + entry.rows * entry.cols);
      for (let start = 0; start < all.length;) {
        const values = all.subarray(start, Math.min(all.length, start + capacity - used));
        encode(chunk, used, values, dtype, entry.name);
        used += values.length;
        start += values.length;
        if (used < capacity) continue;
        await file.write(chunk);
        used = 0;
      }
    }
    await file.write(chunk.subarray(0, used * ITEM_BYTES[dtype]));
  });
}

/** Puts values into a chunk from element `at` on. Refuses any that is not finite: such weights are not worth a file. */
function encode(
  chunk: Uint8Array<ArrayBuffer>,
  at: number,
  values: Float32Array,
  dtype: FileDtype,
  name: string,
): void {
  const i = dtype === "BF16" ? encodeBf16(chunk, at, values) : encodeFloats(chunk, at, values, dtype);
  if (i < 0) return;
  throw Number.isFinite(values[i])
    ? new MicrogptError(`cannot save tensor ${name}: ${values[i]} is too large for ${dtype.toLowerCase()}`, {
      hint: "write f32 instead",
    })
    : new MicrogptError(`cannot save tensor ${name}: it holds ${values[i]}`);
}

/** @returns the index of the first value that is not finite in the type, or −1 */
function encodeFloats(
  chunk: Uint8Array<ArrayBuffer>,
  at: number,
  values: Float32Array,
  dtype: "F32" | "F16",
): number {
  const target = dtype === "F32"
    ? new Float32Array(chunk.buffer, 4 * at, values.length)
    : new Float16Array(chunk.buffer, 2 * at, values.length);
  target.set(values);
  return firstNotFinite(target);
}

/** The upper half of each f32, rounded to the nearest, ties to even. @returns as `encodeFloats` */
function encodeBf16(chunk: Uint8Array<ArrayBuffer>, at: number, values: Float32Array): number {
  const target = new Uint16Array(chunk.buffer, 2 * at, values.length);
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) {
    target[i] = (bits[i]! + 0x7fff + (bits[i]! >>> 16 & 1)) >>> 16;
    if ((target[i]! & 0x7f80) === 0x7f80) return i;
  }
  return -1;
}

function headerBytes(
  entries: ParameterEntry[],
  dtype: FileDtype,
  metadata?: Record<string, string>,
): Uint8Array {
  const header: Record<string, unknown> = metadata ? { __metadata__: metadata } : {};
  let offset = 0;
  for (const { name, shape, rows, cols } of entries) {
    const end = offset + rows * cols * ITEM_BYTES[dtype];
    header[name] = { dtype, shape, data_offsets: [offset, end] };
    offset = end;
  }
  const json = JSON.stringify(header);
  const text = json.padEnd(Math.ceil(json.length / 8) * 8); // names are ASCII
  const bytes = new Uint8Array(8 + text.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  new TextEncoder().encodeInto(text, bytes.subarray(8));
  return bytes;
}
