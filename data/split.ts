/** Which documents are held out of training. */

import { MicrogptError } from "../device/errors.ts";
import { mixSeed, permutation } from "../device/random.ts";
import type { Message } from "./chat.ts";
import { contentHashes } from "./content_hash.ts";

/** Most documents that a fresh run holds out, so that an evaluation stays cheap on large data. */
const MAX_VALIDATION_DOCUMENTS = 512;

/** Keeps the split's draws apart from those of the batches, which use the same seed. */
const SPLIT_STREAM = 0x5b1173ad;

/** Document numbers of both parts, ascending. */
export interface Split {
  training: Uint32Array;
  validation: Uint32Array;
  /** copies of documents in `validation`, which are in neither part */
  leftOut: number;
  /** documents with a hash below it are held out; undefined where the split goes by {@link splitByCount} */
  threshold?: number;
  /** why nothing is held out although that was asked for */
  notice?: string;
}

/** The hashes that {@link splitDocuments} goes by. @returns [documents] */
export function splitHashes(documents: readonly (string | Message[])[], seed: number): Float64Array {
  return contentHashes(documents, mixSeed(seed) ^ SPLIT_STREAM);
}

/**
 * Chooses the validation documents by content: those whose hash is below a threshold. So a document keeps its
 * side whatever is added, dropped or repeated, and its copies are never on the other side: of a held-out document, one
 * copy is held out and the others are left out.
 * @param hashes of the documents, from {@link splitHashes}
 * @param fraction held out, below 1; 0 holds out none
 * @param threshold the one the run began with. Without it, one is chosen that holds out `fraction` of the distinct
 * documents: at least one, at most 512, never all
 * @returns with a notice when nothing is held out although `fraction` asks for it
 * @throws {MicrogptError} when no document is left to train on
 */
export function splitDocuments(hashes: Float64Array, fraction: number, threshold?: number): Split {
  const limit = threshold ?? chooseThreshold(hashes, fraction);
  const training: number[] = [];
  const validation: number[] = [];
  const seen = new Set<number>();
  hashes.forEach((hash, d) => {
    if (hash >= limit) training.push(d);
    else if (!seen.has(hash)) {
      seen.add(hash);
      validation.push(d);
    }
  });
  if (training.length === 0) {
    throw new MicrogptError(`all ${hashes.length} documents are held out, nothing is left to train on`, {
      hint: "the run holds out documents by their content: give it more of them, or begin a new run",
    });
  }
  const split: Split = {
    training: Uint32Array.from(training),
    validation: Uint32Array.from(validation),
    leftOut: hashes.length - training.length - validation.length,
    threshold: limit,
  };
  if (fraction > 0 && validation.length === 0) split.notice = offNotice(hashes.length, threshold);
  return split;
}

/** Half-open: the smallest hash that is trained on; 0 holds out nothing. */
function chooseThreshold(hashes: Float64Array, fraction: number): number {
  const distinct = hashes.slice().sort().filter((hash, i, all) => i === 0 || hash !== all[i - 1]);
  if (fraction === 0 || distinct.length < 2) return 0;
  return distinct[heldOut(distinct.length, fraction)]!;
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
    training: order.slice(held).sort(),
    leftOut: 0,
  };
  if (fraction > 0 && held === 0) split.notice = offNotice(count, undefined);
  return split;
}

/** How many documents repeat an earlier one word for word. */
function countCopies(hashes: Float64Array): number {
  const sorted = hashes.slice().sort();
  let copies = 0;
  for (let i = 1; i < sorted.length; i++) if (sorted[i] === sorted[i - 1]) copies++;
  return copies;
}

/**
 * The notice about documents that repeat others; undefined where none does.
 * @param split if there is one
 */
export function copiesNotice(hashes: Float64Array, unit: string, split?: Split): string | undefined {
  const copies = countCopies(hashes);
  if (copies === 0) return undefined;
  const leftOut = split?.leftOut ? `; ${split.leftOut} that repeat a held-out one are left out` : "";
  return `${copies} of ${hashes.length} ${unit} repeat others word for word${leftOut}`;
}
