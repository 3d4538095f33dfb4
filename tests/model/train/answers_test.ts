/** `loss` answers: only what the assistant says counts, in a step, in an evaluation and in runs. */
import assert from "node:assert/strict";
import { countedTargets } from "../../../data/batches.ts";
import type { Message } from "../../../data/chat.ts";
import type { PackedDocuments } from "../../../device/device.ts";
import { ReferenceDevice } from "../../../device/reference_device.ts";
import { gptNetwork } from "../../../model/gpt.ts";
import { readTrainState } from "../../../model/files/checkpoint.ts";
import { emptyState } from "../../../model/optimizer_state.ts";
import { flatTensor } from "../../../model/parameters.ts";
import type { TrainOptions } from "../../../model/train/options.ts";
import { train, type TrainEvent } from "../../../model/train/train.ts";
import { type Recipe, Trainer } from "../../../model/train/trainer.ts";
import { randomDocuments } from "../../device/case_data.ts";
import { PLAIN } from "./plain_recipe.ts";

const CONFIG = { vocab_size: 20, n_embd: 8, n_head: 2, n_layer: 1, block_size: 16 };
const RECIPE: Recipe = {
  ...PLAIN,
  totalSteps: 4,
  learningRate: 0.01,
  warmupSteps: 0,
  weightDecay: 0,
  gradClip: 0,
  gradAccum: 2,
  evalEvery: 0,
};

/** Two micro-batches of different lengths, in which every third target counts. */
function batch(number: number): PackedDocuments {
  const documents = randomDocuments(number % 2 ? [5, 4] : [9, 3], CONFIG.vocab_size, number);
  const weights = Float32Array.from(documents.targets, (_, t) => t % 3 === 0 ? 1 : 0);
  return { ...documents, weights };
}

/** Σ −log p of the targets that count, and how many they are, by the forward pass without weights. */
async function expected(numbers: number[], params: Float32Array): Promise<{ nats: number; counted: number }> {
  const d = new ReferenceDevice("f64");
  const network = gptNetwork(CONFIG);
  const flat = flatTensor(d, "weights", network.layout, "work");
  d.write(flat, params);
  const control = d.tensor("control", 1, 4);
  let [nats, counted] = [0, 0];
  for (const number of numbers) {
    const { weights, ...documents } = batch(number);
    const a = network.allocateActivations(d, documents.tokens.length);
    const loaded = d.createBatch(documents.tokens.length, 2);
    d.loadBatch(loaded, documents);
    network.forward(d, network.views(d, flat), a, loaded, 1, control);
    const losses = await d.read(a.losses);
    weights!.forEach((weight, t) => nats += weight * losses[t]!);
    counted += weights!.filter((weight) => weight > 0).length;
  }
  return { nats, counted };
}

Deno.test("the loss of a step and of an evaluation is the mean over the targets that count", async () => {
  const d = new ReferenceDevice("f32");
  const { layout, ...network } = gptNetwork(CONFIG);
  const data = {
    maxTokens: 12,
    maxDocuments: 2,
    batch,
    validation: () => [batch(7), batch(8)],
    validationBytes: 5,
  };
  const trainer = new Trainer(d, CONFIG, data, RECIPE);
  const params = network.initialParameters(3, 0.3);
  trainer.load({ step: 0, adamStep: 0, params, optimizer: emptyState(layout) });
  const held = await expected([7, 8], params);
  const evaluation = await trainer.evaluate();
  assert(Math.abs(evaluation!.loss - held.nats / held.counted) < 1e-5);
  assert(Math.abs(evaluation!.bitsPerByte - held.nats / Math.LN2 / 5) < 1e-5);
  const lastGood = () => trainer.snapshot();
  const [event] = await Array.fromAsync(trainer.run(1, { lastGood }));
  assert(event?.type === "step");
  const step = await expected([0, 1], params);
  assert.equal(countedTargets(batch(0)) + countedTargets(batch(1)), step.counted);
  assert(Math.abs(event.loss - step.nats / step.counted) < 1e-5);
  assert.equal(event.tokens, 12 + 9);
});

const CONVERSATIONS: Message[][] = Array.from({ length: 24 }, (_, i) => [
  { role: "user", content: `what comes after ${i}` },
  { role: "assistant", content: `${i + 1}` },
]);

async function run(options: TrainOptions): Promise<TrainEvent[]> {
  return await Array.fromAsync(train({ seed: 1, threads: 1, ...options }));
}

Deno.test("a run keeps what counts, and goes on with it", async () => {
  const output = await Deno.makeTempDir();
  try {
    const small = {
      nEmbd: 16,
      nHead: 2,
      nLayer: 1,
      blockSize: 64,
      vocabSize: 280,
      batchSize: 4,
      evalEvery: 3,
    };
    const conversations = CONVERSATIONS;
    const events = await run({ conversations, output, loss: "answers", steps: 6, ...small });
    const steps = events.filter((event) => event.type === "step");
    assert.equal(steps.length, 6);
    assert.equal((await readTrainState(output))?.loss, "answers");
    const whole = await run({ conversations, output: `${output}/all`, steps: 6, ...small });
    // the same batches, of which another part counts
    assert.deepEqual(
      whole.filter((event) => event.type === "step").map(({ tokens }) => tokens),
      steps.map(({ tokens }) => tokens),
    );
    assert.notEqual(whole.find((event) => event.type === "step")!.loss, steps[0]!.loss);
    const resumed = await run({ conversations, resume: output, loss: "all", steps: 2 });
    assert(
      resumed.some((event) =>
        event.type === "notice" &&
        event.message === "warning: `loss` all is ignored, the checkpoint has answers"
      ),
    );
    assert.equal((await readTrainState(output))?.loss, "answers");
    assert.equal((await readTrainState(`${output}/all`))?.loss, "all");
  } finally {
    await Deno.remove(output, { recursive: true });
  }
});

Deno.test("plain text has no answers", async () => {
  await assert.rejects(run({ documents: ["a", "b"], loss: "answers" }), {
    name: "MicrogptError",
    message: "`loss` answers is for conversations: plain text has no answers",
  });
});
