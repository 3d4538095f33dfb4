/** Weights that are only read, as the CPU device holds them: see native/src/kernels/packed.rs. */
import type {
  ElementType,
  FileType,
  HeldWeights,
  Tensor,
  WeightMatrix,
  WeightType,
} from "../device/device.ts";
import { CpuTensor } from "./tensor.ts";

/** As numbered in native/src/kernels/packed.rs. */
const KINDS: Record<WeightType, number> = { f32: 0, bf16: 1, f16: 2, q8: 3 };
/** The same numbers for what files have. */
const FILE_KINDS: Record<FileType, number> = { F32: 0, BF16: 1, F16: 2, Q8_0: 3 };
/** Numbers of a row that share a scale in q8. */
const BLOCK = 32;

/** A type's number in the library. */
export function weightKind(type: WeightType): number {
  return KINDS[type];
}

/** A matrix in the library's own order, which only kernels for such matrices take. */
export class PackedTensor extends CpuTensor {
  constructor(rows: number, cols: number, memory: CpuTensor["memory"], readonly kind: number) {
    super("work", rows, cols, memory, 0);
  }

  /** Number of the memory in the library, for these kernels. */
  get packed(): number {
    return super.handle;
  }

  /** @throws {TypeError} always: for any other kernel it is no matrix of f32 */
  override get handle(): number {
    throw new TypeError("weights that are only read are for products and rows of decoding");
  }
}

/** What the CPU device does for its weights. */
export interface WeightMemory {
  /** A matrix of zeros in the library's order. */
  pack(label: string, matrix: WeightMatrix): PackedTensor;
  /** An f32 tensor. */
  plain(label: string, length: number): CpuTensor;
  /** Writes whole rows. @returns as `HeldWeights.write` */
  writeRows(tensor: PackedTensor, first: number, source: number, bytes: Uint8Array<ArrayBuffer>): number;
  writePlain(tensor: CpuTensor, values: Float32Array, offset: number): void;
}

/** Part of the flat array: a matrix, or f32 numbers between matrices, which take memory when they are first asked for. */
interface Part {
  start: number;
  end: number;
  matrix?: PackedTensor;
  plain?: CpuTensor;
}

/** The flat array; no memory of its own, but that of its parts. */
export class PackedWeights implements HeldWeights, Tensor {
  readonly type: ElementType = "work";
  readonly capacity = 1;
  readonly flat = this;
  rows = 1;
  readonly #memory: WeightMemory;
  readonly #label: string;
  readonly #parts: Part[] = [];

  constructor(memory: WeightMemory, label: string, readonly cols: number, matrices: readonly WeightMatrix[]) {
    this.#memory = memory;
    this.#label = label;
    let end = 0;
    for (const matrix of matrices) {
      const { offset, rows, cols, type } = matrix;
      if (offset < end || offset + rows * cols > this.cols) {
        throw new RangeError("matrices overlap, or are not in order");
      }
      if (type === "q8" && cols % BLOCK !== 0) throw new RangeError(`rows of ${cols} cannot be held in q8`);
      if (offset > end) this.#parts.push({ start: end, end: offset });
      end = offset + rows * cols;
      this.#parts.push({ start: offset, end, matrix: memory.pack(label, matrix) });
    }
    if (end < this.cols) this.#parts.push({ start: end, end: this.cols });
  }

  /** The memory of all parts. */
  get tensors(): CpuTensor[] {
    return this.#parts.flatMap(({ matrix, plain }) => matrix ?? plain ?? []);
  }

  view(offset: number, rows: number, cols: number): CpuTensor {
    const part = this.#partAt(offset, rows * cols);
    if (!part.matrix) {
      const { memory, offset: start } = this.#plain(part);
      return new CpuTensor("work", rows, cols, memory, start + offset - part.start);
    }
    if (part.start !== offset || part.matrix.capacity !== rows || part.matrix.cols !== cols) {
      throw new RangeError("a view of weights is one whole matrix");
    }
    return part.matrix;
  }

  write(offset: number, type: FileType, bytes: Uint8Array<ArrayBuffer>): number {
    const part = this.#partAt(offset, 1);
    const { matrix } = part;
    if (matrix) {
      const first = (offset - part.start) / matrix.cols;
      if (!Number.isInteger(first)) throw new RangeError("weights are written by whole rows");
      return this.#memory.writeRows(matrix, first, FILE_KINDS[type], bytes);
    }
    const values = decoded(type, bytes);
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad < 0) this.#memory.writePlain(this.#plain(part), values, offset - part.start);
    return bad;
  }

  #plain(part: Part): CpuTensor {
    return part.plain ??= this.#memory.plain(this.#label, part.end - part.start);
  }

  #partAt(offset: number, length: number): Part {
    const part = this.#parts.find(({ start, end }) => start <= offset && offset + length <= end);
    if (!part) throw new RangeError("weights are viewed and written matrix by matrix");
    return part;
  }
}

/** Numbers of a file as f32. */
function decoded(type: FileType, bytes: Uint8Array<ArrayBuffer>): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  switch (type) {
    case "F32":
      return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
    case "F16":
      return Float32Array.from({ length: bytes.length / 2 }, (_, i) => view.getFloat16(2 * i, true));
    case "BF16": {
      const bits = Uint32Array.from(
        { length: bytes.length / 2 },
        (_, i) => view.getUint16(2 * i, true) << 16,
      );
      return new Float32Array(bits.buffer);
    }
    case "Q8_0":
      return Float32Array.from({ length: bytes.length / 34 * 32 }, (_, i) => {
        const block = Math.floor(i / 32) * 34;
        return view.getFloat16(block, true) * view.getInt8(block + 2 + i % 32);
      });
  }
}
