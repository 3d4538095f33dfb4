/** The best evaluation's checkpoint: which one it is, that it is there, and what a resumed run knows of it. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { readCheckpoint } from "../../../model/files/checkpoint.ts";
import type { EvaluationEvent } from "../../../model/train/trainer.ts";
import type { TrainEvent } from "../../../model/train/train.ts";
import { prepareRun } from "../../../model/train/prepare.ts";
import { train } from "../../../model/train/train.ts";
import type { TrainOptions } from "../../../model/train/options.ts";
import { contentsOf, namesIn, withDirectory } from "../files/checkpoint_fixture.ts";
import { microgpt } from "../../cli/program.ts";

const DOCUMENTS = ["anna", "bob", "carla", "dora", "emil", "frida", "gustav", "hanna", "ida", "jonas"];
/** Learns its eight documents by heart, so that the held-out loss rises again. */
const SETTINGS: TrainOptions = {
  vocabSize: 260,
  nEmbd: 16,
  nHead: 2,
  nLayer: 1,
  blockSize: 16,
  batchSize: 4,
  steps: 40,
  learningRate: 0.05,
  warmupSteps: 2,
  evalEvery: 4,
  valFraction: 0.2,
};
const OPTIONS = { ...SETTINGS, documents: DOCUMENTS };

const evaluations = (events: TrainEvent[]) =>
  events.filter((event): event is EvaluationEvent => event.type === "evaluation");
const notices = (events: TrainEvent[]) =>
  events.flatMap((event) => event.type === "notice" ? [event.message] : []);
const lowest = (events: TrainEvent[]) => evaluations(events).reduce((a, b) => b.loss < a.loss ? b : a);

/** The step of a checkpoint, and the loss that its weights have on the held-out documents. */
async function measured(dir: string, scratch: string): Promise<{ step: number; loss: number }> {
  const { run } = await prepareRun({ documents: DOCUMENTS, resume: dir, output: scratch, steps: 1 });
  const event = await run.trainer.evaluate();
  run.close();
  return { step: event!.step, loss: event!.loss };
}

Deno.test("the best evaluation is kept, without --keep and between checkpoints, and is not the last", () =>
  withDirectory(async (dir) => {
    const output = join(dir, "model");
    const events = await Array.fromAsync(train({ ...OPTIONS, output, checkpointEvery: 15 }));
    const { step, loss } = lowest(events);
    assert(step < 40 && step % 15 !== 0, `the best is of step ${step}: choose another seed`);
    const best = join(output, "checkpoints/best");
    assert.deepEqual(await measured(best, join(dir, "scratch")), { step, loss });
    const { trainState } = await readCheckpoint(output);
    assert.deepEqual([trainState.step, trainState.best_val_step, trainState.best_val_loss], [40, step, loss]);
    const saved = events.flatMap((event) => event.type === "checkpoint" && event.best ? [event.step] : []);
    assert.equal(saved.at(-1), step);
    assert.deepEqual(await namesIn(join(output, "checkpoints")), ["best"]);
  }));

Deno.test("a run out of patience ends, its best is kept, and a resumed one ends at the same step", () =>
  withDirectory(async (dir) => {
    const [output, other] = [join(dir, "model"), join(dir, "other")];
    const whole = evaluations(await Array.fromAsync(train({ ...OPTIONS, output: join(dir, "whole") })));
    const ends = whole.find(({ step }, i) => {
      const best = whole.slice(0, i + 1).reduce((a, b) => b.loss < a.loss ? b : a);
      return step - best.step >= 2 * 4;
    })!;
    assert(ends.step < 40, "the loss rises again: choose another seed");
    const events = await Array.fromAsync(train({ ...OPTIONS, output, patience: 2 }));
    assert.deepEqual(evaluations(events).at(-1), ends);
    assert.deepEqual(evaluations(events), whole.slice(0, whole.indexOf(ends) + 1));
    const { step } = lowest(events);
    assert.equal(
      notices(events).filter((text) =>
        text.includes(`2 evaluations in a row were no better than that of step ${step}`)
      )
        .length,
      1,
    );
    const { trainState } = await readCheckpoint(output);
    assert.deepEqual([trainState.step, trainState.final], [ends.step, true]);
    const end = events.at(-1)!;
    assert(end.type === "end" && end.complete);
    assert.equal((await measured(join(output, "checkpoints/best"), join(dir, "scratch"))).step, step);
    const abort = new AbortController();
    for await (const event of train({ ...OPTIONS, output: other, patience: 2, signal: abort.signal })) {
      if (event.type === "step" && event.step === ends.step - 3) abort.abort();
    }
    const resumed = await Array.fromAsync(train({ documents: DOCUMENTS, resume: other, output: other }));
    assert.deepEqual(evaluations(resumed).at(-1), ends);
  }));

