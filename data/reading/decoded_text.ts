/** Bytes as text, strictly: UTF-8, or UTF-16 where a byte order mark says so. */

import { MicrogptError } from "../../device/errors.ts";
import { refuseSignatures } from "../file_signatures.ts";

/** How text is written as bytes. */
export type Encoding = "utf-8" | "utf-16le" | "utf-16be";

/** The encoding that a file's first bytes tell. */
export function encodingOf(start: Uint8Array): Encoding {
  if (start[0] === 0xff && start[1] === 0xfe && !(start[2] === 0 && start[3] === 0)) return "utf-16le";
  if (start[0] === 0xfe && start[1] === 0xff) return "utf-16be";
  return "utf-8";
}

/** The start of a file as text, to look at it: what is not text becomes U+FFFD. */
export function sampleText(start: Uint8Array): string {
  return new TextDecoder(encodingOf(start)).decode(start, { stream: true });
}

/**
 * Decodes a file. Pieces end between characters, and a byte order mark is left out.
 * @param name the file, for messages
 * @param start its first bytes, at least 16 if it has that many
 * @param line the line that the text handed out so far ends in, for messages
 * @param offset of the first of these bytes, where some of UTF-8 were read before
 * @throws {MicrogptError} with line and offset, for bytes that are not text
 */
export async function* decodeText(
  name: string,
  start: Uint8Array,
  bytes: AsyncIterable<Uint8Array>,
  line: () => number,
  offset = 0,
): AsyncGenerator<string> {
  const encoding = encodingOf(start);
  if (encoding === "utf-8") {
    refuseSignatures(name, start);
    yield* decodeUtf8(name, bytes, line, offset);
  } else yield* decodeUtf16(name, bytes, encoding, line);
}

async function* decodeUtf8(
  name: string,
  bytes: AsyncIterable<Uint8Array>,
  line: () => number,
  start: number,
): AsyncGenerator<string> {
  const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let offset = start;
  let rest = new Uint8Array(0);
  for await (const chunk of cutWhole(bytes)) {
    const zero = chunk.indexOf(0);
    if (zero >= 0) throw hasZero(name, `a zero byte at offset ${offset + zero}`);
    let text: string;
    try {
      text = utf8.decode(chunk);
    } catch {
      rest = chunk;
      break;
    }
    if (offset === 0 && text.startsWith("\ufeff")) text = text.slice(1);
    offset += chunk.length;
    yield text;
  }
  if (rest.length === 0) return;
  const bad = firstBadByte(rest);
  // what comes before it brings `line` up to date
  yield new TextDecoder("utf-8").decode(rest.subarray(0, bad));
  throw new MicrogptError(`${name} line ${line()} is not valid UTF-8: bad byte at offset ${offset + bad}`, {
    hint: "convert the file to UTF-8 first, for example with iconv",
  });
}

/** Cuts chunks anew so that none but the last ends within a UTF-8 character. */
async function* cutWhole(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  let carried = new Uint8Array(0);
  for await (const chunk of chunks) {
    let whole = chunk as Uint8Array<ArrayBuffer>;
    if (carried.length > 0) {
      whole = new Uint8Array(carried.length + chunk.length);
      whole.set(carried);
      whole.set(chunk, carried.length);
    }
    const end = whole.length - unfinished(whole);
    carried = whole.slice(end);
    if (end > 0) yield whole.subarray(0, end);
  }
  if (carried.length > 0) yield carried;
}

/** How many bytes at the end are the start of a character that goes on. */
function unfinished(bytes: Uint8Array): number {
  for (let back = 1; back <= 3 && back <= bytes.length; back++) {
    const byte = bytes[bytes.length - back]!;
    if (byte < 0x80) return 0;
    if (byte < 0xc0) continue;
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
    return length > back ? back : 0;
  }
  return 0;
}

/** Where decoding with replacement characters and encoding again first differs. */
function firstBadByte(bytes: Uint8Array): number {
  const again = new TextEncoder().encode(new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes));
  let bad = 0;
  while (bytes[bad] === again[bad]) bad++;
  return bad;
}

async function* decodeUtf16(
  name: string,
  bytes: AsyncIterable<Uint8Array>,
  encoding: Encoding,
  line: () => number,
): AsyncGenerator<string> {
  // drops the byte order mark itself
  const utf16 = new TextDecoder(encoding, { fatal: true });
  let offset = 0;
  const decode = (chunk?: Uint8Array) => {
    try {
      return chunk ? utf16.decode(chunk, { stream: true }) : utf16.decode();
    } catch {
      throw new MicrogptError(
        `${name} is not valid UTF-16: bad bytes after line ${line()}, behind offset ${offset}`,
        { hint: "convert the file to UTF-8 first, for example with iconv" },
      );
    }
  };
  for await (const chunk of bytes) {
    const text = decode(chunk);
    if (text.includes("\0")) throw hasZero(name, `zeros behind line ${line()}`);
    offset += chunk.length;
    if (text !== "") yield text;
  }
  decode();
}

function hasZero(name: string, what: string): MicrogptError {
  return new MicrogptError(`${name} is not a text file: it has ${what}`, {
    hint: "text must be UTF-8, or UTF-16 with a byte order mark",
  });
}
