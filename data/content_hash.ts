/** Numbers that depend on what a document says and on nothing else: not on its place, its file or its neighbours. */

import type { Message } from "./chat.ts";
import type { PackedTexts } from "./packed_texts.ts";

const C1 = 0x239b961b;
const C2 = 0xab0e9789;
const C3 = 0x38b34ae5;
const C4 = 0xa1e38b93;

/**
 * The first 53 bits of MurmurHash3 (x86, 128 bits, A. Appleby 2011) of the text in UTF-16, little-endian: all of its
 * first word, above the upper 21 bits of its second.
 * @param seed 32 bits
 * @returns a whole number below 2^53, which a number holds exactly
 */
export function contentHash(text: string, seed: number): number {
  const units = room(text.length);
  for (let i = 0; i < text.length; i++) units[i] = text.charCodeAt(i);
  return hashOf(units, 0, text.length, seed);
}

/** The hash of UTF-16 units `start` … `end`; bytes are units below 256. */
function hashOf(units: Uint16Array | Uint8Array, start: number, end: number, seed: number): number {
  let h1 = seed | 0, h2 = seed | 0, h3 = seed | 0, h4 = seed | 0;
  let i = start;
  for (; i + 8 <= end; i += 8) {
    const k1 = units[i]! | units[i + 1]! << 16, k2 = units[i + 2]! | units[i + 3]! << 16;
    const k3 = units[i + 4]! | units[i + 5]! << 16, k4 = units[i + 6]! | units[i + 7]! << 16;
    h1 = Math.imul(rotate(h1 ^ scramble(k1, C1, 15, C2), 19) + h2, 5) + 0x561ccd1b | 0;
    h2 = Math.imul(rotate(h2 ^ scramble(k2, C2, 16, C3), 17) + h3, 5) + 0x0bcaa747 | 0;
    h3 = Math.imul(rotate(h3 ^ scramble(k3, C3, 17, C4), 15) + h4, 5) + 0x96cd1c35 | 0;
    h4 = Math.imul(rotate(h4 ^ scramble(k4, C4, 18, C1), 13) + h1, 5) + 0x32ac3b17 | 0;
  }
  // the rest, as if padded with zeros, which change nothing
  const word = (at: number) => (at < end ? units[at]! : 0) | (at + 1 < end ? units[at + 1]! << 16 : 0);
  const bytes = 2 * (end - start);
  h1 ^= scramble(word(i), C1, 15, C2) ^ bytes;
  h2 ^= scramble(word(i + 2), C2, 16, C3) ^ bytes;
  h3 ^= scramble(word(i + 4), C3, 17, C4) ^ bytes;
  h4 ^= scramble(word(i + 6), C4, 18, C1) ^ bytes;
  h1 = h1 + h2 + h3 + h4 | 0;
  [h2, h3, h4] = [h1 + h2, h1 + h3, h1 + h4];
  [h1, h2, h3, h4] = [finish(h1), finish(h2), finish(h3), finish(h4)];
  h1 = h1 + h2 + h3 + h4 | 0;
  h2 = h1 + h2 | 0;
  return (h1 >>> 0) * 2 ** 21 + (h2 >>> 11);
}

let scratch = new Uint16Array(1024);
/** Room for this many units, which the next call hands out again. */
function room(length: number): Uint16Array {
  if (scratch.length < length) scratch = new Uint16Array(2 * length);
  return scratch;
}

/** The hash of well-formed UTF-8, bytes `start` … `end`. */
function bytesHash(bytes: Uint8Array, start: number, end: number, seed: number): number {
  let high = 0;
  for (let i = start; i < end; i++) high |= bytes[i]!;
  if (high < 0x80) return hashOf(bytes, start, end, seed);
  const units = room(end - start);
  let count = 0;
  for (let i = start; i < end;) {
    const c = bytes[i++]!;
    if (c < 0x80) units[count++] = c;
    else if (c < 0xe0) units[count++] = (c & 0x1f) << 6 | bytes[i++]! & 0x3f;
    else if (c < 0xf0) units[count++] = (c & 0x0f) << 12 | (bytes[i++]! & 0x3f) << 6 | bytes[i++]! & 0x3f;
    else {
      const code = (c & 7) << 18 | (bytes[i++]! & 0x3f) << 12 | (bytes[i++]! & 0x3f) << 6 |
        bytes[i++]! & 0x3f;
      units[count++] = 0xd800 + (code - 0x10000 >> 10);
      units[count++] = 0xdc00 + (code & 0x3ff);
    }
  }
  return hashOf(units, 0, count, seed);
}

/**
 * The hash of each document: of the text itself, or for a conversation of the JSON
 * `[["user","…"],["assistant","…"],…]`.
 * @param seed 32 bits
 * @returns [documents]
 */
export function contentHashes(
  documents: readonly (string | Message[])[] | PackedTexts,
  seed: number,
): Float64Array<ArrayBuffer> {
  if (!Array.isArray(documents)) return hashesOfPacked(documents as PackedTexts, seed);
  const hashes = new Float64Array(documents.length);
  documents.forEach((document: string | Message[], d) => {
    const text = typeof document === "string"
      ? document
      : JSON.stringify(document.map(({ role, content }) => [role, content]));
    hashes[d] = contentHash(text, seed);
  });
  return hashes;
}

function hashesOfPacked({ bytes, offsets }: PackedTexts, seed: number): Float64Array<ArrayBuffer> {
  const hashes = new Float64Array(offsets.length - 1);
  for (let t = 0; t < hashes.length; t++) hashes[t] = bytesHash(bytes, offsets[t]!, offsets[t + 1]!, seed);
  return hashes;
}

function scramble(k: number, a: number, turns: number, b: number): number {
  return Math.imul(rotate(Math.imul(k, a), turns), b);
}

function rotate(x: number, turns: number): number {
  return x << turns | x >>> (32 - turns);
}

/** Every bit of the input changes every bit of the result with a chance of one half. */
function finish(h: number): number {
  h = Math.imul(h ^ h >>> 16, 0x85ebca6b);
  h = Math.imul(h ^ h >>> 13, 0xc2b2ae35);
  return h ^ h >>> 16;
}
