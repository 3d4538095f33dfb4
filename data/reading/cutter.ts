/** Cuts text that comes in pieces, split anywhere, into lines or into larger documents. */

import { MicrogptError } from "../../device/errors.ts";
import { MAX_LINE_BYTES } from "./limits.ts";

/** Longest document of several lines, in UTF-16 units. */
export const MAX_DOCUMENT = 16 * 1024 * 1024;

/** Takes text piece by piece and hands out what it consists of. The result does not depend on where pieces end. */
export interface Cutter {
  push(piece: string): void;
  /** after the last piece */
  end(): void;
  /** the line that the text so far ends in, from 1 */
  readonly line: number;
}

/** Takes a document or record, and the line that it begins in. */
export type Emit<T> = (value: T, line: number) => void;

/**
 * Lines as they are, empty ones too. A line ends with \n, \r\n or \r, mixed as they come; nothing else ends one,
 * neither form feeds nor U+0085 or U+2028.
 */
export class LineCutter implements Cutter {
  line: number;
  readonly #name: string;
  readonly #emit: Emit<string>;
  readonly #longest: number;
  /** The start of a line whose end has not come yet. */
  #pending: string[] = [];
  #pendingLength = 0;
  /** A \r that ended a piece: it may be half of a \r\n. */
  #held = "";

  /**
   * @param name the file, for messages
   * @param longest line, in UTF-16 units
   * @param line that the text begins in
   */
  constructor(name: string, emit: Emit<string>, longest: number = MAX_LINE_BYTES, line = 1) {
    this.line = line;
    this.#name = name;
    this.#emit = emit;
    this.#longest = longest;
  }

  push(piece: string): void {
    let text = this.#held + piece;
    this.#held = "";
    if (text.endsWith("\r")) {
      this.#held = "\r";
      text = text.slice(0, -1);
    }
    const lines = text.includes("\r") ? text.split(/\r\n|\r|\n/u) : text.split("\n");
    const last = lines.pop()!;
    for (const line of lines) this.#finish(line);
    if (last !== "") this.#pending.push(last);
    this.#pendingLength += last.length;
    this.#checkLength(this.#pendingLength);
  }

  end(): void {
    if (this.#pendingLength > 0 || this.#held !== "") this.#finish("");
    this.#held = "";
  }

  #finish(rest: string): void {
    this.#checkLength(this.#pendingLength + rest.length);
    let line = rest;
    if (this.#pending.length > 0) {
      line = this.#pending.join("") + rest;
      this.#pending = [];
      this.#pendingLength = 0;
    }
    this.#emit(line, this.line++);
  }

  #checkLength(length: number): void {
    if (length <= this.#longest) return;
    throw new MicrogptError(
      `${this.#name} line ${this.line} is longer than ${this.#longest / 1024 / 1024} MB`,
      {
        hint: "one document or conversation a line; split it",
      },
    );
  }
}

/**
 * Paragraphs, separated by empty lines, or everything as one document. Lines within one end with \n, whatever ended
 * them.
 */
export class LinesCutter implements Cutter {
  readonly #lines: LineCutter;
  readonly #name: string;
  readonly #emit: Emit<string>;
  readonly #paragraphs: boolean;
  #document: string[] = [];
  #length = 0;
  #start = 1;

  constructor(name: string, emit: Emit<string>, paragraphs: boolean) {
    this.#name = name;
    this.#emit = emit;
    this.#paragraphs = paragraphs;
    this.#lines = new LineCutter(name, (line, number) => this.#add(line, number), MAX_DOCUMENT);
  }

  get line(): number {
    return this.#lines.line;
  }

  push(piece: string): void {
    this.#lines.push(piece);
  }

  end(): void {
    this.#lines.end();
    this.#finish();
  }

  #add(line: string, number: number): void {
    if (this.#paragraphs && line.trim() === "") return this.#finish();
    if (this.#document.length === 0) this.#start = number;
    this.#document.push(line);
    this.#length += line.length + 1;
    if (this.#length <= MAX_DOCUMENT) return;
    throw tooLong(this.#name, this.#start, this.#paragraphs ? "paragraph" : "file as one document");
  }

  #finish(): void {
    if (this.#document.length > 0) this.#emit(this.#document.join("\n"), this.#start);
    this.#document = [];
    this.#length = 0;
  }
}

/** What lies between copies of a separator text. Line ends become \n. */
export class SeparatorCutter implements Cutter {
  line = 1;
  readonly #name: string;
  readonly #emit: Emit<string>;
  readonly #separator: string;
  #pending = "";
  /** A \r that ended a piece: it may be half of a \r\n. */
  #held = "";

  constructor(name: string, emit: Emit<string>, separator: string) {
    this.#name = name;
    this.#emit = emit;
    this.#separator = separator.replace(/\r\n?/gu, "\n");
  }

  push(piece: string): void {
    let text = this.#held + piece;
    this.#held = text.endsWith("\r") ? "\r" : "";
    if (this.#held) text = text.slice(0, -1);
    this.#take(text);
  }

  end(): void {
    if (this.#held) this.#take("\n");
    this.#finish(this.#pending);
    this.#pending = "";
  }

  #take(piece: string): void {
    const text = piece.includes("\r") ? piece.replace(/\r\n?/gu, "\n") : piece;
    // the separator may begin in what is pending
    const from = Math.max(this.#pending.length - this.#separator.length + 1, 0);
    const all = this.#pending + text;
    let start = 0;
    for (let at = all.indexOf(this.#separator, from); at >= 0; at = all.indexOf(this.#separator, start)) {
      this.#finish(all.slice(start, at));
      start = at + this.#separator.length;
      this.line += lineEnds(this.#separator);
    }
    this.#pending = all.slice(start);
    if (this.#pending.length > MAX_DOCUMENT) throw tooLong(this.#name, this.line, "document");
  }

  #finish(document: string): void {
    this.#emit(document, this.line);
    this.line += lineEnds(document);
  }
}

function lineEnds(text: string): number {
  let ends = 0;
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) ends++;
  return ends;
}

function tooLong(name: string, line: number, what: string): MicrogptError {
  return new MicrogptError(`${name} line ${line}: a ${what} longer than ${MAX_DOCUMENT / 1024 / 1024} MB`, {
    hint: "`document` says what ends a document: line, paragraph or a text",
  });
}
