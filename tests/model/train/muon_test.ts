/** Muon: what its updates look like, and that a network learns by it on every device. */
import assert from "node:assert/strict";
import { normal } from "../../../device/random.ts";
import { ReferenceDevice } from "../../../device/reference_device.ts";
import type { TrainOptions } from "../../../model/train/options.ts";
import { train } from "../../../model/train/train.ts";
import { openTestGpu } from "../../device/test_gpu.ts";
import { join } from "node:path";
import { CONTROL, type Device } from "../../../device/device.ts";
import { openDevice } from "../../../model/devices.ts";
import { emptyState } from "../../../model/optimizer_state.ts";
import { layOut, type ParameterEntry } from "../../../model/parameters.ts";
import { muon } from "../../../model/train/muon.ts";
import { allocateOptimizer, bindUpdates, writeUpdateState } from "../../../model/train/optimizer.ts";

const LAYOUT = layOut([
  [{ name: "table", shape: [6, 4], role: "embedding" }],
  [{ name: "square", shape: [12, 12], role: "matrix" }, { name: "wide", shape: [8, 40], role: "matrix" }],
  [{ name: "tall", shape: [40, 8], role: "matrix" }, { name: "nearly", shape: [9, 12], role: "matrix" }],
  [{ name: "norm", shape: [4], role: "norm" }],
]);

const SIZE = { learningRate: 0.1, muonLearningRate: 1, weightDecay: 0, cautious: false };

/** Weights after one update by random gradients, from `start`. */
async function updated(
  size: Partial<typeof SIZE>,
  start = 0,
  gradientScale = 1,
  d: Device = new ReferenceDevice("f64"),
) {
  const memory = allocateOptimizer(d, muon, LAYOUT);
  const update = bindUpdates(d, muon, LAYOUT, memory);
  const params = new Float32Array(LAYOUT.length).fill(start);
  writeUpdateState(d, memory, { adamStep: 0, params, optimizer: emptyState(LAYOUT, "muon") });
  const gradients = new Float32Array(LAYOUT.length);
  for (const { offset, rows, cols } of LAYOUT.entries) {
    for (let i = offset; i < offset + rows * cols; i++) gradients[i] = gradientScale * normal(7, i);
  }
  d.write(memory.gradients, gradients);
  update(d.tensor("metrics", 1, 4), 0, 0, { ...SIZE, ...size });
  const control = await d.read(memory.control);
  return {
    params: await d.read(memory.params) as Float32Array,
    gradients,
    v: await d.read(memory.state.v),
    control,
  };
}

/** Singular values of a matrix: roots of the eigenvalues of its smaller Gram matrix, by Jacobi's rotations. */
function singularValues(flat: Float32Array, { offset, rows, cols }: ParameterEntry): number[] {
  const [n, length] = [Math.min(rows, cols), Math.max(rows, cols)];
  const at = (i: number, k: number) => flat[offset + (rows <= cols ? i * cols + k : k * cols + i)]!;
  const dot = (i: number, j: number) => {
    let sum = 0;
    for (let k = 0; k < length; k++) sum += at(i, k) * at(j, k);
    return sum;
  };
  const a = Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => dot(i, j)));
  for (let sweep = 0; sweep < 30; sweep++) {
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        const angle = Math.atan2(2 * a[p]![q]!, a[q]![q]! - a[p]![p]!) / 2;
        const [c, s] = [Math.cos(angle), Math.sin(angle)];
        for (let k = 0; k < n; k++) [a[k]![p], a[k]![q]] = rotated(a[k]![p]!, a[k]![q]!, c, s);
        for (let k = 0; k < n; k++) [a[p]![k], a[q]![k]] = rotated(a[p]![k]!, a[q]![k]!, c, s);
      }
    }
  }
  return a.map((row, i) => Math.sqrt(Math.max(0, row[i]!)));
}

const rotated = (
  x: number,
  y: number,
  c: number,
  s: number,
): [number, number] => [c * x - s * y, s * x + c * y];

Deno.test("the update of a matrix has singular values about 1, however large its gradients are", async () => {
  for (const gradientScale of [1e-4, 1, 100]) {
    const { params, control } = await updated({}, 0, gradientScale);
    assert.equal(control[CONTROL.adamStep], 1);
    for (const entry of LAYOUT.entries.filter(({ role }) => role === "matrix")) {
      const scale = Math.sqrt(Math.max(1, entry.rows / entry.cols));
      for (const value of singularValues(params, entry)) {
        assert(value > 0.5 * scale && value < 1.3 * scale, `${entry.name}: ${value / scale}`);
      }
    }
  }
});

