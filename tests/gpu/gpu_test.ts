/** What only the WebGPU device has: dtypes, subgroups, tiles for real hardware, reading back, memory. */
import assert from "node:assert/strict";
import { openAdapter } from "../../gpu/adapter.ts";
import type { GpuTensor } from "../../gpu/buffers.ts";
import { type GpuDevice, openGpuDevice } from "../../gpu/device.ts";
import { matmul } from "../../gpu/matmul.ts";
import { cut, TILES } from "../../gpu/tiles.ts";
import { fromHalves, toHalves } from "../../gpu/number_formats.ts";
import type { Device, Dtype, ElementType, MatmulForm, Tensor } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import { gptNetwork } from "../../model/gpt.ts";
import { flatTensor } from "../../model/parameters.ts";
import { mixSeed, uniform } from "../../device/random.ts";
import { PLAIN_SAMPLING, SAMPLING_COLUMNS, samplingRow } from "../../device/sampling.ts";
import { ReferenceDevice } from "../../device/reference_device.ts";
import { assertClose } from "../device/assert_close.ts";
import { gaussian, randomDocuments } from "../device/case_data.ts";
import { DEVICE_CASES } from "../device/device_cases.ts";
import { gpuTest } from "../device/test_gpu.ts";

const shared = new Map<string, GpuDevice>();

/** Runs `use` on a device that tests share: opening one compiles kernels. */
async function withGpu(dtype: Dtype, use: (d: GpuDevice) => Promise<void>, subgroups: "on" | "off" = "off") {
  const key = `${dtype} ${subgroups}`;
  const device = shared.get(key) ?? await openGpuDevice({ dtype, subgroups });
  shared.set(key, device);
  await use(device);
}

/** The f64 reference, given the numbers that a device of a 16-bit dtype is given: all that differs then is rounding inside. */
class RoundedReference extends ReferenceDevice {
  constructor(readonly rounding: Dtype) {
    super("f64");
  }
  override write(tensor: Tensor, data: Float32Array | Uint32Array, offset = 0): void {
    const { rounding } = this;
    if (tensor.type !== "work" || rounding === "f32") return super.write(tensor, data, offset);
    const halves = toHalves(data as Float32Array, rounding);
    super.write(tensor, fromHalves(halves, data.length, rounding), offset);
  }
}

/**
 * Largest error of a 16-bit device against the f64 reference. `kernel`: |difference| / (1 + |expected|) of each element; a result
 * rounded once is off by 2⁻⁹ (bf16) or 2⁻¹² (f16), and attention's gradient is made of three such results. `model`: ‖difference‖ / ‖expected‖
 * of a two-layer model, which rounds some twenty times; single gradients behind a relu that switches may differ more.
 */
const TOLERANCE: Record<"bf16" | "f16", { kernel: number; model: number }> = {
  bf16: { kernel: 1.6e-2, model: 3e-2 },
  f16: { kernel: 2e-3, model: 4e-3 },
};

/** Cases whose working tensors have rows, or heads, of an odd number of elements: bf16 cannot hold them. */
const ODD_FOR_BF16 =
  /\[33, 12\] over 97|\[1, 97\]|\[1, 1\]|\[5, 1\]|\[7, 97\]|E = 5|E = 12, 4 heads|of (3|6|17)\b/;
/**
 * Of each kernel a case whose rows are read by vectors; for bf16, where scalars share words, the others too. A product of
 * normalized rows is two kernels then, each tested.
 */
const SIXTEEN_BIT_CASES = {
  f16:
    /embed.*E = 64.*33|rmsNorm.*\[7, 64\]|matmul.*\[24, 64\]|attention.*E = 64.*130|attentionCached.*64|copy|forwardBackward|decoding|lookup.*64|scaledRmsNorm.*\[7|rope.*64|swiglu.*600|dropout.*384|grouped.*of 16(, documents of 130|$)/,
  bf16:
    /embed.*33|lookup|scaledRmsNorm|rope|swiglu|dropout|rmsNorm(?!Matmul)|matmul.*(over 12,|over 64|over 97)|attention.*(33|130)|attentionCached|copy|forwardBackward|decoding/,
};

function assertNear(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
  what: string,
): void {
  let [squares, total] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    squares += (actual[i]! - expected[i]!) ** 2;
    total += expected[i]! ** 2;
  }
  const error = Math.sqrt(squares / total);
  assert(error <= tolerance, `${what}: relative error ${error}, ${tolerance} allowed`);
}

