/** Documents of a corpus in blocks of one size, and the tokens of each: what is encoded, written and read at a time. */

import type { Message } from "../chat.ts";
import type { Corpus } from "../corpus.ts";
import { type DocumentEncoder, MARKS, type TokenDocuments } from "../documents.ts";

/** UTF-16 units of text in a block: enough work for all threads, and little enough memory. */
export const BLOCK_CHARACTERS = 16 << 20;

/** Most documents in a block, however short they are. */
const BLOCK_DOCUMENTS = 1 << 20;

/** Some documents, in order. */
export interface DocumentBlock {
  documents: string[] | Message[][];
  /** UTF-16 units of their text */
  characters: number;
  /** bytes of input read so far */
  bytesRead: number;
}

/**
 * The documents of a corpus in blocks that depend on nothing but the documents.
 * @param size UTF-16 units of text after which a block is full
 */
export async function* documentBlocks(
  corpus: Corpus,
  signal?: AbortSignal,
  size: number = BLOCK_CHARACTERS,
): AsyncGenerator<DocumentBlock> {
  let documents: (string | Message[])[] = [];
  let characters = 0;
  const take = (bytesRead: number): DocumentBlock => {
    const block = { documents: documents as DocumentBlock["documents"], characters, bytesRead };
    documents = [];
    characters = 0;
    return block;
  };
  let bytesRead = 0;
  for await (const part of corpus.blocks(signal)) {
    bytesRead = part.bytesRead;
    for (const document of part.documents) {
      documents.push(document);
      characters += lengthOf(document);
      if (characters >= size || documents.length === BLOCK_DOCUMENTS) yield take(bytesRead);
    }
  }
  if (documents.length > 0) yield take(bytesRead);
}

function lengthOf(document: string | Message[]): number {
  if (typeof document === "string") return document.length;
  let length = 0;
  for (const { content } of document) length += content.length;
  return length;
}

/** The texts of documents, which a tokenizer is trained on. */
export function textsOf(documents: DocumentBlock["documents"]): string[] {
  const isText = (all: DocumentBlock["documents"]): all is string[] => typeof all[0] === "string";
  return isText(documents) ? documents : documents.flat().map(({ content }) => content);
}

/** Token ids; in two bytes where the vocabulary allows it. */
export type TokenIds = Uint16Array | Uint32Array;

/** Bits of an id in a vocabulary of this size. */
export function bitsOf(vocabSize: number): 16 | 32 {
  return vocabSize <= 0x1_0000 ? 16 : 32;
}

/** The tokens of some documents, in order. */
export interface TokenBlock {
  /** tokens of each document, special ones too, [documents] */
  lengths: Uint32Array;
  /**
   * of conversations, what is known of their tokens, end to end: 8 times the length of each run of tokens that have the
   * same marks, and its marks (documents.ts); a message begins a run
   */
  spans: Uint32Array;
  /** of all documents, end to end */
  ids: TokenIds;
}

/** How documents are encoded. */
export interface EncodingWay {
  encoder: DocumentEncoder;
  /** only answers will count as targets: they must be known */
  answersOnly: boolean;
  vocabSize: number;
}

/** Encodes a block; where the native library does it, the program goes on meanwhile. */
export async function encodeBlock(
  documents: DocumentBlock["documents"],
  mode: "text" | "chat",
  { encoder, answersOnly, vocabSize }: EncodingWay,
): Promise<TokenBlock> {
  const tokens = mode === "chat"
    ? await encoder.conversations(documents as Message[][], answersOnly)
    : await encoder.texts(documents as string[]);
  const { ids, offsets } = tokens;
  const lengths = new Uint32Array(documents.length);
  for (let d = 0; d < lengths.length; d++) lengths[d] = offsets[d + 1]! - offsets[d]!;
  const spans = spansOf(tokens);
  return { lengths, spans, ids: bitsOf(vocabSize) === 16 ? Uint16Array.from(ids) : ids };
}

/** See {@link TokenBlock.spans}. */
export function spansOf({ marks, offsets }: TokenDocuments): Uint32Array {
  if (!marks) return new Uint32Array();
  const spans: number[] = [];
  for (let d = 0; d + 1 < offsets.length; d++) {
    for (let start = offsets[d]!, end; start < offsets[d + 1]!; start = end) {
      const same = marks[start]! & MARKS.answer;
      for (end = start + 1; end < offsets[d + 1]! && marks[end] === same;) end++;
      spans.push(8 * (end - start) + marks[start]!);
    }
  }
  return Uint32Array.from(spans);
}
