/** Whether reductions should use subgroup operations here: asked of the hardware, not of a list of features. */
import { BufferPool, GpuTensor } from "./buffers.ts";
import { KernelRunner } from "./kernel_runner.ts";
import { rmsNorm } from "./rows.ts";

const ROWS = 256;
const COLS = 256;
/** Calls in a timed run, and runs of each way; the fastest run counts. */
const CALLS = 32;
const ROUNDS = 5;
/**
 * Subgroups are taken unless they are clearly slower. The two ways add in different orders, so a run that is resumed must
 * decide as the one before it did: noise in the timing must not tip the scale.
 */
const MARGIN = 1.5;

/** One way to reduce, on memory of its own. */
class Contestant {
  readonly out: GpuTensor;
  readonly #runner: KernelRunner;
  readonly #maps: Promise<unknown>[] = [];
  milliseconds = Infinity;

  constructor(
    readonly gpu: GPUDevice,
    readonly pool: BufferPool,
    readonly input: GpuTensor,
    readonly subgroups: boolean,
    fail: (error: Error) => void,
  ) {
    this.#runner = new KernelRunner(gpu, pool, fail);
    this.out = matrix(pool);
  }

  /** Normalizes the input `calls` times and waits: the call of mapAsync returns when the GPU is done. */
  run(calls: number): void {
    const scratch = () => this.out;
    const start = performance.now();
    for (let i = 0; i < calls; i++) {
      rmsNorm({ runner: this.#runner, subgroups: this.subgroups, scratch }, this.out, this.input);
    }
    const staging = this.pool.takeStaging(4);
    this.#runner.encode((encoder) => encoder.copyBufferToBuffer(this.out.memory.gpu, 0, staging.gpu, 0, 4));
    this.#runner.flush();
    this.#maps.push(staging.gpu.mapAsync(GPUMapMode.READ));
    if (calls === CALLS) this.milliseconds = Math.min(this.milliseconds, performance.now() - start);
  }

  /** All that was normalized. */
  async result(): Promise<Float32Array> {
    await Promise.all(this.#maps);
    const staging = this.pool.takeStaging(4 * ROWS * COLS);
    this.#runner.encode((encoder) =>
      encoder.copyBufferToBuffer(this.out.memory.gpu, 0, staging.gpu, 0, 4 * ROWS * COLS)
    );
    this.#runner.flush();
    await staging.gpu.mapAsync(GPUMapMode.READ);
    return new Float32Array(staging.gpu.getMappedRange(0, 4 * ROWS * COLS).slice(0));
  }
}

function matrix(pool: BufferPool): GpuTensor {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  return new GpuTensor(pool.allocate("probe", 4 * ROWS * COLS, usage), "f32", "f32", 0, ROWS, COLS);
}

/**
 * Runs one reduction both ways.
 * @returns true when subgroup operations compile, give the right numbers, and do not lose time
 */
export async function subgroupsHelp(gpu: GPUDevice): Promise<boolean> {
  let failed = false;
  const fail = () => failed = true;
  const pool = new BufferPool(gpu, fail);
  const input = matrix(pool);
  const values = Float32Array.from({ length: ROWS * COLS }, (_, i) => ((i * 37) % 101 - 50) / 10);
  gpu.queue.writeBuffer(input.memory.gpu, 0, values);
  const [tree, subgroup] = [false, true].map((on) => new Contestant(gpu, pool, input, on, fail)) as [
    Contestant,
    Contestant,
  ];
  try {
    for (const contestant of [tree, subgroup]) contestant.run(1);
    for (let round = 0; round < ROUNDS; round++) {
      for (const contestant of [tree, subgroup]) contestant.run(CALLS);
    }
    const [expected, actual] = await Promise.all([tree.result(), subgroup.result()]);
    const right = actual.every((value, i) => Math.abs(value - expected[i]!) <= 1e-5 * (1 + Math.abs(value)));
    return !failed && right && subgroup.milliseconds < MARGIN * tree.milliseconds;
  } finally {
    pool.releaseAll();
  }
}
