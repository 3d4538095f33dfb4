/** The adapter's measured peak: multiply-adds in registers and copies in memory, nothing else. */
import type { GpuDevice } from "./device.ts";
import type { GpuTensor } from "./buffers.ts";
import peakSource from "./kernels/peak.wgsl" with { type: "text" };
import { workgroupGrid } from "./kernel_runner.ts";
import type { BindingSpec } from "./shader_source.ts";

/** What the adapter reached. */
export interface Peak {
  /** f32, a multiply-add counted as two; 10⁹ a second */
  gigaflops: number;
  /** bytes read and bytes written together; 10⁹ a second */
  gigabytesPerSecond: number;
}

/** Shortest run that counts, in milliseconds. */
const LEAST_MILLISECONDS = 20;
const FLOPS_PER_ROUND = 4096;
/** Deno's mapAsync returns when all work is done, and its promise then waits for a timer that is no part of the work. */
const BLOCKING_READS = navigator.userAgent.startsWith("Deno/");
const BINDING: BindingSpec = { format: "f32", access: "read", aligned: true };

/**
 * Time of queued calls, from submission to the end of the work.
 * @param d device whose queue is empty
 * @param queue queues the work
 * @returns milliseconds
 */
export async function timeOnGpu(d: GpuDevice, marker: GpuTensor, queue: () => void): Promise<number> {
  await d.read(marker);
  const start = performance.now();
  queue();
  const reading = d.read(marker);
  if (!BLOCKING_READS) await reading;
  const milliseconds = performance.now() - start;
  await reading;
  return milliseconds;
}

/** Work per second: doubles the work until a run is long enough, then takes the fastest of three. */
async function rate(measure: (amount: number) => Promise<number>, workPerAmount: number): Promise<number> {
  let amount = 1;
  await measure(amount);
  while (await measure(amount) < LEAST_MILLISECONDS && amount < 1 << 20) amount *= 2;
  let best = Infinity;
  for (let i = 0; i < 3; i++) best = Math.min(best, await measure(amount));
  return workPerAmount * amount / (best / 1000) / 1e9;
}

/** Measures both peaks; takes about a third of a second. */
export async function measurePeak(d: GpuDevice): Promise<Peak> {
  const workgroups = d.description.software ? 64 : 2048;
  const n = d.description.software ? 1 << 20 : 1 << 24;
  const [source, target, marker] = [
    d.tensor("peak source", 1, n),
    d.tensor("peak target", 1, n),
    d.tensor("peak marker", 1, 4),
  ] as GpuTensor[] as [GpuTensor, GpuTensor, GpuTensor];
  const gigaflops = await rate((rounds) =>
    timeOnGpu(d, marker, () => {
      d.runner.run(
        "peak multiply-add",
        () => ({
          source: peakSource,
          constants: { COPY: false },
          params: { n: "u32", rounds: "u32", factor: "f32" },
          bindings: { destination: { ...BINDING, access: "write" } },
        }),
        [target],
        [n, rounds, 0.5],
        workgroups,
      );
    }), FLOPS_PER_ROUND * 256 * workgroups);
  const gigabytesPerSecond = await rate((copies) =>
    timeOnGpu(d, marker, () => {
      for (let i = 0; i < copies; i++) {
        d.runner.run(
          "peak copy",
          () => ({
            source: peakSource,
            constants: { COPY: true },
            params: { n: "u32" },
            bindings: { source: BINDING, destination: { ...BINDING, access: "write" } },
          }),
          [source, target],
          [n],
          ...workgroupGrid(n / 1024),
        );
      }
    }), 8 * n);
  for (const tensor of [source, target, marker]) d.free(tensor);
  return { gigaflops, gigabytesPerSecond };
}
