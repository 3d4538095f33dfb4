/** What the WebGPU device says when something is missing, too large, lost or wrong. */
import assert from "node:assert/strict";
import { openAdapter } from "../../gpu/adapter.ts";
import { BufferPool } from "../../gpu/buffers.ts";
import { GpuDevice, openGpuDevice } from "../../gpu/device.ts";
import { checkSelfTest, selfTest } from "../../gpu/self_test.ts";
import { MicrogptError } from "../../device/errors.ts";
import { gpuTest, withNavigatorGpu } from "../device/test_gpu.ts";

async function withGpu(use: (d: GpuDevice) => Promise<void>): Promise<void> {
  const device = await openGpuDevice({ dtype: "f32", subgroups: "off" });
  try {
    await use(device);
  } finally {
    device.destroy();
  }
}

gpuTest("a tensor that the GPU cannot hold is an error with its name, size and flag", async () => {
  await withGpu((d) => {
    const { maxBufferSize } = d.description.limits;
    const rows = Math.ceil(maxBufferSize! / 4096) + 1;
    assert.throws(() => d.tensor("activations layer0.fc1", rows, 1024), (error: unknown) => {
      assert(error instanceof MicrogptError);
      assert.match(error.message, /no room for "activations layer0.fc1" \(\d+ MB; /);
      assert.match(error.hint!, /`batchSize`/);
      return true;
    });
    return Promise.resolve();
  });
});

Deno.test("a driver that runs out of memory is an error with the tensor's name", async () => {
  const failures: MicrogptError[] = [];
  const gpu = {
    limits: { maxBufferSize: 2 ** 30 },
    pushErrorScope() {},
    createBuffer: () => ({ destroy() {} }),
    popErrorScope: () => Promise.resolve({ message: "Not enough memory left." }),
  };
  const pool = new BufferPool(gpu as unknown as GPUDevice, (error) => failures.push(error));
  pool.allocate("key-value cache of layer 3", 5 * 2 ** 20, 0, "decoding");
  await Promise.resolve();
  await Promise.resolve();
  assert.equal(failures.length, 1);
  assert.match(failures[0]!.message, /"key-value cache of layer 3" \(5 MB; .*Not enough memory left/);
  assert.match(failures[0]!.hint!, /`numSamples`/);
});

Deno.test("no adapter is an error that says what to do", async () => {
  const isClear = (error: unknown) =>
    error instanceof MicrogptError && /no GPU/.test(error.message) && /`device` cpu/.test(error.hint!);
  for (const gpu of [undefined, { requestAdapter: () => Promise.resolve(null) }]) {
    await withNavigatorGpu(gpu, () => assert.rejects(openGpuDevice({ dtype: "f32" }), isClear));
  }
});

/** What a laptop with two GPUs answers: no list, one adapter for each preference. */
function twoAdapters(opened: string[]) {
  const adapter = (description: string) => ({
    info: { vendor: "v", device: "d", description, architecture: "", isFallbackAdapter: false },
    features: new Set(),
    limits: {},
    requestDevice: () => Promise.reject(new Error(opened.push(description).toString())),
  });
  const requestAdapter = ({ powerPreference, forceFallbackAdapter }: GPURequestAdapterOptions) =>
    Promise.resolve(forceFallbackAdapter ? null : adapter(powerPreference === "low-power" ? "slow" : "fast"));
  return { requestAdapter };
}

Deno.test("adapters are numbered as WebGPU tells them apart, and a number that is not there is told", async () => {
  for (const [number, name] of [[0, "fast"], [1, "slow"]] as const) {
    const opened: string[] = [];
    await withNavigatorGpu(twoAdapters(opened), async () => {
      await assert.rejects(openGpuDevice({ dtype: "f32", adapter: number }), /gives no device/);
    });
    assert.deepEqual(new Set(opened), new Set([name]));
  }
  await withNavigatorGpu(twoAdapters([]), async () => {
    await assert.rejects(
      openGpuDevice({ dtype: "f32", adapter: 2 }),
      (error: unknown) =>
        error instanceof MicrogptError &&
        error.message === "`adapter` 2 is not there: 0 is fast, 1 is slow" &&
        /Vulkan loader/.test(error.hint!),
    );
  });
});

Deno.test("f16 on an adapter without it is an error that says what to use", async () => {
  let destroyed = 0;
  const adapter = {
    features: new Set(),
    limits: {},
    info: { vendor: "test", architecture: "", device: "", description: "Test GPU", isFallbackAdapter: false },
    requestDevice: () => Promise.resolve({ destroy: () => destroyed++ }),
  };
  await withNavigatorGpu({ requestAdapter: () => Promise.resolve(adapter) }, async () => {
    await assert.rejects(openGpuDevice({ dtype: "f16" }), (error) => {
      assert(error instanceof MicrogptError && error.usage);
      assert.match(error.message, /Test GPU cannot compute in f16/);
      assert.match(error.hint!, /bf16/);
      return true;
    });
  });
  assert.equal(destroyed, 1);
});

gpuTest("a lost GPU is an error at the next call", async () => {
  const adapter = await openAdapter("f32", false);
  const device = new GpuDevice(adapter, "f32", false);
  const x = device.tensor("x", 1, 1);
  adapter.gpu.destroy();
  await adapter.gpu.lost;
  await Promise.resolve();
  const isLost = (error: unknown) => error instanceof MicrogptError && /was lost/.test(error.message);
  assert.throws(() => device.submit(), isLost);
  assert.throws(() => device.read(x), isLost);
});

gpuTest("a GPU lost while results are read is an error for who awaits them, and only there", async () => {
  const adapter = await openAdapter("f32", false);
  const device = new GpuDevice(adapter, "f32", false);
  const x = device.tensor("x", 1, 1);
  const early = device.read(x);
  adapter.gpu.destroy();
  const late = device.read(x);
  // Nobody awaits them yet: an unhandled rejection would end the program here.
  await new Promise((resolve) => setTimeout(resolve, 200));
  const results = await Promise.allSettled([early, late]);
  assert.equal(results[1].status, "rejected");
  for (const result of results) {
    if (result.status === "fulfilled") continue;
    assert(result.reason instanceof MicrogptError, String(result.reason));
    assert.match(result.reason.message, /was lost/);
  }
});

gpuTest("a software adapter carries a warning", async () => {
  await withGpu((d) => {
    assert.equal(d.warnings.length, d.description.software ? 1 : 0);
    if (d.description.software) assert.match(d.warnings[0]!, /software renderer: correct, but slower/);
    return Promise.resolve();
  });
});

gpuTest("the self-test finds a driver that computes nothing, or wrong", async () => {
  await withGpu(async (d) => {
    const broken = Object.create(d, { matmul: { value() {} } }) as GpuDevice;
    for (
      const name of [
        "tensor",
        "write",
        "read",
        "free",
        "createBatch",
        "loadBatch",
        "crossEntropy",
        "freeBatch",
      ] as const
    ) {
      Object.defineProperty(broken, name, { value: d[name].bind(d) });
    }
    await assert.rejects(selfTest(broken), (error) => {
      assert(error instanceof MicrogptError);
      assert.match(error.message, /computes wrong numbers: a matrix product on .* gave 0 instead of/);
      assert.match(error.hint!, /driver/);
      return true;
    });
  });
  const result = { what: "a softmax", expected: [0.5], actual: [NaN], tolerance: 1e-4 };
  assert.throws(() => checkSelfTest("Test GPU", result), /a softmax on Test GPU gave NaN instead of 0.5/);
});

gpuTest("a written tensor may not appear twice in a call", async () => {
  await withGpu((d) => {
    const x = d.tensor("twice", 4, 8);
    assert.throws(() => d.rmsNorm(x, x), /"twice" is written and used in another place/);
    d.free(x);
    assert.throws(() => d.rmsNorm(d.tensor("y", 4, 8), x), /"twice" was freed/);
    return Promise.resolve();
  });
});