for (const dtype of ["bf16", "f16"] as const) {
  gpuTest(`kernels in ${dtype}`, async (t) => {
    await withGpu(dtype, async (d) => {
      for (const { name, run } of DEVICE_CASES.filter(({ name }) => SIXTEEN_BIT_CASES[dtype].test(name))) {
        await t.step(name, async () => {
          const expected = await run(new RoundedReference(dtype));
          let actual;
          try {
            actual = await run(d);
          } catch (error) {
            assert(
              error instanceof MicrogptError && /packs two in a word/.test(error.message),
              String(error),
            );
            assert(dtype === "bf16" && ODD_FOR_BF16.test(name), error.message);
            return;
          }
          const [near, tolerance] = /forwardBackward|decoding/.test(name)
            ? [assertNear, TOLERANCE[dtype].model]
            : [assertClose, TOLERANCE[dtype].kernel];
          for (const key of Object.keys(expected)) near(actual[key]!, expected[key]!, tolerance, key);
        });
      }
    });
  });
}

for (const subgroups of ["on", "off"] as const) {
  gpuTest(`reductions with subgroups ${subgroups}`, async (t) => {
    const { gpu, description } = await openAdapter("f32", true);
    gpu.destroy();
    if (subgroups === "on" && !description.features.includes("subgroups")) {
      console.error(`skipped: ${description.name} has no subgroups`);
      return;
    }
    await withGpu("f32", async (d) => {
      assert.equal(d.subgroups, subgroups === "on");
      const reductions = /embed|rmsNorm|crossEntropy|gradNorm|attentionCached|sample/;
      for (const { name, tolerance, run } of DEVICE_CASES.filter(({ name }) => reductions.test(name))) {
        await t.step(name, async () => {
          const [expected, actual] = [await run(new ReferenceDevice("f64")), await run(d)];
          for (const key of Object.keys(expected)) assertClose(actual[key]!, expected[key]!, tolerance, key);
        });
      }
    }, subgroups);
  });
}

function filled(d: Device, rows: number, cols: number, seed: number, type: ElementType = "f32"): Tensor {
  const tensor = d.tensor(`test ${seed}`, rows, cols, type);
  d.write(tensor, gaussian(rows * cols, seed));
  return tensor;
}

/** Three products with all that can be fused to them, and what they leave. */
async function fusedProducts(
  d: Device,
  form: MatmulForm,
  [M, N, K]: [number, number, number],
  multiply: typeof d.matmul,
): Promise<Float32Array[]> {
  const a = form === "TN" ? filled(d, K, M, 1, "work") : filled(d, M, K, 1, "work");
  const b = form === "NT" ? filled(d, N, K, 2, "work") : filled(d, K, N, 2, "work");
  const [out, other, mask] = [filled(d, M, N, 3), filled(d, M, N, 4), filled(d, M, N, 5, "work")];
  const results: Float32Array[] = [];
  for (const fusion of [{ add: out, relu: true }, { add: other }, { reluMask: mask }]) {
    multiply(out, a, b, form, fusion);
    results.push(await d.read(out) as Float32Array);
  }
  for (const tensor of [a, b, out, other, mask]) d.free(tensor);
  return results;
}

gpuTest("matrix products with every tile, whole and in parts", async (t) => {
  // Edges of all tiles; K a multiple of its step of 16, and not.
  const cases: [Dtype, [number, number, number]][] = [
    ["f32", [133, 141, 112]],
    ["f32", [140, 132, 301]],
    ["bf16", [140, 132, 112]],
  ];
  for (const [dtype, shape] of cases) {
    await withGpu(dtype, async (d) => {
      const reference = new RoundedReference(dtype);
      for (const form of ["NT", "NN", "TN"] as const) {
        const expected = await fusedProducts(reference, form, shape, (...args) => reference.matmul(...args));
        for (const tile of TILES) {
          for (const parts of [1, 3]) {
            await t.step(`${form} ${shape} in ${dtype}: tile ${tile.name}, ${parts} parts`, async () => {
              const plan = cut(tile, parts, ...shape);
              const actual = await fusedProducts(d, form, shape, (...args) => {
                const [out, a, b] = args.slice(0, 3) as GpuTensor[] as [GpuTensor, GpuTensor, GpuTensor];
                matmul(d, out, a, b, args[3], args[4], plan);
              });
              actual.forEach((values, i) => assertClose(values, expected[i]!, 1e-4, `product ${i}`));
            });
          }
        }
      }
    });
  }
});

