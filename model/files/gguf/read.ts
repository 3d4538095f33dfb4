/**
 * Reads what a GGUF file says of itself: metadata, and where its tensors lie. Files come from anywhere, so nothing that
 * one claims is believed, and no memory is taken for it, before the file's size proves it. Stricter than the format
 * where llama.cpp is too: no arrays of arrays, no empty names, nothing twice.
 */
import { printable } from "../directory.ts";
import { Cursor, CUT_OFF } from "./cursor.ts";
import { Metadata } from "./metadata.ts";
import {
  ARRAY_ID,
  bytesOf,
  type ByteSource,
  DEFAULT_ALIGNMENT,
  type GgufTensor,
  type GgufValue,
  NUMBER_TYPES,
  type NumberType,
  OTHER_TENSOR_TYPES,
  padded,
  STRING_ID,
  TENSOR_TYPES,
  type TensorType,
} from "./types.ts";

/** Where the tensors of a GGUF file lie. */
export interface GgufTensors {
  /** where the tensors' values come from */
  source: ByteSource;
  /** what error messages call the file */
  path: string;
  byName: ReadonlyMap<string, GgufTensor>;
}

/** A GGUF file without its tensors' values. */
export interface GgufFile extends GgufTensors {
  /** 2 or 3, which differ only in that 3 knows big-endian files */
  version: number;
  metadata: Metadata;
  /** in the order of the file */
  tensors: GgufTensor[];
}

/** Far above what there is (about 60 keys, a few thousand tensors): what each takes in memory adds up. */
const MAX_ENTRIES = 1 << 16;
/** The format's own bounds, in bytes. */
const MAX_KEY_BYTES = 65535;
const MAX_NAME_BYTES = 64;
/** The fewest bytes of a key with its value, and of what is said of a tensor. */
const MIN_ENTRY_BYTES = 14;
const MIN_TENSOR_BYTES = 33;

const MAGIC = 0x46554747; // "GGUF"

const NUMBER_BY_ID = new Map<number, NumberType>(
  Object.entries(NUMBER_TYPES).map(([type, { id }]) => [id, type as NumberType]),
);
const TENSOR_BY_ID = new Map<number, TensorType>(
  Object.entries(TENSOR_TYPES).map(([type, { id }]) => [id, type as TensorType]),
);

/**
 * Reads and checks everything before the tensors' values, and that the values lie in the file.
 * @param path what error messages call the file
 * @throws {MicrogptError} naming the file, the key or tensor, and what is wrong
 */
export async function readGguf(source: ByteSource, path: string): Promise<GgufFile> {
  const cursor = new Cursor(source, path);
  const version = await readVersion(cursor);
  const tensorCount = await entryCount(cursor, "tensors", MIN_TENSOR_BYTES);
  const valueCount = await entryCount(cursor, "metadata keys", MIN_ENTRY_BYTES);
  const metadata = await readMetadata(cursor, valueCount);
  const alignment = alignmentOf(cursor, metadata);
  const tensors = await readTensorInfos(cursor, tensorCount, alignment);
  const dataStart = padded(cursor.position, alignment);
  for (const tensor of tensors) tensor.offset += dataStart;
  checkPlaces(cursor, tensors, source.size);
  return {
    source,
    path,
    version,
    metadata: new Metadata(path, metadata),
    tensors,
    byName: new Map(tensors.map((tensor) => [tensor.name, tensor])),
  };
}

async function readVersion(cursor: Cursor): Promise<number> {
  if (await cursor.u32() !== MAGIC) throw cursor.error("does not start with GGUF", "this is no GGUF file");
  const version = await cursor.u32();
  if (version === 2 || version === 3) return version;
  if (version !== 0 && version % 65536 === 0) {
    throw cursor.error("is of a big-endian file", "take the little-endian one, which nearly all are");
  }
  throw cursor.error(`has version ${version}; 2 and 3 are read`);
}

async function entryCount(cursor: Cursor, what: string, each: number): Promise<number> {
  const n = await cursor.count(what, each);
  if (n > MAX_ENTRIES) throw cursor.error(`claims ${n} ${what}, at most ${MAX_ENTRIES} are read`);
  return n;
}

async function readMetadata(cursor: Cursor, count: number): Promise<Map<string, GgufValue>> {
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    cursor.place = `metadata key ${i}`;
    const key = await readName(cursor, MAX_KEY_BYTES);
    cursor.place = `metadata ${printable(key)}`;
    if (metadata.has(key)) throw cursor.error("is there twice");
    metadata.set(key, await readValue(cursor));
  }
  return metadata;
}

async function readName(cursor: Cursor, maxBytes: number): Promise<string> {
  const start = cursor.position + 8;
  const name = await cursor.string();
  const bytes = cursor.position - start;
  if (bytes === 0) throw cursor.error("has an empty name");
  if (bytes > maxBytes) throw cursor.error(`has a name of ${bytes} bytes, at most ${maxBytes} are allowed`);
  return name;
}

async function readValue(cursor: Cursor): Promise<GgufValue> {
  const id = await cursor.u32();
  if (id === STRING_ID) return { type: "string", value: await cursor.string() };
  if (id === ARRAY_ID) return await readArray(cursor);
  const type = numberType(cursor, id);
  const { value: [value] } = await readNumbers(cursor, type, 1);
  return { type, value: type === "bool" ? value === 1 : value } as GgufValue;
}

