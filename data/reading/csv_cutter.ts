/** Cuts comma- or tab-separated values into rows (RFC 4180; line ends of all kinds). */

import { MicrogptError } from "../../device/errors.ts";
import { type Cutter, type Emit, MAX_DOCUMENT } from "./cutter.ts";

/** A table with more columns than this is not a table of texts. */
const MAX_COLUMNS = 10_000;

const QUOTE = 0x22;
const LF = 0x0a;
const CR = 0x0d;

/**
 * Hands out rows, without those that are empty. A field may be quoted, and then contain line ends, separators and
 * quotes, the latter doubled.
 */
export class CsvCutter implements Cutter {
  line = 1;
  readonly #name: string;
  readonly #emit: Emit<string[]>;
  readonly #separator: number;
  /** The start of a row whose end has not come yet. */
  #pending = "";
  /** How long that must be before it is read again: twice what it was, so that a long row is not read for each piece. */
  #enough = 0;
  #row: string[] = [];

  /**
   * @param name the file, for messages
   * @param separator one character
   */
  constructor(name: string, emit: Emit<string[]>, separator: string) {
    this.#name = name;
    this.#emit = emit;
    this.#separator = separator.charCodeAt(0);
  }

  push(piece: string): void {
    this.#pending += piece;
    if (this.#pending.length >= this.#enough) this.#read(this.#pending, false);
  }

  end(): void {
    this.#read(this.#pending, true);
    if (this.#pending === "") return;
    throw new MicrogptError(`${this.#name} line ${this.line}: a quote is opened and never closed`, {
      hint: "the file is cut off, or holds quotes that are not doubled",
    });
  }

  /** Reads whole rows; the rest waits for more text. */
  #read(text: string, final: boolean): void {
    let start = 0;
    while (start < text.length) {
      const end = this.#readRow(text, start, final);
      if (end < 0) break;
      const row = this.#row;
      const line = this.line;
      this.line += lineEnds(text, start, end);
      start = end;
      if (row.length > 1 || row[0] !== "") this.#emit(row, line);
    }
    this.#pending = text.slice(start);
    this.#enough = Math.min(2 * this.#pending.length, MAX_DOCUMENT + 1);
    if (this.#pending.length <= MAX_DOCUMENT) return;
    throw new MicrogptError(
      `${this.#name} line ${this.line}: a row longer than ${MAX_DOCUMENT / 1024 / 1024} MB`,
      { hint: "is a quote opened and not closed there?" },
    );
  }

  /** @returns where the next row begins, or -1 when this one may continue beyond the text */
  #readRow(text: string, start: number, final: boolean): number {
    this.#row = [];
    let at = start;
    while (true) {
      const end = text.charCodeAt(at) === QUOTE
        ? this.#readQuoted(text, at, final)
        : this.#readPlain(text, at);
      if (end < 0) return -1;
      if (this.#row.length > MAX_COLUMNS) {
        throw new MicrogptError(`${this.#name} line ${this.line} has more than ${MAX_COLUMNS} columns`, {
          hint: "a table of texts has few; `format` text reads it as plain text",
        });
      }
      if (end >= text.length) return final ? end : -1;
      const c = text.charCodeAt(end);
      if (c === this.#separator) {
        at = end + 1;
        continue;
      }
      if (c === LF) return end + 1;
      // after \r it must be known whether \n follows
      if (end + 1 >= text.length && !final) return -1;
      return text.charCodeAt(end + 1) === LF ? end + 2 : end + 1;
    }
  }

  #readPlain(text: string, start: number): number {
    let end = start;
    for (; end < text.length; end++) {
      const c = text.charCodeAt(end);
      if (c === this.#separator || c === LF || c === CR) break;
    }
    this.#row.push(text.slice(start, end));
    return end;
  }

  /** @returns where the field ends, after its last quote, or -1 when that has not come yet */
  #readQuoted(text: string, start: number, final: boolean): number {
    let from = start + 1;
    let field = "";
    while (true) {
      const quote = text.indexOf('"', from);
      if (quote < 0 || quote + 1 >= text.length && !final) return -1;
      field += text.slice(from, quote);
      if (text.charCodeAt(quote + 1) !== QUOTE) {
        const c = text.charCodeAt(quote + 1);
        const ends = quote + 1 === text.length || c === this.#separator || c === LF || c === CR;
        if (!ends) throw this.#afterQuote(text, start, quote);
        this.#row.push(field);
        return quote + 1;
      }
      field += '"';
      from = quote + 2;
    }
  }

  #afterQuote(text: string, start: number, quote: number): MicrogptError {
    const line = this.line + lineEnds(text, start, quote);
    return new MicrogptError(`${this.#name} line ${line}: text behind a closing quote`, {
      hint: 'a quote within a field in quotes is written twice: ""',
    });
  }
}

/** Line ends in text[start … end). */
function lineEnds(text: string, start: number, end: number): number {
  // in that part alone: a search for what is not there would run to the end of the text
  const part = text.slice(start, end);
  let ends = 0;
  for (let at = part.indexOf("\n"); at >= 0; at = part.indexOf("\n", at + 1)) ends++;
  for (let at = part.indexOf("\r"); at >= 0; at = part.indexOf("\r", at + 1)) {
    if (part.charCodeAt(at + 1) !== LF) ends++;
  }
  return ends;
}

/** The separator of a table: whichever of `,`, `;` and tab its first line has most of. */
export function separatorOf(sample: string): string {
  const [header = ""] = sample.split(/[\r\n]/u, 1);
  const unquoted = header.replace(/"[^"]*"/gu, "");
  const occurrences = (separator: string) => unquoted.split(separator).length;
  return ["\t", ";"].reduce((best, other) => occurrences(other) > occurrences(best) ? other : best, ",");
}