Deno.test("which one is the best does not depend on how long a save takes", () =>
  withDirectory(async (dir) => {
    const output = join(dir, "model");
    const { sync } = Deno.FsFile.prototype;
    Deno.FsFile.prototype.sync = async function () {
      await new Promise((resolve) => setTimeout(resolve, 5));
      await sync.call(this);
    };
    let events: TrainEvent[];
    try {
      events = await Array.fromAsync(train({ ...OPTIONS, output, keep: 1, checkpointEvery: 4 }));
    } finally {
      Deno.FsFile.prototype.sync = sync;
    }
    const { step, loss } = lowest(events);
    assert.deepEqual(await measured(join(output, "checkpoints/best"), join(dir, "scratch")), { step, loss });
  }));

Deno.test("a resumed run knows its best, whether or not it was linked before the process died", () =>
  withDirectory(async (dir) => {
    const output = join(dir, "model");
    const first = await Array.fromAsync(train({ ...OPTIONS, output, steps: 20 }));
    const best = lowest(first);
    const resume = { documents: DOCUMENTS, resume: output, steps: 4, learningRate: 0.3 };
    assert.deepEqual(
      notices(await Array.fromAsync(train(resume))).filter((text) => text.includes("best")),
      [],
    );
    assert.equal((await readCheckpoint(output)).trainState.best_val_step, best.step);
    assert.equal((await readCheckpoint(join(output, "checkpoints/best"))).trainState.step, best.step);
    // as after a death between the two
    await Array.fromAsync(train({ ...OPTIONS, output, steps: 4 }));
    await Deno.remove(join(output, "checkpoints"), { recursive: true });
    await Array.fromAsync(train(resume));
    assert.equal((await readCheckpoint(join(output, "checkpoints/best"))).trainState.step, 4);
  }));

Deno.test("with other data the best so far is forgotten, said, and its weights stay", () =>
  withDirectory(async (dir) => {
    const [input, output] = [join(dir, "a.txt"), join(dir, "model")];
    await Deno.writeTextFile(input, DOCUMENTS.join("\n"));
    const before = lowest(await Array.fromAsync(train({ ...SETTINGS, input, output })));
    await Deno.writeTextFile(input, DOCUMENTS.map((name) => name + name + "xyz").join("\n"));
    const events = await Array.fromAsync(train({ resume: output, steps: 8 }));
    const said = notices(events).find((text) => text.includes("best"));
    assert.match(
      said!,
      /^warning: the best evaluation so far .* was on other held-out documents: it is forgot/,
    );
    const { step, loss } = lowest(events);
    assert(loss > before.loss, "else this shows nothing");
    assert.equal((await readCheckpoint(output)).trainState.best_val_loss, loss);
    const kept = join(output, "checkpoints");
    assert.deepEqual(await namesIn(kept), ["best", "best-until-step-000040"]);
    assert.equal((await readCheckpoint(join(kept, "best"))).trainState.step, step);
    assert.equal((await readCheckpoint(join(kept, "best-until-step-000040"))).trainState.step, before.step);
  }));

