/** A GGUF file's metadata by key, read with the type that the reader expects. */
import { MicrogptError } from "../../../device/errors.ts";
import { printable } from "../directory.ts";
import type { GgufValue } from "./types.ts";

/** The metadata of one file. Each method that returns a value throws where the key is missing or of another type. */
export class Metadata {
  /** what error messages call the file */
  readonly path: string;
  readonly #values: ReadonlyMap<string, GgufValue>;

  /**
   * Wraps metadata.
   * @param path what error messages call the file
   */
  constructor(path: string, values: ReadonlyMap<string, GgufValue>) {
    this.path = path;
    this.#values = values;
  }

  /** Whether the file has this key. */
  has(key: string): boolean {
    return this.#values.has(key);
  }

  /** Keys and values in the order of the file. */
  entries(): IterableIterator<[string, GgufValue]> {
    return this.#values.entries();
  }

  /**
   * Any value.
   * @throws {MicrogptError} when the key is missing
   */
  value(key: string): GgufValue {
    const value = this.#values.get(key);
    if (value) return value;
    throw new MicrogptError(`${this.path}: the metadata has no ${printable(key)}`, {
      hint: "the file is incomplete; take one that llama.cpp's converter made",
    });
  }

  /**
   * A string.
   * @throws {MicrogptError} when the key is missing or holds something else
   */
  string(key: string): string {
    const value = this.value(key);
    if (value.type !== "string") throw this.#wrongType(key, value, "a string");
    return value.value;
  }

  /**
   * A truth value.
   * @throws {MicrogptError} when the key is missing or holds something else
   */
  bool(key: string): boolean {
    const value = this.value(key);
    if (value.type !== "bool") throw this.#wrongType(key, value, "true or false");
    return value.value;
  }

  /**
   * A whole number from 0 to 2^53 − 1 of any integer type: writers differ in which they take.
   * @throws {MicrogptError} when the key is missing or holds something else
   */
  count(key: string): number {
    const value = this.value(key);
    const isInteger = value.type !== "f32" && value.type !== "f64";
    if (isInteger && (typeof value.value === "number" || typeof value.value === "bigint")) {
      const n = Number(value.value);
      if (Number.isSafeInteger(n) && n >= 0) return n;
    }
    throw this.#wrongType(key, value, "a count");
  }

  /**
   * A finite number of any type.
   * @throws {MicrogptError} when the key is missing or holds something else
   */
  number(key: string): number {
    const value = this.value(key);
    if (typeof value.value === "number" || typeof value.value === "bigint") {
      const n = Number(value.value);
      if (Number.isFinite(n)) return n;
    }
    throw this.#wrongType(key, value, "a number");
  }

  /**
   * An array of strings.
   * @throws {MicrogptError} when the key is missing or holds something else
   */
  strings(key: string): string[] {
    const value = this.value(key);
    if (value.type !== "array" || value.of !== "string") throw this.#wrongType(key, value, "strings");
    return value.value;
  }

  /**
   * An array of numbers of at most 32 bits.
   * @throws {MicrogptError} when the key is missing or holds something else
   */
  numbers(key: string): ArrayLike<number> {
    const value = this.value(key);
    if (value.type === "array" && value.of !== "string" && value.of !== "u64" && value.of !== "i64") {
      return value.value;
    }
    throw this.#wrongType(key, value, "numbers");
  }

  #wrongType(key: string, value: GgufValue, expected: string): MicrogptError {
    const what = value.type === "array"
      ? `an array of ${value.value.length} ${value.of}`
      : `${value.type} ${printable(String(value.value))}`;
    return new MicrogptError(`${this.path}: the metadata's ${printable(key)} is ${what}, not ${expected}`);
  }
}
