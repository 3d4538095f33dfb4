import type { Tokenizer } from "../data/tokenizer.ts";

/** The simplest tokenizer there is, for tests of what stands around one: special tokens, then an id for each byte. */
export function byteTokenizer(special: string[]): Tokenizer {
  const first = special.length;
  const encodeOne = (text: string) =>
    Uint32Array.from(new TextEncoder().encode(text), (byte) => byte + first);
  const bytesOf = (id: number) =>
    id < first ? new TextEncoder().encode(special[id]) : Uint8Array.of(id - first);
  return {
    vocabSize: first + 256,
    id: (token: string) => special.includes(token) ? special.indexOf(token) : undefined,
    encodeOne,
    encode(documents: string[]) {
      const encoded = documents.map(encodeOne);
      const offsets = new Uint32Array(documents.length + 1);
      encoded.forEach((ids, d) => offsets[d + 1] = offsets[d]! + ids.length);
      return { ids: Uint32Array.from(encoded.flatMap((ids) => [...ids])), offsets };
    },
    decode: (ids: Uint32Array) =>
      new TextDecoder().decode(Uint8Array.from([...ids].flatMap((id) => [...bytesOf(id)]))),
    tokenBytes: bytesOf,
  };
}
