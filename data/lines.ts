/** Reads a data file or standard input line by line, strictly as UTF-8, and hashes it along the way. */

import { files, isFileError } from "../platform/files.ts";
import { sha256 } from "../platform/hash.ts";
import { heapBytes, standardInput } from "../platform/host.ts";
import { MicrogptError } from "../device/errors.ts";
import { refuseSignatures } from "./file_signatures.ts";

/**
 * Longest line that is read, in bytes. A document of this size is thousands of times any context; the bound keeps a
 * hostile line from taking the memory (4 MiB of nested JSON already parse to some 250 MB).
 */
export const MAX_LINE_BYTES = 4 * 1024 * 1024;

/** Most lines that are read: V8 ends the process when an array grows beyond some 112 million elements. */
const MAX_LINES = 100_000_000;

/**
 * V8 ends the process when its heap is full, so reading stops well before: a growing array exists twice for a moment,
 * and tokenizing needs memory too.
 */
const MAX_HEAP_SHARE = 1 / 2;

/** Bytes to read between two checks of the heap. */
const HEAP_CHECK_BYTES = 1024 * 1024;

const LF = 0x0a;
const CR = 0x0d;

/** Bytes to read, and what to call them in messages. */
export interface Input {
  /** the path as the person gave it, or "standard input" */
  name: string;
  stream: ReadableStream<Uint8Array>;
}

/**
 * Opens a file for reading.
 * @param path a file, or "-" for standard input
 * @throws {MicrogptError} when it is missing, a directory or unreadable
 */
export async function openInput(path: string): Promise<Input> {
  if (path === "-") return { name: "standard input", stream: standardInput() };
  try {
    if ((await files.stat(path)).isDirectory) {
      throw new MicrogptError(`${path} is a directory, not a file`);
    }
    return { name: path, stream: (await files.open(path)).readable };
  } catch (error) {
    throw error instanceof MicrogptError ? error : cannotRead(path, error);
  }
}

/**
 * Reads lines until the input ends. A line ends with \n, \r\n or \r, mixed as they come; nothing else ends one, neither
 * form feeds nor U+0085 or U+2028. Lines come trimmed (of a byte order mark too) and are never empty; numbers count all
 * lines from 1. Memory stays within a few times {@link MAX_LINE_BYTES}, whatever the input holds, besides what `onLine`
 * keeps.
 * @param input from {@link openInput}; its stream is used up
 * @param onLine called for each line that is not empty
 * @returns SHA-256 of all bytes, in hexadecimal
 * @throws {MicrogptError} when the bytes are not UTF-8 text, a line is too long, what `onLine` keeps nearly fills V8's
 * heap, or reading fails
 */
export async function readLines(
  input: Input,
  onLine: (line: string, number: number) => void,
): Promise<string> {
  const hash = sha256();
  const blocks = new BlockReader(input.name, onLine);
  const reader = input.stream.getReader();
  try {
    while (true) {
      const { done, value } = await reader.read().catch((error) => {
        throw cannotRead(input.name, error);
      });
      if (done) break;
      hash.update(value);
      blocks.push(value);
    }
    blocks.end();
  } finally {
    // Closes the file even when a line was refused; a failure to close no longer matters then.
    await reader.cancel().catch(() => {});
  }
  return hash.digest("hex");
}

/** Cuts chunks into blocks of whole lines, decodes each block at once, and hands out its lines. */
class BlockReader {
  readonly #name: string;
  readonly #onLine: (line: string, number: number) => void;
  // The byte order mark is not dropped here, where it would vanish from the start of every block: trimming drops it.
  readonly #utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  /** The start of a line whose end has not come yet. */
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;
  /** Bytes and lines before the pending ones. */
  #offset = 0;
  #lines = 0;
  #nextHeapCheck = HEAP_CHECK_BYTES;

