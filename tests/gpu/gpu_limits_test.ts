/** What the WebGPU device does at the limits of a GPU: more workgroups than a dimension holds, more bytes than a kernel may see. */
import assert from "node:assert/strict";
import { openAdapter } from "../../gpu/adapter.ts";
import { bindingBytes, type GpuTensor } from "../../gpu/buffers.ts";
import { GpuDevice, openGpuDevice } from "../../gpu/device.ts";
import { MAX_WORKGROUPS } from "../../gpu/kernel_runner.ts";
import { matmul, stretches } from "../../gpu/matmul.ts";
import { subgroupsWork } from "../../gpu/subgroups.ts";
import { cut, TILES } from "../../gpu/tiles.ts";
import type { MatmulForm, Tensor } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import { ReferenceDevice } from "../../device/reference_device.ts";
import { assertClose } from "../device/assert_close.ts";
import { DEVICE_CASES } from "../device/device_cases.ts";
import { forceLeastLimits, LEAST_LIMITS } from "../device/least_limits.ts";
import { gpuTest } from "../device/test_gpu.ts";

async function withGpu(use: (d: GpuDevice) => Promise<void>): Promise<void> {
  const device = await openGpuDevice({ dtype: "f32", subgroups: "off" });
  try {
    await use(device);
  } finally {
    device.destroy();
  }
}

/** Kernels whose workgroups are counted over x and y, and over x and z. */
const OVER_Y =
  /^(embed|lookup|rmsNorm|scaledRmsNorm (?!weight)|rope|swiglu|dropout|crossEntropy|sample|matvec|split_k|adam (true|false))/;