gpuTest("attention with wide heads, in training and decoding", async (t) => {
  await withGpu("f32", async (d) => {
    for (const [E, H] of [[96, 2], [64, 1], [128, 1]] as const) {
      await t.step(`heads of ${E / H}`, async () => {
        const attend = async (device: Device) => {
          const documents = randomDocuments([70, 3], 97, 1);
          const T = documents.tokens.length;
          const batch = device.createBatch(T, 2);
          device.loadBatch(batch, documents);
          const qkv = filled(device, T, 3 * E, 1);
          const [out, lse, dQkv] = [E, H, 3 * E].map((cols) => device.tensor("out", T, cols));
          device.attention(out!, lse!, qkv, batch, H);
          device.attentionBackward(dQkv!, filled(device, T, E, 2), out!, lse!, qkv, batch, H);
          const column = (...values: number[]) => {
            const tensor = device.tensor("rows", values.length, 1, "u32");
            device.write(tensor, Uint32Array.from(values));
            return tensor;
          };
          const rows = { tokens: column(0, 0), positions: column(149, 2), sequences: column(1, 0) };
          const cached = device.tensor("cached", 2, E);
          device.attentionCached(
            cached,
            filled(device, 2, 3 * E, 3),
            filled(device, 300, 2 * E, 4),
            rows,
            150,
            H,
          );
          return await Promise.all([out!, dQkv!, cached].map((tensor) => device.read(tensor)));
        };
        const [actual, expected] = [await attend(d), await attend(new ReferenceDevice("f64"))];
        for (let i = 0; i < 3; i++) {
          assertClose(actual[i]!, expected[i]!, 5e-5, ["out", "dQkv", "cached"][i]!);
        }
      });
    }
    const [wide, lse, qkv] = [132, 1, 396].map((cols) => d.tensor("wide", 1, cols));
    const batch = d.createBatch(1, 1);
    assert.throws(() => d.attention(wide!, lse!, qkv!, batch, 1), /a head of 132 numbers is too wide/);
  });
});

gpuTest("reads see their point of the queue, several in flight", async () => {
  await withGpu("f32", async (d) => {
    const x = d.tensor("x", 1, 8);
    const doubled = d.tensor("doubled", 1, 8);
    const two = d.tensor("two", 8, 8);
    d.write(two, Float32Array.from({ length: 64 }, (_, i) => i % 9 === 0 ? 2 : 0));
    const reads: Promise<ArrayLike<number>>[] = [];
    for (let i = 1; i <= 5; i++) {
      d.write(x, new Float32Array(8).fill(i));
      d.matmul(doubled, x, two, "NT");
      // This write comes after the product in the queue and must not reach it.
      d.write(x, new Float32Array(8).fill(-1));
      reads.push(d.read(doubled), d.read(x));
    }
    const results = (await Promise.all(reads)).map((values) => values[7]);
    assert.deepEqual(results, [2, -1, 4, -1, 6, -1, 8, -1, 10, -1]);
    d.zero(x);
    assert.deepEqual([...await d.read(x)], new Array(8).fill(0));
  });
});

/** A model small enough for thousands of steps, and one step of it. */
function tinyTraining(d: Device) {
  const config = { vocab_size: 32, n_embd: 16, n_head: 2, n_layer: 1, block_size: 64 };
  const network = gptNetwork(config);
  const { layout } = network;
  const initial = network.initialParameters(1);
  const params = flatTensor(d, "params", layout, "f32");
  d.write(params, initial);
  const work = d.dtype === "f32" ? params : flatTensor(d, "work", layout, "work");
  if (work !== params) d.write(work, initial);
  const [gradients, m, v] = ["gradients", "m", "v"].map((label) => flatTensor(d, label, layout, "f32")) as [
    Tensor,
    Tensor,
    Tensor,
  ];
  const [weights, g] = [network.views(d, work), network.views(d, gradients)];
  const control = d.tensor("control", 1, 4);
  d.write(control, new Float32Array([0, 1, 0, 0]));
  const metrics = d.tensor("metrics", 16, 4);
  const activations = network.allocateActivations(d, 80);
  const batch = d.createBatch(80, 4);
  const hyper = {
    learningRate: 0.01,
    beta1: 0.85,
    beta2: 0.99,
    epsilon: 1e-8,
    weightDecay: 0,
  };
  const state = { params, work, gradients, m, v, control };
  const step = (s: number) => {
    const documents = randomDocuments([3 + s % 7, 1 + s % 60], config.vocab_size, s % 5);
    d.loadBatch(batch, documents);
    const scale = 1 / documents.tokens.length;
    network.forwardBackward(d, weights, g, activations, batch, scale, control, false);
    d.sumLoss(metrics, s % 16, activations.losses, false);
    d.gradNorm(metrics, s % 16, gradients, control);
    d.decideStep(metrics, s % 16, control, 1);
    d.adam(state, hyper);
    d.submit();
  };
  return { step, metrics, state };
}

