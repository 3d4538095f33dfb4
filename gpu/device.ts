/**
 * The WebGPU device: `Device` on WGSL kernels. Calls encode; `submit` sends; nothing waits but `read`.
 */
import type {
  AdamHyper,
  AdamState,
  Batch,
  DecodeRows,
  Device,
  Draws,
  Dtype,
  ElementType,
  MatmulForm,
  MatmulFusion,
  PackedDocuments,
  Purpose,
  Tensor,
  UpdateHyper,
  UpdateTarget,
} from "../device/device.ts";
import { deviceClosed, MicrogptError } from "../device/errors.ts";
import { dropAt } from "../device/regularization.ts";
import { add } from "./add.ts";
import { type AdapterDescription, openAdapter, type OpenedAdapter } from "./adapter.ts";
import * as attention from "./attention.ts";
import { GpuBatch } from "./batch.ts";
import { dropout } from "./dropout.ts";
import { bindingBytes, BufferPool, elementBytes, GpuTensor, type Memory, storageFormat } from "./buffers.ts";
import { KernelRunner } from "./kernel_runner.ts";
import { matmul, rmsNormMatmul } from "./matmul.ts";
import { fromHalves, toHalves } from "./number_formats.ts";
import { headNorm, headNormBackward } from "./head_norm.ts";
import * as llama from "./llama_rows.ts";
import * as muon from "./muon.ts";
import * as optimizer from "./optimizer.ts";
import * as rowKernels from "./row_kernels.ts";
import { selfTest } from "./self_test.ts";
import { subgroupsWork } from "./subgroups.ts";
import type { Hardware } from "./tiles.ts";

/** How to open the GPU. */
export interface GpuDeviceOptions {
  dtype: Dtype;
  /** which of the adapters that WebGPU tells apart; 0 (default) is the fastest */
  adapter?: number;
  /** reductions by subgroup operations: `auto` (default) where the adapter has them and a probe finds them right */
  subgroups?: "auto" | "on" | "off";
}

const g = (tensor: Tensor) => tensor as GpuTensor;

/** The loss of the GPU may be reported this long, in ms, after the first call that it makes fail. */
const LOSS_MS = 100;

/** Where the rows in use lie in their buffer. */
function usedBytes({ format, offset, rows, cols }: GpuTensor): { start: number; bytes: number } {
  return { start: offset * elementBytes(format), bytes: rows * cols * elementBytes(format) };
}

/** Tensors and kernels on one GPU. Opened by {@link openGpuDevice}. */
export class GpuDevice implements Device {
  readonly kind = "webgpu";
  readonly stepsInFlight = 64;
  readonly name: string;
  /** for people: what makes this device slower or less capable than one would expect */
  readonly warnings: string[] = [];
  readonly description: AdapterDescription;
  readonly runner: KernelRunner;
  readonly hardware: Hardware;
  readonly maxBinding: number;
  readonly workgroupMemory: number;
  readonly #gpu: GPUDevice;
  readonly #pool: BufferPool;
  readonly #scratch = new Map<string, GpuTensor>();
  #failure: Error | undefined;
  #destroyed = false;

  get workType(): Dtype {
    return this.dtype;
  }

