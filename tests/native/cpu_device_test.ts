/** What only the CPU device promises: its errors, its checks, and the same bits on every run. */
import assert from "node:assert/strict";
import { MicrogptError } from "../../device/errors.ts";
import { gptNetwork } from "../../model/gpt.ts";
import { flatTensor } from "../../model/parameters.ts";
import { openCpuDevice } from "../../native/device.ts";
import { gaussian, randomDocuments } from "../device/case_data.ts";

Deno.test("the CPU device names the processor and its threads", () => {
  const device = openCpuDevice({ threads: 3 });
  assert.match(device.name, /^\S.*, 3 threads$/);
  device.destroy();
});

Deno.test("the CPU device refuses other types", () => {
  assert.throws(() => openCpuDevice({ dtype: "f16" }), {
    name: "MicrogptError",
    message: /f32 or bf16, not in f16/,
  });
});

Deno.test("memory that is not there is an error that names the tensor", () => {
  const device = openCpuDevice({ threads: 1 });
  for (const [rows, cols] of [[2 ** 20, 2 ** 30], [2 ** 40, 2 ** 40]] as const) {
    assert.throws(() => device.tensor("activations fc1", rows, cols), (error) => {
      assert(error instanceof MicrogptError);
      assert.match(error.message, /not enough memory for activations fc1: [\d,]+ MB/);
      assert.match(error.hint!, /`batchSize`/);
      return true;
    });
  }
  device.destroy();
});

Deno.test("wrong shapes, ranges and overlaps are refused before anything is written", async () => {
  const device = openCpuDevice({ threads: 1 });
  const a = device.tensor("a", 4, 8);
  device.write(a, gaussian(32, 1));
  const before = await device.read(a);
  assert.throws(() => device.rmsNorm(device.tensor("out", 4, 7), a), RangeError);
  assert.throws(() => device.view(a, 1, 4, 8), RangeError);
  assert.throws(() => device.write(a, new Float32Array(33)), RangeError);
  assert.throws(() => device.write(a, new Uint32Array(1)), TypeError);
  assert.throws(() => device.rmsNorm(a, a), /overlap/);
  const batch = device.createBatch(10, 2);
  assert.throws(() => device.loadBatch(batch, randomDocuments([11], 97, 1)), RangeError);
  device.loadBatch(batch, randomDocuments([10], 97, 1));
  const [wte, wpe] = [device.tensor("wte", 5, 8), device.tensor("wpe", 10, 8)];
  assert.throws(() => device.embed(device.tensor("x", 10, 8), batch, wte, wpe), /not in a vocabulary of 5/);
  assert.deepEqual(await device.read(a), before);
  device.free(a);
  assert.throws(() => device.zero(a), /no tensor/);
  device.destroy();
  assert.throws(() => device.tensor("b", 1, 1), /closed/);
});

/** Gradients of one step of a model that is large enough for several threads. */
async function gradients(threads: number, dtype: "f32" | "bf16" = "f32"): Promise<Float32Array> {
  const device = openCpuDevice({ threads, dtype });
  const config = { vocab_size: 300, n_embd: 64, n_head: 4, n_layer: 2, block_size: 128 };
  const network = gptNetwork(config);
  const { layout } = network;
  const params = flatTensor(device, "weights", layout, "work");
  device.write(params, network.initialParameters(7));
  const flat = flatTensor(device, "gradients", layout, "f32");
  const batch = device.createBatch(400, 5);
  device.loadBatch(batch, randomDocuments([128, 90, 77, 1, 104], 300, 3));
  const control = device.tensor("control", 1, 4);
  device.write(control, new Float32Array([0, 1, 0, 0]));
  const activations = network.allocateActivations(device, 400);
  const views = [params, flat].map((tensor) => network.views(device, tensor));
  // twice: the second step finds the embedding's gradient zeroed but for the rows of the first
  for (let step = 0; step < 2; step++) {
    network.forwardBackward(device, views[0]!, views[1]!, activations, batch, 1 / 400, control, false);
  }
  const result = await device.read(flat) as Float32Array;
  device.destroy();
  return result;
}

Deno.test("a step leaves the same bits on every run", async () => {
  const expected = await gradients(2);
  assert(expected.some((value) => value !== 0));
  for (let run = 0; run < 5; run++) assert.deepEqual(await gradients(2), expected);
});

Deno.test("in bf16 the number of threads changes no bit of a step, and f32 has others", async () => {
  const expected = await gradients(1, "bf16");
  for (const threads of [2, 3]) assert.deepEqual(await gradients(threads, "bf16"), expected);
  const exact = await gradients(2);
  const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  const apart = norm(expected.map((value, i) => value - exact[i]!)) / norm(exact);
  assert(apart > 1e-4 && apart < 0.02, `${apart} of the gradient`);
});

Deno.test("in bf16 operands are rounded to nearest even and summed in f32, beginning with what is added", async () => {
  const device = openCpuDevice({ threads: 1, dtype: "bf16" });
  const [a, b, out] = [device.tensor("a", 1, 3), device.tensor("b", 1, 3), device.tensor("out", 1, 1)];
  // 1 + 2⁻⁸ is a tie and becomes 1, 1 + 3 · 2⁻⁸ becomes 1 + 2⁻⁶
  device.write(a, new Float32Array([1 + 2 ** -8, 1 + 2 ** -8, 1 + 3 * 2 ** -8]));
  device.write(b, new Float32Array([1, 1, 1]));
  device.write(out, new Float32Array([5]));
  device.matmul(out, a, b, "NT", { add: out });
  assert.equal((await device.read(out))[0], 8 + 2 ** -6);
  device.matmul(out, a, b, "NT", { exact: true });
  assert.equal((await device.read(out))[0], 3 + 5 * 2 ** -8);
  device.destroy();
});

Deno.test("gradients that are cleared page by page are those of a full clear", async () => {
  const device = openCpuDevice({ threads: 2 });
  const [V, E] = [4096, 64];
  const [wte, wpe] = [device.tensor("wte", V, E), device.tensor("wpe", 64, E)];
  device.write(wte, gaussian(V * E, 1));
  device.write(wpe, gaussian(64 * E, 2));
  const tracked = device.tensor("gradients", 1, V * E + 64 * E);
  const [dWte, dWpe] = [device.view(tracked, 0, V, E), device.view(tracked, V * E, 64, E)];
  const batch = device.createBatch(64, 4);
  for (const [seed, lengths] of [[1, [3, 20]], [2, [41, 1, 7]], [3, [5]]] as const) {
    const documents = randomDocuments([...lengths], V, seed);
    device.loadBatch(batch, documents);
    const T = documents.tokens.length;
    const dx = device.tensor("dx", T, E);
    device.write(dx, gaussian(T * E, 3 + seed));
    device.zero(dWte);
    device.zero(dWpe);
    device.embedBackward(dWte, dWpe, dx, batch, wte, wpe);
    const fresh = device.tensor("fresh", 1, V * E + 64 * E);
    device.embedBackward(
      device.view(fresh, 0, V, E),
      device.view(fresh, V * E, 64, E),
      dx,
      batch,
      wte,
      wpe,
    );
    assert.deepEqual(await device.read(tracked), await device.read(fresh));
    const [metrics, control] = [device.tensor("metrics", 2, 4), device.tensor("control", 1, 4)];
    device.write(control, new Float32Array([0, 1, 0, 0]));
    device.gradNorm(metrics, 0, tracked, control);
    device.gradNorm(metrics, 1, fresh, control);
    const norms = await device.read(metrics);
    assert.equal(norms[1], norms[5]);
  }
  device.destroy();
});
