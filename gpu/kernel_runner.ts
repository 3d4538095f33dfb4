/**
 * Compiles kernels on first use and encodes their calls: one compute pass takes all that come, and `flush` sends them.
 * In steady state nothing is created on the GPU: parameters go through one uniform buffer (written once a flush; the
 * queue keeps writes and submissions in order, so its slots are free again at once), and bind groups are kept by their
 * buffers.
 */
import type { BufferPool, GpuTensor, Memory } from "./buffers.ts";
import { deviceClosed } from "../device/errors.ts";
import { bindingBytes, elementBytes, tooLargeToBind, withErrorScope } from "./buffers.ts";
import { type KernelSpec, shaderSource } from "./shader_source.ts";

/** Bytes between the parameters of two calls; 256 is the largest alignment a device may ask for. */
const SLOT_BYTES = 256;
/** Calls between two flushes; a training step of twelve layers has about 250. */
const SLOTS = 1024;

/** A kernel ready to run. */
interface Kernel {
  pipeline: GPUComputePipeline;
  layout: GPUBindGroupLayout;
  /** names the layout in keys of bind groups */
  signature: string;
  /** which bindings are written, and which must start at whole quads or pairs */
  writes: boolean[];
  multiples: number[];
  /** which parameters are f32 */
  floats: boolean[];
}

/** Workgroups that one dimension of a call may have: WebGPU's default, which every adapter grants. */
export const MAX_WORKGROUPS = 65535;

/**
 * Workgroups in x and y for n items, where one dimension may not hold them: kernels count x + y · (workgroups in x).
 */
export function workgroupGrid(n: number): [number, number] {
  return n <= MAX_WORKGROUPS ? [n, 1] : [MAX_WORKGROUPS, Math.ceil(n / MAX_WORKGROUPS)];
}

/**
 * Where a binding starts in its buffer: at 0 as long as one binding can hold all of it (few different bind groups),
 * else at the last allowed place before the tensor. The remaining elements go to the kernel as `base`.
 */
export function bindingStart(byteOffset: number, bufferBytes: number, maxBinding: number): number {
  return bufferBytes <= maxBinding ? 0 : Math.floor(byteOffset / 256) * 256;
}

/** A bind group and the ids of the buffers in it. */
interface BoundBuffers {
  group: GPUBindGroup;
  ids: number[];
}

export class KernelRunner {
  #kernels = new Map<string, Kernel>();
  #layouts = new Map<string, GPUBindGroupLayout>();
  #groups = new Map<string, BoundBuffers>();
  /** keys of bind groups by the id of a buffer in them */
  #groupsOf = new Map<number, Set<string>>();
  #closed = false;
  #paramsMemory: Memory;
  #u32 = new Uint32Array(SLOTS * SLOT_BYTES / 4);
  #f32 = new Float32Array(this.#u32.buffer);
  #slot = 0;
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #dynamicOffset = new Uint32Array(1);
  #maxBinding: number;