  constructor(name: string, onLine: (line: string, number: number) => void) {
    this.#name = name;
    this.#onLine = onLine;
  }

  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    const start = this.#offset + this.#pendingBytes;
    if (start === 0) refuseSignatures(this.#name, chunk);
    const zero = chunk.indexOf(0);
    if (zero >= 0) {
      throw new MicrogptError(
        `${this.#name} is not a text file: it has a zero byte at offset ${start + zero}`,
        {
          hint: "the data must be UTF-8 text; convert UTF-16 files, unpack compressed ones",
        },
      );
    }
    if (this.#pending.at(-1)?.at(-1) === CR && chunk[0] !== LF) this.#flush();
    // A \r that ends the chunk may be half of a \r\n: it waits for what comes next.
    const ended = chunk.subarray(0, chunk[chunk.length - 1] === CR ? chunk.length - 1 : chunk.length);
    const ends = [LF, CR].map((end) => ended.indexOf(end)).filter((at) => at >= 0);
    if (this.#pendingBytes + Math.min(chunk.length, ...ends) > MAX_LINE_BYTES) {
      throw new MicrogptError(
        `${this.#name} line ${this.#lines + 1} is longer than ${MAX_LINE_BYTES / 1024 / 1024} MB`,
        { hint: "one document or conversation a line; split it" },
      );
    }
    const end = Math.max(ended.lastIndexOf(LF), ended.lastIndexOf(CR)) + 1;
    if (end > 0) {
      this.#pending.push(chunk.subarray(0, end));
      this.#flush();
    }
    if (end < chunk.length) {
      this.#pending.push(chunk.subarray(end));
      this.#pendingBytes += chunk.length - end;
    }
  }

  end(): void {
    if (this.#pendingBytes > 0) this.#flush();
  }

  #flush(): void {
    this.#decode(this.#pending);
    this.#pending = [];
    this.#pendingBytes = 0;
  }

  #decode(parts: Uint8Array[]): void {
    const block = parts.length === 1 ? parts[0]! : concatenate(parts);
    let text: string;
    try {
      text = this.#utf8.decode(block);
    } catch {
      throw notUtf8(this.#name, block, this.#offset, this.#lines);
    }
    const lines = block.includes(CR) ? text.split(/\r\n|\r|\n/u) : text.split("\n");
    const last = block[block.length - 1];
    const complete = last === LF || last === CR ? lines.length - 1 : lines.length;
    for (let i = 0; i < complete; i++) {
      const line = lines[i]!.trim();
      if (line !== "") this.#onLine(line, this.#lines + i + 1);
    }
    this.#lines += complete;
    this.#offset += block.length;
    this.#checkSize();
  }

  #checkSize(): void {
    if (this.#lines > MAX_LINES) {
      throw new MicrogptError(`${this.#name} has more than ${MAX_LINES / 1e6} million lines`, {
        hint: "use a part of it",
      });
    }
    if (this.#offset < this.#nextHeapCheck) return;
    this.#nextHeapCheck = this.#offset + HEAP_CHECK_BYTES;
    const { used, limit } = heapBytes() ?? { used: 0, limit: Infinity };
    if (used < limit * MAX_HEAP_SHARE) return;
    const mb = (bytes: number) => Math.round(bytes / 1e6);
    throw new MicrogptError(
      `${this.#name} is too large for JavaScript's memory: ${mb(this.#offset)} MB of it take ${
        mb(used)
      } of ` +
        `${mb(limit)} MB`,
      { hint: `use a part of it, or allow more: DENO_V8_FLAGS=--max-old-space-size=${2 * mb(limit)}` },
    );
  }
}

function concatenate(parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Finds the first bad byte: where decoding with replacement characters and encoding again first differs. */
function notUtf8(name: string, block: Uint8Array, offset: number, lines: number): MicrogptError {
  const again = new TextEncoder().encode(new TextDecoder("utf-8", { ignoreBOM: true }).decode(block));
  let bad = 0;
  let line = lines + 1;
  for (; block[bad] === again[bad]; bad++) {
    if (block[bad] === LF || block[bad] === CR && block[bad + 1] !== LF) line++;
  }
  return new MicrogptError(`${name} line ${line} is not valid UTF-8: bad byte at offset ${offset + bad}`, {
    hint: "convert the file to UTF-8 first, for example with iconv",
  });
}

/** A failed read, in words for a person. */
export function cannotRead(name: string, error: unknown): MicrogptError {
  let why = error instanceof Error ? error.message.split("\n")[0]! : String(error);
  if (isFileError(error, "NotFound")) why = "no such file";
  else if (isFileError(error, "PermissionDenied")) why = "permission denied";
  else if (isFileError(error, "FilesystemLoop")) why = "symbolic links in a loop";
  return new MicrogptError(`cannot read ${name}: ${why}`, { cause: error });
}
