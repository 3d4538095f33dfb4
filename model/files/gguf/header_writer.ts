/** The front of a GGUF file, put together in memory: a vocabulary takes a few megabytes. */
import { ARRAY_ID, type GgufValue, NUMBER_TYPES, type NumberType, padded, STRING_ID } from "./types.ts";

/** The numbers that each integer type holds. */
const RANGES: Partial<Record<NumberType, [min: number | bigint, max: number | bigint]>> = {
  u8: [0, 0xff],
  i8: [-0x80, 0x7f],
  u16: [0, 0xffff],
  i16: [-0x8000, 0x7fff],
  u32: [0, 0xffffffff],
  i32: [-0x80000000, 0x7fffffff],
  u64: [0n, 2n ** 64n - 1n],
  i64: [-(2n ** 63n), 2n ** 63n - 1n],
};

/** Bytes that grow at their end. */
export class HeaderWriter {
  #bytes = new Uint8Array(1 << 16);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;
  readonly #encoder = new TextEncoder();

  /** Appends text without its length. */
  raw(text: string): void {
    this.#append(this.#encoder.encode(text));
  }

  /**
   * Appends a string's length in bytes, then itself in UTF-8.
   * @throws {RangeError} for half a surrogate pair, which UTF-8 does not have
   */
  string(text: string): void {
    if (!text.isWellFormed()) {
      throw new RangeError(`text with half a surrogate pair: ${JSON.stringify(text)}`);
    }
    const bytes = this.#encoder.encode(text);
    this.number("u64", BigInt(bytes.length));
    this.#append(bytes);
  }

  /**
   * Appends one number.
   * @throws {RangeError} when the type does not hold it
   */
  number(type: NumberType, value: number | bigint | boolean): void {
    const range = RANGES[type];
    if (range) {
      const isInteger = typeof value === "bigint" || (typeof value === "number" && Number.isInteger(value));
      if (!isInteger || value < range[0] || value > range[1]) throw new RangeError(`${value} is no ${type}`);
    }
    const at = this.#grow(NUMBER_TYPES[type].bytes);
    switch (type) {
      case "u8":
      case "i8":
      case "bool":
        return this.#view.setUint8(at, Number(value));
      case "u16":
      case "i16":
        return this.#view.setUint16(at, Number(value), true);
      case "u32":
      case "i32":
        return this.#view.setUint32(at, Number(value), true);
      case "u64":
      case "i64":
        return this.#view.setBigUint64(at, BigInt(value), true);
      case "f32":
        return this.#view.setFloat32(at, Number(value), true);
      case "f64":
        return this.#view.setFloat64(at, Number(value), true);
    }
  }

  /** Appends a metadata value: its type, then itself. */
  value(value: GgufValue): void {
    if (value.type === "string") {
      this.number("u32", STRING_ID);
      this.string(value.value);
    } else if (value.type === "array") {
      this.number("u32", ARRAY_ID);
      this.number("u32", value.of === "string" ? STRING_ID : NUMBER_TYPES[value.of].id);
      this.number("u64", BigInt(value.value.length));
      if (value.of === "string") { for (const text of value.value) this.string(text); }
      else for (const n of value.value) this.number(value.of, n);
    } else {
      this.number("u32", NUMBER_TYPES[value.type].id);
      this.number(value.type, value.value);
    }
  }

  /** All bytes so far, and zeros up to a multiple of `alignment`. */
  bytes(alignment: number): Uint8Array {
    this.#grow(padded(this.#length, alignment) - this.#length);
    return this.#bytes.subarray(0, this.#length);
  }

  #append(bytes: Uint8Array): void {
    const at = this.#grow(bytes.length); // may replace the buffer
    this.#bytes.set(bytes, at);
  }

  /** Makes room for `length` bytes of zeros. @returns where they start */
  #grow(length: number): number {
    const start = this.#length;
    this.#length += length;
    if (this.#length > this.#bytes.length) {
      const bytes = new Uint8Array(2 * this.#length);
      bytes.set(this.#bytes);
      this.#bytes = bytes;
      this.#view = new DataView(bytes.buffer);
    }
    return start;
  }
}