gpuTest("training allocates nothing after its first steps, and destroy gives all back", async () => {
  const d = await openGpuDevice({ dtype: "f32", subgroups: "off" });
  const { step, metrics } = tinyTraining(d);
  const sizes: [number, number][] = [];
  for (let s = 0; s < 320; s++) {
    step(s);
    if (s % 64 === 63) {
      const ring = await d.read(metrics);
      assert.equal(ring[2], 1, "a step was not applied");
      sizes.push([d.bufferCount, d.allocatedBytes]);
    }
  }
  assert.deepEqual(sizes.slice(1), new Array(4).fill(sizes[0]));
  const before = d.bufferCount;
  const extra = d.tensor("extra", 10, 10);
  assert.equal(d.bufferCount, before + 1);
  d.free(extra);
  assert.equal(d.bufferCount, before);
  d.destroy();
  assert.deepEqual([d.bufferCount, d.allocatedBytes], [0, 0]);
  assert.throws(() => d.tensor("late", 1, 1), /the device is closed/);
});

gpuTest("training twice gives the same bits", async () => {
  const runs: ArrayLike<number>[] = [];
  for (let i = 0; i < 2; i++) {
    await withGpu("bf16", async (d) => {
      const { step, state } = tinyTraining(d);
      for (let s = 0; s < 20; s++) step(s);
      runs.push(await d.read(state.params));
    });
  }
  assert.deepEqual(runs[0], runs[1]);
});

gpuTest(
  "the loss scale of f16 halves on a gradient that is not finite and doubles after 2000 steps",
  async () => {
    await withGpu("f16", async (d) => {
      const { state, metrics } = tinyTraining(d);
      const hyper = {
        learningRate: 0.01,
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-8,
        weightDecay: 0,
      };
      const update = async (control: number[], gradient: number) => {
        d.write(state.control, new Float32Array(control));
        d.write(state.gradients, new Float32Array([gradient, 0]));
        const before = (await d.read(state.params))[0];
        d.gradNorm(metrics, 0, state.gradients, state.control);
        d.decideStep(metrics, 0, state.control, 0);
        d.adam(state, hyper);
        const after = [...await d.read(state.control)].slice(0, 3);
        return { after, moved: (await d.read(state.params))[0] !== before, norm: (await d.read(metrics))[1] };
      };
      assert.deepEqual(await update([5, 1024, 7, 0], 4096), { after: [6, 1024, 8], moved: true, norm: 4 });
      assert.deepEqual(await update([5, 1024, 7, 0], Infinity), {
        after: [5, 512, 0],
        moved: false,
        norm: Infinity,
      });
      assert.deepEqual((await update([5, 1024, 1999, 0], 4096)).after, [6, 2048, 0]);
      assert.deepEqual((await update([5, 1, 3, 0], Infinity)).after, [5, 1, 0]);
    });
  },
);

/** Counters whose uniform numbers of this mixed seed are next to 1. */
function countersNearOne(seed: number, count: number): number[] {
  const found: number[] = [];
  for (let counter = 0; found.length < count; counter++) {
    if (uniform(seed, counter) > 1 - 2 ** -23) found.push(counter);
  }
  return found;
}

gpuTest("a draw at the very end of the cumulative mass takes the last id that has any", async () => {
  // Behind the last id the scan's places should all be the total, but are rounded each in its own way.
  const V = 320;
  const seed = mixSeed(9);
  const positions = countersNearOne(seed, 2);
  for (const subgroups of ["on", "off"] as const) {
    await withGpu("f32", async (d) => {
      const tensor = (label: string, rows: number, cols: number, type: "f32" | "u32") =>
        d.tensor(label, rows, cols, type);
      const N = 100 * positions.length;
      const last = Array.from({ length: N }, (_, row) => 150 + row % 160);
      const logits = gaussian(N * V, 4).map((x, i) =>
        i % V === 0 ? 5 : i % V > last[Math.floor(i / V)]! ? -Infinity : x
      );
      const rows = {
        tokens: tensor("tokens", N, 1, "u32"),
        positions: tensor("positions", N, 1, "u32"),
        sequences: tensor("sequences", N, 1, "u32"),
      };
      const [x, output] = [tensor("logits", N, V, "f32"), tensor("output", 1, N, "u32")];
      const draws = {
        seeds: tensor("seeds", 1, 1, "u32"),
        settings: tensor("settings", 1, SAMPLING_COLUMNS, "f32"),
        said: tensor("said", 1, 1, "u32"),
      };
      d.write(x, logits);
      d.write(draws.seeds, Uint32Array.of(seed));
      d.write(draws.settings, samplingRow(PLAIN_SAMPLING));
      d.write(rows.positions, Uint32Array.from(last, (_, row) => positions[row % positions.length]!));
      d.sample(rows, x, output, 0, draws);
      assert.deepEqual([...await d.read(output)], last);
    }, subgroups);
    const { gpu, description } = await openAdapter("f32", true);
    gpu.destroy();
    if (!description.features.includes("subgroups")) return;
  }
});

gpuTest("the devices that these tests shared end", () => {
  for (const device of shared.values()) device.destroy();
  return Promise.resolve();
});
