/**
 * ggml's blocks to f32. The formulas are those of ggml-quants.c (github.com/ggml-org/llama.cpp, ggml/src), whose block
 * layouts are in ggml-common.h. Scales are f16 and quants a few bits, so that each product below is exact in a double
 * and the one rounding is that of storing an f32: the results are ggml's, bit for bit.
 */
import { TENSOR_TYPES, type TensorType } from "./types.ts";

/** Turns `blocks` blocks at the start of `bytes` into f32 at the start of `into`. */
type Dequantizer = (bytes: Uint8Array, view: DataView, into: Float32Array, blocks: number) => void;

const DEQUANTIZERS: Record<TensorType, Dequantizer> = {
  F32: (_, view, into, count) => {
    for (let i = 0; i < count; i++) into[i] = view.getFloat32(4 * i, true);
  },
  F16: (_, view, into, count) => {
    for (let i = 0; i < count; i++) into[i] = view.getFloat16(2 * i, true);
  },
  BF16: (_, view, into, count) => {
    // bf16 is the upper half of an f32
    const bits = new Uint32Array(into.buffer, into.byteOffset, count);
    for (let i = 0; i < count; i++) bits[i] = view.getUint16(2 * i, true) << 16;
  },
  Q8_0: dequantizeQ8_0,
  Q4_0: dequantizeQ4_0,
  Q4_1: dequantizeQ4_1,
  Q5_0: dequantizeQ5_0,
  Q5_1: dequantizeQ5_1,
  Q4_K: dequantizeQ4_K,
  Q5_K: dequantizeQ5_K,
  Q6_K: dequantizeQ6_K,
};

/**
 * Dequantizes whole blocks.
 * @param bytes the blocks, of any type that is read, as they lie in the file
 * @param into receives as many elements as the blocks have; its length says how many that is
 * @throws {RangeError} when `into` is not whole blocks, or `bytes` is not their size
 */
