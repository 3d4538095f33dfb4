/** A disk that is really full, and gets room again: nothing of a run is lost. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { exportModel } from "../../../model/export/export.ts";
import { readCheckpoint, readModel } from "../../../model/files/checkpoint.ts";
import type { TrainEvent } from "../../../model/train/train.ts";
import { train } from "../../../model/train/train.ts";
import type { TrainOptions } from "../../../model/train/options.ts";
import { namesIn, withDirectory } from "../files/checkpoint_fixture.ts";

/** Runs a command. @returns whether it succeeded */
async function succeeds(command: string, ...args: string[]): Promise<boolean> {
  return (await new Deno.Command(command, { args, stdout: "null", stderr: "null" }).output()).success;
}

/** Runs `use` with a directory on a disk of 2 MB; says so where this process may not mount one. */
function onSmallDisk(use: (dir: string) => Promise<void>): () => Promise<void> {
  return () =>
    withDirectory(async (dir) => {
      const mounted = Deno.build.os === "linux" && Deno.uid() === 0 &&
        await succeeds("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", dir);
      if (!mounted) return console.log("skipped: only root on Linux mounts a small disk");
      try {
        await use(dir);
      } finally {
        assert(await succeeds("umount", dir));
      }
    });
}

const filler = (dir: string) => join(dir, "filler");

/** Leaves no byte. */
function fill(dir: string): void {
  using file = Deno.openSync(filler(dir), { create: true, append: true });
  for (const size of [64 << 10, 1 << 10, 1]) {
    try {
      for (;;) file.writeSync(new Uint8Array(size));
    } catch (error) {
      assert.equal((error as { code?: string }).code, "ENOSPC");
    }
  }
}

const free = (dir: string) => Deno.removeSync(filler(dir));

const OPTIONS: TrainOptions = {
  documents: ["anna", "bob", "carla", "dora", "emil", "frida", "gustav", "hanna", "ida", "jonas"],
  vocabSize: 260,
  nEmbd: 8,
  nHead: 2,
  nLayer: 1,
  blockSize: 16,
  batchSize: 4,
  steps: 400,
  valFraction: 0.2,
  evalEvery: 20,
};

const notices = (events: TrainEvent[]) =>
  events.flatMap((event) => event.type === "notice" ? [event.message] : []);

/** Every step from 1 to `last` has its line, in order, once. */
async function checkMetrics(dir: string, last: number): Promise<void> {
  const lines = (await Deno.readTextFile(join(dir, "metrics.jsonl"))).trim().split("\n");
  const steps = lines.map((line) => JSON.parse(line)).filter((line) => "loss" in line).map(({ step }) =>
    step
  );
  assert.deepEqual(steps, Array.from({ length: last }, (_, i) => i + 1));
}

Deno.test(
  "training goes on while the disk is full, and saves when there is room again",
  onSmallDisk(async (dir) => {
    const output = join(dir, "model");
    const events: TrainEvent[] = [];
    for await (const event of train({ ...OPTIONS, output, checkpointEvery: 25 })) {
      events.push(event);
      if (event.type !== "step") continue;
      if (event.step === 110) fill(dir);
      if (event.step === 210) free(dir);
    }
    const said = notices(events);
    const [saves, lines] = [/^warning: checkpoint/, /metrics\.jsonl\.part/].map((about) =>
      said.filter((message) => about.test(message))
    );
    assert.equal(saves!.length + lines!.length, said.length, said.join("\n"));
    assert.equal(saves!.length, 1, said.join("\n"));
    assert.match(
      saves![0]!,
      /^warning: checkpoint of step 1\d\d: cannot save to .*: No space left on device; train/,
    );
    // a save that is under way when the disk gets full gives its room back, which lines fill again
    assert([2, 4].includes(lines!.length), said.join("\n"));
    lines!.forEach((message, i) =>
      assert.match(
        message,
        i % 2 === 0
          ? /^warning: cannot write .*metrics\.jsonl\.part: No space left on device; training goes/
          : /metrics\.jsonl\.part is written again: nothing is lost$/,
      )
    );
    const saved = events.flatMap((event) => event.type === "checkpoint" ? [event.step] : []);
    // the save of step 200 may end after there is room
    assert(saved.every((step) => step <= 110 || step >= 200), `saved at ${saved}`);
    assert.equal(saved.at(-1), 400);
    await checkMetrics(output, 400);
    const evaluations = events.filter((event) => event.type === "evaluation");
    const best = evaluations.reduce((a, b) => b.loss < a.loss ? b : a);
    assert.equal((await readCheckpoint(join(output, "checkpoints/best"))).trainState.step, best.step);
  }),
);

Deno.test(
  "the last checkpoint waits for room, with all lines; the best that could not be saved is not forgotten",
  onSmallDisk(async (dir) => {
    const output = join(dir, "model");
    const events: TrainEvent[] = [];
    for await (const event of train({ ...OPTIONS, output, steps: 40 })) {
      events.push(event);
      if (event.type === "step" && event.step === 10) fill(dir);
      if (event.type === "notice" && event.message.includes("only in memory")) free(dir);
    }
    assert.match(
      notices(events).at(-1)!,
      /^warning: cannot save to .*: No space left .* it takes 1 MB there\. Trying again for 10 minutes; Ctrl-C g/,
    );
    assert.equal((await readCheckpoint(output)).trainState.final, true);
    await checkMetrics(output, 40);
    const evaluations = events.filter((event) => event.type === "evaluation");
    const best = evaluations.reduce((a, b) => b.loss < a.loss ? b : a);
    assert.equal((await readCheckpoint(join(output, "checkpoints/best"))).trainState.step, best.step);
  }),
);

Deno.test(
  "who gives up waiting gets one error, and the checkpoint before stays whole",
  onSmallDisk(async (dir) => {
    const output = join(dir, "model");
    const stop = new AbortController();
    let saved = 0;
    const run = async () => {
      for await (const event of train({ ...OPTIONS, output, steps: 400, signal: stop.signal })) {
        if (event.type === "checkpoint") fill(dir);
        if (event.type === "checkpoint") saved = event.step;
        if (event.type === "notice" && event.message.includes("only in memory")) stop.abort();
      }
    };
    await assert.rejects(run(), {
      name: "MicrogptError",
      message: /^cannot save to .*: No space left on device$/,
      hint: "what was saved there before is untouched",
    });
    assert.equal((await readCheckpoint(output)).trainState.step, saved);
    assert(!(await namesIn(output)).some((name) => name.startsWith(".") || name.endsWith(".part")));
  }),
);

Deno.test(
  "an export onto a full disk is refused, and the one before stays whole",
  onSmallDisk((dir) =>
    withDirectory(async (model) => {
      await Array.fromAsync(train({ ...OPTIONS, output: model, steps: 1 }));
      const to = join(dir, "exported");
      await exportModel(model, to, { half: true });
      fill(dir);
      await assert.rejects(
        exportModel(model, to),
        /^MicrogptError: cannot (save to|lock|write to) .*: No space/,
      );
      assert.equal((await readModel(to)).fileDtype, "F16");
      free(dir);
      await exportModel(model, to);
      assert.equal((await readModel(to)).fileDtype, "F32");
    })
  ),
);
