/** Batches: which documents a step sees, and how they are packed for the device. */

import type { PackedDocuments } from "../device/device.ts";
import type { Regularization } from "../device/regularization.ts";
import { hash32, mixSeed, shuffled, uniform } from "../device/random.ts";
import type { Pieces } from "./tokens/pieces.ts";

/** Packs pieces of documents end to end into the arrays that the device loads, without allocating for each batch. */
class DocumentPacker {
  readonly maxTokens: number;
  readonly #pieces: Pieces;
  readonly #tokens: Uint32Array;
  readonly #targets: Uint32Array;
  readonly #starts: Uint32Array;
  /** none where all targets count */
  readonly #weights: Float32Array | undefined;
  /** Documents and tokens packed since `clear`. */
  #count = 0;
  #used = 0;

  constructor(pieces: Pieces, maxTokens: number, maxDocuments: number) {
    this.#pieces = pieces;
    this.maxTokens = maxTokens;
    this.#tokens = new Uint32Array(maxTokens);
    this.#targets = new Uint32Array(maxTokens);
    this.#starts = new Uint32Array(maxDocuments + 1);
    this.#weights = pieces.answersOnly ? new Float32Array(maxTokens) : undefined;
  }

  get count(): number {
    return this.#count;
  }

  clear(): void {
    this.#count = 0;
    this.#used = 0;
  }

  /**
   * Adds a piece if it fits, and returns whether it did. Inputs are all ids but the last, targets all but the first.
   */
  add(piece: number): boolean {
    const length = this.#pieces.inputs(piece);
    if (this.#used + length > this.maxTokens || this.#count + 1 >= this.#starts.length) return false;
    const ids = this.#pieces.ids(piece);
    const counted = this.#pieces.counted(piece);
    // A loop, because documents may be a few tokens long, and `set` would need a new view for each.
    for (let i = 0; i < length; i++) {
      this.#tokens[this.#used + i] = ids[i]!;
      this.#targets[this.#used + i] = ids[i + 1]!;
      if (this.#weights) this.#weights[this.#used + i] = counted![i + 1]!;
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

/** What training hides of its inputs, so that nothing is learned by heart from a few words. */
export interface InputMask {
  /** of the inputs, from 0; the first of a piece is never hidden */
  share: number;
  /** what stands in their place */
  token: number;
}

/** What training does to batches that measuring does not. */
export interface BatchChanges extends Omit<Regularization, "key"> {
  /** hides inputs; targets stay */
  mask?: InputMask | undefined;
}

/**
 * Draws training batches. Epoch e visits all pieces in an order that depends on the seed and e alone, and batch b
 * takes positions b · batchSize … of the endless series of epochs: there is no state but the batch's number, so a
 * resumed run sees what an uninterrupted one would. A batch may span epochs, and holds a piece several times if
 * there are fewer than batchSize.
 */
export class BatchSampler {
  /** Most inputs a batch can hold: batchSize times the longest piece. */
  readonly maxTokens: number;
  readonly batchSize: number;
  readonly #count: number;
  readonly #seed: number;
  readonly #packer: DocumentPacker;
  readonly #changes: BatchChanges;
  /** The epoch whose order is cached. */
  #epoch = -1;
  #order: (position: number) => number = () => 0;

  /**
   * @param pieces at least one
   * @param changes absent: none
   */
  constructor(
    pieces: Pieces,
    batchSize: number,
    seed: number,
    changes: BatchChanges = { dropout: 0, zLoss: 0 },
  ) {
    if (pieces.count === 0) throw new RangeError("no document to draw from");
    this.batchSize = batchSize;
    this.#count = pieces.count;
    this.#seed = mixSeed(seed);
    this.#changes = changes;
    this.maxTokens = batchSize * pieces.longest;
    this.#packer = new DocumentPacker(pieces, this.maxTokens, batchSize);
  }

  /**
   * Batch number `number`, counted from 0; with gradient accumulation over N batches, step s takes s·N … s·N + N − 1.
   * @returns arrays that the next call will overwrite
   */
  batch(number: number): PackedDocuments {
    this.#packer.clear();
    for (let i = 0; i < this.batchSize; i++) this.#packer.add(this.#piece(number * this.batchSize + i));
    const packed = this.#packer.packed();
    const { mask, dropout, zLoss } = this.#changes;
    if (mask) this.#hide(packed, number, mask);
    if (dropout === 0 && zLoss === 0) return packed;
    const key = hash32(this.#seed ^ hash32(number ^ 0x6b657973));
    return { ...packed, regularization: { dropout, key, zLoss } };
  }

  /** Hides inputs of a batch: which ones depends on the seed, its number and their places. */
  #hide({ tokens, starts }: PackedDocuments, number: number, { share, token }: InputMask): void {
    const drawn = hash32(this.#seed ^ hash32(number ^ 0x6d61736b));
    let document = 0;
    for (let t = 0; t < tokens.length; t++) {
      if (t === starts[document]) document++;
      else if (uniform(drawn, t) < share) tokens[t] = token;
    }
  }

  /** The piece at a position of the endless series of epochs. */
  #piece(position: number): number {
    const epoch = Math.floor(position / this.#count);
    if (epoch !== this.#epoch) {
      this.#order = shuffled(mixSeed(this.#seed + epoch * 0x1_0000_0000), this.#count);
      this.#epoch = epoch;
    }
    return this.#order(position - epoch * this.#count);
  }
}

/**
 * Packs pieces, in order, into as few batches as possible, to evaluate them.
 * @param maxTokens inputs a batch may hold; at least the longest piece's
 * @param maxDocuments pieces a batch may hold
 * @returns batches whose arrays the next one overwrites
 */
export function* batchesInOrder(
  pieces: Pieces,
  maxTokens: number,
  maxDocuments: number,
): Generator<PackedDocuments> {
  const packer = new DocumentPacker(pieces, maxTokens, maxDocuments);
  for (let piece = 0; piece < pieces.count; piece++) {
    if (packer.add(piece)) continue;
    yield packer.packed();
    packer.clear();
    if (!packer.add(piece)) throw new RangeError(`document ${piece} alone exceeds ${maxTokens} tokens`);
  }
  if (packer.count > 0) yield packer.packed();
}
