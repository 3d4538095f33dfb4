/** Cuts JSON of any size into its values: the elements of one array, or values one after the other. */

import { MicrogptError } from "../../device/errors.ts";
import type { Cutter, Emit } from "./cutter.ts";

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const LF = 0x0a;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/** What may come next at the level of the values. */
type Expected = "value" | "value or end" | "comma or end" | "nothing";

/**
 * Hands out the text of each value. It only finds where values end: what is wrong within one is for `JSON.parse` to
 * say.
 */
export class JsonCutter implements Cutter {
  line = 1;
  readonly #name: string;
  readonly #emit: Emit<string>;
  readonly #longest: number;
  /** Values are elements of an array: 1; values stand alone: 0. */
  readonly #base: 0 | 1;
  #expected: Expected;
  #opened = false;
  #depth = 0;
  #inString = false;
  #escaped = false;
  /** A number or a word, which ends before what cannot be part of it. */
  #inScalar = false;
  /** The value so far, and the line that it begins in. */
  #parts: string[] = [];
  #length = 0;
  #startLine = 1;

  /**
   * @param name the file, for messages
   * @param elements of one array around all, rather than values that follow each other
   * @param longest value, in UTF-16 units
   */
  constructor(name: string, emit: Emit<string>, elements: boolean, longest: number) {
    this.#name = name;
    this.#emit = emit;
    this.#longest = longest;
    this.#base = elements ? 1 : 0;
    this.#expected = "value";
  }

  push(piece: string): void {
    // where the part of the value in this piece starts; -1 between values
    let start = this.#inValue() ? 0 : -1;
    for (let i = 0; i < piece.length; i++) {
      if (this.#inString) {
        i = this.#skipString(piece, i);
        if (!this.#inString && this.#depth === this.#base) start = this.#finish(piece, start, i + 1);
        continue;
      }
      const c = piece.charCodeAt(i);
      if (this.#inScalar && endsScalar(c)) {
        this.#inScalar = false;
        start = this.#finish(piece, start, i);
      }
      if (c === LF) this.line++;
      if (c <= 0x20 || this.#inScalar) continue;
      if (this.#depth > this.#base) {
        if (c === QUOTE) this.#inString = true;
        else if (c === OPEN_ARRAY || c === OPEN_OBJECT) this.#depth++;
        else if ((c === CLOSE_ARRAY || c === CLOSE_OBJECT) && --this.#depth === this.#base) {
          start = this.#finish(piece, start, i + 1);
        }
      } else if (this.#betweenValues(c)) start = i;
    }
    if (start >= 0) this.#keep(piece.slice(start));
  }

  end(): void {
    if (this.#inScalar) {
      this.#inScalar = false;
      this.#finish("", 0, 0);
    }
    const cut = this.#inValue() || this.#base === 1 && this.#expected !== "nothing";
    if (!cut) return;
    if (this.#inValue() && this.#startLine < this.line) {
      throw new MicrogptError(
        `${this.#name} line ${this.#startLine}: the value that begins here does not end`,
        {
          hint: "a bracket or a quote is missing there, or the file is cut off",
        },
      );
    }
    throw new MicrogptError(
      `${this.#name} line ${this.line} ends within ${this.#inValue() ? "a value" : "an array"}`,
      {
        hint: "the file is cut off; get it again",
      },
    );
  }

  #inValue(): boolean {
    return this.#inString || this.#inScalar || this.#depth > this.#base;
  }

  /** Reads on in a string, which has no line ends. @returns where it ends, or the length of the piece */
  #skipString(piece: string, from: number): number {
    let at = from;
    if (this.#escaped) {
      this.#escaped = false;
      at++;
    }
    while (true) {
      const quote = piece.indexOf('"', at);
      const end = quote < 0 ? piece.length : quote;
      let backslashes = 0;
      while (end - backslashes > at && piece.charCodeAt(end - backslashes - 1) === BACKSLASH) backslashes++;
      const escaped = backslashes % 2 === 1;
      if (quote >= 0 && !escaped) {
        this.#inString = false;
        return quote;
      }
      if (quote < 0) {
        this.#escaped = escaped;
        return end;
      }
      at = quote + 1;
    }
  }

  /** A character at the level of the values that is no white space. @returns whether it begins a value */
  #betweenValues(c: number): boolean {
    if (this.#base === 1) {
      if (!this.#opened && c === OPEN_ARRAY) {
        this.#opened = true;
        this.#depth = 1;
        this.#expected = "value or end";
        return false;
      }
      if (!this.#opened) throw this.#unexpected(c, "[");
      if (c === CLOSE_ARRAY && this.#expected !== "value") {
        if (this.#expected === "nothing") throw this.#unexpected(c, "nothing more");
        this.#expected = "nothing";
        this.#depth = 0;
        return false;
      }
      if (c === COMMA && this.#expected === "comma or end") {
        this.#expected = "value";
        return false;
      }
      if (this.#expected === "nothing") throw this.#unexpected(c, "nothing more");
      if (this.#expected === "comma or end") throw this.#unexpected(c, ", or ]");
    }
    if (c === CLOSE_ARRAY || c === CLOSE_OBJECT || c === COMMA) throw this.#unexpected(c, "a value");
    this.#startLine = this.line;
    if (c === QUOTE) this.#inString = true;
    else if (c === OPEN_ARRAY || c === OPEN_OBJECT) this.#depth++;
    else this.#inScalar = true;
    return true;
  }

  #finish(piece: string, start: number, end: number): number {
    const rest = piece.slice(Math.max(start, 0), end);
    this.#keep(rest);
    const value = this.#parts.length === 1 ? rest : this.#parts.join("");
    this.#parts = [];
    this.#length = 0;
    if (this.#base === 1) this.#expected = "comma or end";
    this.#emit(value, this.#startLine);
    return -1;
  }

  #keep(part: string): void {
    this.#parts.push(part);
    this.#length += part.length;
    if (this.#length <= this.#longest) return;
    throw new MicrogptError(
      `${this.#name} line ${this.#startLine}: a value longer than ${this.#longest / 1024 / 1024} MB`,
      { hint: "a document or conversation is one value; split it" },
    );
  }

  #unexpected(c: number, expected: string): MicrogptError {
    const got = c > 0x20 && c < 0x7f
      ? String.fromCharCode(c)
      : `U+${c.toString(16).toUpperCase().padStart(4, "0")}`;
    return new MicrogptError(`${this.#name} line ${this.line}: expected ${expected}, got ${got}`, {
      hint: "the file is no valid JSON; an array of records, or one record a line, is read",
    });
  }
}

function endsScalar(c: number): boolean {
  return c <= 0x20 || c === COMMA || c === CLOSE_ARRAY || c === CLOSE_OBJECT || c === QUOTE ||
    c === OPEN_ARRAY ||
    c === OPEN_OBJECT;
}
