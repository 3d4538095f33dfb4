/**
 * f32 to the types that are written. Q8_0 is quantize_row_q8_0_ref of ggml-quants.c, bit for bit; halves are rounded to
 * the nearest, ties to even, as ggml does.
 */
import { bytesOf, TENSOR_TYPES } from "./types.ts";

/** A type of tensor that is written. */
export type WrittenType = "F32" | "F16" | "BF16" | "Q8_0";

type Quantizer = (values: Float32Array, view: DataView) => void;

const QUANTIZERS: Record<WrittenType, Quantizer> = {
  F32: (values, view) => {
    for (let i = 0; i < values.length; i++) view.setFloat32(4 * i, values[i]!, true);
  },
  F16: (values, view) => {
    for (let i = 0; i < values.length; i++) view.setFloat16(2 * i, values[i]!, true);
  },
  BF16: toBf16,
  Q8_0: quantizeQ8_0,
};

/** The magnitude from which on each type would round to infinity: half a step above its largest number. */
const TOO_LARGE: Record<WrittenType, number> = {
  F32: Infinity,
  F16: 65520,
  BF16: 2 ** 128 - 2 ** 119,
  Q8_0: 127 * 65520,
};

/**
 * Quantizes whole blocks.
 * @param values whole blocks of the type
 * @param into receives them; exactly their bytes
 * @returns the index of the first value that the type cannot hold (NaN, infinite, too large); then `into` is
 *   undefined. −1 when all fit
 * @throws {RangeError} when `values` is not whole blocks, or `into` is not their size
 */
export function quantize(type: WrittenType, values: Float32Array, into: Uint8Array): number {
  if (values.length % TENSOR_TYPES[type].elements !== 0 || into.length !== bytesOf(type, values.length)) {
    throw new RangeError(`${values.length} elements are not ${into.length} bytes of ${type}`);
  }
  const tooLarge = TOO_LARGE[type];
  for (let i = 0; i < values.length; i++) if (!(Math.abs(values[i]!) < tooLarge)) return i;
  QUANTIZERS[type](values, new DataView(into.buffer, into.byteOffset, into.length));
  return -1;
}

/** The upper half of each f32, rounded by what the lower half was. */
function toBf16(values: Float32Array, view: DataView): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i]!;
    view.setUint16(2 * i, x + 0x7fff + (x >>> 16 & 1) >>> 16, true);
  }
}

/**
 * Blocks of 32: d = max |x| / 127 as f16, then q = x / d rounded, halves away from zero. Every operation is rounded to
 * f32, as in C; q comes of d before that was rounded to f16, as in ggml.
 */
function quantizeQ8_0(values: Float32Array, view: DataView): void {
  for (let start = 0, at = 0; start < values.length; start += 32, at += 34) {
    let largest = 0;
    for (let i = start; i < start + 32; i++) {
      const magnitude = Math.abs(values[i]!);
      if (magnitude > largest) largest = magnitude;
    }
    const d = Math.fround(largest / 127);
    // Below 2^-127, 1/d might be infinite; such values are zeros beside f16's smallest, 2^-24.
    const inverse = d > 2 ** -127 ? Math.fround(1 / d) : 0;
    view.setFloat16(at, d, true);
    for (let i = 0; i < 32; i++) {
      const x = Math.fround(values[start + i]! * inverse);
      let q = (x + 128.5 | 0) - 128; // nearest, halves up: exact in a double, and no branch on a random sign
      if (q - x === 0.5 && x < 0) q--;
      view.setInt8(at + 2 + i, q);
    }
  }
}
