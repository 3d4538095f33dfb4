/** Conversion of f32 arrays to and from the 16-bit formats of tensors, bit for bit as the kernels do it. */

const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);

/** The 16 bits of a bf16, rounded to nearest even; NaN stays NaN. */
export function bf16FromF32(value: number): number {
  float[0] = value;
  const b = bits[0]!;
  if ((b & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return ((b + 0x7fff + ((b >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The value of bf16 bits. */
export function f32FromBf16(half: number): number {
  bits[0] = half << 16;
  return float[0]!;
}

/** The 16 bits of an IEEE half, rounded to nearest even; numbers too large become infinity. */
export function f16FromF32(value: number): number {
  float[0] = value;
  const b = bits[0]!;
  const sign = (b >>> 16) & 0x8000;
  const magnitude = b & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal: the f32 adder itself rounds to the right bit when 0.5 is added.
    bits[0] = magnitude;
    float[0] = float[0]! + 0.5;
    return sign | (bits[0]! - 0x3f000000);
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

/** The value of IEEE half bits. */
export function f32FromF16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 31;
  const fraction = half & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** `data` rounded to 16 bits each, in an array of even length. */
export function toHalves(data: Float32Array, format: "bf16" | "f16"): Uint16Array {
  const out = new Uint16Array(data.length + (data.length & 1));
  const convert = format === "bf16" ? bf16FromF32 : f16FromF32;
  for (let i = 0; i < data.length; i++) out[i] = convert(data[i]!);
  return out;
}

/** The first `count` values of 16-bit data. */
export function fromHalves(halves: Uint16Array, count: number, format: "bf16" | "f16"): Float32Array {
  const out = new Float32Array(count);
  const convert = format === "bf16" ? f32FromBf16 : f32FromF16;
  for (let i = 0; i < count; i++) out[i] = convert(halves[i]!);
  return out;
}
