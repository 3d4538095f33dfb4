/** Packed documents on the GPU: tokens, and the lists that attention and the embedding gradients work through. */
import type { Batch, PackedDocuments } from "../model/device.ts";
import { type BufferPool, GpuTensor, type Memory } from "./buffers.ts";

/** Queries, or keys, of one attention work item: the workgroup's share of a document. */
export const ATTENTION_BLOCK = 64;

/** Sections of the one u32 buffer of a batch, in its order. */
type Section =
  | "tokens"
  | "targets"
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
  /** attention work items of the documents loaded last */
  itemCount = 0;
  /** different token ids, and positions, in the documents loaded last */
  tokenRunCount = 0;
  positionRunCount = 0;
  readonly sections: Record<Section, GpuTensor>;
  readonly memory: Memory;
  readonly #host: Uint32Array;
  readonly #keys: Float64Array;
  readonly #maxItems: number;

  constructor(pool: BufferPool, readonly maxTokens: number, readonly maxDocuments: number) {
    // A document of n tokens has ceil(n / 64) blocks.
    this.#maxItems = Math.min(maxTokens, Math.floor(maxTokens / ATTENTION_BLOCK) + maxDocuments);
    const lengths: [Section, number][] = [
      ["tokens", maxTokens],
      ["targets", maxTokens],
      ["positions", maxTokens],
      ["forwardItems", 3 * this.#maxItems],
      ["backwardItems", 3 * this.#maxItems],
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
  fill({ tokens, targets, starts }: PackedDocuments): Uint32Array {
    if (tokens.length > this.maxTokens || starts.length - 1 > this.maxDocuments) {
      throw new RangeError(
        `a batch for ${this.maxTokens} tokens and ${this.maxDocuments} documents cannot hold ${tokens.length} and ${
          starts.length - 1
        }`,
      );
    }
    this.tokenCount = tokens.length;
    this.#section("tokens").set(tokens);
    this.#section("targets").set(targets);
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

  /** Blocks of all documents, the longest work first so that none starts late: many keys before it forward, many queries behind it backward. */
  #listItems(starts: Uint32Array): void {
    const items: [begin: number, end: number, first: number][] = [];
    for (let d = 0; d + 1 < starts.length; d++) {
      const [begin, end] = [starts[d]!, starts[d + 1]!];
      for (let first = begin; first < end; first += ATTENTION_BLOCK) items.push([begin, end, first]);
    }
    this.itemCount = items.length;
    items.sort((a, b) => (b[2] - b[0]) - (a[2] - a[0]) || a[2] - b[2]);
    this.#section("forwardItems").set(items.flat());
    items.sort((a, b) => (b[1] - b[2]) - (a[1] - a[2]) || a[2] - b[2]);
    this.#section("backwardItems").set(items.flat());
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
