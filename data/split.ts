/** Which documents are held out of training. */

import { mixSeed, permutation } from "../model/random.ts";

/** Most documents held out, so that an evaluation stays cheap on large data. */
export const MAX_VALIDATION_DOCUMENTS = 512;

/** Sets the split's draws apart from those of the batches, which use the same seed. */
const SPLIT_STREAM = 0x5b1173ad;

/** Document numbers of both parts, ascending. */
export interface Split {
  training: Uint32Array;
  validation: Uint32Array;
  /** why nothing is held out although it was asked for */
  notice?: string;
}

/**
 * Chooses the validation documents by the seed: the same for the same count, fraction and seed.
 * @param count number of documents
 * @param fraction held out, below 1; 0 holds out none, else at least one and at most 512
 * @param seed the run's
 * @returns with a notice, and nothing held out, when there is only one document
 */
export function splitDocuments(count: number, fraction: number, seed: number): Split {
  const wanted = Math.min(Math.max(Math.round(count * fraction), 1), MAX_VALIDATION_DOCUMENTS);
  const held = fraction === 0 || count < 2 ? 0 : Math.min(wanted, count - 1);
  const order = permutation(mixSeed(seed) ^ SPLIT_STREAM, count);
  const split: Split = { validation: order.slice(0, held).sort(), training: order.slice(held).sort() };
  if (fraction > 0 && held === 0) split.notice = "validation is off: a single document cannot be split";
  return split;
}
