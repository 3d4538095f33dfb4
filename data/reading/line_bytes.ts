/**
 * Cuts UTF-8 into the documents of plain text, a line each, without making strings of them: the same documents as
 * LineCutter and `trim` make, several times faster. It reads what is regular. What is not (bytes that are no UTF-8, a zero,
 * a line that may be too long) it leaves, and all that follows, to those who can say what is wrong.
 */

import { isUtf8 } from "../../platform/utf8.ts";
import { MAX_LINE_BYTES } from "./limits.ts";

const LF = 0x0a;
const CR = 0x0d;

/** Takes a document: bytes `start` … `end`, which are `characters` UTF-16 units. */
export type EmitBytes = (bytes: Uint8Array, start: number, end: number, characters: number) => void;

/** Cuts lines out of bytes that come in pieces, split anywhere. */
export class LineBytes {
  /** the line that comes next, from 1 */
  line = 1;
  /** bytes of all lines so far */
  offset = 0;
  /** lines that were empty, or only white space */
  empty = 0;
  /** documents that had white space at their ends */
  trimmed = 0;
  /** what was pushed behind them */
  #pending: Uint8Array = new Uint8Array(0);
  readonly #emit: EmitBytes;

  constructor(emit: EmitBytes) {
    this.#emit = emit;
  }

  /**
   * Takes the next piece, which must not change afterwards.
   * @returns bytes that another must read, from `offset` and `line` on; undefined where all is well
   */
  push(piece: Uint8Array): Uint8Array | undefined {
    const end = lastLineEnd(piece);
    // most of a piece is cut where it lies: only the line that began in the last one is put together
    let from = 0;
    if (this.#pending.length > 0) {
      if (end === 0) return this.#hold(joined(this.#pending, piece));
      from = firstLineEnd(piece);
      const line = joined(this.#pending, piece.subarray(0, from));
      if (!this.#cut(line, line.length)) return joined(this.#pending, piece);
    }
    const rest = from === 0 ? piece : piece.subarray(from);
    if (!this.#cut(rest, end - from)) return rest;
    return this.#hold(rest.subarray(end - from));
  }

  /** Keeps the beginning of a line, unless it is too long already. */
  #hold(pending: Uint8Array): Uint8Array | undefined {
    this.#pending = pending;
    return pending.length > MAX_LINE_BYTES ? pending : undefined;
  }

  /** After the last piece; see {@link push}. */
  end(): Uint8Array | undefined {
    if (this.#pending.length === 0) return undefined;
    const last = joined(this.#pending, Uint8Array.of(LF));
    return this.#cut(last, last.length) ? undefined : this.#pending;
  }

  /** Cuts the first `length` bytes, which end with a line. @returns false where they are not regular: nothing is cut */
  #cut(bytes: Uint8Array, length: number): boolean {
    if (length === 0) return true;
    const whole = bytes.length === length ? bytes : bytes.subarray(0, length);
    if (!isUtf8(whole) || whole.includes(0) || hasLongLine(whole)) return false;
    // a byte order mark is no text
    let start = this.offset === 0 && whole[0] === 0xef && whole[1] === 0xbb && whole[2] === 0xbf ? 3 : 0;
    while (start < length) {
      let end = start;
      let high = 0;
      for (let c = whole[end]!; c !== LF && c !== CR; c = whole[++end]!) high |= c;
      this.#take(whole, start, end, high >= 0x80);
      start = end + 1;
      if (whole[end] === CR && whole[start] === LF) start++;
      this.line++;
    }
    this.offset += length;
    return true;
  }

  /** Trims a line and hands it out unless it is empty. */
  #take(bytes: Uint8Array, start: number, end: number, high: boolean): void {
    let [from, to] = [start, end];
    while (from < to && isSpace(bytes[from]!)) from++;
    while (from < to && isSpace(bytes[to - 1]!)) to--;
    if (high && from < to && (mayBeSpace(bytes[from]!) || mayBeSpace(lead(bytes, to)))) {
      const text = decoder.decode(bytes.subarray(from, to));
      from += encoder.encode(text.slice(0, text.length - text.trimStart().length)).length;
      to -= encoder.encode(text.slice(text.trimEnd().length)).length;
    }
    if (from >= to) {
      this.empty++;
      return;
    }
    if (from > start || to < end) this.trimmed++;
    let characters = to - from;
    if (high) {
      characters = 0;
      for (let i = from; i < to; i++) {
        const c = bytes[i]!;
        if ((c & 0xc0) !== 0x80) characters += c >= 0xf0 ? 2 : 1;
      }
    }
    this.#emit(bytes, from, to, characters);
  }
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const encoder = new TextEncoder();

/** ASCII that `trim` removes. */
function isSpace(byte: number): boolean {
  return byte === 0x20 || byte >= 0x09 && byte <= 0x0d;
}

/** Whether a byte may begin a character beyond ASCII that `trim` removes. */
function mayBeSpace(byte: number): boolean {
  return byte === 0xc2 || byte >= 0xe1 && byte <= 0xe3 || byte === 0xef;
}

/** First byte of the character that ends before `end`. */
function lead(bytes: Uint8Array, end: number): number {
  let at = end - 1;
  while ((bytes[at]! & 0xc0) === 0x80) at--;
  return bytes[at]!;
}

/** Whether a line may be longer than is read. */
function hasLongLine(bytes: Uint8Array): boolean {
  if (bytes.length <= MAX_LINE_BYTES) return false;
  for (let start = 0; start < bytes.length;) {
    const end = bytes.indexOf(LF, start);
    if ((end < 0 ? bytes.length : end) - start > MAX_LINE_BYTES) return true;
    if (end < 0) break;
    start = end + 1;
  }
  return false;
}

/** Where whole lines of a piece end: behind its last line end, of which a \r at its end may be only half. 0: nowhere. */
function lastLineEnd(piece: Uint8Array): number {
  for (let end = piece.length; end > 0; end--) {
    const c = piece[end - 1];
    if (c === LF || c === CR && end < piece.length) return end;
  }
  return 0;
}

/** Behind the first line end of a piece that has one. */
function firstLineEnd(piece: Uint8Array): number {
  for (let at = 0;; at++) {
    if (piece[at] === LF) return at + 1;
    if (piece[at] === CR && at + 1 < piece.length) return piece[at + 1] === LF ? at + 2 : at + 1;
  }
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
