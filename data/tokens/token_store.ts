/** The tokens of a corpus, in memory or in a file, by document. None of it is held but what the source holds. */

import { MARKS } from "../documents.ts";
import { LengthCounts } from "../lengths.ts";
import type { TokenBlock, TokenIds } from "./token_block.ts";

/** How much is in a block. */
export interface BlockSize {
  documents: number;
  /** see {@link TokenBlock.spans}; none of plain text */
  spans: number;
  tokens: number;
}

/** The parts of a block that are numbers: where each document begins in its ids, in its spans, and the spans. */
export type BlockPart = "offsets" | "spanOffsets" | "spans";

/** Hands out what is in blocks, at any place. */
export interface TokenSource {
  /** A number of a part. Offsets are one more than documents; there are span offsets where there are spans. */
  number(block: number, part: BlockPart, place: number): number;
  /** All offsets of a block. */
  offsets(block: number): Uint32Array;
  /** Copies ids `first` … of a block into all of `into`. */
  read(block: number, first: number, into: Uint32Array): void;
  close(): void;
}

/** All documents of a corpus as tokens. */
export class TokenStore implements Disposable {
  /** how many documents there are */
  readonly documents: number;
  /** of all documents */
  readonly tokens: number;
  /** called once the tokens are closed */
  onClose: (() => void) | undefined;
  /** how many documents have each length */
  readonly counts: LengthCounts;
  /** they are conversations, of which more is known */
  readonly hasSpans: boolean;
  readonly #blocks: readonly BlockSize[];
  readonly #source: TokenSource;
  readonly #places: Places;

  constructor(blocks: readonly BlockSize[], counts: LengthCounts, source: TokenSource) {
    this.#blocks = blocks;
    this.#source = source;
    this.#places = new Places(blocks.map(({ documents }) => documents));
    this.documents = this.#places.end;
    this.tokens = blocks.reduce((sum, { tokens }) => sum + tokens, 0);
    this.hasSpans = blocks.some(({ spans }) => spans > 0);
    this.counts = counts;
  }

  /** Tokens of a document, special ones too. */
  length(document: number): number {
    const block = this.#places.find(document);
    const d = document - this.#places.starts[block]!;
    return this.#source.number(block, "offsets", d + 1) - this.#source.number(block, "offsets", d);
  }

  /** The offsets of all documents, block by block: the quick way to look at all lengths. */
  *offsets(): Generator<{ first: number; offsets: Uint32Array }> {
    for (let b = 0; b < this.#blocks.length; b++) {
      yield { first: this.#places.starts[b]!, offsets: this.#source.offsets(b) };
    }
  }

  /** Copies tokens of a document, from its token `from` on, into all of `into`. */
  read(document: number, from: number, into: Uint32Array): void {
    const block = this.#places.find(document);
    const d = document - this.#places.starts[block]!;
    this.#source.read(block, this.#source.number(block, "offsets", d) + from, into);
  }

  /** What is known of the tokens of a conversation, see {@link TokenBlock.spans}. */
  *spans(document: number): Generator<number> {
    const block = this.#places.find(document);
    const d = document - this.#places.starts[block]!;
    const end = this.#source.number(block, "spanOffsets", d + 1);
    for (let span = this.#source.number(block, "spanOffsets", d); span < end; span++) {
      yield this.#source.number(block, "spans", span);
    }
  }

  /** Tells of tokens of a document, from its token `from` on, which are part of an answer: 1, others 0. */
  readAnswers(document: number, from: number, into: Uint8Array): void {
    let end = 0;
    let at = from;
    for (const span of this.spans(document)) {
      end += span >>> 3;
      for (; at < Math.min(end, from + into.length); at++) into[at - from] = span & MARKS.answer;
      if (at === from + into.length) return;
    }
  }

  /** Closes what the tokens lie in. A second call does nothing. */
  close(): void {
    this.#source.close();
    this.onClose?.();
    this.onClose = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A store of blocks that stay in memory. */
export function storeInMemory(blocks: readonly TokenBlock[]): TokenStore {
  const sizes = blocks.map(sizeOf);
  const counts = new LengthCounts();
  for (const { offsets } of blocks) counts.addOffsets(offsets);
  return new TokenStore(sizes, counts, new BlocksInMemory(blocks));
}

/** How much is in a block. */
export function sizeOf({ offsets, spans, ids }: TokenBlock): BlockSize {
  return { documents: offsets.length - 1, spans: spans.length, tokens: ids.length };
}

/** Where the spans of each document begin, [documents + 1]; nothing where there are none. */
export function spanOffsets({ offsets, spans }: TokenBlock): Uint32Array {
  if (spans.length === 0) return new Uint32Array();
  const starts = new Uint32Array(offsets.length);
  let span = 0;
  for (let d = 0; d + 1 < offsets.length; d++) {
    starts[d] = span;
    for (let left = offsets[d + 1]! - offsets[d]!; left > 0; span++) left -= spans[span]! >>> 3;
  }
  starts[offsets.length - 1] = span;
  return starts;
}

class BlocksInMemory implements TokenSource {
  readonly #parts: Record<BlockPart, Uint32Array>[];
  readonly #ids: TokenIds[];

  constructor(blocks: readonly TokenBlock[]) {
    this.#ids = blocks.map(({ ids }) => ids);
    this.#parts = blocks.map((block) => {
      const { offsets, spans } = block;
      return { offsets, spans, spanOffsets: spanOffsets(block) };
    });
  }

  number(block: number, part: BlockPart, place: number): number {
    return this.#parts[block]![part][place]!;
  }

  offsets(block: number): Uint32Array {
    return this.#parts[block]!.offsets;
  }

  read(block: number, first: number, into: Uint32Array): void {
    const ids = this.#ids[block]!;
    // a loop, because documents may be a few tokens long, and `set` would need a new view for each
    for (let i = 0; i < into.length; i++) into[i] = ids[first + i]!;
  }

  close(): void {}
}

/** Finds the block that a document lies in. */
class Places {
  /** first document of each block, and the end of the last */
  readonly starts: Float64Array;
  #last = 0;

  constructor(sizes: readonly number[]) {
    this.starts = new Float64Array(sizes.length + 1);
    sizes.forEach((size, b) => this.starts[b + 1] = this.starts[b]! + size);
  }

  get end(): number {
    return this.starts.at(-1)!;
  }

  find(document: number): number {
    const { starts } = this;
    if (starts[this.#last]! <= document && document < starts[this.#last + 1]!) return this.#last;
    let low = 0;
    let high = starts.length - 2;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle]! <= document) low = middle;
      else high = middle - 1;
    }
    return this.#last = low;
  }
}
