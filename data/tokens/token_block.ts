/** Documents of a corpus in blocks of one size, and the tokens of each: what is encoded, written and read at a time. */

import type { Message } from "../chat.ts";
import type { Corpus } from "../corpus.ts";
import { type DocumentEncoder, MARKS, type TokenDocuments } from "../documents.ts";
import type { PackedTexts, Texts } from "../packed_texts.ts";

/** UTF-16 units of text in a block: enough work for all threads, and little enough memory. */
export const BLOCK_CHARACTERS = 16 << 20;

/** Most documents in a block, however short they are. */
const BLOCK_DOCUMENTS = 1 << 20;

/** Some documents, in order. */
export interface DocumentBlock {
  documents: PackedTexts | Message[][];
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
  if (corpus.mode === "chat") return yield* conversationBlocks(corpus, signal, size);
  const blocks = corpus.textBlocks({ characters: size, documents: BLOCK_DOCUMENTS }, signal);
  for await (const { texts, characters, bytesRead } of blocks) {
    signal?.throwIfAborted();
    yield { documents: texts, characters, bytesRead };
  }
}

async function* conversationBlocks(
  corpus: Corpus,
  signal: AbortSignal | undefined,
  size: number,
): AsyncGenerator<DocumentBlock> {
  let documents: Message[][] = [];
  let characters = 0;
  const take = (bytesRead: number): DocumentBlock => {
    const block = { documents, characters, bytesRead };
    documents = [];
    characters = 0;
    return block;
  };
  let bytesRead = 0;
  for await (const part of corpus.blocks(signal)) {
    bytesRead = part.bytesRead;
    for (const document of part.documents as Message[][]) {
      documents.push(document);
      for (const { content } of document) characters += content.length;
      if (characters >= size || documents.length === BLOCK_DOCUMENTS) yield take(bytesRead);
    }
  }
  if (documents.length > 0) yield take(bytesRead);
}

/** The texts of documents, which a tokenizer is trained on. */
export function textsOf(documents: DocumentBlock["documents"]): Texts {
  return Array.isArray(documents) ? documents.flat().map(({ content }) => content) : documents;
}

/** Token ids; in two bytes where the vocabulary allows it. */
export type TokenIds = Uint16Array | Uint32Array;

/** Bits of an id in a vocabulary of this size. */
export function bitsOf(vocabSize: number): 16 | 32 {
  return vocabSize <= 0x1_0000 ? 16 : 32;
}

/** The tokens of some documents, in order. */
export interface TokenBlock {
  /** where each document's ids begin, special ones too, and the end of the last, [documents + 1] */
  offsets: Uint32Array;
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
  { encoder, answersOnly, vocabSize }: EncodingWay,
): Promise<TokenBlock> {
  const tokens = Array.isArray(documents)
    ? await encoder.conversations(documents, answersOnly)
    : await encoder.texts(documents);
  const { ids, offsets } = tokens;
  return { offsets, spans: spansOf(tokens), ids: bitsOf(vocabSize) === 16 ? new Uint16Array(ids) : ids };
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