  constructor(
    readonly gpu: GPUDevice,
    readonly pool: BufferPool,
    /** called about a kernel that does not compile */
    readonly fail: (error: Error) => void,
    /** see `OpenedAdapter` */
    readonly subgroupsDirective: boolean,
  ) {
    this.#maxBinding = bindingBytes(gpu);
    this.#paramsMemory = pool.allocate(
      "kernel parameters",
      SLOTS * SLOT_BYTES,
      GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    );
  }

  /** What is kept between calls, for leak tests: kernels, bind groups, and entries of the list of groups by buffer. */
  get kept(): { kernels: number; groups: number; entries: number } {
    const entries = this.#groupsOf.values().reduce((sum, keys) => sum + keys.size, 0);
    return { kernels: this.#kernels.size, groups: this.#groups.size, entries };
  }

  /** True when calls wait for a flush. */
  get pending(): boolean {
    return this.#encoder !== undefined;
  }

  /**
   * Queues one call of a kernel.
   * @param key names the variant; `specify` is called if it is new
   * @param tensors in the order of the bindings
   * @param params in the order of the kernel's parameters
   * @throws {Error} when a written tensor shares its buffer with another one: WebGPU forbids it
   * @throws {RangeError} for more workgroups in a dimension than a call may have
   * @throws {MicrogptError} when a tensor is larger than the GPU lets a kernel see, or the device is closed
   */
  run(
    key: string,
    specify: () => KernelSpec,
    tensors: GpuTensor[],
    params: number[],
    x: number,
    y = 1,
    z = 1,
  ): void {
    if (this.#closed) throw deviceClosed();
    if (Math.max(x, y, z) > MAX_WORKGROUPS) {
      throw new RangeError(`${key}: ${x} × ${y} × ${z} workgroups, at most ${MAX_WORKGROUPS} a dimension`);
    }
    if (x * y * z === 0) return; // no rows: nothing to do
    const kernel = this.#kernels.get(key) ?? this.#compile(key, specify());
    if (this.#slot === SLOTS) this.flush();
    const pass = this.#openPass();
    const group = this.#bind(key, kernel, tensors, params.length);
    const at = this.#slot * (SLOT_BYTES / 4);
    for (let i = 0; i < params.length; i++) {
      if (kernel.floats[i]) this.#f32[at + i] = params[i]!;
      else this.#u32[at + i] = params[i]!;
    }
    this.#dynamicOffset[0] = this.#slot++ * SLOT_BYTES;
    pass.setPipeline(kernel.pipeline);
    pass.setBindGroup(0, group, this.#dynamicOffset, 0, 1);
    pass.dispatchWorkgroups(x, y, z);
  }

  /** Queues work other than kernels: copies and clears. */
  encode(command: (encoder: GPUCommandEncoder) => void): void {
    this.#pass?.end();
    this.#pass = undefined;
    command(this.#encoder ??= this.gpu.createCommandEncoder());
  }

  /** Sends all queued calls. */
  flush(): void {
    if (!this.#encoder) return;
    this.#pass?.end();
    this.#pass = undefined;
    if (this.#slot > 0) {
      this.gpu.queue.writeBuffer(this.#paramsMemory.gpu, 0, this.#u32, 0, this.#slot * (SLOT_BYTES / 4));
    }
    this.gpu.queue.submit([this.#encoder.finish()]);
    this.#encoder = undefined;
    this.#slot = 0;
  }

  /** Forgets the bind groups that hold a buffer which is about to be freed. */
  forget(memory: Memory): void {
    for (const key of this.#groupsOf.get(memory.id) ?? []) {
      for (const id of this.#groups.get(key)?.ids ?? []) {
        if (id !== memory.id) this.#groupsOf.get(id)?.delete(key);
      }
      this.#groups.delete(key);
    }
    this.#groupsOf.delete(memory.id);
  }

  /** Drops what is queued and kept; later calls throw. */
  close(): void {
    this.#closed = true;
    this.#pass?.end();
    [this.#pass, this.#encoder] = [undefined, undefined];
    for (const kept of [this.#kernels, this.#layouts, this.#groups, this.#groupsOf]) kept.clear();
  }

  #openPass(): GPUComputePassEncoder {
    this.#encoder ??= this.gpu.createCommandEncoder();
    return this.#pass ??= this.#encoder.beginComputePass();
  }

  /** The bind group of a call, and each tensor's base element in the parameters behind the kernel's own. */
  #bind(name: string, kernel: Kernel, tensors: GpuTensor[], firstBase: number): GPUBindGroup {
    let key = kernel.signature;
    const slot = this.#slot * (SLOT_BYTES / 4) + firstBase;
    for (let i = 0; i < tensors.length; i++) {
      const { memory, offset, format, rows, cols } = tensors[i]!;
      if (memory.freed) throw new Error(`${name}: tensor "${memory.label}" was freed`);
      if (kernel.writes[i] && tensors.some((other, j) => j !== i && other.memory === memory)) {
        throw new Error(`${name}: "${memory.label}" is written and used in another place of the same call`);
      }
      const bytes = elementBytes(format);
      const start = bindingStart(offset * bytes, memory.bytes, this.#maxBinding);
      const base = offset - start / bytes;
      if ((base + rows * cols) * bytes > this.#maxBinding) {
        throw tooLargeToBind(memory, rows * cols * bytes, this.#maxBinding);
      }
      if (base % kernel.multiples[i]! !== 0) {
        throw new Error(
          `${name}: "${memory.label}" at element ${offset} does not start at a multiple of ${
            kernel.multiples[i]
          }`,
        );
      }
      this.#u32[slot + i] = base;
      key += `|${memory.id}:${start}`;
    }
    return this.#groups.get(key)?.group ?? this.#createGroup(key, kernel, tensors);
  }

  #createGroup(key: string, kernel: Kernel, tensors: GpuTensor[]): GPUBindGroup {
    const entries = tensors.map(({ memory, offset, format }, i) => {
      const start = bindingStart(offset * elementBytes(format), memory.bytes, this.#maxBinding);
      const size = Math.min(memory.bytes - start, this.#maxBinding);
      return { binding: i + 1, resource: { buffer: memory.gpu, offset: start, size } };
    });
    const params = { binding: 0, resource: { buffer: this.#paramsMemory.gpu, size: SLOT_BYTES } };
    const group = this.gpu.createBindGroup({ layout: kernel.layout, entries: [params, ...entries] });
    const ids = [...new Set(tensors.map(({ memory }) => memory.id))];
    this.#groups.set(key, { group, ids });
    for (const id of ids) {
      const keys = this.#groupsOf.get(id);
      if (keys) keys.add(key);
      else this.#groupsOf.set(id, new Set([key]));
    }
    return group;
  }

  #compile(key: string, spec: KernelSpec): Kernel {
    const bindings = Object.values(spec.bindings);
    const signature = bindings.map((binding) => binding.access[0]).join("");
    let layout = this.#layouts.get(signature);
    if (!layout) {
      const visibility = GPUShaderStage.COMPUTE;
      layout = this.gpu.createBindGroupLayout({
        entries: [
          { binding: 0, visibility, buffer: { type: "uniform", hasDynamicOffset: true } },
          ...bindings.map(({ access }, i): GPUBindGroupLayoutEntry => ({
            binding: i + 1,
            visibility,
            buffer: { type: access === "write" ? "storage" : "read-only-storage" },
          })),
        ],
      });
      this.#layouts.set(signature, layout);
    }
    const code = shaderSource(spec, this.subgroupsDirective);
    const pipeline = withErrorScope(
      this.gpu,
      "validation",
      () =>
        this.gpu.createComputePipeline({
          label: key,
          layout: this.gpu.createPipelineLayout({ bindGroupLayouts: [layout] }),
          compute: { module: this.gpu.createShaderModule({ label: key, code }), entryPoint: "main" },
        }),
      ({ message }) => this.fail(new Error(`kernel ${key} does not compile: ${message}`)),
    );
    const kernel: Kernel = {
      pipeline,
      layout,
      signature,
      writes: bindings.map(({ access }) => access === "write"),
      multiples: bindings.map(({ aligned, format }) =>
        format === "u32" ? 1 : aligned ? 4 : format === "bf16" ? 2 : 1
      ),
      floats: Object.values(spec.params).map((type) => type === "f32"),
    };
    this.#kernels.set(key, kernel);
    return kernel;
  }
}
