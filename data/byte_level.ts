/** The byte-level alphabet of GPT-2, in which `tokenizer.json` writes tokens: a printable character for each byte. */

import { TokenTable } from "./tokenizer.ts";
import type { TokenEntry, TokenizerFile } from "./tokenizer_json.ts";

/** The character of each byte: printable Latin-1 stands for itself, the other bytes for U+0100, U+0101, … */
export const BYTE_CHARS: readonly string[] = (() => {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : next++);
  });
})();

/**
 * The bytes of text that each token stands for: none for a special one. An added token stands for itself, and so does
 * one with a character outside the alphabet, as in HuggingFace's decoder.
 */
export function tokenTable({ tokens, whole }: TokenizerFile): TokenTable {
  if (whole?.sentencePiece) return sentencePieceTable(tokens);
  const byteOf = new Map(BYTE_CHARS.map((char, byte) => [char, byte]));
  const bytes: number[] = [];
  const offsets = new Uint32Array(tokens.length + 1);
  tokens.forEach(({ name, special, literal }, id) => {
    if (!special) {
      const own = Array.from(name, (char) => literal ? undefined : byteOf.get(char));
      const foreign = own.includes(undefined);
      for (const byte of foreign ? new TextEncoder().encode(name) : own as number[]) bytes.push(byte);
    }
    offsets[id + 1] = bytes.length;
  });
  return new TokenTable(Uint8Array.from(bytes), offsets);
}

/** The same for a vocabulary of SentencePiece: ▁ is a space, <0x0A> a byte. */
function sentencePieceTable(tokens: readonly TokenEntry[]): TokenTable {
  const encoder = new TextEncoder();
  const bytes: number[] = [];
  const offsets = new Uint32Array(tokens.length + 1);
  tokens.forEach(({ name, special, literal }, id) => {
    const byte = /^<0x([0-9A-F]{2})>$/.exec(name)?.[1];
    if (!special) {
      if (byte !== undefined) bytes.push(parseInt(byte, 16));
      else for (const value of encoder.encode(literal ? name : name.replaceAll("▁", " "))) bytes.push(value);
    }
    offsets[id + 1] = bytes.length;
  });
  return new TokenTable(Uint8Array.from(bytes), offsets);
}
