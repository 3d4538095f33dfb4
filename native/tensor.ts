/** What the CPU device hands out, and how it checks the shapes that it is given. */
import type { Batch, ElementType, Tensor } from "../device/device.ts";
import type { Regularization } from "../device/regularization.ts";

/** What a tensor and its views share. */
interface Memory {
  readonly label: string;
  /** its number in the library */
  readonly handle: number;
  freed: boolean;
}

/** A matrix in the memory of the library. */
export class CpuTensor implements Tensor {
  rows: number;
  constructor(
    readonly type: ElementType,
    readonly capacity: number,
    readonly cols: number,
    readonly memory: Memory,
    /** first element in it */
    readonly offset: number,
  ) {
    this.rows = capacity;
  }

  /** Number of the memory in the library. @throws {Error} when the memory was freed */
  get handle(): number {
    if (this.memory.freed) throw new Error(`there is no tensor "${this.memory.label}": it was freed`);
    return this.memory.handle;
  }
}

/** A batch in the memory of the library. */
export class CpuBatch implements Batch {
  tokenCount = 0;
  regularization: Regularization | undefined;
  constructor(readonly maxTokens: number, readonly maxDocuments: number, readonly handle: number) {}
}

/** Tensors of one call, taken apart by name. */
export type FourTensors = [CpuTensor, CpuTensor, CpuTensor, CpuTensor];
export type FiveTensors = [CpuTensor, CpuTensor, CpuTensor, CpuTensor, CpuTensor];

/** @throws {RangeError} when a matrix is not [rows, cols] */
export function sameShape(tensor: Tensor, rows: number, cols: number): void {
  if (tensor.rows !== rows || tensor.cols !== cols) {
    throw new RangeError(`a matrix is [${tensor.rows}, ${tensor.cols}] where [${rows}, ${cols}] is needed`);
  }
}

/** First element of a row of metrics. @throws {RangeError} when there is none */
export function metricsRow(metrics: CpuTensor, slot: number): number {
  if (slot < 0 || slot >= metrics.rows || metrics.cols !== 4) throw new RangeError(`no metrics row ${slot}`);
  return metrics.offset + slot * 4;
}

/** Columns of queries, keys and values of all heads, where `out` has as many as the queries. */
export function qkvWidth(out: Tensor, nHead: number, nKvHead: number): number {
  return out.cols + 2 * nKvHead * (out.cols / nHead);
}
