/**
 * What a GGUF file is made of (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): typed metadata, and tensors
 * whose values lie in blocks of one of ggml's types.
 */

/** Where bytes come from: a file on disk, a Blob, a server that answers ranges. */
export interface ByteSource {
  /** bytes in all */
  readonly size: number;
  /**
   * Fills all of `into` with the bytes from `offset` on.
   * @returns false when the source ends first
   */
  readAt(offset: number, into: Uint8Array<ArrayBuffer>): Promise<boolean>;
}

/** Metadata's number types, by their name here; `id` is the file's number for them. */
export const NUMBER_TYPES = {
  u8: { id: 0, bytes: 1 },
  i8: { id: 1, bytes: 1 },
  u16: { id: 2, bytes: 2 },
  i16: { id: 3, bytes: 2 },
  u32: { id: 4, bytes: 4 },
  i32: { id: 5, bytes: 4 },
  f32: { id: 6, bytes: 4 },
  bool: { id: 7, bytes: 1 },
  u64: { id: 10, bytes: 8 },
  i64: { id: 11, bytes: 8 },
  f64: { id: 12, bytes: 8 },
} as const;

/** The file's number for a string. */
export const STRING_ID = 8;
/** The file's number for an array. */
export const ARRAY_ID = 9;

/** A type of metadata that is neither a string nor an array. */
export type NumberType = keyof typeof NUMBER_TYPES;

/** How the elements of a metadata array are held; truth values are 0 and 1. */
export interface ArrayValues {
  u8: Uint8Array<ArrayBuffer>;
  i8: Int8Array<ArrayBuffer>;
  u16: Uint16Array<ArrayBuffer>;
  i16: Int16Array<ArrayBuffer>;
  u32: Uint32Array<ArrayBuffer>;
  i32: Int32Array<ArrayBuffer>;
  f32: Float32Array<ArrayBuffer>;
  bool: Uint8Array<ArrayBuffer>;
  u64: BigUint64Array<ArrayBuffer>;
  i64: BigInt64Array<ArrayBuffer>;
  f64: Float64Array<ArrayBuffer>;
  string: string[];
}

/** One value of the metadata, with the type that it has in the file. */
export type GgufValue =
  | { type: Exclude<NumberType, "bool" | "u64" | "i64">; value: number }
  | { type: "u64" | "i64"; value: bigint }
  | { type: "bool"; value: boolean }
  | { type: "string"; value: string }
  | { [Of in keyof ArrayValues]: { type: "array"; of: Of; value: ArrayValues[Of] } }[keyof ArrayValues];

/**
 * The types of tensors that are read: ggml's number for each, and how many elements a block has and how many bytes.
 * A block is a run of elements of one row that share their scales.
 */
export const TENSOR_TYPES = {
  F32: { id: 0, elements: 1, bytes: 4 },
  F16: { id: 1, elements: 1, bytes: 2 },
  BF16: { id: 30, elements: 1, bytes: 2 },
  Q8_0: { id: 8, elements: 32, bytes: 34 },
  Q4_0: { id: 2, elements: 32, bytes: 18 },
  Q4_1: { id: 3, elements: 32, bytes: 20 },
  Q5_0: { id: 6, elements: 32, bytes: 22 },
  Q5_1: { id: 7, elements: 32, bytes: 24 },
  Q4_K: { id: 12, elements: 256, bytes: 144 },
  Q5_K: { id: 13, elements: 256, bytes: 176 },
  Q6_K: { id: 14, elements: 256, bytes: 210 },
} as const;

/** A type of tensor that is read. */
export type TensorType = keyof typeof TENSOR_TYPES;

/** Types that ggml has and that are not read, for error messages. */
export const OTHER_TENSOR_TYPES: ReadonlyMap<number, string> = new Map([
  [9, "Q8_1"],
  [10, "Q2_K"],
  [11, "Q3_K"],
  [15, "Q8_K"],
  [16, "IQ2_XXS"],
  [17, "IQ2_XS"],
  [18, "IQ3_XXS"],
  [19, "IQ1_S"],
  [20, "IQ4_NL"],
  [21, "IQ3_S"],
  [22, "IQ2_S"],
  [23, "IQ4_XS"],
  [24, "I8"],
  [25, "I16"],
  [26, "I32"],
  [27, "I64"],
  [28, "F64"],
  [29, "IQ1_M"],
  [34, "TQ1_0"],
  [35, "TQ2_0"],
  [39, "MXFP4"],
  [40, "NVFP4"],
]);

/** One tensor of a file. */
export interface GgufTensor {
  name: string;
  type: TensorType;
  /** outermost first, as in safetensors; the file has them the other way round. A matrix is [out, in]. */
  shape: number[];
  /** product of the shape */
  elements: number;
  /** first byte, counted from the start of the file */
  offset: number;
  bytes: number;
}

/** Where the data starts unless `general.alignment` says otherwise, and each tensor in it: at multiples of 32 bytes. */
export const DEFAULT_ALIGNMENT = 32;

/** The next multiple of `alignment`. */
export function padded(bytes: number, alignment: number): number {
  return Math.ceil(bytes / alignment) * alignment;
}

/** Bytes of `elements` elements, which must be whole blocks. */
export function bytesOf(type: TensorType, elements: number): number {
  const block = TENSOR_TYPES[type];
  return elements / block.elements * block.bytes;
}
