/**
 * Every kernel under Tint, the compiler of Chrome and Edge: Dawn's null backend takes shaders apart as a browser does, and computes
 * nothing. Deno's own compiler, naga, is stricter in other places; the rest of the tests run on it.
 */
import assert from "node:assert/strict";
import { create } from "npm:webgpu@0.6.2";
import { openAdapter } from "../../gpu/adapter.ts";
import type { GpuTensor } from "../../gpu/buffers.ts";
import { GpuDevice } from "../../gpu/device.ts";
import { matmul } from "../../gpu/matmul.ts";
import { measurePeak } from "../../gpu/peak.ts";
import { shaderSource } from "../../gpu/shader_source.ts";
import { subgroupsWork } from "../../gpu/subgroups.ts";
import { hardwareOf, possibleCuts } from "../../gpu/tiles.ts";
import type { Dtype, MatmulForm } from "../../device/device.ts";
import { DEVICE_CASES } from "../device/device_cases.ts";
import { withNavigatorGpu } from "../device/test_gpu.ts";

/** Products with each tile, whole and in parts, which the device's own choice would not all meet. */
async function everyTile(d: GpuDevice): Promise<void> {
  const [M, N, K] = [70, 72, 1024];
  const shapes: Record<MatmulForm, [[number, number], [number, number]]> = {
    NT: [[M, K], [N, K]],
    NN: [[M, K], [K, N]],
    TN: [[K, M], [K, N]],
  };
  for (const form of ["NT", "NN", "TN"] as const) {
    const [a, b] = shapes[form].map(([rows, cols]) => d.tensor("in", rows, cols, "work")) as GpuTensor[];
    for (const type of ["f32", "work"] as const) {
      const out = d.tensor("out", M, N, type) as GpuTensor;
      for (const plan of possibleCuts(M, N, K, d.hardware)) {
        matmul(d, out, a!, b!, form, {}, plan);
      }
    }
  }
  await d.read(d.tensor("marker", 1, 4));
}

/** Everything that compiles a kernel. */
const USES: [name: string, use: (d: GpuDevice) => Promise<unknown>][] = [
  ...DEVICE_CASES.map(({ name, run }): [string, (d: GpuDevice) => Promise<unknown>] => [name, run]),
  ["every tile", everyTile],
  ["peak", measurePeak],
];

/** Runs all on a device that computes nothing and has WebGPU's least limits. @returns what is wrong */
async function faults(dtype: Dtype, subgroups: boolean): Promise<string[]> {
  const opened = await openAdapter(dtype, subgroups);
  assert.equal(opened.subgroupsDirective, true, "Dawn lists subgroups");
  assert.equal(opened.hardware.workgroupMemory, 16384);
  const device = new GpuDevice(opened, dtype, subgroups);
  const found = new Map<string, string>();
  for (const [name, use] of USES) {
    try {
      await use(device);
    } catch (error) {
      // bf16 refuses odd rows by design; what a compiler finds wrong is no MicrogptError.
      const { name: kind, message } = error as Error;
      if (kind !== "MicrogptError" && !found.has(message)) found.set(message, `${name}: ${message}`);
    }
  }
  device.destroy();
  return [...found.values()];
}

/** The kernels that a GPU with 32 KiB of workgroup memory gets: compiled, but not run. */
async function sourcesOfLargeGpu(dtype: Dtype, subgroups: boolean): Promise<Map<string, string>> {
  const opened = await openAdapter(dtype, subgroups);
  const device = new GpuDevice({ ...opened, hardware: hardwareOf("any", false, 32768) }, dtype, subgroups);
  Object.defineProperty(device, "workgroupMemory", { value: 32768 });
  const sources = new Map<string, string>();
  device.runner.run = (key, specify) => void sources.set(shaderSource(specify(), true), key);
  for (const [, use] of USES.filter(([name]) => name !== "peak")) {
    await use(device).catch((error) => assert.equal(error.name, "MicrogptError", error.message));
  }
  device.destroy();
  return sources;
}

async function withDawn(use: () => Promise<void>): Promise<void> {
  await withNavigatorGpu(create(["backend=null"]), use);
}

for (const dtype of ["f32", "bf16", "f16"] as const) {
  Deno.test({
    name: `every kernel compiles under Tint: ${dtype}`,
    sanitizeResources: false,
    sanitizeOps: false,
    async fn() {
      await withDawn(async () => {
        for (const subgroups of [false, true]) {
          assert.deepEqual(await faults(dtype, subgroups), []);
          const { gpu } = await openAdapter(dtype, subgroups);
          const sources = await sourcesOfLargeGpu(dtype, subgroups);
          assert(sources.size > 100, `${sources.size} kernels`);
          for (const [code, key] of sources) {
            const { messages } = await gpu.createShaderModule({ code }).getCompilationInfo();
            assert.deepEqual(messages.map(({ message }) => message), [], key);
          }
          gpu.destroy();
        }
      });
    },
  });
}

Deno.test({
  name: "the probe for subgroup operations compiles under Tint",
  sanitizeResources: false,
  sanitizeOps: false,
  async fn() {
    await withDawn(async () => {
      const opened = await openAdapter("f32", true);
      let error: unknown;
      opened.gpu.addEventListener(
        "uncapturederror",
        (event) => error ??= (event as GPUUncapturedErrorEvent).error,
      );
      // The null backend computes nothing: the numbers are wrong, and no error may have come.
      assert.equal(await subgroupsWork(opened), false);
      assert.equal(error, undefined);
      opened.gpu.destroy();
    });
  },
});
