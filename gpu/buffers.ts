/** Memory on the GPU: tensors, the pool of buffers for reading back, and the count of what is allocated. */
import { MicrogptError } from "../device/errors.ts";
import type { Dtype, ElementType, Purpose, Tensor } from "../device/device.ts";
import type { StorageFormat } from "./shader_source.ts";

/** A GPUBuffer with what caches and error messages need to know about it. */
export interface Memory {
  readonly id: number;
  readonly label: string;
  readonly purpose: Purpose;
  readonly gpu: GPUBuffer;
  readonly bytes: number;
  freed: boolean;
}

/** A tensor of the WebGPU device: a range of a buffer. */
export class GpuTensor implements Tensor {
  rows: number;
  constructor(
    readonly memory: Memory,
    readonly type: ElementType,
    readonly format: StorageFormat,
    /** first element in the buffer */
    readonly offset: number,
    readonly capacity: number,
    readonly cols: number,
  ) {
    this.rows = capacity;
  }
}

/** Bytes of an element. */
export function elementBytes(format: StorageFormat): number {
  return format === "bf16" || format === "f16" ? 2 : 4;
}

/** How a tensor's elements are stored on a device of this dtype. */
export function storageFormat(type: ElementType, dtype: Dtype): StorageFormat {
  return type === "work" ? dtype : type;
}

/** The options that shrink what memory is used for. */
const SHRINKING_OPTIONS: Record<Purpose, string> = {
  weights: "`nEmbd`, `nLayer` or `vocabSize`",
  gradients: "`nEmbd`, `nLayer` or `vocabSize`",
  moments: "`nEmbd`, `nLayer` or `vocabSize`",
  activations: "`batchSize` or `blockSize`",
  decoding: "`numSamples` or `blockSize`",
};

/** The error for running out of device memory. */
function outOfMemory(
  label: string,
  purpose: Purpose,
  bytes: number,
  allocated: number,
  reason: string,
): MicrogptError {
  const mb = (n: number) => `${(n / 2 ** 20).toFixed(n < 2 ** 20 ? 2 : 0)} MB`;
  return new MicrogptError(
    `GPU memory: no room for "${label}" (${mb(bytes)}; ${mb(allocated)} are in use): ${reason}`,
    { hint: `make it smaller with ${SHRINKING_OPTIONS[purpose]}, or use \`device\` cpu` },
  );
}

/**
 * Bytes that one binding can hold: the GPU's limit, which may be 2³¹ − 1, down to where bindings and the parts of a
 * large buffer may start, and within what kernels count with a u32.
 */
export function bindingBytes(gpu: Pick<GPUDevice, "limits">): number {
  return Math.floor(Math.min(gpu.limits.maxStorageBufferBindingSize, 2 ** 32 - 1) / 256) * 256;
}

/** The error for a tensor larger than the part of a buffer that a kernel may see at once. */
export function tooLargeToBind(
  { label, purpose }: Pick<Memory, "label" | "purpose">,
  bytes: number,
  most: number,
): MicrogptError {
  const mb = (n: number) => `${Math.ceil(n / 2 ** 20)} MB`;
  return new MicrogptError(
    `"${label}" takes ${mb(bytes)}, a kernel of this GPU can use ${mb(most)} at once`,
    {
      hint: `make it smaller with ${SHRINKING_OPTIONS[purpose]}, or use \`device\` cpu`,
    },
  );
}

/**
 * Creates something on the GPU, and later tells `fail` about an error of this kind. The scope ends even where `create`
 * throws; a lost GPU is reported by the device's own `lost`.
 */
export function withErrorScope<T>(
  gpu: GPUDevice,
  filter: GPUErrorFilter,
  create: () => T,
  fail: (error: { message: string }) => void,
): T {
  gpu.pushErrorScope(filter);
  try {
    return create();
  } finally {
    gpu.popErrorScope().then((error) => error && fail(error), fail);
  }
}

/** Largest read-back buffer that is kept: metrics and tokens are read all the time, weights only for a checkpoint. */
const KEPT_STAGING = 1 << 20;

/** Gives out buffers and counts them. Errors that the driver reports later go to `fail`. */
export class BufferPool {
  /** bytes of all buffers alive, staging included */
  allocatedBytes = 0;
  /** number of buffers alive */
  bufferCount = 0;
  #alive = new Set<Memory>();
  #nextId = 1;
  #idleStaging = new Map<number, Memory[]>();

  constructor(readonly gpu: GPUDevice, readonly fail: (error: MicrogptError) => void) {}

  /**
   * A zeroed buffer of at least `bytes`, rounded up to 16.
   * @throws {MicrogptError} at once when it is larger than the device allows; a driver that is out of memory says so
   * later, through `fail`
   */
  allocate(
    label: string,
    bytes: number,
    usage: GPUBufferUsageFlags,
    purpose: Purpose = "activations",
  ): Memory {
    const size = Math.max(16, Math.ceil(bytes / 16) * 16);
    const largest = this.gpu.limits.maxBufferSize;
    if (size > largest) {
      throw outOfMemory(
        label,
        purpose,
        size,
        this.allocatedBytes,
        `one buffer holds at most ${Math.floor(largest / 2 ** 20)} MB here`,
      );
    }
    const before = this.allocatedBytes;
    const buffer = withErrorScope(
      this.gpu,
      "out-of-memory",
      () => this.gpu.createBuffer({ label, size, usage }),
      ({ message }) =>
        this.fail(outOfMemory(label, purpose, size, before, message.trim() || "the driver is out of memory")),
    );
    const memory: Memory = { id: this.#nextId++, label, purpose, gpu: buffer, bytes: size, freed: false };
    this.#alive.add(memory);
    this.allocatedBytes += size;
    this.bufferCount++;
    return memory;
  }

  /** Gives a buffer back to the driver now. */
  release(memory: Memory): void {
    if (memory.freed) return;
    memory.freed = true;
    memory.gpu.destroy();
    this.#alive.delete(memory);
    this.allocatedBytes -= memory.bytes;
    this.bufferCount--;
  }

  /** A buffer that the host can map; `returnStaging` takes it back. Small ones come in powers of two, to be reused. */
  takeStaging(bytes: number): Memory {
    const size = bytes > KEPT_STAGING ? bytes : 2 ** Math.ceil(Math.log2(Math.max(bytes, 256)));
    return this.#idleStaging.get(size)?.pop() ??
      this.allocate("staging", size, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST, "weights");
  }

  /** Keeps an unmapped staging buffer for the next read. Large ones are freed: they are read once. */
  returnStaging(memory: Memory): void {
    if (memory.bytes > KEPT_STAGING) return this.release(memory);
    const idle = this.#idleStaging.get(memory.bytes);
    if (idle) idle.push(memory);
    else this.#idleStaging.set(memory.bytes, [memory]);
  }

  /** Releases every buffer. */
  releaseAll(): void {
    for (const memory of [...this.#alive]) this.release(memory);
    this.#idleStaging.clear();
  }
}
