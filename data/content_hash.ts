/** Numbers that depend on what a document says and on nothing else: not on its place, its file or its neighbours. */

import type { Message } from "./chat.ts";

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
  let h1 = seed | 0, h2 = seed | 0, h3 = seed | 0, h4 = seed | 0;
  const whole = text.length - text.length % 8;
  for (let i = 0; i < whole; i += 8) {
    h1 = Math.imul(rotate(h1 ^ scramble(word(text, i), C1, 15, C2), 19) + h2, 5) + 0x561ccd1b | 0;
    h2 = Math.imul(rotate(h2 ^ scramble(word(text, i + 2), C2, 16, C3), 17) + h3, 5) + 0x0bcaa747 | 0;
    h3 = Math.imul(rotate(h3 ^ scramble(word(text, i + 4), C3, 17, C4), 15) + h4, 5) + 0x96cd1c35 | 0;
    h4 = Math.imul(rotate(h4 ^ scramble(word(text, i + 6), C4, 18, C1), 13) + h1, 5) + 0x32ac3b17 | 0;
  }
  // the rest, as if padded with zeros, which change nothing
  const bytes = 2 * text.length;
  h1 ^= scramble(word(text, whole), C1, 15, C2) ^ bytes;
  h2 ^= scramble(word(text, whole + 2), C2, 16, C3) ^ bytes;
  h3 ^= scramble(word(text, whole + 4), C3, 17, C4) ^ bytes;
  h4 ^= scramble(word(text, whole + 6), C4, 18, C1) ^ bytes;
  h1 = h1 + h2 + h3 + h4 | 0;
  [h2, h3, h4] = [h1 + h2, h1 + h3, h1 + h4];
  [h1, h2, h3, h4] = [finish(h1), finish(h2), finish(h3), finish(h4)];
  h1 = h1 + h2 + h3 + h4 | 0;
  h2 = h1 + h2 | 0;
  return (h1 >>> 0) * 2 ** 21 + (h2 >>> 11);
}

/**
 * The hash of each document: of the text itself, or for a conversation of the JSON
 * `[["user","…"],["assistant","…"],…]`.
 * @param seed 32 bits
 * @returns [documents]
 */
export function contentHashes(
  documents: readonly (string | Message[])[],
  seed: number,
): Float64Array<ArrayBuffer> {
  const hashes = new Float64Array(documents.length);
  documents.forEach((document, d) => {
    const text = typeof document === "string"
      ? document
      : JSON.stringify(document.map(({ role, content }) => [role, content]));
    hashes[d] = contentHash(text, seed);
  });
  return hashes;
}

/** Two UTF-16 units as 32 bits, zeros beyond the end. */
function word(text: string, at: number): number {
  return text.charCodeAt(at) | text.charCodeAt(at + 1) << 16;
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
