/**
 * One body of tests over every device: each kernel, forward and backward, against the reference in f64; how devices end; and
 * that many generations leave nothing behind.
 */
import assert from "node:assert/strict";
import { openDevice } from "../../model/devices.ts";
import type { Device, MatmulForm, MatmulFusion, Tensor } from "../../device/device.ts";
import { ReferenceDevice } from "../../device/reference_device.ts";
import { floats } from "../../device/reference_tensor.ts";
import { assertClose } from "./assert_close.ts";
import { DEVICE_CASES } from "./device_cases.ts";
import { LIFETIME_CASES, smallestModel } from "./device_lifetime.ts";
import { openTestGpu } from "./test_gpu.ts";

const oracle = new ReferenceDevice("f64");

const openers: Record<string, () => Promise<Device | undefined>> = {
  reference: () => Promise.resolve(new ReferenceDevice("f32")),
  cpu: () => openDevice({ device: "cpu", threads: 2 }),
  webgpu: () => openTestGpu({ dtype: "f32" }),
  "cpu in bf16": () => openDevice({ device: "cpu", dtype: "bf16", threads: 2 }),
};

/** The reference in f64, with the operands of products rounded to bf16 as the CPU device rounds them. */
class RoundingOracle extends ReferenceDevice {
  constructor() {
    super("f64");
  }

  override matmul(out: Tensor, a: Tensor, b: Tensor, form: MatmulForm, fusion?: MatmulFusion): void {
    super.matmul(out, this.#rounded(a), this.#rounded(b), form, fusion);
  }

  #rounded(tensor: Tensor): Tensor {
    const rounded = this.tensor("rounded", tensor.rows, tensor.cols);
    const values = Float32Array.from(floats(tensor).subarray(0, tensor.rows * tensor.cols));
    const bits = new Uint32Array(values.buffer);
    for (let i = 0; i < bits.length; i++) bits[i] = bits[i]! + 0x7fff + (bits[i]! >>> 16 & 1) & 0xffff0000;
    this.write(rounded, values);
    return rounded;
  }
}
const roundingOracle = new RoundingOracle();

/** In bf16 an intermediate result that f32 and f64 round apart is 2⁻⁸ of it away: whole models are held to that. */
function toleranceOf(device: Device, { name, tolerance }: { name: string; tolerance: number }): number {
  return device.dtype === "bf16" && /forwardBackward|decoding|polynomial/i.test(name) ? 0.02 : tolerance;
}

for (const [name, open] of Object.entries(openers)) {
  Deno.test({
    name: `every kernel on ${name}`,
    sanitizeResources: false,
    async fn(t) {
      const device = await open();
      if (!device) return;
      for (const deviceCase of DEVICE_CASES) {
        const { name, run } = deviceCase;
        const tolerance = toleranceOf(device, deviceCase);
        await t.step(name, async () => {
          const expected = await run(device.dtype === "bf16" ? roundingOracle : oracle);
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
