/**
 * One body of tests over every device: each kernel, forward and backward, against the reference in f64; how devices end; and
 * that many generations leave nothing behind.
 */
import assert from "node:assert/strict";
import { openDevice } from "../../model/devices.ts";
import type { Device } from "../../device/device.ts";
import { ReferenceDevice } from "../../device/reference_device.ts";
import { assertClose } from "./assert_close.ts";
import { DEVICE_CASES } from "./device_cases.ts";
import { LIFETIME_CASES, smallestModel } from "./device_lifetime.ts";
import { openTestGpu } from "./test_gpu.ts";

const oracle = new ReferenceDevice("f64");

const openers: Record<string, () => Promise<Device | undefined>> = {
  reference: () => Promise.resolve(new ReferenceDevice("f32")),
  cpu: () => openDevice({ device: "cpu", threads: 2 }),
  webgpu: () => openTestGpu({ dtype: "f32" }),
};

for (const [name, open] of Object.entries(openers)) {
  Deno.test({
    name: `every kernel on ${name}`,
    sanitizeResources: false,
    async fn(t) {
      const device = await open();
      if (!device) return;
      for (const { name, tolerance, run } of DEVICE_CASES) {
        await t.step(name, async () => {
          const expected = await run(oracle);
          const actual = await run(device);
          for (const key of Object.keys(expected)) assertClose(actual[key]!, expected[key]!, tolerance, key);
        });
      }
      device.destroy();
    },
  });

  Deno.test({
    name: `the end of ${name}`,
    sanitizeResources: false,
    async fn(t) {
      for (const { name, run } of LIFETIME_CASES) {
        await t.step(name, async () => {
          const device = await open();
          if (device) await run(device);
          device?.destroy();
        });
      }
    },
  });
}

/** Bytes that the process holds; what the collector left over is no leak. */
function heldBytes(): number {
  (globalThis as { gc?: () => void }).gc?.();
  const { rss, heapUsed } = Deno.memoryUsage();
  return Math.max(rss, heapUsed);
}

for (const name of ["reference", "cpu"]) {
  Deno.test(`10,000 generations leave no memory behind on ${name}`, async () => {
    using model = smallestModel((await openers[name]!())!);
    const generate = async (calls: number) => {
      for (let i = 0; i < calls; i++) await model.samples({ numSamples: 1, seed: i, maxTokens: 1 });
    };
    await generate(2000);
    const before = heldBytes();
    await generate(8000);
    const grown = (heldBytes() - before) / 2 ** 20;
    assert(grown < 16, `${grown.toFixed(1)} MB more than after 2,000`);
  });
}

Deno.test({
  name: "generations leave no buffer, bind group or list entry behind on webgpu",
  sanitizeResources: false,
  async fn() {
    const device = await openers.webgpu!();
    if (!device) return;
    const { GpuDevice } = await import("../../gpu/device.ts");
    assert(device instanceof GpuDevice);
    using model = smallestModel(device);
    const counts = async (calls: number) => {
      for (let i = 0; i < calls; i++) await model.samples({ numSamples: 1, seed: i, maxTokens: 1 });
      const { bufferCount, allocatedBytes } = device;
      return { bufferCount, allocatedBytes, ...device.runner.kept };
    };
    const after = await counts(3);
    assert.deepEqual(await counts(30), after);
  },
});
