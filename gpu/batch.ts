/** Packed documents on the GPU: tokens, and the lists that attention and the embedding gradients work through. */
import type { Batch, PackedDocuments } from "../device/device.ts";
import type { Regularization } from "../device/regularization.ts";
import { type BufferPool, GpuTensor, type Memory } from "./buffers.ts";

/** Tokens of one attention work item: a workgroup's queries, or keys. */
export const ATTENTION_BLOCK = 64;

/** The bits of 1 as an f32. */
const ONE = 0x3f80_0000;

/** Sections of the one u32 buffer of a batch, in its order. */
type Section =
  | "tokens"
  | "targets"
  | "weights"
  | "positions"
  | "forwardItems"
  | "backwardItems"
  | "tokenOrder"
  | "tokenRuns"
  | "positionOrder"
  | "positionRuns";

/** Batches of the WebGPU device. One buffer holds everything, so that loading is one write. */
export class GpuBatch implements Batch {
  tokenCount = 0;
  regularization: Regularization | undefined;
  /** blocks of tokens that attention works through, of the documents loaded last */
  blockCount = 0;
  /** different token ids, and positions, in the documents loaded last */
  tokenRunCount = 0;
  positionRunCount = 0;
  readonly sections: Record<Section, GpuTensor>;
  readonly memory: Memory;
  readonly #host: Uint32Array;
  readonly #keys: Float64Array;

  constructor(pool: BufferPool, readonly maxTokens: number, readonly maxDocuments: number) {
    const maxBlocks = Math.ceil(maxTokens / ATTENTION_BLOCK);
    const lengths: [Section, number][] = [
      ["tokens", maxTokens],
      ["targets", maxTokens],
      ["weights", maxTokens],
      ["positions", maxTokens],
      ["forwardItems", 2 * maxBlocks],
      ["backwardItems", 2 * maxBlocks],
      ["tokenOrder", maxTokens],
      ["tokenRuns", 3 * maxTokens],
      ["positionOrder", maxTokens],
      ["positionRuns", 3 * maxTokens],
    ];
    const total = lengths.reduce((sum, [, length]) => sum + length, 0);
    this.#host = new Uint32Array(total);
    this.#keys = new Float64Array(maxTokens);
    this.memory = pool.allocate("batch", 4 * total, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST);
    let offset = 0;
    const sections: Partial<Record<Section, GpuTensor>> = {};
    for (const [name, length] of lengths) {
      sections[name] = new GpuTensor(this.memory, "u32", "u32", offset, length, 1);
      offset += length;
    }
    this.sections = sections as Record<Section, GpuTensor>;
  }

  /**
   * Lays out the documents and their lists.
   * @returns the u32 contents of the batch's buffer
   * @throws {RangeError} when there are more tokens or documents than the batch has room for
   */
  fill({ tokens, targets, starts, weights, regularization }: PackedDocuments): Uint32Array {
    if (tokens.length > this.maxTokens || starts.length - 1 > this.maxDocuments) {
      throw new RangeError(
        `a batch for ${this.maxTokens} tokens and ${this.maxDocuments} documents cannot hold ${tokens.length} and ${
          starts.length - 1
        }`,
      );
    }
    this.tokenCount = tokens.length;
    this.regularization = regularization;
    this.#section("tokens").set(tokens);
    this.#section("targets").set(targets);
    const weightBits = this.#section("weights");
    if (weights) weightBits.set(new Uint32Array(weights.buffer, weights.byteOffset, weights.length));
    else weightBits.fill(ONE, 0, tokens.length);
    const positions = this.#section("positions");
    for (let d = 0; d + 1 < starts.length; d++) {
      for (let t = starts[d]!; t < starts[d + 1]!; t++) positions[t] = t - starts[d]!;
    }
    this.#listItems(starts);
    this.tokenRunCount = this.#listRuns(tokens, "tokenOrder", "tokenRuns");
    this.positionRunCount = this.#listRuns(
      positions.subarray(0, tokens.length),
      "positionOrder",
      "positionRuns",
    );
    return this.#host;
  }

  #section(name: Section): Uint32Array {
    const { offset, capacity } = this.sections[name];
    return this.#host.subarray(offset, offset + capacity);
  }

  /**
   * Blocks of 64 tokens, whatever documents they belong to. Forward: (first token, start of its document), that is the
   * first key that the block's queries see. Backward: (first token, end of the last token's document), that is where
   * the queries end that see the block's keys. The longest work comes first, so that none starts late.
   */
  #listItems(starts: Uint32Array): void {
    const T = this.tokenCount;
    const forward: [first: number, begin: number][] = [];
    const backward: [first: number, end: number][] = [];
    let document = 0;
    for (let first = 0; first < T; first += ATTENTION_BLOCK) {
      while (starts[document + 1]! <= first) document++;
      forward.push([first, starts[document]!]);
      const last = Math.min(first + ATTENTION_BLOCK, T) - 1;
      while (starts[document + 1]! <= last) document++;
      backward.push([first, starts[document + 1]!]);
    }
    this.blockCount = forward.length;
    forward.sort((a, b) => (b[0] - b[1]) - (a[0] - a[1]) || a[0] - b[0]);
    backward.sort((a, b) => (b[1] - b[0]) - (a[1] - a[0]) || a[0] - b[0]);
    this.#section("forwardItems").set(forward.flat());
    this.#section("backwardItems").set(backward.flat());
  }

  /** Sorts rows by id, keeping their order, and lists (id, first, last + 1) of each stretch of equal ids. */
  #listRuns(ids: Uint32Array, orderName: Section, runsName: Section): number {
    const order = this.#section(orderName);
    const runs = this.#section(runsName);
    const keys = this.#keys.subarray(0, ids.length);
    for (let row = 0; row < ids.length; row++) keys[row] = ids[row]! * this.maxTokens + row;
    keys.sort();
    let count = 0;
    let previous = -1;
    for (let i = 0; i < keys.length; i++) {
      const id = Math.floor(keys[i]! / this.maxTokens);
      order[i] = keys[i]! - id * this.maxTokens;
      if (id !== previous) {
        runs[3 * count] = id;
        runs[3 * count + 1] = i;
        count++;
        previous = id;
      }
      runs[3 * count - 1] = i + 1;
    }
    return count;
  }
}
