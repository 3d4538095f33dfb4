/**
 * What of each document is trained on: pieces that fit a sequence. A document has one, its beginning, or none, or with `split`
 * as many as it takes.
 */

import { MicrogptError } from "../../device/errors.ts";
import { MARKS } from "../documents.ts";
import type { LengthCounts } from "../lengths.ts";
import type { TokenStore } from "./token_store.ts";

/** What becomes of documents that are longer than a sequence. */
export type LongDocuments = "truncate" | "skip" | "split";

/** Pieces of documents, by number. A piece has as many targets as inputs: the ids that follow them. */
export class Pieces {
  readonly #store: TokenStore;
  readonly #blockSize: number;
  /** the document of each piece; those of one document are neighbours */
  readonly #documents: Uint32Array;
  /** the first input of each piece in its document; undefined where that is 0 for all */
  readonly #starts: Uint32Array | undefined;
  /** the largest number of inputs that a piece has */
  readonly longest: number;
  #buffer = new Uint32Array(0);
  #view = this.#buffer;
  #counted = new Uint8Array(0);

  constructor(
    store: TokenStore,
    blockSize: number,
    documents: Uint32Array,
    starts?: Uint32Array,
    readonly answersOnly = false,
  ) {
    this.#store = store;
    this.#blockSize = blockSize;
    this.#documents = documents;
    this.#starts = starts;
    let longest = 0;
    for (let i = 0; i < documents.length; i++) longest = Math.max(longest, this.inputs(i));
    this.longest = longest;
  }

  /** How many pieces there are. */
  get count(): number {
    return this.#documents.length;
  }

  /** The number of the document that a piece is of. */
  document(piece: number): number {
    return this.#documents[piece]!;
  }

