/** Batches: which documents a step sees, and how they are packed for the device. */

import type { PackedDocuments } from "../device/device.ts";
import { mixSeed, permutation } from "../device/random.ts";
import type { TokenDocuments } from "./documents.ts";

/** Packs documents end to end into the arrays that the device loads, without allocating for each batch. */
class DocumentPacker {
  readonly maxTokens: number;
  readonly #documents: TokenDocuments;
  readonly #tokens: Uint32Array;
  readonly #targets: Uint32Array;
  readonly #starts: Uint32Array;
  /** none where all targets count */
  readonly #weights: Float32Array | undefined;
  /** Documents and tokens packed since `clear`. */
  #count = 0;
  #used = 0;

  constructor(documents: TokenDocuments, maxTokens: number, maxDocuments: number) {
    this.#documents = documents;
    this.maxTokens = maxTokens;
    this.#tokens = new Uint32Array(maxTokens);
    this.#targets = new Uint32Array(maxTokens);
    this.#starts = new Uint32Array(maxDocuments + 1);
    this.#weights = documents.counted && new Float32Array(maxTokens);
  }

  get count(): number {
    return this.#count;
  }

  clear(): void {
    this.#count = 0;
    this.#used = 0;
  }

  /**
   * Adds a document if it fits, and returns whether it did. Inputs are all ids but the last, targets all but the first.
   */
  add(document: number): boolean {
    const { ids, offsets, counted } = this.#documents;
    const start = offsets[document]!;
    const length = offsets[document + 1]! - start - 1;
    if (this.#used + length > this.maxTokens || this.#count + 1 >= this.#starts.length) return false;
    // A loop, because documents may be a few tokens long, and `set` would need a new view for each.
    for (let i = 0; i < length; i++) {
      this.#tokens[this.#used + i] = ids[start + i]!;
      this.#targets[this.#used + i] = ids[start + i + 1]!;
      if (this.#weights) this.#weights[this.#used + i] = counted![start + i + 1]!;
    }
    this.#used += length;
    this.#starts[++this.#count] = this.#used;
    return true;
  }

  /** Views of what was packed, good until the next `clear`. */
  packed(): PackedDocuments {
    return {
      tokens: this.#tokens.subarray(0, this.#used),
      targets: this.#targets.subarray(0, this.#used),
      starts: this.#starts.subarray(0, this.#count + 1),
      ...(this.#weights ? { weights: this.#weights.subarray(0, this.#used) } : {}),
    };
  }
}

/** How many targets of a batch count in its loss: the sum of their weights. */
export function countedTargets({ targets, weights }: PackedDocuments): number {
  return weights ? weights.reduce((sum, weight) => sum + weight, 0) : targets.length;
}

/**
 * Draws training batches. Epoch e visits all documents in an order that depends on the seed and e alone, and batch b
 * takes positions b · batchSize … of the endless series of epochs: there is no state but the batch's number, so a
 * resumed run sees what an uninterrupted one would. A batch may span epochs, and holds a document several times if
 * there are fewer than batchSize.
 */
export class BatchSampler {
  /** Most inputs a batch can hold: batchSize times the longest document. */
  readonly maxTokens: number;
  readonly batchSize: number;
  readonly #indices: Uint32Array;
  readonly #seed: number;
  readonly #packer: DocumentPacker;
  /** The epoch whose order is cached. */
  #epoch = -1;
  #order: Uint32Array = new Uint32Array(0);

  /**
   * @param documents each of at least two ids
   * @param indices the documents to train on, at least one
   */
  constructor(documents: TokenDocuments, indices: Uint32Array, batchSize: number, seed: number) {
    if (indices.length === 0) throw new RangeError("no document to draw from");
    this.batchSize = batchSize;
    this.#indices = indices;
    this.#seed = mixSeed(seed);
    this.maxTokens = batchSize * longestInput(documents, indices);
    this.#packer = new DocumentPacker(documents, this.maxTokens, batchSize);
  }

  /**
   * Batch number `number`, counted from 0; with gradient accumulation over N batches, step s takes s·N … s·N + N − 1.
   * @returns arrays that the next call will overwrite
   */
  batch(number: number): PackedDocuments {
    this.#packer.clear();
    for (let i = 0; i < this.batchSize; i++) this.#packer.add(this.#document(number * this.batchSize + i));
    return this.#packer.packed();
  }

  /** The document at a position of the endless series of epochs. */
  #document(position: number): number {
    const n = this.#indices.length;
    const epoch = Math.floor(position / n);
    if (epoch !== this.#epoch) {
      this.#order = permutation(mixSeed(this.#seed + epoch * 0x1_0000_0000), n);
      this.#epoch = epoch;
    }
    return this.#indices[this.#order[position - epoch * n]!]!;
  }
}

/**
 * Packs documents, in order, into as few batches as possible, to evaluate them.
 * @param maxTokens inputs a batch may hold; at least the longest document's
 * @param maxDocuments documents a batch may hold
 * @returns batches whose arrays the next one overwrites
 */
export function* batchesInOrder(
  documents: TokenDocuments,
  indices: Uint32Array,
  maxTokens: number,
  maxDocuments: number,
): Generator<PackedDocuments> {
  const packer = new DocumentPacker(documents, maxTokens, maxDocuments);
  for (const document of indices) {
    if (packer.add(document)) continue;
    yield packer.packed();
    packer.clear();
    if (!packer.add(document)) throw new RangeError(`document ${document} alone exceeds ${maxTokens} tokens`);
  }
  if (packer.count > 0) yield packer.packed();
}

/** The largest number of inputs (ids less one) in any of the documents. */
export function longestInput(documents: TokenDocuments, indices: Uint32Array): number {
  let longest = 0;
  for (const d of indices) longest = Math.max(longest, documents.offsets[d + 1]! - documents.offsets[d]! - 1);
  return longest;
}
