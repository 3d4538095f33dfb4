/** The tokens of a corpus, in memory or in a file, by document. */

import { MARKS } from "../documents.ts";
import type { TokenBlock, TokenIds } from "./token_block.ts";

/** Documents between two starts that are remembered. */
const STRIDE = 32;

/** Hands out tokens by their number in the corpus. */
export interface TokenSource {
  /** Copies ids `first` … of the corpus into all of `into`. */
  read(first: number, into: Uint32Array): void;
  close(): void;
}

/** All documents of a corpus as tokens. Only lengths are held in memory: 4 bytes a document. */
export class TokenStore implements Disposable {
  /** tokens of each document, [documents] */
  readonly lengths: Uint32Array;
  /** see {@link TokenBlock.spans}, of all documents */
  readonly spans: Uint32Array;
  /** tokens of all documents */
  readonly tokens: number;
  /** called once the tokens are closed */
  onClose: (() => void) | undefined;
  readonly #source: TokenSource;
  /** where every 32nd document begins */
  readonly #starts: Float64Array;
  /** the first span of every 32nd document */
  readonly #spanStarts: Float64Array;
  /** a document, and its first span */
  #place = { document: 0, span: 0 };

  constructor(lengths: Uint32Array, spans: Uint32Array, source: TokenSource) {
    this.lengths = lengths;
    this.spans = spans;
    this.#source = source;
    this.#starts = new Float64Array(Math.ceil(lengths.length / STRIDE));
    this.#spanStarts = new Float64Array(spans.length > 0 ? this.#starts.length : 0);
    let start = 0;
    let span = 0;
    for (let d = 0; d < lengths.length; d++) {
      if (d % STRIDE === 0) this.#starts[d / STRIDE] = start;
      start += lengths[d]!;
      if (spans.length === 0) continue;
      if (d % STRIDE === 0) this.#spanStarts[d / STRIDE] = span;
      span = this.#behind(d, span);
    }
    this.tokens = start;
  }

  /** How many documents there are. */
  get documents(): number {
    return this.lengths.length;
  }

  /** Copies tokens of a document, from its token `from` on, into all of `into`. */
  read(document: number, from: number, into: Uint32Array): void {
    const group = Math.floor(document / STRIDE);
    let start = this.#starts[group]!;
    for (let d = group * STRIDE; d < document; d++) start += this.lengths[d]!;
    this.#source.read(start + from, into);
  }

  /** The first span of a document, found fastest in order. */
  firstSpan(document: number): number {
    const group = Math.floor(document / STRIDE);
    const near = this.#place.document <= document && this.#place.document >= group * STRIDE;
    let { document: d, span } = near
      ? this.#place
      : { document: group * STRIDE, span: this.#spanStarts[group]! };
    for (; d < document; d++) span = this.#behind(d, span);
    this.#place = { document, span };
    return span;
  }

  /** The span behind those of a document. */
  #behind(document: number, span: number): number {
    for (let left = this.lengths[document]!; left > 0; span++) left -= this.spans[span]! >>> 3;
    return span;
  }

  /** Tells of tokens of a document, from its token `from` on, which are part of an answer: 1, others 0. */
  readAnswers(document: number, from: number, into: Uint8Array): void {
    let end = 0;
    for (let span = this.firstSpan(document), at = from; at < from + into.length; span++) {
      end += this.spans[span]! >>> 3;
      for (; at < Math.min(end, from + into.length); at++) into[at - from] = this.spans[span]! & MARKS.answer;
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
  const lengths = joined(blocks.map(({ lengths }) => lengths));
  const spans = joined(blocks.map(({ spans }) => spans));
  return new TokenStore(lengths, spans, new BlocksInMemory(blocks.map(({ ids }) => ids)));
}

/** Arrays end to end. */
export function joined(parts: readonly Uint32Array[]): Uint32Array {
  if (parts.length === 1) return parts[0]!;
  const all = new Uint32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

class BlocksInMemory implements TokenSource {
  readonly #blocks: readonly TokenIds[];
  readonly #places: Places;

  constructor(blocks: readonly TokenIds[]) {
    this.#blocks = blocks;
    this.#places = new Places(blocks.map(({ length }) => length));
  }

  read(first: number, into: Uint32Array): void {
    const b = this.#places.find(first);
    const ids = this.#blocks[b]!;
    const at = first - this.#places.starts[b]!;
    // a loop, because documents may be a few tokens long, and `set` would need a new view for each
    for (let i = 0; i < into.length; i++) into[i] = ids[at + i]!;
  }

  close(): void {}
}

/** Finds the block that a token lies in. */
export class Places {
  /** first token of each block, and the end of the last */
  readonly starts: Float64Array;
  #last = 0;

  constructor(sizes: readonly number[]) {
    this.starts = new Float64Array(sizes.length + 1);
    sizes.forEach((size, b) => this.starts[b + 1] = this.starts[b]! + size);
  }

  find(token: number): number {
    const { starts } = this;
    if (starts[this.#last]! <= token && token < starts[this.#last + 1]!) return this.#last;
    let low = 0;
    let high = starts.length - 2;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle]! <= token) low = middle;
      else high = middle - 1;
    }
    return this.#last = low;
  }
}