  constructor(
    { gpu, description, hardware, subgroupsDirective }: OpenedAdapter,
    readonly dtype: Dtype,
    readonly subgroups: boolean,
  ) {
    this.#gpu = gpu;
    this.description = description;
    this.hardware = hardware;
    this.name = description.name;
    this.maxBinding = bindingBytes(gpu);
    this.workgroupMemory = gpu.limits.maxComputeWorkgroupStorageSize;
    if (description.software) {
      this.warnings.push(
        `${description.name} is a software renderer: correct, but slower than \`device\` cpu`,
      );
    }
    const fail = (error: Error) => this.#failure ??= error;
    gpu.addEventListener("uncapturederror", (event) => {
      fail(new Error(`WebGPU: ${(event as GPUUncapturedErrorEvent).error.message.trim()}`));
    });
    gpu.lost.then(({ reason, message }) => {
      if (!this.#destroyed) fail(lostError(description.name, reason, message));
    });
    this.#pool = new BufferPool(gpu, fail);
    this.runner = new KernelRunner(gpu, this.#pool, fail, subgroupsDirective);
  }

  /** Bytes of all buffers alive, scratch and read-back buffers included. */
  get allocatedBytes(): number {
    return this.#pool.allocatedBytes;
  }

  /** Number of buffers alive. */
  get bufferCount(): number {
    return this.#pool.bufferCount;
  }

  /** An f32 tensor of at least `elements` for what one kernel leaves the next; grows, and is kept for later calls. */
  readonly scratch = (elements: number, use: string, purpose?: Purpose): GpuTensor => {
    const kept = this.#scratch.get(use);
    if (kept && kept.cols >= elements) return kept;
    if (kept) this.free(kept);
    // Room to grow, but no more than one binding can hold.
    const room = Math.max(elements, Math.min(Math.ceil(elements * 1.25), Math.floor(this.maxBinding / 4)));
    const grown = g(this.tensor(`scratch ${use}`, 1, room, "f32", purpose));
    this.#scratch.set(use, grown);
    return grown;
  };

  tensor(
    label: string,
    tensorRows: number,
    cols: number,
    type: ElementType = "f32",
    purpose: Purpose = "activations",
  ): Tensor {
    this.#check();
    const format = storageFormat(type, this.dtype);
    if (format === "bf16" && tensorRows > 1 && cols % 2 === 1) {
      throw new MicrogptError(
        `"${label}" has rows of ${cols} numbers: bf16 on the GPU packs two in a word and needs an even number`,
        {
          hint: "choose an even `nEmbd`, or use `dtype` f32",
          usage: true,
        },
      );
    }
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const memory = this.#pool.allocate(label, tensorRows * cols * elementBytes(format), usage, purpose);
    return new GpuTensor(memory, type, format, 0, tensorRows, cols);
  }

  createBatch(maxTokens: number, maxDocuments: number): Batch {
    this.#check();
    return new GpuBatch(this.#pool, maxTokens, maxDocuments);
  }

  /** Frees the memory of a batch now. */
  freeBatch(batch: Batch): void {
    this.free((batch as GpuBatch).sections.tokens);
  }

  view(tensor: Tensor, offset: number, viewRows: number, cols: number): Tensor {
    this.#checkAlive(tensor);
    const { memory, type, format, offset: start } = g(tensor);
    if ((start + offset + viewRows * cols) * elementBytes(format) > memory.bytes) {
      throw new RangeError(`a view reaches beyond "${memory.label}"`);
    }
    return new GpuTensor(memory, type, format, start + offset, viewRows, cols);
  }

  free(tensor: Tensor): void {
    const { memory } = g(tensor);
    if (memory.freed) return;
    this.runner.flush();
    this.runner.forget(memory);
    this.#pool.release(memory);
  }

  write(tensor: Tensor, data: Float32Array | Uint32Array, offset = 0): void {
    this.#checkAlive(tensor);
    const { memory, format, offset: start, capacity, cols, type } = g(tensor);
    if (offset + data.length > capacity * cols) throw new RangeError(`data reaches beyond "${memory.label}"`);
    if ((data instanceof Uint32Array) !== (type === "u32")) {
      throw new TypeError(`"${memory.label}" is ${type}, the data is ${data.constructor.name}`);
    }
    const bytes = (start + offset) * elementBytes(format);
    if (bytes % 4 !== 0) {
      throw new RangeError(`"${memory.label}": 16-bit data is written from an even element on`);
    }
    // A write takes effect before what is submitted after it: what is queued must go first.
    this.runner.flush();
    const stored = format === "bf16" || format === "f16" ? toHalves(data as Float32Array, format) : data;
    if (stored.byteLength > 0) {
      this.#gpu.queue.writeBuffer(memory.gpu, bytes, stored as Float32Array<ArrayBuffer>);
    }
  }

  /**
   * Copies at this point of the queue, sends the queue and asks for the copy. Asking blocks until the GPU is done
   * (Deno polls it), and the promise takes a timer of 10 ms more: queue the next steps before awaiting it.
   */
  read(tensor: Tensor): Promise<Float32Array | Uint32Array> {
    this.#checkAlive(tensor);
    const { memory, format, offset, cols } = g(tensor);
    const count = tensor.rows * cols;
    const start = offset * elementBytes(format);
    if (start % 4 !== 0) {
      throw new RangeError(`"${memory.label}": 16-bit data is read from an even element on`);
    }
    const bytes = Math.ceil(count * elementBytes(format) / 4) * 4;
    const staging = this.#pool.takeStaging(bytes);
    this.runner.encode((encoder) => {
      if (bytes > 0) encoder.copyBufferToBuffer(memory.gpu, start, staging.gpu, 0, bytes);
    });
    this.runner.flush();
    const mapped = staging.gpu.mapAsync(GPUMapMode.READ, 0, Math.max(4, bytes));
    const result = this.#finishRead(mapped, staging, bytes, count, g(tensor));
    // A lost GPU fails what is in flight while nobody awaits it yet; whoever does later gets the error all the same.
    result.catch(() => {});
    return result;
  }

  async #finishRead(
    mapped: Promise<unknown>,
    staging: Memory,
    bytes: number,
    count: number,
    { type, format }: GpuTensor,
  ): Promise<Float32Array | Uint32Array> {
    try {
      await mapped;
    } catch (error) {
      // When a GPU is lost, the map's failure is reported before the loss.
      await Promise.race([this.#gpu.lost, new Promise((resolve) => setTimeout(resolve, LOSS_MS))]);
      this.#pool.release(staging);
      this.#check();
      throw error;
    }
    this.#check();
    const copy = staging.gpu.getMappedRange(0, Math.max(4, bytes)).slice(0, bytes);
    staging.gpu.unmap();
    this.#pool.returnStaging(staging);
    if (type === "u32") return new Uint32Array(copy, 0, count);
    if (format === "bf16" || format === "f16") return fromHalves(new Uint16Array(copy), count, format);
    return new Float32Array(copy, 0, count);
  }

  zero(tensor: Tensor): void {
    this.#checkAlive(tensor);
    const { memory, offset } = g(tensor);
    const { start, bytes } = usedBytes(g(tensor));
    const whole = offset === 0 && tensor.rows === tensor.capacity;
    if (start % 4 !== 0 || (bytes % 4 !== 0 && !whole)) {
      throw new RangeError(`"${memory.label}": 16-bit data is zeroed in pairs`);
    }
    this.runner.encode((encoder) => encoder.clearBuffer(memory.gpu, start, Math.ceil(bytes / 4) * 4));
  }

  copy(out: Tensor, from: Tensor): void {
    this.#checkAlive(out);
    this.#checkAlive(from);
    if (g(out).format !== g(from).format || out.rows !== from.rows || out.cols !== from.cols) {
      throw new RangeError(`"${g(from).memory.label}" has another shape or type than what it is copied to`);
    }
    const { start, bytes } = usedBytes(g(from));
    const { start: to } = usedBytes(g(out));
    if ([start, bytes, to].some((n) => n % 4 !== 0)) {
      throw new RangeError(`"${g(from).memory.label}": 16-bit data is copied in pairs`);
    }
    // WebGPU copies from one buffer to another, never within one.
    const between = this.scratch(bytes / 4, "decoding copy", "decoding").memory;
    this.runner.encode((encoder) => {
      encoder.copyBufferToBuffer(g(from).memory.gpu, start, between.gpu, 0, bytes);
      encoder.copyBufferToBuffer(between.gpu, 0, g(out).memory.gpu, to, bytes);
    });
  }

  add(out: Tensor, a: Tensor): void {
    add(this, g(out), g(a));
  }

  loadBatch(batch: Batch, documents: PackedDocuments): void {
    this.#check();
    const gpuBatch = batch as GpuBatch;
    this.#checkAlive(gpuBatch.sections.tokens);
    const contents = gpuBatch.fill(documents);
    this.runner.flush();
    this.#gpu.queue.writeBuffer(gpuBatch.memory.gpu, 0, contents as Uint32Array<ArrayBuffer>);
  }

  submit(): void {
    this.#check();
    this.runner.flush();
  }

  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#failure ??= deviceClosed();
    this.runner.close();
    this.#pool.releaseAll();
    this.#gpu.destroy();
  }

  embed(x: Tensor, batch: Batch, wte: Tensor, wpe: Tensor): void {
    const { sections, tokenCount } = batch as GpuBatch;
    rowKernels.embed(this, g(x), sections.tokens, sections.positions, tokenCount, g(wte), g(wpe));
  }

  embedBackward(dWte: Tensor, dWpe: Tensor, dx: Tensor, batch: Batch, wte: Tensor, wpe: Tensor): void {
    rowKernels.embedBackward(this, g(dWte), g(dWpe), g(dx), batch as GpuBatch, g(wte), g(wpe));
  }

  lookup(x: Tensor, batch: Batch, table: Tensor): void {
    const { sections, tokenCount } = batch as GpuBatch;
    llama.lookup(this, g(x), sections.tokens, tokenCount, g(table));
  }

  lookupBackward(dTable: Tensor, dx: Tensor, batch: Batch): void {
    llama.lookupBackward(this, g(dTable), g(dx), batch as GpuBatch);
  }

  lookupRows(x: Tensor, { tokens }: DecodeRows, table: Tensor): void {
    llama.lookup(this, g(x), g(tokens), tokens.rows, g(table));
  }

  rmsNorm(out: Tensor, x: Tensor): void {
    rowKernels.rmsNorm(this, g(out), g(x));
  }

  rmsNormBackward(dx: Tensor, dy: Tensor, x: Tensor): void {
    rowKernels.rmsNormBackward(this, g(dx), g(dy), g(x));
  }

  scaledRmsNorm(out: Tensor, x: Tensor, weight: Tensor, epsilon: number): void {
    llama.scaledRmsNorm(this, g(out), g(x), g(weight), epsilon);
  }

  scaledRmsNormBackward(
    dx: Tensor,
    dWeight: Tensor,
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    epsilon: number,
  ): void {
    llama.scaledRmsNormBackward(this, g(dx), g(dWeight), g(dy), g(x), g(weight), epsilon);
  }

  headNorm(
    out: Tensor,
    qkv: Tensor,
    weights: Tensor,
    nHead: number,
    nKvHead: number,
    epsilon: number,
  ): void {
    headNorm(this, g(out), g(qkv), g(weights), { queries: nHead, keys: nKvHead }, epsilon);
  }

  headNormBackward(
    dQkv: Tensor,
    dWeights: Tensor,
    dOut: Tensor,
    qkv: Tensor,
    weights: Tensor,
    nHead: number,
    nKvHead: number,
    epsilon: number,
  ): void {
    const heads = { queries: nHead, keys: nKvHead };
    headNormBackward(this, g(dQkv), g(dWeights), g(dOut), g(qkv), g(weights), heads, epsilon);
  }

  rope(x: Tensor, angles: Tensor, batch: Batch, heads: number, back = false): void {
    const { sections, tokenCount } = batch as GpuBatch;
    llama.rope(this, g(x), g(angles), sections.positions, tokenCount, heads, back);
  }

  ropeRows(x: Tensor, angles: Tensor, { positions }: DecodeRows, heads: number): void {
    llama.rope(this, g(x), g(angles), g(positions), positions.rows, heads, false);
  }

  swiglu(out: Tensor, gateUp: Tensor): void {
    llama.swiglu(this, g(out), g(gateUp));
  }

  swigluBackward(dGateUp: Tensor, dOut: Tensor, gateUp: Tensor): void {
    llama.swigluBackward(this, g(dGateUp), g(dOut), g(gateUp));
  }

  dropout(out: Tensor, x: Tensor, { regularization }: Batch, place: number, add?: Tensor): void {
    dropout(this.runner, g(out), g(x), dropAt(regularization, place), add && g(add));
  }

  matmul(out: Tensor, a: Tensor, b: Tensor, form: MatmulForm, fusion?: MatmulFusion): void {
    matmul(this, g(out), g(a), g(b), form, fusion);
  }

  rmsNormMatmul(out: Tensor, x: Tensor, w: Tensor, norm: Tensor, relu = false): void {
    rmsNormMatmul(this, g(out), g(x), g(w), g(norm), relu);
  }

  attention(out: Tensor, lse: Tensor, qkv: Tensor, batch: Batch, nHead: number, nKvHead = nHead): void {
    attention.attention(this, g(out), g(lse), g(qkv), batch as GpuBatch, nHead, nKvHead);
  }

  attentionBackward(
    dQkv: Tensor,
    dOut: Tensor,
    out: Tensor,
    lse: Tensor,
    qkv: Tensor,
    batch: Batch,
    nHead: number,
    nKvHead = nHead,
  ): void {
    const gpuBatch = batch as GpuBatch;
    attention.attentionBackward(this, g(dQkv), g(dOut), g(out), g(lse), g(qkv), gpuBatch, nHead, nKvHead);
  }

  crossEntropy(
    logits: Tensor,
    losses: Tensor,
    batch: Batch,
    firstRow: number,
    scale: number,
    control: Tensor,
  ): void {
    rowKernels.crossEntropy(this, g(logits), g(losses), batch as GpuBatch, firstRow, scale, g(control));
  }

  sumLoss(metrics: Tensor, slot: number, losses: Tensor, accumulate: boolean): void {
    optimizer.sumLoss(this, g(metrics), slot, g(losses), accumulate);
  }

  gradNorm(metrics: Tensor, slot: number, gradients: Tensor, control: Tensor): void {
    optimizer.gradNorm(this, g(metrics), slot, g(gradients), g(control));
  }

  decideStep(metrics: Tensor, slot: number, control: Tensor, gradClip: number): void {
    optimizer.decideStep(this, g(metrics), slot, g(control), gradClip);
  }

  adam(state: AdamState, hyper: AdamHyper): void {
    optimizer.adam(this, state as unknown as optimizer.GpuAdamState, hyper);
  }

  momentum(out: Tensor, m: Tensor, gradients: Tensor, control: Tensor, beta: number): void {
    muon.momentum(this, g(out), g(m), g(gradients), g(control), beta);
  }

  matrixPolynomial(
    out: Tensor,
    a: Tensor,
    square: Tensor,
    coefficients: readonly [number, number, number],
    normalize: boolean,
  ): void {
    muon.matrixPolynomial(this, g(out), g(a), g(square), coefficients, normalize);
  }

  applyUpdate(target: UpdateTarget, update: Tensor, hyper: UpdateHyper): void {
    muon.applyUpdate(this, target as unknown as muon.GpuUpdateTarget, g(update), hyper);
  }

  embedRows(x: Tensor, decodeRows: DecodeRows, wte: Tensor, wpe: Tensor): void {
    const { tokens, positions } = decodeRows;
    rowKernels.embed(this, g(x), g(tokens), g(positions), tokens.rows, g(wte), g(wpe));
  }

  attentionCached(
    out: Tensor,
    qkv: Tensor,
    cache: Tensor,
    decodeRows: DecodeRows,
    blockSize: number,
    nHead: number,
    nKvHead = nHead,
  ): void {
    const gpuRows = decodeRows as unknown as attention.GpuDecodeRows;
    attention.attentionCached(this, g(out), g(qkv), g(cache), gpuRows, blockSize, nHead, nKvHead);
  }

  sample(
    decodeRows: DecodeRows,
    logits: Tensor,
    output: Tensor,
    step: number,
    { seeds, settings, said }: Draws,
  ): void {
    const gpuRows = decodeRows as unknown as attention.GpuDecodeRows;
    const draws = { seeds: g(seeds), settings: g(settings), said: g(said) };
    rowKernels.sample(this, gpuRows, g(logits), g(output), step, draws);
  }

  /** Throws what the driver reported since the last call. */
  #check(): void {
    if (this.#failure) throw this.#failure;
  }

  /** To the driver, using a freed buffer is an error of the whole device: here only the call fails. */
  #checkAlive(tensor: Tensor): void {
    this.#check();
    const { memory } = g(tensor);
    if (memory.freed) throw new Error(`tensor "${memory.label}" was freed`);
  }
}

function lostError(name: string, reason: string, message: string): MicrogptError {
  const cause = [reason, message.trim()].filter(Boolean).join(": ");
  return new MicrogptError(`the GPU (${name}) was lost${cause ? `: ${cause}` : ""}`, {
    hint:
      "its driver was reset, or it is out of memory; resume from the last checkpoint, with a smaller `batchSize` or `device` cpu",
  });
}

/**
 * Opens the GPU and checks that its driver computes correctly.
 * @param options dtype of weights and activations; how reductions are done
 * @throws {MicrogptError} when there is no GPU, it cannot compute in this dtype, or its driver fails the self-test
 */
export async function openGpuDevice(
  { dtype, subgroups = "auto", adapter: number = 0 }: GpuDeviceOptions,
): Promise<GpuDevice> {
  const adapter = await openAdapter(dtype, subgroups !== "off", number);
  const offered = adapter.description.features.includes("subgroups");
  if (subgroups === "on" && !offered) {
    adapter.gpu.destroy();
    throw new MicrogptError(`${adapter.description.name} has no subgroup operations`, {
      hint: "open it with subgroups off",
    });
  }
  try {
    const use = subgroups === "on" || (subgroups === "auto" && offered && await subgroupsWork(adapter));
    const device = new GpuDevice(adapter, dtype, use);
    await selfTest(device);
    return device;
  } catch (error) {
    adapter.gpu.destroy();
    throw error;
  }
}
