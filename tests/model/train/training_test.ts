/** Whole runs: resumed as uninterrupted, steps that are not finite, what a resumed run takes from where, two devices. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Device, PackedDocuments, Tensor } from "../../../device/device.ts";
import { gptNetwork } from "../../../model/gpt.ts";
import { emptyState } from "../../../model/optimizer_state.ts";
import { ReferenceDevice } from "../../../device/reference_device.ts";
import {
  learningRate,
  type Recipe,
  Trainer,
  type TrainingData,
  type TrainingEvent,
} from "../../../model/train/trainer.ts";
import { prepareRun } from "../../../model/train/prepare.ts";
import { train } from "../../../model/train/train.ts";
import type { TrainOptions } from "../../../model/train/options.ts";
import type { PresetName } from "../../../model/settings.ts";
import { programArgs } from "../../cli/program.ts";
import { randomDocuments } from "../../device/case_data.ts";
import { openTestGpu } from "../../device/test_gpu.ts";
import { PLAIN } from "./plain_recipe.ts";

const NAMES = fileURLToPath(new URL("../../../data/samples/names.txt", import.meta.url));

async function inTemporaryDirectory(use: (dir: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    await use(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

/** SHA-256 of every file that must not depend on whether the run was interrupted. */
async function hashes(dir: string): Promise<Record<string, string>> {
  const names = [
    "weights.safetensors",
    "optimizer_m.safetensors",
    "optimizer_v.safetensors",
    "tokenizer.json",
    "meta.json",
  ];
  const entries = names.map(async (name) => {
    const bytes = await Deno.readFile(join(dir, name));
    return [name, createHash("sha256").update(bytes).digest("hex")];
  });
  return Object.fromEntries(await Promise.all(entries));
}

async function gpuIsThere(): Promise<boolean> {
  const device = await openTestGpu({ dtype: "f32" });
  device?.destroy();
  return device !== undefined;
}

/** Starts the program, interrupts it once it has said that it measured step `from` or a later one, and waits for it to save. */
async function interruptedRun(args: string[], from: number): Promise<string> {
  const [command, ...rest] = programArgs(["train", ...args]);
  const process = new Deno.Command(command!, { args: rest, stderr: "piped", stdout: "null" }).spawn();
  let text = "";
  let sent = false;
  for await (const piece of process.stderr.pipeThrough(new TextDecoderStream())) {
    text += piece;
    const measured = [...text.matchAll(/^step (\d+): held out/gm)].map(([, step]) => Number(step));
    if (sent || !measured.some((step) => step >= from)) continue;
    process.kill("SIGINT");
    sent = true;
  }
  assert.equal((await process.status).code, 130, text);
  return text;
}

