/** The memory of the reference device: tensors and batches are plain arrays. */
import type { Batch, ElementType, PackedDocuments, Tensor } from "./device.ts";
import type { Regularization } from "./regularization.ts";

/** How numbers are stored. */
export type Floats = Float32Array | Float64Array;

/** What a tensor and its views share. */
export interface Memory {
  readonly label: string;
  freed: boolean;
}

/** A matrix as an array. */
export class ReferenceTensor implements Tensor {
  rows: number;
  readonly #data: Floats | Uint32Array;

  constructor(
    readonly device: { checkOpen(): void },
    readonly memory: Memory,
    readonly type: ElementType,
    readonly capacity: number,
    readonly cols: number,
    data: Floats | Uint32Array,
  ) {
    this.rows = capacity;
    this.#data = data;
  }

  /** @throws when its memory was freed, or the device is closed */
  get data(): Floats | Uint32Array {
    this.device.checkOpen();
    if (this.memory.freed) throw new Error(`tensor "${this.memory.label}" was freed`);
    return this.#data;
  }
}

/** The documents of a batch, as they came. */
export class ReferenceBatch implements Batch {
  tokenCount = 0;
  regularization: Regularization | undefined;
  documents: PackedDocuments = {
    tokens: new Uint32Array(),
    targets: new Uint32Array(),
    starts: new Uint32Array(1),
  };
  constructor(readonly maxTokens: number, readonly maxDocuments: number) {}

  /** Calls `visit` with each token's row and its position in its document. */
  forEachToken(visit: (t: number, position: number) => void): void {
    const { starts } = this.documents;
    for (let d = 0; d + 1 < starts.length; d++) {
      for (let t = starts[d]!; t < starts[d + 1]!; t++) visit(t, t - starts[d]!);
    }
  }
}

/** The numbers of a tensor. */
export function floats(tensor: Tensor): Floats {
  return (tensor as ReferenceTensor).data as Floats;
}

/** The integers of a u32 tensor. */
export function integers(tensor: Tensor): Uint32Array {
  return (tensor as ReferenceTensor).data as Uint32Array;
}
