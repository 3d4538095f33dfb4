/** Twenty training steps on every device against the same steps in PyTorch (tests/golden). */
import assert from "node:assert/strict";
import { openDevice } from "../../model/devices.ts";
import type { Device, PackedDocuments } from "../../device/device.ts";

import { gptNetwork } from "../../model/gpt.ts";
import { emptyState } from "../../model/optimizer_state.ts";
import { flatTensor } from "../../model/parameters.ts";
import { ReferenceDevice } from "../../device/reference_device.ts";
import { type StepEvent, Trainer, type TrainingData } from "../../model/train/trainer.ts";
import { type GoldenCase, goldenCases, initialWeights } from "../golden/golden.ts";
import { openTestGpu } from "../device/test_gpu.ts";
import { PLAIN } from "./train/plain_recipe.ts";

/** Largest difference in loss over the 20 steps, in nats. */
const LOSS_TOLERANCE = 1e-4;
/** Largest difference of a gradient or gradient norm, relative to the parameter's largest sampled entry. */
const GRADIENT_TOLERANCE = 1e-4;

const openers: Record<string, () => Promise<Device | undefined>> = {
  reference: () => Promise.resolve(new ReferenceDevice("f32")),
  cpu: () => openDevice({ device: "cpu", threads: 2 }),
  webgpu: () => openTestGpu({ dtype: "f32" }),
};

/** Batch `step` as the device takes it: the first block_size + 1 ids of each document. */
function packed(golden: GoldenCase, step: number): PackedDocuments {
  const documents = golden.batches[step]!.map((d) =>
    golden.documents[d]!.slice(0, golden.config.block_size + 1)
  );
  const starts = new Uint32Array(documents.length + 1);
  documents.forEach((ids, d) => starts[d + 1] = starts[d]! + ids.length - 1);
  return {
    tokens: Uint32Array.from(documents.flatMap((ids) => ids.slice(0, -1))),
    targets: Uint32Array.from(documents.flatMap((ids) => ids.slice(1))),
    starts,
  };
}

function flatWeights(golden: GoldenCase): Float32Array {
  const { layout } = gptNetwork(golden.config);
  const flat = new Float32Array(layout.length);
  for (const [name, values] of initialWeights(golden)) flat.set(values, layout.byName.get(name)!.offset);
  return flat;
}

async function trajectory(device: Device, golden: GoldenCase): Promise<StepEvent[]> {
  const { layout } = gptNetwork(golden.config);
  const data: TrainingData = {
    maxTokens: Math.max(...golden.tokens),
    maxDocuments: golden.batches[0]!.length,
    batch: (step) => packed(golden, step),
    validation: () => [],
    validationBytes: 0,
  };
  const { lr, warmup_steps, steps, grad_clip } = golden.training;
  const recipe = {
    ...PLAIN,
    totalSteps: steps,
    learningRate: lr,
    warmupSteps: warmup_steps,
    weightDecay: 0,
    gradClip: grad_clip,
    gradAccum: 1,
    evalEvery: 0,
  };
  const trainer = new Trainer(device, golden.config, data, recipe);
  const initial = { step: 0, adamStep: 0, params: flatWeights(golden), optimizer: emptyState(layout) };
  trainer.load(initial);
  const events: StepEvent[] = [];
  for await (const event of trainer.run(steps, { lastGood: () => Promise.resolve(initial) })) {
    if (event.type === "step") events.push(event);
  }
  return events;
}

async function checkFirstGradients(device: Device, golden: GoldenCase): Promise<void> {
  const network = gptNetwork(golden.config);
  const { layout } = network;
  const params = flatTensor(device, "weights", layout, "work");
  device.write(params, flatWeights(golden));
  const gradients = flatTensor(device, "gradients", layout, "f32");
  const documents = packed(golden, 0);
  const batch = device.createBatch(documents.tokens.length, documents.starts.length - 1);
  device.loadBatch(batch, documents);
  const control = device.tensor("control", 1, 4);
  device.write(control, new Float32Array([0, 1, 0, 0]));
  network.forwardBackward(
    device,
    network.views(device, params),
    network.views(device, gradients),
    network.allocateActivations(device, documents.tokens.length),
    batch,
    1 / documents.tokens.length,
    control,
    false,
  );
  const values = await device.read(gradients);
  for (const sampled of golden.first_gradients) {
    const { offset } = layout.byName.get(sampled.name)!;
    const largest = Math.max(...sampled.values.map(Math.abs));
    sampled.indices.forEach((index, i) => {
      const difference = Math.abs(values[offset + index]! - sampled.values[i]!);
      assert(
        difference <= GRADIENT_TOLERANCE * largest,
        `${sampled.name}[${index}]: off by ${difference} of ${largest}`,
      );
    });
  }
}

for (const [name, open] of Object.entries(openers)) {
  for (const golden of goldenCases) {
    Deno.test({
      name: `20 steps as in PyTorch: ${golden.name} on ${name}`,
      sanitizeResources: false,
      async fn() {
        const device = await open();
        if (!device) return;
        await checkFirstGradients(device, golden);
        const events = await trajectory(device, golden);
        assert.equal(events.length, golden.losses.length);
        for (const [i, { loss, gradNorm, learningRate, tokens }] of events.entries()) {
          const expected = golden.losses[i]!;
          assert(
            Math.abs(loss - expected) <= LOSS_TOLERANCE,
            `step ${i + 1}: loss ${loss}, PyTorch ${expected}`,
          );
          const norm = golden.grad_norms[i]!;
          assert(
            Math.abs(gradNorm - norm) <= 1e-3 * norm,
            `step ${i + 1}: norm ${gradNorm}, PyTorch ${norm}`,
          );
          assert(Math.abs(learningRate - golden.learning_rates[i]!) < 1e-12, `step ${i + 1}: learning rate`);
          assert.equal(tokens, golden.tokens[i]);
        }
        device.destroy();
      },
    });
  }
}
