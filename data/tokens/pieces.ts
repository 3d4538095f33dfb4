/**
 * What of each document is trained on: pieces that fit a sequence. A document has one, its beginning, or none, or with `split`
 * as many as it takes.
 */

import { MicrogptError } from "../../device/errors.ts";
import { AllBut, type DocumentNumbers } from "../document_numbers.ts";
import { MARKS } from "../documents.ts";
import { LengthCounts } from "../lengths.ts";
import type { TokenStore } from "./token_store.ts";

/** What becomes of documents that are longer than a sequence. */
export type LongDocuments = "truncate" | "skip" | "split";

/** Documents that are cut into several pieces: the places of these among all, the first piece of each, and its pieces. */
interface Cuts {
  /** [cut] */
  places: Uint32Array;
  /** [cut + 1]: the last is how many pieces there are of all documents up to the last that is cut */
  firsts: Float64Array;
  /** the first input of each piece of these documents; undefined: every `blockSize` inputs one */
  starts: Uint32Array | undefined;
  /** behind the last input of each; undefined: where the next piece begins */
  ends: Uint32Array | undefined;
}

/** A piece, found. */
interface Found {
  document: number;
  /** its first input in the document */
  start: number;
  inputs: number;
}

/** Pieces of documents, by number. A piece has as many targets as inputs: the ids that follow them. */
export class Pieces {
  readonly #store: TokenStore;
  readonly #blockSize: number;
  readonly #documents: DocumentNumbers;
  readonly #cuts: Cuts | undefined;
  /** how many pieces there are */
  readonly count: number;
  /** the largest number of inputs that a piece has */
  readonly longest: number;
  #last = -1;
  #found: Found = { document: 0, start: 0, inputs: 0 };
  #buffer = new Uint32Array(0);
  #view = this.#buffer;
  #counted = new Uint8Array(0);

  constructor(
    store: TokenStore,
    blockSize: number,
    documents: DocumentNumbers,
    cuts?: Cuts,
    readonly answersOnly = false,
  ) {
    this.#store = store;
    this.#blockSize = blockSize;
    this.#documents = documents;
    this.#cuts = cuts;
    const more = cuts ? cuts.firsts.at(-1)! - cuts.places.at(-1)! - 1 : 0;
    this.count = documents.length + more;
    this.longest = cuts?.starts
      ? this.#longest()
      : cuts
      ? blockSize
      : Math.min(Math.max(longestOf(store, documents) - 1, 0), blockSize);
  }