Deno.test("matrices go against their gradients; embedding and norm are Adam's, at its rate", async () => {
  const { params, gradients, v } = await updated({});
  for (const { name, role, offset, rows, cols } of LAYOUT.entries) {
    const part = (flat: ArrayLike<number>) =>
      Array.from({ length: rows * cols }, (_, i) => flat[offset + i]!);
    const product = part(params).reduce((sum, value, i) => sum + value * gradients[offset + i]!, 0);
    assert(product < 0, name);
    if (role === "matrix") assert(part(v).every((value) => value === 0), name);
    else assert(part(params).every((value) => Math.abs(Math.abs(value) - 0.1) < 1e-6), name);
  }
});

Deno.test("weight decay is of matrices alone; a cautious one leaves what the update makes larger", async () => {
  const [none, full, cautious] = await Promise.all([
    updated({}, 0.5),
    updated({ weightDecay: 0.1 }, 0.5),
    updated({ weightDecay: 0.1, cautious: true }, 0.5),
  ]);
  for (const { name, role, offset, rows, cols } of LAYOUT.entries) {
    for (let i = offset; i < offset + rows * cols; i++) {
      const [plain, decayed, careful] = [none!, full!, cautious!].map(({ params }) => params[i]!);
      const lost = role === "matrix" ? 0.05 : 0;
      assert(Math.abs(plain! - decayed! - lost) < 1e-6, name);
      assert(Math.abs(plain! - careful! - (plain! < 0.5 ? lost : 0)) < 1e-6, name);
    }
  }
});

Deno.test("a gradient of zeros, or one that is not finite, is harmless", async () => {
  const zeros = await updated({}, 0.5, 0);
  const matrix = LAYOUT.byName.get("wide")!;
  assert.equal(zeros.params[matrix.offset], 0.5);
  const infinite = await updated({}, 0.5, Infinity);
  assert(infinite.control[CONTROL.gradientFactor]! < 0);
  assert(infinite.params.every((value) => value === 0.5));
});

Deno.test("on a CPU in bf16 the update of given gradients is that in f32, bit for bit", async () => {
  const [exact, rounding] = await Promise.all((["f32", "bf16"] as const).map(async (dtype) => {
    const device = await openDevice({ device: "cpu", dtype, threads: 1 });
    const { params } = await updated({}, 0, 1, device);
    device.destroy();
    return params;
  }));
  assert.deepEqual(rounding, exact);
});

const RUN: TrainOptions & { documents: string[] } = {
  documents: Array.from(
    { length: 60 },
    (_, i) => `name ${i * 7919 % 100} of ${i} is ann${"a".repeat(i % 5)}`,
  ),
  nEmbd: 16,
  nHead: 2,
  nLayer: 1,
  blockSize: 32,
  vocabSize: 300,
  batchSize: 4,
  steps: 12,
  evalEvery: 0,
  optimizer: "muon",
  schedule: "trapezoid",
  weightDecay: 0.1,
  cautiousDecay: true,
  maskTokens: 0.2,
  dropout: 0.1,
  zLoss: 1e-3,
  warmupSteps: 3,
};

/** Losses of the steps of a run, which stops after `stopAt`. */
async function losses(options: TrainOptions, stopAt?: number): Promise<number[]> {
  const stop = new AbortController();
  const found: number[] = [];
  for await (const event of train({ ...options, signal: stop.signal })) {
    if (event.type === "step") found.push(event.loss);
    if (event.type === "step" && event.step === stopAt) stop.abort();
  }
  return found;
}

Deno.test("a run with Muon, interrupted and resumed, has the same losses and the same files; a GPU has the same losses", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const [whole, broken] = [join(dir, "whole"), join(dir, "broken")];
    const expected = await losses({ ...RUN, device: "cpu", output: whole });
    const first = await losses({ ...RUN, device: "cpu", output: broken }, 5);
    assert(first.length < 12);
    const rest = await losses({ documents: RUN.documents, device: "cpu", resume: broken });
    assert.deepEqual([...first, ...rest], expected);
    for (const name of ["weights", "optimizer_m", "optimizer_v"]) {
      const [a, b] = [whole, broken].map((path) => Deno.readFileSync(join(path, `${name}.safetensors`)));
      assert.deepEqual(a, b, name);
    }
    const gpu = await openTestGpu({ dtype: "f32" });
    if (gpu === undefined) return;
    gpu.destroy();
    const there = await losses({ ...RUN, device: "webgpu", output: join(dir, "webgpu") });
    there.forEach((loss, i) =>
      assert(Math.abs(loss - expected[i]!) < 1e-3, `step ${i + 1}: ${loss} ${expected[i]}`)
    );
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
