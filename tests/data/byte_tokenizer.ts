import { unpacked } from "../../data/packed_texts.ts";
import type { Tokenizer } from "../../data/tokenizer.ts";

/** The simplest tokenizer there is, for tests of what stands around one: special tokens, then an id for each byte. */
export function byteTokenizer(special: string[]): Tokenizer {
  const first = special.length;
  const encodeOne = (text: string) =>
    Uint32Array.from(new TextEncoder().encode(text), (byte) => byte + first);
  const tokenBytes = (id: number) => id < first ? new Uint8Array(0) : Uint8Array.of(id - first);
  return {
    vocabSize: first + 256,
    encodeInBackground(documents) {
      return Promise.resolve(this.encode(unpacked(documents)));
    },
    id: (token) => special.includes(token) ? special.indexOf(token) : undefined,
    encodeOne,
    encode(documents) {
      const encoded = documents.map(encodeOne);
      const offsets = new Uint32Array(documents.length + 1);
      encoded.forEach((ids, d) => offsets[d + 1] = offsets[d]! + ids.length);
      return { ids: Uint32Array.from(encoded.flatMap((ids) => [...ids])), offsets };
    },
    decode: (ids) => new TextDecoder().decode(Uint8Array.from([...ids].flatMap((id) => [...tokenBytes(id)]))),
    tokenBytes,
    special: special.map((content, id) => ({ id, content, lstrip: false, rstrip: false, singleWord: false })),
    toJSON: () => JSON.stringify({ special }),
  };
}