async function readArray(cursor: Cursor): Promise<GgufValue> {
  const id = await cursor.u32();
  if (id === ARRAY_ID) throw cursor.error("is an array of arrays; none are read, here as in llama.cpp");
  if (id !== STRING_ID) {
    const type = numberType(cursor, id);
    const count = await cursor.count(`values of ${type}`, NUMBER_TYPES[type].bytes);
    return { type: "array", ...await readNumbers(cursor, type, count) } as GgufValue;
  }
  return { type: "array", of: "string", value: await cursor.strings(await cursor.count("strings", 8)) };
}

function numberType(cursor: Cursor, id: number): NumberType {
  const type = NUMBER_BY_ID.get(id);
  if (!type) throw cursor.error(`has the unknown type ${id}`);
  return type;
}

/** `count` numbers, whose bytes the file is known to have. */
async function readNumbers(cursor: Cursor, type: NumberType, count: number) {
  const { buffer } = await cursor.bytes(count * NUMBER_TYPES[type].bytes);
  switch (type) {
    case "u8":
      return { of: type, value: new Uint8Array(buffer) };
    case "i8":
      return { of: type, value: new Int8Array(buffer) };
    case "u16":
      return { of: type, value: new Uint16Array(buffer) };
    case "i16":
      return { of: type, value: new Int16Array(buffer) };
    case "u32":
      return { of: type, value: new Uint32Array(buffer) };
    case "i32":
      return { of: type, value: new Int32Array(buffer) };
    case "f32":
      return { of: type, value: new Float32Array(buffer) };
    case "u64":
      return { of: type, value: new BigUint64Array(buffer) };
    case "i64":
      return { of: type, value: new BigInt64Array(buffer) };
    case "f64":
      return { of: type, value: new Float64Array(buffer) };
    case "bool": {
      const value = new Uint8Array(buffer);
      const wrong = value.find((byte) => byte > 1);
      if (wrong !== undefined) throw cursor.error(`holds ${wrong} for true or false`);
      return { of: type, value };
    }
  }
}

function alignmentOf(cursor: Cursor, metadata: ReadonlyMap<string, GgufValue>): number {
  cursor.place = "metadata general.alignment";
  const given = metadata.get("general.alignment");
  if (!given) return DEFAULT_ALIGNMENT;
  if (given.type !== "u32") throw cursor.error(`is of type ${given.type}, not u32`);
  const { value } = given;
  if (value === 0 || (value & (value - 1)) !== 0) throw cursor.error(`is ${value}, which is no power of two`);
  return value;
}

/** What the file says of its tensors, each checked alone. Offsets still count from the start of the data. */
async function readTensorInfos(cursor: Cursor, count: number, alignment: number): Promise<GgufTensor[]> {
  const tensors: GgufTensor[] = [];
  const names = new Set<string>();
  for (let i = 0; i < count; i++) {
    cursor.place = `tensor ${i}`;
    const name = await readName(cursor, MAX_NAME_BYTES);
    cursor.place = `tensor ${printable(name)}`;
    if (names.has(name)) throw cursor.error("is there twice");
    names.add(name);
    const dimensions = await cursor.u32();
    if (dimensions < 1 || dimensions > 4) throw cursor.error(`has ${dimensions} dimensions; 1 to 4 are read`);
    const lengths: bigint[] = []; // innermost first
    for (let d = 0; d < dimensions; d++) lengths.push(await cursor.u64());
    const type = tensorType(cursor, await cursor.u32());
    const offset = await cursor.u64();
    if (offset % BigInt(alignment) !== 0n) {
      throw cursor.error(`starts at byte ${offset} of the data, which is no multiple of ${alignment}`);
    }
    tensors.push({ name, type, ...extent(cursor, type, lengths), offset: Number(offset) });
  }
  return tensors;
}

function tensorType(cursor: Cursor, id: number): TensorType {
  const type = TENSOR_BY_ID.get(id);
  if (type) return type;
  const name = OTHER_TENSOR_TYPES.get(id) ?? `the unknown type ${id}`;
  throw cursor.error(
    `has ${name}; ${Object.keys(TENSOR_TYPES).join(", ")} are read`,
    "take a file of the same model in Q8_0, Q6_K, Q5_K_M or Q4_K_M",
  );
}

/** Shape and size of a tensor. @param lengths innermost first */
function extent(cursor: Cursor, type: TensorType, lengths: bigint[]) {
  const shape = lengths.toReversed();
  const elements = shape.reduce((product, n) => product * n, 1n); // four of 64 bits: exact in a bigint
  const block = TENSOR_TYPES[type];
  if (elements === 0n) throw cursor.error(`has shape [${shape.join(", ")}], which holds nothing`);
  if (lengths[0]! % BigInt(block.elements) !== 0n) {
    throw cursor.error(`has rows of ${lengths[0]} values; ${type} takes multiples of ${block.elements}`);
  }
  if (elements > BigInt(2 ** 50)) {
    throw cursor.error(`has shape [${shape.join(", ")}], which no file can hold`);
  }
  return { shape: shape.map(Number), elements: Number(elements), bytes: bytesOf(type, Number(elements)) };
}

/** No tensor may reach beyond the file, and no two may share bytes. */
function checkPlaces(cursor: Cursor, tensors: GgufTensor[], size: number): void {
  let before: GgufTensor | undefined;
  for (const tensor of tensors.toSorted((a, b) => a.offset - b.offset)) {
    cursor.place = `tensor ${printable(tensor.name)}`;
    const end = tensor.offset + tensor.bytes;
    if (end > size) {
      throw cursor.error(`lies at bytes ${tensor.offset} to ${end}, the file has ${size}`, CUT_OFF);
    }
    if (before && before.offset + before.bytes > tensor.offset) {
      throw cursor.error(`overlaps tensor ${printable(before.name)} at byte ${tensor.offset}`);
    }
    before = tensor;
  }
}
