/** Loss in bits per byte of text, which can be compared across vocabularies. */

import type { PackedDocuments } from "../device/device.ts";
import { SPECIAL_TOKENS, type Tokenizer } from "./tokenizer.ts";

/**
 * How many bytes of the data each token stands for as a target: its UTF-8 bytes, 1 for the token that ends a document
 * (`<bos>`), and 0 for the other special tokens. The denominator is thus the text's (in chat: the messages') bytes
 * plus one per document; of a truncated document, only what is predicted counts.
 * @param end ends a document
 * @returns [V]
 */
export function bytesOfTokens(
  tokenizer: Tokenizer,
  end: number | undefined = tokenizer.id(SPECIAL_TOKENS.bos),
): Uint32Array {
  const bytes = Uint32Array.from({ length: tokenizer.vocabSize }, (_, id) => tokenizer.tokenBytes(id).length);
  if (end !== undefined) bytes[end] = 1;
  return bytes;
}

/** Bytes that the targets of a batch stand for, each as often as it counts. */
export function targetBytes({ targets, weights }: PackedDocuments, tokenBytes: Uint32Array): number {
  let sum = 0;
  targets.forEach((id, t) => sum += tokenBytes[id]! * (weights?.[t] ?? 1));
  return sum;
}
