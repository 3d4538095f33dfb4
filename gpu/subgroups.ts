/**
 * Whether reductions should use subgroup operations here: we ask the hardware, not a list of features. They add in a
 * different order than the tree in workgroup memory, so the answer decides the bits of every run: it depends on what
 * the hardware computes, never on how fast it was at the moment.
 */
import type { OpenedAdapter } from "./adapter.ts";
import { BufferPool, GpuTensor } from "./buffers.ts";
import { KernelRunner } from "./kernel_runner.ts";
import reduceSource from "./kernels/reduce.wgsl" with { type: "text" };
import probeSource from "./kernels/subgroup_probe.wgsl" with { type: "text" };
import type { BindingSpec } from "./shader_source.ts";

/** The sizes of workgroups that reduce: one subgroup or a few, and many. */
const THREADS = [64, 256];
/** sum, maximum and minimum, as f32 and as u32 */
const RESULTS = 6;

/** Numbers below 2^16 whose sums f32 holds exactly; neither the first nor the last is the largest or smallest. */
function probeValues(threads: number): Uint32Array<ArrayBuffer> {
  return Uint32Array.from({ length: threads }, (_, i) => 1 + (i * 7919 + 1234) % 50021);
}

/** The results of all reductions of the values. */
function expectedResults(values: Uint32Array): number[] {
  const three = [values.reduce((sum, value) => sum + value, 0), Math.max(...values), Math.min(...values)];
  return [...three, ...three];
}

function column(pool: BufferPool, length: number): GpuTensor {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  return new GpuTensor(pool.allocate("subgroup probe", 4 * length, usage), "u32", "u32", 0, length, 1);
}

/** Queues the reductions of `values`. @returns their results */
async function reduce(
  gpu: GPUDevice,
  pool: BufferPool,
  runner: KernelRunner,
  values: Uint32Array<ArrayBuffer>,
): Promise<Uint32Array> {
  const threads = values.length;
  const [input, out] = [column(pool, threads), column(pool, RESULTS)];
  gpu.queue.writeBuffer(input.memory.gpu, 0, values);
  const binding = (access: "read" | "write"): BindingSpec => ({ format: "u32", access, aligned: false });
  runner.run(
    `subgroup probe ${threads}`,
    () => ({
      source: reduceSource + probeSource,
      constants: { THREADS: threads, SUBGROUPS: true },
      params: {},
      bindings: { values: binding("read"), out: binding("write") },
    }),
    [input, out],
    [],
    1,
  );
  const staging = pool.takeStaging(4 * RESULTS);
  runner.encode((encoder) => encoder.copyBufferToBuffer(out.memory.gpu, 0, staging.gpu, 0, 4 * RESULTS));
  runner.flush();
  await staging.gpu.mapAsync(GPUMapMode.READ);
  return new Uint32Array(staging.gpu.getMappedRange(0, 4 * RESULTS).slice(0));
}

/**
 * Runs every reduction with subgroup operations.
 * @returns true when they compile and give the right numbers
 */
export async function subgroupsWork(
  { gpu, subgroupsDirective }: Pick<OpenedAdapter, "gpu" | "subgroupsDirective">,
): Promise<boolean> {
  let failed = false;
  const fail = () => failed = true;
  const pool = new BufferPool(gpu, fail);
  try {
    const runner = new KernelRunner(gpu, pool, fail, subgroupsDirective);
    const all = THREADS.map(probeValues);
    const results = await Promise.all(all.map((values) => reduce(gpu, pool, runner, values)));
    const right = all.every((values, i) => {
      return expectedResults(values).every((expected, j) => expected === results[i]![j]);
    });
    return right && !failed;
  } finally {
    pool.releaseAll();
  }
}