  /** By a look at each. */
  #longest(): number {
    let longest = 0;
    for (let piece = 0; piece < this.count; piece++) longest = Math.max(longest, this.inputs(piece));
    return longest;
  }

  #find(piece: number): Found {
    if (piece === this.#last) return this.#found;
    this.#last = piece;
    return this.#found = this.#look(piece);
  }

  #look(piece: number): Found {
    let place = piece;
    if (this.#cuts) {
      const { places, firsts } = this.#cuts;
      let [low, high] = [0, places.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (firsts[middle]! <= piece) low = middle + 1;
        else high = middle;
      }
      const cut = low - 1;
      if (cut >= 0) {
        // pieces of the cut documents, before this one's and with them
        const pieces = (c: number) => firsts[c]! - places[c]!;
        const own = cut + 1 < places.length
          ? pieces(cut + 1) - pieces(cut) + 1
          : firsts[cut + 1]! - firsts[cut]!;
        const n = piece - firsts[cut]!;
        if (n < own) return this.#pieceOf(this.#cuts, places[cut]!, n, own, pieces(cut) + cut);
        place = places[cut]! + 1 + n - own;
      }
    }
    const document = this.#documents.at(place)!;
    return { document, start: 0, inputs: Math.min(this.#store.length(document) - 1, this.#blockSize) };
  }

  /** Piece `n` of `count` of a document that is cut. @param first where its starts begin */
  #pieceOf({ starts, ends }: Cuts, place: number, n: number, count: number, first: number): Found {
    const document = this.#documents.at(place)!;
    const startOf = (i: number) => starts ? starts[first + i]! : i * this.#blockSize;
    const end = ends?.[first + n] ??
      (n + 1 < count ? startOf(n + 1) : this.#store.length(document) - 1);
    return { document, start: startOf(n), inputs: end - startOf(n) };
  }

  /** The number of the document that a piece is of. */
  document(piece: number): number {
    return this.#find(piece).document;
  }

  /** How many inputs a piece has. */
  inputs(piece: number): number {
    return this.#find(piece).inputs;
  }

  /** The ids of a piece: its inputs, and the target of the last. @returns an array that the next call overwrites */
  ids(piece: number): Uint32Array {
    const { document, start, inputs } = this.#find(piece);
    const length = inputs + 1;
    if (this.#view.length !== length) {
      if (this.#buffer.length < length) this.#buffer = new Uint32Array(2 * length);
      this.#view = this.#buffer.subarray(0, length);
    }
    this.#store.read(document, start, this.#view);
    return this.#view;
  }

  /**
   * Which of these ids count as targets: 1, others 0.
   * @returns an array that the next call overwrites; undefined where all count
   */
  counted(piece: number): Uint8Array | undefined {
    if (!this.answersOnly) return undefined;
    const { document, start, inputs } = this.#find(piece);
    if (this.#counted.length !== inputs + 1) this.#counted = new Uint8Array(inputs + 1);
    this.#store.readAnswers(document, start, this.#counted);
    return this.#counted;
  }
}

/** The most tokens that a document has. */
function longestOf(store: TokenStore, documents: DocumentNumbers): number {
  let longest = 0;
  if (!(documents instanceof AllBut)) {
    for (const d of documents) longest = Math.max(longest, store.length(d));
    return longest;
  }
  // of all, without looking at each: only those that are left out are looked at
  let out: LengthCounts | undefined;
  for (const [length, count] of store.counts.entries().reverse()) {
    if (count > documents.out.length) return length;
    out ??= new LengthCounts(Array.from(documents.out, (d) => [store.length(d), 1]));
    if (count > out.of(length)) return length;
  }
  return longest;
}

/**
 * The pieces of some documents, in order.
 * @param documents their numbers; with `skip` none of those that are too long
 * @param blockSize inputs that a piece may have
 * @param answersOnly only answers count as targets: pieces without any are left out
 */
export function piecesOf(
  store: TokenStore,
  documents: DocumentNumbers,
  blockSize: number,
  long: LongDocuments,
  answersOnly = false,
): Pieces {
  const cuts = long === "split" ? cutsOf(store, documents, blockSize, answersOnly) : undefined;
  return new Pieces(store, blockSize, documents, cuts, answersOnly);
}

/** How documents that are too long are cut; undefined where none is. */
function cutsOf(
  store: TokenStore,
  documents: DocumentNumbers,
  blockSize: number,
  answersOnly: boolean,
): Cuts | undefined {
  const places = new Growing(Uint32Array);
  const firsts = new Growing(Float64Array);
  const starts = store.hasSpans ? new Growing(Uint32Array) : undefined;
  const ends = answersOnly ? new Growing(Uint32Array) : undefined;
  let more = 0;
  for (const [place, document] of longOnes(store, documents, blockSize + 1)) {
    places.push(place);
    firsts.push(place + more);
    const inputs = store.length(document) - 1;
    if (!starts) more += Math.ceil(inputs / blockSize) - 1;
    else {
      const cut = cutAtMessages(store, document, blockSize);
      const answered = ends && withTargets(store, document, cut);
      cut.forEach((start, i) => {
        if (answered && !answered.includes(i)) return;
        starts.push(start);
        ends?.push(cut[i + 1] ?? inputs);
      });
      more += (answered ?? cut).length - 1;
    }
  }
  if (places.length === 0) return undefined;
  firsts.push(places.array.at(-1)! + more + 1);
  return { places: places.array, firsts: firsts.array, starts: starts?.array, ends: ends?.array };
}

/**
 * Which pieces of a document have a target that is part of an answer; the first where none has.
 * @param starts of all its pieces
 */
function withTargets(store: TokenStore, document: number, starts: readonly number[]): number[] {
  const found: number[] = [];
  // the targets of a piece are the ids behind its start, up to the start of the next
  const lastTarget = (piece: number) => starts[piece + 1] ?? store.length(document) - 1;
  let first = 0;
  let at = 0;
  for (const span of store.spans(document)) {
    const end = at + (span >>> 3);
    if (span & MARKS.answer) {
      while (first < starts.length && lastTarget(first) < at) first++;
      for (let piece = first; piece < starts.length && starts[piece]! + 1 < end; piece++) {
        if (piece > (found.at(-1) ?? -1)) found.push(piece);
      }
    }
    at = end;
  }
  return found.length > 0 ? found : [0];
}

/** Documents with more tokens than `limit`: their places among some, and their numbers. */
function* longOnes(
  store: TokenStore,
  documents: DocumentNumbers,
  limit: number,
): Generator<[place: number, document: number]> {
  if (store.counts.above(limit).documents === 0) return;
  if (!(documents instanceof AllBut)) {
    let place = 0;
    for (const document of documents) {
      if (store.length(document) > limit) yield [place, document];
      place++;
    }
    return;
  }
  for (const { first, offsets } of store.offsets()) {
    for (let d = 0; d + 1 < offsets.length; d++) {
      if (offsets[d + 1]! - offsets[d]! <= limit) continue;
      const place = documents.placeOf(first + d);
      if (place !== undefined) yield [place, first + d];
    }
  }
}

/**
 * As many whole messages as fit, so that a piece begins with a question where it can, else with another message, and no
 * answer is parted from all that it answers; where none fits, the cut is anywhere.
 */
function cutAtMessages(store: TokenStore, document: number, blockSize: number): number[] {
  const inputs = store.length(document) - 1;
  // where each message but the first begins, and whether it is a question
  const begins: { at: number; question: boolean; answered: number }[] = [];
  let at = 0;
  // where the last answer so far ends: a cut behind it parts nothing
  let answered = 0;
  for (const span of store.spans(document)) {
    if (span & MARKS.message && at > 1) {
      begins.push({ at, question: (span & MARKS.question) !== 0, answered });
    }
    at += span >>> 3;
    if (span & MARKS.answer) answered = at;
  }
  const starts = [0];
  for (let start = 0, next = 0; start + blockSize < inputs; starts.push(start)) {
    let [question, any] = [-1, -1];
    for (let i = next; i < begins.length && begins[i]!.at <= start + blockSize; i++) {
      if (begins[i]!.answered <= start) continue; // the piece would be a question alone
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
    let at = 0;
    for (const span of store.spans(d)) {
      if (span & MARKS.answer) return at <= blockSize;
      at += span >>> 3;
    }
    return false;
  });
}

/** The documents of a corpus that are trained on or held out. */
export interface FittedDocuments {
  /** their numbers, ascending; undefined where it is all of them */
  kept: Uint32Array | undefined;
  /** tokens that are left of them */
  tokens: number;
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
  let kept = long === "skip" && above > 0 ? numbersWhere(store, fits) : undefined;
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
    const before = kept ?? numbersWhere(store, () => true);
    const answered = withAnswers(store, before, long === "split" ? Infinity : blockSize);
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
  const left = tokensOf(store, counts, kept, long === "split" ? Infinity : blockSize + 1);
  if (left < counts.tokens / 2) notices.push(lossNotice(left, counts.tokens));
  return { kept, tokens: left, notices };
}

/** Numbers of the documents whose length is asked for, ascending. */
function numbersWhere(store: TokenStore, wanted: (length: number) => boolean): Uint32Array {
  const numbers = new Growing(Uint32Array);
  for (const { first, offsets } of store.offsets()) {
    for (let d = 0; d + 1 < offsets.length; d++) {
      if (wanted(offsets[d + 1]! - offsets[d]!)) numbers.push(first + d);
    }
  }
  return numbers.array;
}

/** Tokens that are left of some documents, or all. @param most that are left of each */
function tokensOf(
  store: TokenStore,
  counts: LengthCounts,
  documents: Uint32Array | undefined,
  most: number,
): number {
  if (!documents) return counts.upTo(most);
  let tokens = 0;
  for (const d of documents) tokens += Math.min(store.length(d), most);
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
class Growing<A extends Uint32Array | Float64Array> {
  readonly #Array: new (length: number) => A;
  #values: A;
  length = 0;

  constructor(array: new (length: number) => A) {
    this.#Array = array;
    this.#values = new array(1024);
  }

  push(value: number): void {
    if (this.length === this.#values.length) {
      const larger = new this.#Array(2 * this.length);
      larger.set(this.#values);
      this.#values = larger;
    }
    this.#values[this.length++] = value;
  }

  get array(): A {
    return this.#values.subarray(0, this.length) as A;
  }
}
