/** Compares weights that were read back with those that were written. */
import type { WrittenType } from "../files/gguf/quantize.ts";

/** Q8_0 has one factor for so many neighbours. */
const BLOCK = 32;

/** Half a step of a type: of the value, and for Q8_0 of the largest of its block (with its factor, which is f16). */
const STEPS: Record<WrittenType, number> = {
  F32: 0,
  F16: 2 ** -11,
  BF16: 2 ** -8,
  Q8_0: 1 / 254 + 2 ** -10,
};
/** Half of the smallest number of f16, which the factor of Q8_0 is, too. */
const SMALLEST: Record<WrittenType, number> = { F32: 0, F16: 2 ** -25, BF16: 0, Q8_0: 127 * 2 ** -25 };

/** Whether weights that were read back are those that were written, within half a step of their type. */
export function isClose(read: Float32Array, written: Float32Array, type: WrittenType): boolean {
  for (let start = 0; start < read.length; start += BLOCK) {
    const end = Math.min(start + BLOCK, read.length);
    let largest = 0;
    if (type === "Q8_0") {
      for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(written[i]!));
    }
    for (let i = start; i < end; i++) {
      const scale = type === "Q8_0" ? largest : Math.abs(written[i]!);
      if (!(Math.abs(read[i]! - written[i]!) <= STEPS[type] * scale + SMALLEST[type])) return false;
    }
  }
  return true;
}