export function dequantize(type: TensorType, bytes: Uint8Array, into: Float32Array): void {
  const block = TENSOR_TYPES[type];
  const blocks = into.length / block.elements;
  if (!Number.isInteger(blocks) || bytes.length !== blocks * block.bytes) {
    throw new RangeError(`${bytes.length} bytes of ${type} are not ${into.length} elements`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  DEQUANTIZERS[type](bytes, view, into, blocks);
}

// block: f16 d, 32 × i8 q.  x = d·q
function dequantizeQ8_0(_: Uint8Array, view: DataView, into: Float32Array, blocks: number): void {
  for (let b = 0, at = 0, out = 0; b < blocks; b++, at += 34, out += 32) {
    const d = view.getFloat16(at, true);
    for (let i = 0; i < 32; i++) into[out + i] = d * view.getInt8(at + 2 + i);
  }
}

// block: f16 d, 16 bytes. Low nibbles are elements 0–15, high nibbles 16–31.  x = d·(q − 8)
function dequantizeQ4_0(bytes: Uint8Array, view: DataView, into: Float32Array, blocks: number): void {
  for (let b = 0, at = 0, out = 0; b < blocks; b++, at += 18, out += 32) {
    const d = view.getFloat16(at, true);
    for (let i = 0; i < 16; i++) {
      const q = bytes[at + 2 + i]!;
      into[out + i] = d * ((q & 15) - 8);
      into[out + 16 + i] = d * ((q >> 4) - 8);
    }
  }
}

// block: f16 d, f16 m, 16 bytes as above.  x = d·q + m
function dequantizeQ4_1(bytes: Uint8Array, view: DataView, into: Float32Array, blocks: number): void {
  for (let b = 0, at = 0, out = 0; b < blocks; b++, at += 20, out += 32) {
    const d = view.getFloat16(at, true);
    const m = view.getFloat16(at + 2, true);
    for (let i = 0; i < 16; i++) {
      const q = bytes[at + 4 + i]!;
      into[out + i] = d * (q & 15) + m;
      into[out + 16 + i] = d * (q >> 4) + m;
    }
  }
}

// block: f16 d, 32 bits with the fifth bit of each element, 16 bytes as above.  x = d·(q − 16)
function dequantizeQ5_0(bytes: Uint8Array, view: DataView, into: Float32Array, blocks: number): void {
  for (let b = 0, at = 0, out = 0; b < blocks; b++, at += 22, out += 32) {
    const d = view.getFloat16(at, true);
    const high = view.getUint32(at + 2, true);
    for (let i = 0; i < 16; i++) {
      const q = bytes[at + 6 + i]!;
      into[out + i] = d * ((q & 15 | (high >>> i & 1) << 4) - 16);
      into[out + 16 + i] = d * ((q >> 4 | (high >>> (i + 16) & 1) << 4) - 16);
    }
  }
}

// block: f16 d, f16 m, 32 bits, 16 bytes.  x = d·q + m
function dequantizeQ5_1(bytes: Uint8Array, view: DataView, into: Float32Array, blocks: number): void {
  for (let b = 0, at = 0, out = 0; b < blocks; b++, at += 24, out += 32) {
    const d = view.getFloat16(at, true);
    const m = view.getFloat16(at + 2, true);
    const high = view.getUint32(at + 4, true);
    for (let i = 0; i < 16; i++) {
      const q = bytes[at + 8 + i]!;
      into[out + i] = d * (q & 15 | (high >>> i & 1) << 4) + m;
      into[out + 16 + i] = d * (q >> 4 | (high >>> (i + 16) & 1) << 4) + m;
    }
  }
}

// The 12 bytes of scales in Q4_K and Q5_K are eight scales and eight minima of 6 bits. Of 0–3 they lie in the low six
// bits of bytes 0–3 and 4–7; of 4–7 their low four bits share bytes 8–11, their upper two top bytes 0–3 and 4–7.

function scale6(bytes: Uint8Array, at: number, j: number): number {
  return j < 4 ? bytes[at + j]! & 63 : bytes[at + j + 4]! & 15 | bytes[at + j - 4]! >> 6 << 4;
}

function minimum6(bytes: Uint8Array, at: number, j: number): number {
  return j < 4 ? bytes[at + j + 4]! & 63 : bytes[at + j + 4]! >> 4 | bytes[at + j]! >> 6 << 4;
}

// block: f16 d, f16 dmin, 12 bytes of scales, 128 bytes. Four groups of 64 elements: low nibbles of 32 bytes, then high.
// Each 32 elements have a scale s and a minimum m:  x = (d·s)·q − dmin·m
function dequantizeQ4_K(bytes: Uint8Array, view: DataView, into: Float32Array, blocks: number): void {
  for (let b = 0, at = 0, out = 0; b < blocks; b++, at += 144) {
    const d = view.getFloat16(at, true);
    const dmin = view.getFloat16(at + 2, true);
    for (let j = 0; j < 8; j++, out += 32) {
      const scale = d * scale6(bytes, at + 4, j);
      const minimum = dmin * minimum6(bytes, at + 4, j);
      const quants = at + 16 + 32 * (j >> 1);
      const shift = 4 * (j & 1);
      for (let i = 0; i < 32; i++) into[out + i] = scale * (bytes[quants + i]! >> shift & 15) - minimum;
    }
  }
}

// block: f16 d, f16 dmin, 12 bytes of scales, 32 bytes whose bit j is the fifth bit in group j of 32, 128 bytes as above.
function dequantizeQ5_K(bytes: Uint8Array, view: DataView, into: Float32Array, blocks: number): void {
  for (let b = 0, at = 0, out = 0; b < blocks; b++, at += 176) {
    const d = view.getFloat16(at, true);
    const dmin = view.getFloat16(at + 2, true);
    for (let j = 0; j < 8; j++, out += 32) {
      const scale = d * scale6(bytes, at + 4, j);
      const minimum = dmin * minimum6(bytes, at + 4, j);
      const quants = at + 48 + 32 * (j >> 1);
      const shift = 4 * (j & 1);
      for (let i = 0; i < 32; i++) {
        const q = bytes[quants + i]! >> shift & 15 | (bytes[at + 16 + i]! >> j & 1) << 4;
        into[out + i] = scale * q - minimum;
      }
    }
  }
}

// block: 128 bytes of low nibbles, 64 bytes of two upper bits, 16 × i8 scales, f16 d. Two halves of 128 elements, each
// four groups of 32: groups 0, 1 are the low nibbles of 64 bytes, 2, 3 the high ones; the upper bits of group g are
// bits 2g and 2g + 1 of 32 bytes. A scale counts for 16 elements.  x = (d·s)·(q − 32)
function dequantizeQ6_K(bytes: Uint8Array, view: DataView, into: Float32Array, blocks: number): void {
  for (let b = 0, at = 0, out = 0; b < blocks; b++, at += 210) {
    const d = view.getFloat16(at + 208, true);
    for (let group = 0; group < 8; group++, out += 32) {
      const g = group & 3;
      const low = at + 64 * (group >> 2) + 32 * (g & 1);
      const high = at + 128 + 32 * (group >> 2);
      for (let i = 0; i < 32; i++) {
        const q = bytes[low + i]! >> 4 * (g >> 1) & 15 | (bytes[high + i]! >> 2 * g & 3) << 4;
        into[out + i] = d * view.getInt8(at + 192 + 2 * group + (i >> 4)) * (q - 32);
      }
    }
  }
}