for (const [device, dtype] of [["cpu", "f32"], ["cpu", "bf16"], ["webgpu", "f32"]] as const) {
  Deno.test({
    name: `a run that is interrupted anywhere and resumed ends with the same bits: ${device} in ${dtype}`,
    ignore: Deno.build.os === "windows",
    fn: async () => {
      if (device === "webgpu" && !(await gpuIsThere())) return;
      await inTemporaryDirectory(async (dir) => {
        // So long that a busy machine, too, sends the interrupt before the end.
        const steps = device === "cpu" ? 5000 : 120;
        const recipe = { input: NAMES, steps, evalEvery: 7, gradAccum: 2, valFraction: 0.001 };
        const options = { ...recipe, device, dtype, threads: 2, vocabSize: 300, nEmbd: 24, nHead: 2 };
        const whole = join(dir, "whole");
        await Array.fromAsync(train({ ...options, output: whole }));
        const flags = Object.entries(options).flatMap(([name, value]) => [
          `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
          `${value}`,
        ]);
        for (const from of device === "webgpu" ? [7, 42] : dtype === "f32" ? [7, 210, 707] : [210]) {
          const broken = join(dir, `broken-${from}`);
          const said = await interruptedRun([...flags, "--output", broken], from);
          const at = JSON.parse(await Deno.readTextFile(join(broken, "train_state.json"))).step;
          assert(at >= from && at < steps, `interrupted at step ${at} of ${steps}`);
          assert.match(
            said,
            new RegExp(
              `resume with: .*train --resume ${broken} --device ${device} --dtype ${dtype} --threads 2$`,
              "m",
            ),
          );
          await Array.fromAsync(train({ resume: broken, device, dtype, threads: 2 }));
          assert.deepEqual(await hashes(broken), await hashes(whole), `interrupted at step ${at}`);
        }
      });
    },
  });
}

Deno.test("the learning rate warms up, then falls to zero", () => {
  const recipe: Recipe = {
    ...PLAIN,
    totalSteps: 1000,
    learningRate: 0.01,
    warmupSteps: 200,
    weightDecay: 0,
    gradClip: 0,
    gradAccum: 1,
    evalEvery: 0,
  };
  assert.equal(learningRate(0, recipe), 0.01 / 200);
  assert.equal(learningRate(199, recipe), 0.01);
  assert.equal(learningRate(200, recipe), 0.01);
  assert.equal(learningRate(600, recipe), 0.005);
  assert.equal(learningRate(0, { ...recipe, totalSteps: 2 }), 0.005);
  const cosine = (step: number) => learningRate(step, { ...recipe, schedule: "cosine" });
  assert.equal(cosine(199), 0.01);
  assert(Math.abs(cosine(600) - 0.005) < 1e-9 && cosine(400) > 0.0085 && cosine(999) < 1e-7);
  const trapezoid = (step: number, decayFraction = 0.4) =>
    learningRate(step, { ...recipe, schedule: "trapezoid", decayFraction });
  assert.deepEqual([199, 600, 800].map((step) => trapezoid(step)), [0.01, 0.01, 0.005]);
  assert.equal(trapezoid(999, 0), 0.01);
  assert.equal(trapezoid(600, 1), learningRate(600, recipe));
});

/** A reference device whose loss is not a number at chosen steps of its life, counted from 1. */
function deviceWithBadSteps(isBad: (step: number) => boolean, stepsInFlight = 1): Device {
  let step = 1;
  class Faulty extends ReferenceDevice {
    override readonly stepsInFlight = stepsInFlight;
    override sumLoss(...args: Parameters<ReferenceDevice["sumLoss"]>): void {
      super.sumLoss(...args);
      const [metrics, slot] = args;
      if (isBad(step)) this.write(metrics, new Float32Array([NaN]), slot * metrics.cols);
    }
    override submit(): void {
      step++;
    }
  }
  return new Faulty();
}

const CONFIG = { vocab_size: 20, n_embd: 8, n_head: 2, n_layer: 1, block_size: 8 };
const RECIPE: Recipe = {
  ...PLAIN,
  totalSteps: 60,
  learningRate: 0.01,
  warmupSteps: 5,
  weightDecay: 0,
  gradClip: 1,
  gradAccum: 1,
  evalEvery: 0,
};

interface TestTrainer {
  trainer: Trainer;
  run: (pauseAt?: (step: number) => boolean) => AsyncGenerator<TrainingEvent>;
}

function trainerOn(device: Device, validation: PackedDocuments[] = []): TestTrainer {
  const network = gptNetwork(CONFIG);
  const data: TrainingData = {
    maxTokens: 16,
    maxDocuments: 2,
    batch: (number) => randomDocuments([5, 3], 20, number),
    validation: () => validation,
    validationBytes: 8 * validation.length,
  };
  const initial = () => ({
    step: 0,
    adamStep: 0,
    params: network.initialParameters(1),
    optimizer: emptyState(network.layout),
  });
  const trainer = new Trainer(device, CONFIG, data, RECIPE);
  trainer.load(initial());
  const lastGood = () => Promise.resolve(initial());
  return { trainer, run: (pauseAt = () => false) => trainer.run(60, { pauseAt, lastGood }) };
}

Deno.test("a step that is not finite is skipped, said and counted, and changes nothing", async () => {
  const { trainer, run } = trainerOn(deviceWithBadSteps((step) => step === 7 || step === 20));
  let previous = await trainer.snapshot();
  const skipped: number[] = [];
  for await (const event of run()) {
    assert(event.type === "step");
    const now = await trainer.snapshot();
    if (!event.applied) {
      skipped.push(event.step);
      assert(Number.isNaN(event.loss));
      assert.deepEqual({ ...now, step: 0 }, { ...previous, step: 0 });
    }
    previous = now;
  }
  assert.deepEqual(skipped, [7, 20]);
  assert.equal(previous.adamStep, 58);
});

Deno.test("a state that is read one parameter at a time is the one that is copied", async () => {
  const { trainer, run } = trainerOn(new ReferenceDevice("f32"));
  await Array.fromAsync(run());
  const [whole, current] = [await trainer.snapshot(), await trainer.current()];
  assert.deepEqual([current.step, current.adamStep], [60, 60]);
  for (const entry of gptNetwork(CONFIG).layout.entries) {
    const range = [entry.offset, entry.offset + entry.rows * entry.cols] as const;
    assert.deepEqual(await current.params(entry), whole.params.subarray(...range));
    assert.deepEqual(await current.optimizer.m(entry), whole.optimizer.m.subarray(...range));
    assert.deepEqual(await current.optimizer.v(entry), whole.optimizer.v.subarray(...range));
  }
});

Deno.test("ten such steps in a row send the run back once, with half the learning rate", async () => {
  const { trainer, run } = trainerOn(deviceWithBadSteps((step) => step >= 30 && step < 40));
  const events = await Array.fromAsync(run());
  const recovery = events.find((event) => event.type === "recovery");
  assert.deepEqual(recovery, { type: "recovery", step: 0, learningRate: 0.005 });
  assert.equal(events.filter((event) => event.type === "step").length, 39 + 60);
  assert.equal(trainer.learningRate, 0.005);
  assert(trainer.recovered);
});

Deno.test("where a run goes back does not depend on how many steps are in flight", async () => {
  const eventsOf = async (firstBad: number, stepsInFlight: number, pauseEvery: number) => {
    const device = deviceWithBadSteps((step) => step >= firstBad && step < firstBad + 10, stepsInFlight);
    const { trainer, run } = trainerOn(device);
    const events = await Array.fromAsync(run((step) => step % pauseEvery === 0), (event) => {
      assert(event.type !== "step" || event.step % pauseEvery !== 0 || trainer.step === event.step);
      return { ...event, milliseconds: 0 };
    });
    return { events, state: await trainer.snapshot() };
  };
  for (const firstBad of [30, 51]) { // good steps follow in the same window, or the run's last step is bad
    const expected = await eventsOf(firstBad, 1, 1000);
    const types = expected.events.map((event) => event.type);
    assert.equal(types.indexOf("recovery"), firstBad + 9);
    assert.equal(types.length, firstBad + 9 + 1 + 60);
    for (const [stepsInFlight, pauseEvery] of [[2, 1000], [16, 1000], [16, 7], [64, 1000], [64, 13]]) {
      const actual = await eventsOf(firstBad, stepsInFlight!, pauseEvery!);
      assert.deepEqual(actual, expected, `${stepsInFlight} steps in flight, a pause every ${pauseEvery}`);
    }
  }
});

/**
 * Steps that a device gets before each read when step s of its life takes `milliseconds(s)`, by its own clock, and it allows
 * 16 in flight.
 */
async function windows(
  milliseconds: (step: number) => number,
  use: (device: Device) => Promise<unknown>,
): Promise<number[]> {
  const realNow = performance.now;
  let [clock, step, queued] = [0, 0, 0];
  const sizes: number[] = [];
  class Timed extends ReferenceDevice {
    override readonly stepsInFlight = 16;
    override submit(): void {
      clock += milliseconds(++step);
      queued++;
    }
    override read(tensor: Tensor): Promise<Float32Array | Uint32Array> {
      sizes.push(queued);
      queued = 0;
      return super.read(tensor);
    }
  }
  performance.now = () => clock;
  try {
    await use(new Timed());
  } finally {
    performance.now = realNow;
  }
  return sizes;
}

Deno.test("so many steps are queued before a read as take 100 ms, at most twice as many as before", async () => {
  const runOn = (device: Device) => Array.fromAsync(trainerOn(device).run());
  assert.deepEqual(await windows(() => 0.3, runOn), [1, 2, 4, 8, 16, 16, 13]);
  assert.deepEqual(await windows(() => 40, runOn), [1, 2, ...Array(19).fill(3)]);
  assert.deepEqual(await windows(() => 7000, runOn), Array(60).fill(1));
  // the first step compiles the kernels, and from step 20 on the device is slower
  assert.deepEqual(
    await windows((step) => step === 1 ? 2000 : step < 20 ? 5 : 50, runOn),
    [1, 1, 2, 4, 8, 16, ...Array(14).fill(2)],
  );
});

Deno.test("an evaluation queues as many batches before a read as training does steps", async () => {
  const validation = Array.from({ length: 10 }, (_, i) => randomDocuments([5, 3], 20, 100 + i));
  const evaluations: unknown[] = [];
  const trainAndEvaluate = async (device: Device) => {
    const { trainer, run } = trainerOn(device, validation);
    await Array.fromAsync(run());
    evaluations.push(await trainer.evaluate());
  };
  assert.deepEqual((await windows(() => 0.3, trainAndEvaluate)).slice(7), [10]);
  assert.deepEqual((await windows(() => 40, trainAndEvaluate)).slice(21), [3, 3, 3, 1]);
  assert.deepEqual((await windows(() => 7000, trainAndEvaluate)).slice(60), [...Array(10).fill(1), 0]);
  assert.deepEqual(evaluations[1], evaluations[0]);
  assert.deepEqual(evaluations[2], evaluations[0]);
});

Deno.test("the second time the run stops with the cause", async () => {
  for (const stepsInFlight of [1, 16]) {
    const { run } = trainerOn(deviceWithBadSteps((step) => step >= 30, stepsInFlight));
    await assert.rejects(
      Array.fromAsync(run()),
      /stopped at step 10: .* not finite 10 steps in a row, again .* half the learning rate \(now 0.005\)/,
    );
  }
});

const DOCUMENTS = ["anna", "bob", "carla", "dora", "emil", "frida", "gustav", "hanna", "ida", "jonas"];
const TINY: TrainOptions = {
  documents: DOCUMENTS,
  device: "cpu",
  vocabSize: 260,
  nEmbd: 8,
  nHead: 2,
  nLayer: 1,
  blockSize: 16,
  batchSize: 4,
  steps: 12,
};

Deno.test("accumulating four batches of one document equals a batch of four", async () => {
  await inTemporaryDirectory(async (output) => {
    const losses = async (options: TrainOptions) => {
      const events = await Array.fromAsync(train({ ...TINY, ...options, output }));
      return events.flatMap((event) => event.type === "step" ? [event.loss] : []);
    };
    const [one, four] = [await losses({}), await losses({ batchSize: 1, gradAccum: 4 })];
    one.forEach((loss, i) =>
      assert(Math.abs(loss - four[i]!) < 1e-5, `step ${i + 1}: ${loss} and ${four[i]}`)
    );
  });
});

Deno.test("a resumed run says which option changes it, which is ignored, and that the data changed", async () => {
  await inTemporaryDirectory(async (dir) => {
    const output = join(dir, "model");
    const input = join(dir, "a.txt");
    await Deno.writeTextFile(input, DOCUMENTS.join("\n"));
    const { documents: _, ...settings } = TINY;
    await Array.fromAsync(train({ ...settings, input, output }));
    await Deno.writeTextFile(input, DOCUMENTS.join("\n") + "\nkarl");
    const { notices, run, settings: resumed } = await prepareRun({
      resume: output,
      learningRate: 0.002,
      batchSize: 2,
      nEmbd: 16,
      steps: 3,
    });
    run.close();
    assert.deepEqual(notices.slice(0, 3), [
      "warning: `nEmbd` 16 is ignored, the checkpoint has 8",
      "warning: `learningRate` changes from 0.01 to 0.002",
      "warning: `batchSize` changes from 4 to 2",
    ]);
    assert.match(
      notices[3]!,
      /^warning: the data changed since the checkpoint: .*a.txt was \w{12}…, .*a.txt is \w{12}…$/,
    );
    assert.equal(resumed.nEmbd, 8);
    assert.equal(run.totalSteps, 15);
  });
});

Deno.test("the memory plan is made before anything is allocated", async () => {
  const { run, memory } = await prepareRun({
    ...TINY,
    device: "reference",
    nEmbd: 1 << 13,
    nHead: 1,
    nLayer: 64,
  });
  run.close();
  assert(memory.weights > 2e11, `${memory.weights}`);
  const { weights, gradients, moments, activations, batch, total } = memory;
  assert.equal(weights + gradients + moments + activations + batch, total);
  assert(batch > 0);
});

Deno.test("conversations in memory are cleaned as those of a file, and compared with nothing", async () => {
  await inTemporaryDirectory(async (output) => {
    const [user, assistant] = [{ role: "user", content: "hi" }, {
      role: "assistant",
      content: "ho",
    }] as const;
    const { documents: _, ...settings } = TINY;
    const chat = { ...settings, output, steps: 1, vocabSize: 264, valFraction: 0 };
    const conversations = [[user, assistant, user], [user, assistant], [user]];
    const events = await Array.fromAsync(train({ ...chat, conversations }));
    assert.deepEqual(events.flatMap((event) => event.type === "notice" ? [event.message] : []), [
      "data cleanup: 1 conversations trimmed (trailing user turn removed), 1 skipped (no assistant turn)",
    ]);
    const plan = events.find((event) => event.type === "plan");
    assert.deepEqual(
      plan!.cleanup.map(({ count, effect, reason }) => `${count} ${effect}: ${reason}`),
      [
        "1 left out: no assistant turn",
        "1 changed: trailing user turn removed",
        "1 kept: repeat others word for word",
      ],
    );
    const state = JSON.parse(await Deno.readTextFile(join(output, "train_state.json")));
    assert(!("dataset_sha256" in state));
    const { run, notices } = await prepareRun({ resume: output, conversations: [[user, assistant]] });
    run.close();
    assert.deepEqual(notices, []);
    const refused = { name: "MicrogptError" };
    await assert.rejects(prepareRun({ ...chat, conversations: [[user]] }), refused);
    await assert.rejects(prepareRun({ ...chat, conversations: [] }), refused);
    await assert.rejects(prepareRun({ ...chat, documents: [] }), refused);
    await assert.rejects(prepareRun({ resume: output, documents: ["anna"] }), refused);
  });
});

Deno.test("a run that goes back finds its state in the checkpoint it was resumed from", async () => {
  await inTemporaryDirectory(async (dir) => {
    const [first, second] = [join(dir, "first"), join(dir, "second")];
    await Array.fromAsync(train({ ...TINY, device: "reference", output: first, steps: 3 }));
    const { documents } = TINY;
    const { run } = await prepareRun({
      documents: documents!,
      device: "reference",
      resume: first,
      output: second,
      steps: 5,
      learningRate: 0.01,
    });
    const before = await run.trainer.snapshot();
    let states: unknown;
    const trainer = run.trainer;
    trainer.run = async function* (_until, { lastGood }) {
      const { step, adamStep, params, optimizer } = await lastGood();
      states = { step, adamStep, params, optimizer };
      yield* [];
    };
    await Array.fromAsync(run.events());
    run.close();
    assert.deepEqual(states, before);
  });
});

Deno.test("--keep keeps the last checkpoints and the best", async () => {
  await inTemporaryDirectory(async (output) => {
    await Array.fromAsync(
      train({ ...TINY, output, checkpointEvery: 2, evalEvery: 2, keep: 2, valFraction: 0.2 }),
    );
    const kept = await Array.fromAsync(Deno.readDir(join(output, "checkpoints")), (entry) => entry.name);
    assert.deepEqual(kept.sort(), ["best", "step-000010", "step-000012"]);
    const { best_val_step } = JSON.parse(await Deno.readTextFile(join(output, "train_state.json")));
    const best = JSON.parse(await Deno.readTextFile(join(output, "checkpoints/best/train_state.json")));
    assert.equal(best.step, best_val_step);
  });
});

Deno.test("a fresh run keeps the old model as DIR.old", async () => {
  await inTemporaryDirectory(async (dir) => {
    const output = join(dir, "model");
    await Array.fromAsync(train({ ...TINY, output }));
    const first = await hashes(output);
    const events = await Array.fromAsync(train({ ...TINY, output, seed: 1 }));
    assert(events.some((event) => event.type === "notice" && event.message.includes("holds a model")));
    assert.deepEqual(await hashes(`${output}.old`), first);
    assert.notDeepEqual(await hashes(output), first);
  });
});

Deno.test("names on webgpu: the loss of the first 50 of 200 steps is that of cpu", async () => {
  if (!(await gpuIsThere())) return;
  await inTemporaryDirectory(async (output) => {
    const losses = async (device: "cpu" | "webgpu") => {
      const losses: number[] = [];
      const stop = new AbortController();
      for await (
        const event of train({
          input: NAMES,
          steps: 200,
          vocabSize: 512,
          device,
          output,
          signal: stop.signal,
        })
      ) {
        if (event.type === "step") losses.push(event.loss);
        if (losses.length === 50) stop.abort();
      }
      return losses;
    };
    const [cpu, gpu] = [await losses("cpu"), await losses("webgpu")];
    for (let i = 0; i < 50; i++) {
      assert(Math.abs(cpu[i]! - gpu[i]!) < 1e-3, `step ${i + 1}: ${cpu[i]} on cpu, ${gpu[i]} on webgpu`);
    }
  });
});

Deno.test("every number of threads that is taken makes a checkpoint that loads", async () => {
  await inTemporaryDirectory(async (output) => {
    for (const device of ["cpu", "reference"] as const) {
      for (const threads of [-1, 1.5, NaN, 1025]) {
        await assert.rejects(prepareRun({ ...TINY, device, threads }), {
          name: "MicrogptError",
          usage: true,
        });
      }
      await Array.fromAsync(train({ ...TINY, output, device, threads: 0, steps: 1 }));
      const resumed = await prepareRun({ resume: output, documents: TINY.documents!, device, steps: 1 });
      resumed.run.close();
      assert.equal(resumed.run.startStep, 1);
    }
  });
});

Deno.test("a run that is told to end during an evaluation saves without it, and makes up for it", async () => {
  await inTemporaryDirectory(async (output) => {
    const stop = new AbortController();
    const { run } = await prepareRun({
      ...TINY,
      output,
      evalEvery: 1,
      valFraction: 0.5,
      signal: stop.signal,
    });
    const evaluate = run.trainer.evaluate.bind(run.trainer);
    run.trainer.evaluate = (signal) => {
      if (run.trainer.step === 3) stop.abort();
      return evaluate(signal);
    };
    const events = await Array.fromAsync(run.events({ signal: stop.signal }));
    run.close();
    assert.deepEqual(events.flatMap((event) => event.type === "evaluation" ? [event.step] : []), [1, 2]);
    assert.deepEqual(events.at(-1), {
      type: "checkpoint",
      step: 3,
      directory: output,
      best: false,
      final: false,
    });
    const resumed = await Array.fromAsync(train({ resume: output, documents: TINY.documents! }));
    const evaluations = resumed.flatMap((event) => event.type === "evaluation" ? [event.step] : []);
    assert.deepEqual(evaluations.slice(0, 2), [3, 4]);
    assert.equal(resumed.filter((event) => event.type === "step")[0]?.step, 4);
  });
});

Deno.test("no step runs ahead of the event of a step that pauseAt names", async () => {
  if (!(await gpuIsThere())) return;
  await inTemporaryDirectory(async (output) => {
    const { run, device } = await prepareRun({ ...TINY, output, device: "webgpu", evalEvery: 0 });
    assert(device.stepsInFlight > 1);
    const ahead: Record<number, number> = {};
    for await (const event of run.events({ pauseAt: (step) => step % 5 === 0 })) {
      if (event.type === "step") ahead[event.step] = run.trainer.step - event.step;
    }
    run.close();
    assert.deepEqual([ahead[5], ahead[10]], [0, 0]);
    assert(ahead[1]! > 0, "others do");
  });
});

Deno.test("leaving the loop of a run with steps in flight leaves nothing behind that fails", async () => {
  if (!(await gpuIsThere())) return;
  await inTemporaryDirectory(async (output) => {
    for await (const event of train({ ...TINY, output, device: "webgpu", steps: 100 })) {
      if (event.type === "step" && event.step === 3) break;
    }
    await new Promise((resolve) => setTimeout(resolve, 50)); // until a reading that is left behind would fail
  });
});

Deno.test("f16: the loss scale is part of a run's state, and of its checkpoint", async () => {
  const device = await openTestGpu({ dtype: "f16" });
  if (!device) return;
  const whole = trainerOn(device);
  const first = { ...await whole.trainer.snapshot(), lossScale: 1024, goodSteps: 1998 };
  const steps = (trainer: Trainer, until: number) =>
    Array.fromAsync(trainer.run(until, { lastGood: () => Promise.reject(new Error("not asked for")) }));
  whole.trainer.load(first);
  await steps(whole.trainer, 6);
  const resumed = trainerOn(device);
  resumed.trainer.load(first);
  await steps(resumed.trainer, 3);
  const half = await resumed.trainer.snapshot();
  assert.deepEqual([half.lossScale, half.goodSteps], [2048, 1]);
  const again = trainerOn(device);
  again.trainer.load(half);
  await steps(again.trainer, 6);
  assert.deepEqual(await again.trainer.snapshot(), await whole.trainer.snapshot());
  device.destroy();
  await inTemporaryDirectory(async (output) => {
    await Array.fromAsync(train({ ...TINY, output, device: "webgpu", dtype: "f16", steps: 2 }));
    const state = JSON.parse(await Deno.readTextFile(join(output, "train_state.json")));
    assert.deepEqual([state.loss_scale, state.good_steps], [2 ** 15, 2]);
    const { run } = await prepareRun({ ...TINY, resume: output, device: "webgpu", dtype: "f16" });
    assert.equal((await run.trainer.snapshot()).goodSteps, 2);
    run.close();
  });
});

Deno.test("a run that is complete is not trained on without --steps", async () => {
  await inTemporaryDirectory(async (output) => {
    await Array.fromAsync(train({ ...TINY, output }));
    const before = await hashes(output);
    const again = train({ resume: output, documents: TINY.documents!, device: "cpu" });
    await assert.rejects(Array.fromAsync(again), /is complete: all of its 12 steps are done/);
    assert.deepEqual(await hashes(output), before);
  });
});

Deno.test("whatever is thrown after the device was opened frees it", async () => {
  const { destroy } = ReferenceDevice.prototype;
  let destroyed = 0;
  ReferenceDevice.prototype.destroy = function () {
    destroyed++;
    destroy.call(this);
  };
  try {
    await inTemporaryDirectory(async (dir) => {
      const small = { nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 260, steps: 1, valFraction: 0 };
      const options: TrainOptions = {
        documents: ["anna", "bob"],
        output: join(dir, "out"),
        device: "reference",
        ...small,
      };
      // An injected failure: options are checked first, and the run reads this one again when its device is open.
      let reads = 0;
      const failing = Object.defineProperty({ ...options }, "keep", {
        get: () => {
          if (++reads > 1) throw new Error("injected");
          return 0;
        },
      });
      await assert.rejects(prepareRun(failing), /injected/);
      assert.equal(destroyed, 1);
      const { run } = await prepareRun(options);
      assert.equal(destroyed, 1, "a run that is ready keeps its device");
      run.close();
      run.close();
      await assert.rejects(Array.fromAsync(run.events()), { name: "MicrogptError", message: /closed/ });
    });
  } finally {
    ReferenceDevice.prototype.destroy = destroy;
  }
});

Deno.test("a run that is closed while it trains ends with an error, and again is harmless", async () => {
  await inTemporaryDirectory(async (dir) => {
    for (const device of ["reference", "cpu"] as const) {
      const { run } = await prepareRun({
        documents: ["anna", "bob"],
        output: join(dir, device),
        device,
        nEmbd: 8,
        nHead: 2,
        nLayer: 1,
        vocabSize: 260,
        valFraction: 0,
        steps: 500,
      });
      const events = run.events();
      await events.next();
      run.close();
      await assert.rejects(Array.fromAsync(events), { name: "MicrogptError", message: /closed/ });
      run.close();
    }
  });
});

Deno.test("a preset that there is not is refused, not ignored", async () => {
  const preset = "nmaes" as PresetName;
  await assert.rejects(prepareRun({ documents: ["a", "b"], preset, output: "nowhere" }), {
    name: "MicrogptError",
    message: /^`preset` must be one of names, .*, got nmaes$/,
  });
});
