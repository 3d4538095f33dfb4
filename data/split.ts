/** Which documents are held out of training. */

import { MicrogptError } from "../device/errors.ts";
import { mixSeed, permutation } from "../device/random.ts";
import type { Message } from "./chat.ts";
import { AllBut } from "./document_numbers.ts";
import type { PackedTexts } from "./packed_texts.ts";
import { contentHashes } from "./content_hash.ts";

/** Most documents that a fresh run holds out, so that an evaluation stays cheap on large data. */
export const MAX_VALIDATION_DOCUMENTS = 512;

/** Keeps the split's draws apart from those of the batches, which use the same seed. */
const SPLIT_STREAM = 0x5b1173ad;

/** Which documents are held out; all others are trained on. */
export interface Split {
  /** their numbers, ascending */
  validation: Uint32Array;
  /** copies of documents in `validation`, which are in neither part, ascending */
  leftOut: Uint32Array;
  /** how many are left to train on */
  training: number;
  /** documents with a hash below it are held out; undefined where the split goes by {@link splitByCount} */
  threshold?: number;
  /** why nothing is held out although that was asked for */
  notice?: string;
}

/** The hashes that {@link splitDocuments} goes by. @returns [documents] */
export function splitHashes(
  documents: readonly (string | Message[])[] | PackedTexts,
  seed: number,
): Float64Array<ArrayBuffer> {
  return contentHashes(documents, mixSeed(seed) ^ SPLIT_STREAM);
}

/** What a split needs to know of the hashes of all documents. */
export interface HashSummary {
  /** how many documents there are */
  documents: number;
  /** how many different hashes they have */
  distinct: number;
  /** the documents with the lowest hashes, by hash, of equal ones by number: enough for any split of a fresh run */
  low: { hashes: Float64Array; documents: Uint32Array };
  /** `low` has all documents */
  complete: boolean;
  /** the hashes of all documents, [documents] */
  all(): Float64Array;
}

/** Looks at the hashes of all documents. */
export function summaryOf(hashes: Float64Array): HashSummary {
  const sorted = hashes.slice().sort();
  let distinct = 0;
  let bound = Infinity;
  for (let i = 0; i < sorted.length; i++) {
    if (i > 0 && sorted[i] === sorted[i - 1]) continue;
    if (distinct++ === MAX_VALIDATION_DOCUMENTS) bound = sorted[i]!;
  }
  const low = lowest(hashes, bound);
  return { documents: hashes.length, distinct, low, complete: bound === Infinity, all: () => hashes };
}

/** Documents whose hash is no larger than `bound`. */
function lowest(hashes: Float64Array, bound: number): HashSummary["low"] {
  const documents: number[] = [];
  for (let d = 0; d < hashes.length; d++) if (hashes[d]! <= bound) documents.push(d);
  documents.sort((a, b) => hashes[a]! - hashes[b]! || a - b);
  return {
    hashes: Float64Array.from(documents, (d) => hashes[d]!),
    documents: Uint32Array.from(documents),
  };
}

/**
 * Chooses the validation documents by content: those whose hash is below a threshold. So a document keeps its
 * side whatever is added, dropped or repeated, and its copies are never on the other side: of a held-out document, one
 * copy is held out and the others are left out.
 * @param summary of the hashes of the documents, from {@link splitHashes}
 * @param fraction held out, below 1; 0 holds out none
 * @param threshold the one the run began with. Without it, one is chosen that holds out `fraction` of the distinct
 * documents: at least one, at most 512, never all
 * @returns with a notice when nothing is held out although `fraction` asks for it
 * @throws {MicrogptError} when no document is left to train on
 */
export function splitDocuments(summary: HashSummary, fraction: number, threshold?: number): Split {
  const limit = threshold ?? chooseThreshold(summary, fraction);
  const known = summary.complete || limit <= (summary.low.hashes.at(-1) ?? 0);
  const { hashes, documents } = known ? summary.low : lowest(summary.all(), limit);
  const validation: number[] = [];
  const leftOut: number[] = [];
  for (let i = 0; i < hashes.length && hashes[i]! < limit; i++) {
    (i > 0 && hashes[i] === hashes[i - 1] ? leftOut : validation).push(documents[i]!);
  }
  const training = summary.documents - validation.length - leftOut.length;
  if (training === 0) {
    throw new MicrogptError(`all ${summary.documents} documents are held out, nothing is left to train on`, {
      hint: "the run holds out documents by their content: give it more of them, or begin a new run",
    });
  }
  const split: Split = {
    validation: Uint32Array.from(validation).sort(),
    leftOut: Uint32Array.from(leftOut).sort(),
    training,
    threshold: limit,
  };
  if (fraction > 0 && validation.length === 0) split.notice = offNotice(summary.documents, threshold);
  return split;
}

/** The numbers of the documents to train on. @param count of all documents */
export function trainingDocuments({ validation, leftOut }: Split, count: number): AllBut {
  const out = new Uint32Array(validation.length + leftOut.length);
  out.set(validation);
  out.set(leftOut, validation.length);
  return new AllBut(count, out.sort());
}

/** Half-open: the smallest hash that is trained on; 0 holds out nothing. */
function chooseThreshold(summary: HashSummary, fraction: number): number {
  const held = heldOut(summary.distinct, fraction);
  if (held === 0) return 0;
  const { low } = summary.low.hashes.length > 0 ? summary : summaryOf(summary.all());
  let before = 0;
  const at = low.hashes.findIndex((hash, i) => (i === 0 || hash !== low.hashes[i - 1]) && before++ === held);
  return low.hashes[at]!;
}

function heldOut(count: number, fraction: number): number {
  const wanted = Math.min(Math.max(Math.round(count * fraction), 1), MAX_VALIDATION_DOCUMENTS);
  return fraction === 0 || count < 2 ? 0 : Math.min(wanted, count - 1);
}

function offNotice(count: number, threshold: number | undefined): string {
  if (threshold === 0) return "validation is off, as when the run began";
  if (threshold !== undefined) return "validation is off: none of the documents is among those held out";
  return `validation is off: ${count === 1 ? "a single document" : "copies of one document"} cannot be split`;
}

/**
 * The split of checkpoints without a threshold (early ones of ours, and the Rust program's): drawn by the seed
 * for a number of documents, so it changes as soon as that number does.
 */
export function splitByCount(count: number, fraction: number, seed: number): Split {
  const held = heldOut(count, fraction);
  const order = permutation(mixSeed(seed) ^ SPLIT_STREAM, count);
  const split: Split = {
    validation: order.slice(0, held).sort(),
    leftOut: new Uint32Array(),
    training: count - held,
  };
  if (fraction > 0 && held === 0) split.notice = offNotice(count, undefined);
  return split;
}