const OVER_Z = /^attention/;
/** Of each such kernel a case or two, with more workgroups than a row of the grid has below. */
const CASES =
  /embed.*E = 12.*33|rmsNorm.*\[130|attention.*E = 12, 4.*,60,|crossEntropy.*\[33|sample from (97|NaN).*0\.5|rmsNormMatmul \[[27]|attentionCached.*64|decoding|lookup.*33|scaledRmsNorm.*\[130|rope.*17|swiglu.*\[130|dropout.*\[130|grouped attention and.*6 heads.*2,33/;

gpuTest("rows that do not fit into one dimension of a call go on in another", async (t) => {
  await withGpu(async (d) => {
    const run = d.runner.run.bind(d.runner);
    const folded = new Set<string>();
    d.runner.run = (key, specify, tensors, params, x, y = 1, z = 1) => {
      const [width, rest] = [Math.min(x, 3), Math.ceil(x / 3)]; // as if a dimension held three
      if (x > 3 && OVER_Y.test(key)) [x, y] = [width, rest];
      else if (x > 3 && OVER_Z.test(key)) [x, z] = [width, rest];
      if (rest > 1) folded.add(key.split(" ")[0]!);
      run(key, specify, tensors, params, x, y, z);
    };
    for (const { name, tolerance, run } of DEVICE_CASES.filter(({ name }) => CASES.test(name))) {
      await t.step(name, async () => {
        const [expected, actual] = [await run(new ReferenceDevice("f64")), await run(d)];
        for (const key of Object.keys(expected)) assertClose(actual[key]!, expected[key]!, tolerance, key);
      });
    }
    for (
      const kernel of [
        "embed",
        "lookup",
        "rmsNorm",
        "scaledRmsNorm",
        "rope",
        "swiglu",
        "dropout",
        "attention",
        "crossEntropy",
        "sample",
        "matvec",
      ]
    ) {
      assert(folded.has(kernel), kernel);
    }
  });
});

gpuTest("kernels pass with WebGPU's least limits", async (t) => {
  const end = forceLeastLimits();
  const opened = await openAdapter("f32", false).finally(end);
  for (const [name, least] of Object.entries(LEAST_LIMITS)) {
    assert.equal(Reflect.get(opened.gpu.limits, name), least, name);
  }
  const d = new GpuDevice(opened, "f32", false);
  for (const { name, tolerance, run } of DEVICE_CASES.filter(({ name }) => CASES.test(name))) {
    await t.step(name, async () => {
      const [expected, actual] = [await run(new ReferenceDevice("f64")), await run(d)];
      for (const key of Object.keys(expected)) assertClose(actual[key]!, expected[key]!, tolerance, key);
    });
  }
  d.destroy();
});

Deno.test("tiles along a dimension are as many calls as it takes", () => {
  assert.deepEqual(stretches(1), [[0, 1]]);
  assert.deepEqual(stretches(MAX_WORKGROUPS), [[0, 65535]]);
  assert.deepEqual(stretches(131_071), [[0, 65535], [65535, 65535], [131_070, 1]]);
});

/** out [M, N] over K, cut into parts; 0 leaves the kernel and the cut to the device. */
interface LongProduct {
  name: string;
  form: MatmulForm;
  M: number;
  N: number;
  K: number;
  parts: number;
}

/** Numbers from −5 to 5, made faster than random ones. */
function cheapNumbers(length: number, salt: number): Float32Array {
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) values[i] = (i * 37 + salt) % 101 / 10 - 5;
  return values;
}

const LONG: LongProduct[] = [
  { name: "few rows with a vocabulary of 524,293", form: "NT", M: 1, N: 8 * 65535 + 13, K: 4, parts: 0 },
  { name: "65,540 tiles side by side", form: "NN", M: 1, N: 32 * 65540 - 3, K: 1, parts: 1 },
  { name: "65,600 rows in two parts", form: "TN", M: 65600, N: 4, K: 32, parts: 2 },
];

gpuTest("products of more workgroups than a dimension holds", async (t) => {
  await withGpu(async (d) => {
    for (const { name, form, M, N, K, parts } of LONG) {
      await t.step(name, async () => {
        const [aShape, bShape] = [form === "TN" ? [K, M] : [M, K], form === "NT" ? [N, K] : [K, N]];
        const values = [aShape, bShape].map(([rows, cols], i) => cheapNumbers(rows! * cols!, i + 1));
        const [a, b] = [d.tensor("a", aShape[0]!, aShape[1]!), d.tensor("b", bShape[0]!, bShape[1]!)];
        d.write(a, values[0]!);
        d.write(b, values[1]!);
        const out = d.tensor("out", M, N);
        const small = TILES.find(({ bm, bn }) => bm === 32 && bn === 32)!;
        const plan = parts === 0 ? undefined : cut(small, parts, M, N, K);
        matmul(d, ...[out, a, b] as Tensor[] as [GpuTensor, GpuTensor, GpuTensor], form, {}, plan);
        const actual = await d.read(out);
        for (let i = 0; i < M * N; i += 997) check(i);
        for (let i = Math.max(0, M * N - 100); i < M * N; i++) check(i);
        for (const tensor of [a, b, out]) d.free(tensor);

        function check(i: number): void {
          const [m, n] = [Math.floor(i / N), i % N];
          let expected = 0;
          for (let k = 0; k < K; k++) {
            expected += values[0]![form === "TN" ? k * M + m : m * K + k]! *
              values[1]![form === "NT" ? n * K + k : k * N + n]!;
          }
          assert(Math.abs(actual[i]! - expected) < 1e-3, `${i}: ${actual[i]}, expected ${expected}`);
        }
      });
    }
  });
});

gpuTest("more workgroups than a call may have are refused before the driver sees them", async () => {
  await withGpu((d) => {
    const specify = () => ({ source: "", constants: {}, params: {}, bindings: {} });
    assert.throws(
      () => d.runner.run("too wide", specify, [], [], 65536),
      /too wide: 65536 × 1 × 1 workgroups/,
    );
    return Promise.resolve();
  });
});

Deno.test("a binding ends where a quad does, and within what a u32 counts", () => {
  const of = (limit: number) =>
    bindingBytes({ limits: { maxStorageBufferBindingSize: limit } as GPUSupportedLimits });
  assert.equal(of(2 ** 27), 2 ** 27);
  assert.equal(of(2 ** 31 - 1), 2 ** 31 - 256); // what Vulkan drivers are granted
  assert.equal(of(2 ** 40), 2 ** 32 - 256);
});

gpuTest("a matrix that is larger than a kernel may see is an error that names it", async () => {
  const opened = await openAdapter("f32", false);
  opened.gpu.destroy();
  const adapter = await navigator.gpu.requestAdapter();
  const gpu = await adapter!.requestDevice({ requiredLimits: { maxStorageBufferBindingSize: 1 << 20 } });
  const { maxStorageBufferBindingSize: most } = gpu.limits;
  const d = new GpuDevice({ ...opened, gpu }, "f32", false);
  const rows = most / 4096 + 1;
  const [x, out] = [d.tensor("activations x", rows, 1024), d.tensor("activations out", rows, 1024)];
  assert.throws(() => d.rmsNorm(out, x), (error) => {
    assert(error instanceof MicrogptError);
    assert.match(error.message, /"activations x" takes \d+ MB, a kernel of this GPU can use \d+ MB at once/);
    assert.match(error.hint!, /`batchSize`/);
    return true;
  });
  x.rows = out.rows = rows - 1; // what is in use fits
  d.rmsNorm(out, x);
  d.destroy();
});

gpuTest("whether subgroups are used does not depend on time", async () => {
  const opened = await openAdapter("f32", true);
  const clock = performance.now;
  performance.now = () => {
    throw new Error("looked at the clock");
  };
  try {
    if (opened.description.features.includes("subgroups")) assert.equal(await subgroupsWork(opened), true);
  } finally {
    performance.now = clock;
    opened.gpu.destroy();
  }
});

gpuTest("a GPU that is lost while it is probed is an error", async () => {
  const opened = await openAdapter("f32", true);
  opened.gpu.destroy();
  await assert.rejects(subgroupsWork(opened));
});
