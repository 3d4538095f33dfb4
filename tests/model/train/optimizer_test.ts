/** The end of a training step: who decides, what an update changes, what is kept beside the weights. */
import assert from "node:assert/strict";
import { CONTROL, METRIC } from "../../../device/device.ts";
import { gptNetwork } from "../../../model/gpt.ts";
import { memoryPlan } from "../../../model/train/memory_plan.ts";
import { emptyState } from "../../../model/optimizer_state.ts";
import { layOut } from "../../../model/parameters.ts";
import { ReferenceDevice } from "../../../device/reference_device.ts";
import { adam } from "../../../model/train/adam.ts";
import {
  allocateOptimizer,
  bindUpdates,
  readUpdateState,
  writeUpdateState,
} from "../../../model/train/optimizer.ts";

const LAYOUT = layOut([
  [{ name: "w", shape: [4, 4], role: "matrix" }],
  [{ name: "norm", shape: [4], role: "norm" }],
]);

/** Weights of 1 with the gradients given, a loss in slot 0, and one update. */
async function updated(gradients: Float32Array, loss: number, gradClip: number, weightDecay: number) {
  const d = new ReferenceDevice("f32");
  const memory = allocateOptimizer(d, adam, LAYOUT);
  const update = bindUpdates(d, adam, LAYOUT, memory);
  const params = new Float32Array(LAYOUT.length).fill(1);
  writeUpdateState(d, memory, { adamStep: 0, params, optimizer: emptyState(LAYOUT) });
  d.write(memory.gradients, gradients);
  const metrics = d.tensor("metrics", 1, 4);
  d.write(metrics, new Float32Array([loss]));
  update(metrics, 0, gradClip, {
    learningRate: 0.1,
    muonLearningRate: 0.1,
    weightDecay,
    cautious: false,
  });
  const [control, metric] = [await d.read(memory.control), await d.read(metrics)];
  return { state: await readUpdateState(d, memory), control, metric };
}

Deno.test("factors of norms do not decay, matrices do", async () => {
  const { state } = await updated(new Float32Array(LAYOUT.length), 1, 0, 0.5);
  const [w, norm] = LAYOUT.entries.map(({ offset }) => state.params[offset]);
  assert.deepEqual([w, norm], [Math.fround(0.95), 1]);
  assert.equal(state.adamStep, 1);
});

Deno.test("a step counts when loss and norm are finite, and clipping is a factor for whatever update follows", async () => {
  const gradients = new Float32Array(LAYOUT.length);
  gradients[0] = 4;
  const clipped = await updated(gradients, 1, 1, 0);
  assert.equal(clipped.control[CONTROL.gradientFactor], 0.25);
  assert.equal(clipped.state.optimizer.m[0], Math.fround(0.15));
  assert.equal(clipped.metric[METRIC.applied], 1);
  for (const [gradient, loss] of [[NaN, 1], [4, Infinity]] as const) {
    gradients[0] = gradient;
    const { state, control, metric } = await updated(gradients, loss, 1, 0.5);
    assert.equal(metric[METRIC.applied], 0);
    assert(control[CONTROL.gradientFactor]! < 0);
    assert.equal(state.adamStep, 0);
    assert(state.params.every((weight) => weight === 1) && state.optimizer.m.every((m) => m === 0));
  }
});

Deno.test("the memory plan counts by what memory is for", () => {
  const config = { vocab_size: 11, n_embd: 8, n_head: 2, n_layer: 1, block_size: 4 };
  const bytes = 4 * gptNetwork(config).layout.length;
  const plan = memoryPlan({ workType: "f32", stepsInFlight: 1 }, config, { maxTokens: 4, maxDocuments: 1 });
  assert.deepEqual([plan.weights, plan.gradients, plan.moments], [bytes, bytes, 2 * bytes]);
  const half = memoryPlan({ workType: "f16", stepsInFlight: 1 }, config, { maxTokens: 4, maxDocuments: 1 });
  assert.equal(half.weights, 1.5 * bytes);
  const { total, ...parts } = plan;
  assert.equal(total, Object.values(parts).reduce((sum, part) => sum + part));
});
