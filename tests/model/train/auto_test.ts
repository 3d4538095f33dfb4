/** `preset` auto: the rule, what is measured for it, and runs with it. */
import assert from "node:assert/strict";
import {
  MicrogptError,
  type PlanEvent,
  type Settings,
  sweep,
  train,
  type TrainOptions,
} from "../../../mod.ts";
import { chooseSettings, type DataSize, vocabularyFor } from "../../../model/train/auto.ts";
import { withDirectory } from "../files/checkpoint_fixture.ts";

const SIZE: DataSize = { vocabSize: 304, blockSize: 64, batchSize: 96, sequences: 30_000, sequenceTokens: 6 };
const TIMED = [
  { nEmbd: 48, nHead: 4, nLayer: 1, milliseconds: 2 },
  { nEmbd: 64, nHead: 4, nLayer: 2, milliseconds: 4 },
  { nEmbd: 96, nHead: 4, nLayer: 3, milliseconds: 13 },
  { nEmbd: 128, nHead: 4, nLayer: 4, milliseconds: 30 },
  { nEmbd: 192, nHead: 6, nLayer: 5, milliseconds: 80 },
];

Deno.test("auto takes the widest shape that sees the data four times", () => {
  const chosen = (minutes: number) => chooseSettings(SIZE, TIMED, minutes);
  // 1,187 steps are 3.8 passes of width 64 in 5 seconds
  assert.deepEqual([5 / 60, 10 / 60, 1, 3].map((minutes) => chosen(minutes).settings.nEmbd), [
    48,
    64,
    128,
    192,
  ]);
  const { settings, passes } = chosen(1);
  assert.equal(settings.steps, 1900);
  assert.equal(passes.toFixed(2), "6.08");
  // none sees them so often: the fastest
  assert.equal(chosen(0.001).settings.nEmbd, 48);
});

Deno.test("auto ends after five passes of data with a large vocabulary", () => {
  const size = { ...SIZE, vocabSize: 13_000, batchSize: 8, sequences: 2000 };
  const { settings, passes, minutes } = chooseSettings(size, TIMED, 10);
  assert.deepEqual([settings.nEmbd, settings.steps, settings.dropout], [192, 1250, 0.2]);
  assert.deepEqual([passes, minutes.toFixed(2)], [5, "1.67"]);
});

Deno.test("auto does more against learning by heart the more often the data come, and takes smaller steps", () => {
  const one = [TIMED[0]!];
  const [short, long] = [0.05, 3].map((minutes) => chooseSettings(SIZE, one, minutes).settings as Settings);
  assert.deepEqual([short!.weightDecay, short!.dropout, short!.muonLearningRate.toFixed(4)], [
    0.1,
    0,
    "0.0154",
  ]);
  assert.deepEqual([long!.weightDecay, long!.dropout, long!.muonLearningRate], [0.3, 0.1, 0.012]);
});

Deno.test("auto gives words that come often a token each, between 304 and 16,384", () => {
  assert.deepEqual([0, 100, 13_000, 1e6].map(vocabularyFor), [304, 404, 13_304, 16_384]);
});

const DOCUMENTS = Array.from(
  { length: 200 },
  (_, i) => `line ${i} tells of anna and of number ${i * 7 % 10}`,
);
const RUN: TrainOptions = { documents: DOCUMENTS, preset: "auto", minutes: 0.002, device: "cpu", threads: 1 };

async function planOf(options: TrainOptions): Promise<{ plan: PlanEvent; notices: string[]; steps: number }> {
  let plan: PlanEvent | undefined;
  const notices: string[] = [];
  let steps = 0;
  for await (const event of train(options)) {
    if (event.type === "plan") plan = event;
    if (event.type === "notice") notices.push(event.message);
    if (event.type === "step") steps++;
  }
  return { plan: plan!, notices, steps };
}

Deno.test("a run with auto trains as long as it says, goes on as it began, and takes what is given", async () => {
  await withDirectory(async (output) => {
    const { plan, notices, steps } = await planOf({ ...RUN, output });
    assert.equal(steps, plan.settings.steps);
    assert.equal(plan.settings.optimizer, "muon");
    assert.ok(plan.config.vocab_size <= vocabularyFor(30), `${plan.config.vocab_size}`);
    assert.match(
      notices.join("\n"),
      /^auto: width \d+, \d layers?.*: about \d+ steps, [\d.]+ passes, in [\d.]+ of 0\.002 minutes$/m,
    );
    const resumed = await planOf({
      documents: DOCUMENTS,
      resume: output,
      steps: 2,
      device: "cpu",
      threads: 1,
    });
    assert.deepEqual([resumed.steps, resumed.plan.config], [2, plan.config]);
  });
  const given = {
    nEmbd: 16,
    nHead: 2,
    nLayer: 1,
    steps: 3,
    batchSize: 5,
    vocabSize: 290,
    learningRate: 0.001,
  };
  const { plan } = await planOf({ ...RUN, ...given, dryRun: true });
  for (const [name, value] of Object.entries(given)) {
    assert.equal(plan.settings[name as keyof Settings], value, name);
  }
});

Deno.test("auto refuses what it cannot measure", async () => {
  const refused = async (options: TrainOptions, message: RegExp) => {
    await assert.rejects(Array.fromAsync(train({ dryRun: true, ...options })), (error) => {
      assert.ok(error instanceof MicrogptError);
      assert.match(error.message, message);
      return true;
    });
  };
  function* once() {
    yield* DOCUMENTS;
  }
  await refused({ ...RUN, documents: once() }, /reads its data twice/);
  await refused({ documents: DOCUMENTS, minutes: 3 }, /`minutes` is for `preset` auto/);
  await refused({ documents: DOCUMENTS, preset: "names", minutes: 3 }, /`minutes` is for `preset` auto/);
  const swept = sweep({ ...RUN, values: { learningRate: [0.001, 0.002] }, output: "never" });
  await assert.rejects(swept.next(), /chooses the settings of one run/);
});