Deno.test("a best whose weights are gone is not claimed", () =>
  withDirectory(async (dir) => {
    const output = join(dir, "model");
    await Array.fromAsync(train({ ...OPTIONS, output }));
    await Deno.remove(join(output, "checkpoints"), { recursive: true });
    const events = await Array.fromAsync(train({ documents: DOCUMENTS, resume: output, steps: 4 }));
    assert.match(notices(events).at(-1)!, /is not in .*best: the best is sought among the steps to come$/);
    assert.equal((await readCheckpoint(join(output, "checkpoints/best"))).trainState.step, 44);
  }));

Deno.test("a run from a kept checkpoint gets a directory of its own, and --keep prunes no work", () =>
  withDirectory(async (dir) => {
    const output = join(dir, "model");
    await Array.fromAsync(train({ ...OPTIONS, output, checkpointEvery: 10, keep: 4 }));
    const kept = join(output, "checkpoints/step-000010");
    const before = await contentsOf(output);
    const info = await microgpt(["info", "--model-dir", kept]);
    assert.match(
      info.stdout,
      /step 10 of 40, `.*train --resume .*step-000010 .*` goes on in .*model-step-000010$/m,
    );
    const resume = { documents: DOCUMENTS, resume: kept };
    const events = await Array.fromAsync(train(resume));
    assert.match(notices(events)[0]!, /^the run goes on in .*model-step-000010: .*step-000010 stays/);
    assert.deepEqual(await contentsOf(output), before);
    const own = `${output}-step-000010`;
    const lines = async (path: string) =>
      (await Deno.readTextFile(join(path, "metrics.jsonl"))).trim().split("\n").map((line) => {
        const { ms: _, ...rest } = JSON.parse(line);
        return rest;
      });
    assert.deepEqual(await lines(own), await lines(output));
    await assert.rejects(prepareRun(resume), /model-step-000010, .* holds a run already/);
    await assert.rejects(
      prepareRun({ ...OPTIONS, output: kept }),
      /is a checkpoint that the run in .*model keeps/,
    );

    // where a person trained in a kept checkpoint, or put notes into one, it is not pruned
    await Deno.writeTextFile(join(kept, "notes"), "mine");
    const trained = join(output, "checkpoints/step-000020");
    await Deno.remove(trained, { recursive: true });
    await Deno.rename(own, trained);
    await Array.fromAsync(train({ documents: DOCUMENTS, resume: output, steps: 4, keep: 1 }));
    assert.deepEqual(await namesIn(join(output, "checkpoints")), [
      "best",
      "step-000010",
      "step-000020",
      "step-000044",
    ]);
  }));

Deno.test("a run that is stopped before its first step leaves everything as it was", () =>
  withDirectory(async (dir) => {
    const output = join(dir, "model");
    await Array.fromAsync(train({ ...OPTIONS, output, steps: 2 }));
    const before = await contentsOf(dir);
    const signal = AbortSignal.abort();
    for (const options of [{ ...OPTIONS, output }, { documents: DOCUMENTS, resume: output, steps: 2 }]) {
      const events = await Array.fromAsync(train({ ...options, signal }));
      const told = events.map(({ type }) => type).filter((type) => type !== "notice");
      assert.deepEqual(told, ["plan", "end"]);
      assert.deepEqual(await contentsOf(dir), before);
    }
  }));

Deno.test("the end of train says where the last weights are and where the best, with their losses", () =>
  withDirectory(async (dir) => {
    await Deno.writeTextFile(join(dir, "a.txt"), DOCUMENTS.join("\n"));
    const flags = Object.entries({ ...SETTINGS, lr: 0.05 }).filter(([name]) => name !== "learningRate")
      .flatMap(([name, value]) => [`--${name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`, `${value}`]);
    const { stderr } = await microgpt(["train", "--input", "a.txt", "--output", "model", ...flags], {
      cwd: dir,
    });
    const { best_val_loss, best_val_step } = (await readCheckpoint(join(dir, "model"))).trainState;
    assert.match(stderr, /^model in model: step 40, held out loss \d+\.\d{4}$/m);
    const best = `best in model/checkpoints/best: step ${best_val_step}, held out loss ${
      best_val_loss!.toFixed(4)
    }`;
    assert(stderr.includes(`\n${best}\n`), stderr);
  }));