  /** How many inputs a piece has. */
  inputs(piece: number): number {
    const document = this.#documents[piece]!;
    const all = this.#store.lengths[document]! - 1;
    if (!this.#starts) return Math.min(all, this.#blockSize);
    const end = this.#documents[piece + 1] === document ? this.#starts[piece + 1]! : all;
    return end - this.#starts[piece]!;
  }

  /** The ids of a piece: its inputs, and the target of the last. @returns an array that the next call overwrites */
  ids(piece: number): Uint32Array {
    const length = this.inputs(piece) + 1;
    if (this.#view.length !== length) {
      if (this.#buffer.length < length) this.#buffer = new Uint32Array(2 * length);
      this.#view = this.#buffer.subarray(0, length);
    }
    this.#store.read(this.#documents[piece]!, this.#starts?.[piece] ?? 0, this.#view);
    return this.#view;
  }

  /**
   * Which of these ids count as targets: 1, others 0.
   * @returns an array that the next call overwrites; undefined where all count
   */
  counted(piece: number): Uint8Array | undefined {
    if (!this.answersOnly) return undefined;
    const length = this.inputs(piece) + 1;
    if (this.#counted.length !== length) this.#counted = new Uint8Array(length);
    this.#store.readAnswers(this.#documents[piece]!, this.#starts?.[piece] ?? 0, this.#counted);
    return this.#counted;
  }

  /** Inputs of all pieces, each of which has a target. */
  get tokens(): number {
    let tokens = 0;
    for (let i = 0; i < this.count; i++) tokens += this.inputs(i);
    return tokens;
  }
}

/**
 * The pieces of some documents, in order.
 * @param documents their numbers, ascending; with `skip` none of those that are too long
 * @param blockSize inputs that a piece may have
 * @param answersOnly only answers count as targets: not with `split`, which may leave a piece without any
 */
export function piecesOf(
  store: TokenStore,
  documents: Uint32Array,
  blockSize: number,
  long: LongDocuments,
  answersOnly = false,
): Pieces {
  const tooLong = (d: number) => store.lengths[d]! - 1 > blockSize;
  if (long !== "split" || !documents.some(tooLong)) {
    return new Pieces(store, blockSize, documents, undefined, answersOnly);
  }
  const owners = new Growing();
  const starts = new Growing();
  for (const d of documents) {
    const cuts = !tooLong(d)
      ? [0]
      : store.spans.length > 0
      ? cutAtMessages(store, d, blockSize)
      : cutAnywhere(store, d, blockSize);
    for (const start of cuts) {
      owners.push(d);
      starts.push(start);
    }
  }
  return new Pieces(store, blockSize, owners.array, starts.array, answersOnly);
}

/** Windows of `blockSize` inputs. The last input of one has the first of the next as its target. */
function* cutAnywhere({ lengths }: TokenStore, document: number, blockSize: number): Generator<number> {
  for (let start = 0; start < lengths[document]! - 1; start += blockSize) yield start;
}

/**
 * As many whole messages as fit, so that a piece begins with a question where it can, else with an answer; a message that
 * does not fit is cut anywhere.
 */
function cutAtMessages(store: TokenStore, document: number, blockSize: number): number[] {
  const inputs = store.lengths[document]! - 1;
  // where each message but the first begins, and whether it is a question
  const begins: { at: number; question: boolean }[] = [];
  for (let span = store.firstSpan(document), at = 0; at <= inputs; at += store.spans[span++]! >>> 3) {
    const marks = store.spans[span]! & 7;
    if (marks & MARKS.message && at > 1) begins.push({ at, question: (marks & MARKS.question) !== 0 });
  }
  const starts = [0];
  for (let start = 0, next = 0; start + blockSize < inputs; starts.push(start)) {
    let [question, any] = [-1, -1];
    for (let i = next; i < begins.length && begins[i]!.at <= start + blockSize; i++) {
      any = i;
      if (begins[i]!.question) question = i;
    }
    const chosen = question >= 0 ? question : any;
    start = chosen >= 0 ? begins[chosen]!.at : start + blockSize;
    if (chosen >= 0) next = chosen + 1;
  }
  return starts;
}

/** Those of some documents, ascending, that have an answer in what is trained on of them. */
function withAnswers(
  store: TokenStore,
  documents: Uint32Array,
  blockSize: number,
): Uint32Array {
  return documents.filter((d) => {
    for (let span = store.firstSpan(d), at = 0; at < store.lengths[d]!; at += store.spans[span++]! >>> 3) {
      if (store.spans[span]! & MARKS.answer) return at <= blockSize;
    }
    return false;
  });
}

/** The documents of a corpus that are trained on or held out. */
export interface FittedDocuments {
  /** their numbers, ascending; undefined where it is all of them */
  kept: Uint32Array | undefined;
  /** what a person should know of the others, and of those that are cut off */
  notices: string[];
}

/**
 * Chooses the documents that can be trained on: none that are too long where those are skipped, none without an answer
 * where only answers count.
 * @param counts of the lengths of all documents
 * @param mode names the documents in messages
 * @throws {MicrogptError} when none is left
 */
export function fitDocuments(
  store: TokenStore,
  counts: LengthCounts,
  blockSize: number,
  long: LongDocuments,
  answersOnly: boolean,
  mode: "text" | "chat",
): FittedDocuments {
  const count = counts.documents;
  const above = counts.above(blockSize + 1).documents;
  const unit = mode === "chat" ? "conversations" : "documents";
  const notices: string[] = [];
  const fits = (length: number) => length - 1 <= blockSize;
  let kept = long === "skip" && above > 0 ? numbersWhere(store.lengths, fits) : undefined;
  if (kept?.length === 0) {
    throw new MicrogptError(
      `\`skipLong\`: all ${count} ${unit} exceed block_size (${blockSize}), nothing is left to train on`,
      { hint: "raise `blockSize`, or train without `skipLong`" },
    );
  }
  if (above > 0 && long === "skip") {
    notices.push(`\`skipLong\`: dropped ${above} ${unit} exceeding block_size (${blockSize})`);
  } else if (above > 0 && long === "truncate") {
    notices.push(
      `warning: ${above} / ${count} docs are longer than block_size (${blockSize}) and will be truncated`,
    );
  }
  if (answersOnly) {
    const before = kept ?? numbersWhere(store.lengths, () => true);
    const answered = withAnswers(store, before, blockSize);
    if (answered.length === 0) {
      throw new MicrogptError(
        `none of the ${count} ${unit} has an answer within block_size (${blockSize}), nothing is left to train on`,
        { hint: "raise `blockSize`, or train with `loss` all" },
      );
    }
    const silent = before.length - answered.length;
    if (silent > 0) {
      kept = answered;
      notices.push(`${silent} ${unit} are left out: they have no answer within block_size (${blockSize})`);
    }
  }
  const left = tokensOf(store, kept, long === "split" ? Infinity : blockSize + 1);
  if (left < counts.tokens / 2) notices.push(lossNotice(left, counts.tokens));
  return { kept, notices };
}

/** Numbers of the documents whose length is asked for, ascending. */
function numbersWhere(lengths: Uint32Array, wanted: (length: number) => boolean): Uint32Array {
  const numbers = new Uint32Array(lengths.length);
  let count = 0;
  for (let d = 0; d < lengths.length; d++) if (wanted(lengths[d]!)) numbers[count++] = d;
  return numbers.slice(0, count);
}

/** Tokens that are left of some documents, or all. @param most that are left of each */
function tokensOf({ lengths }: TokenStore, documents: Uint32Array | undefined, most: number): number {
  let tokens = 0;
  if (documents) { for (const d of documents) tokens += Math.min(lengths[d]!, most); }
  else for (const length of lengths) tokens += Math.min(length, most);
  return tokens;
}

/** Most of the data is not trained on, which is hardly what was meant. */
function lossNotice(left: number, all: number): string {
  // rounded down, so that it never says 100 %
  const percent = Math.floor((1 - left / all) * 1000) / 10;
  return `warning: ${percent} % of the data is not trained on, ${left} of ${all} tokens are left: ` +
    "raise `blockSize`, or use `long` split";
}

/** An array that grows. */
class Growing {
  #values = new Uint32Array(1024);
  #length = 0;

  push(value: number): void {
    if (this.#length === this.#values.length) {
      const larger = new Uint32Array(2 * this.#length);
      larger.set(this.#values);
      this.#values = larger;
    }
    this.#values[this.#length++] = value;
  }

  get array(): Uint32Array {
    return this.#values.subarray(0, this.#length);
  }
}
