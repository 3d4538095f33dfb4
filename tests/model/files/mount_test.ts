/** An output directory that cannot be moved or left: a mount point, as a container's volume is, or one that alone may be written. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { exportModel } from "../../../model/export/export.ts";
import { saveCheckpoint } from "../../../model/files/checkpoint.ts";
import { keepBest, keepCheckpoint } from "../../../model/files/kept_checkpoints.ts";
import { CHECKPOINT_FILES } from "../../../model/files/directory.ts";
import { prepareOutput } from "../../../model/files/output_directory.ts";
import { train } from "../../../model/train/train.ts";
import { checkpointAt, loadedStep, namesIn, OTHER_CONFIG, withDirectory } from "./checkpoint_fixture.ts";
import { type Death, onFailingDisk } from "./failing_disk.ts";

const command = async (program: string, ...args: string[]) =>
  (await new Deno.Command(program, { args, stderr: "null" }).output()).success;

/** Runs `use` with a directory that is a mount point: its own file system, or another directory's second place. */
async function withMount(kind: "tmpfs" | "bind", use: (dir: string, root: string) => Promise<void>) {
  await withDirectory(async (root) => {
    const dir = join(root, "model"), other = join(root, "other");
    for (const path of [dir, other]) await Deno.mkdir(path);
    const args = kind === "tmpfs" ? ["-t", "tmpfs", "-o", "size=16m", "tmpfs", dir] : ["--bind", other, dir];
    if (Deno.build.os !== "linux" || Deno.uid() !== 0 || !await command("mount", ...args)) {
      return console.warn("skipped: mounting takes Linux and its user root");
    }
    try {
      await use(dir, root);
    } finally {
      assert(await command("umount", dir));
    }
  });
}

for (const kind of ["tmpfs", "bind"] as const) {
  Deno.test(`a mount point (${kind}): fresh runs keep the old model inside, runs are resumed, exports replaced`, () =>
    withMount(kind, async (dir) => {
      const run = async (steps: number, options = {}) => {
        const documents = ["anna", "bob", "carla", "dora"];
        const small = { nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 260, device: "reference" as const };
        const events = await Array.fromAsync(train({ documents, output: dir, steps, ...small, ...options }));
        return events.flatMap((event) => event.type === "notice" ? [event.message] : []).join("\n");
      };
      const stepIn = async (path: string) =>
        JSON.parse(await Deno.readTextFile(join(path, "train_state.json"))).step;
      assert.doesNotMatch(await run(2), /holds a model/);
      await run(1, { resume: dir, checkpointEvery: 1, keep: 1 });
      assert.equal(await stepIn(dir), 3);
      const real = await Deno.realPath(dir);
      const message = `first checkpoint, then moves to ${join(real, "old")}`;
      assert((await run(4)).includes(message));
      assert.deepEqual([await stepIn(dir), await stepIn(join(dir, "old"))], [4, 3]);
      assert.deepEqual(await namesIn(join(dir, "old/checkpoints")), ["best", "step-000003"]);
      assert((await run(1)).includes(`${message}, in place of the one there`));
      assert((await run(1)).includes(`${message}-2`));
      assert.deepEqual(
        [await stepIn(dir), await stepIn(join(dir, "old")), await stepIn(join(dir, "old-2"))],
        [
          1,
          4,
          1,
        ],
      );
      assert.deepEqual(await namesIn(dir), [...CHECKPOINT_FILES.gpt, "checkpoints", "old", "old-2"].sort());
      await exportModel(dir, join(dir, "export"));
      await exportModel(join(dir, "old"), join(dir, "export"));
    }));
}

Deno.test("an export onto its own source through a second mount of it is refused", () =>
  withMount("bind", async (dir, root) => {
    await saveCheckpoint(dir, await checkpointAt(1, join(root, "metrics")));
    await assert.rejects(exportModel(join(root, "other"), dir), {
      name: "MicrogptError",
      message: /^the export would replace the model it is made from/,
    });
  }));

Deno.test("an old model is not moved to a place that is a mount point", () =>
  withMount("tmpfs", async (mount, root) => {
    const dir = join(root, "run"), metrics = join(root, "metrics");
    await Deno.rename(join(root, "other"), `${dir}.old`);
    await saveCheckpoint(dir, await checkpointAt(1, metrics));
    assert(await command("mount", "--bind", mount, `${dir}.old`));
    try {
      await saveCheckpoint(dir, await checkpointAt(2, metrics), { keepOld: true });
      assert.deepEqual(await namesIn(`${dir}.old`), []);
      assert.deepEqual([await loadedStep(dir), await loadedStep(`${dir}.old-2`)], [2, 1]);
    } finally {
      assert(await command("umount", `${dir}.old`));
    }
  }));

Deno.test("death at every operation: a fresh run's first save over another model on a mount point", () =>
  withMount("tmpfs", async (mount, root) => {
    const metrics = join(root, "metrics");
    const save = async (step: number, keepOld = false) =>
      await saveCheckpoint(mount, await checkpointAt(step, metrics), { keepOld });
    const found = new Set<number>();
    const run = async (death: Death) => {
      for (const name of await namesIn(mount)) await Deno.remove(join(mount, name), { recursive: true });
      await saveCheckpoint(mount, await checkpointAt(6, metrics, OTHER_CONFIG));
      await saveCheckpoint(mount, await checkpointAt(7, metrics, OTHER_CONFIG), { keepOld: true });
      await keepCheckpoint(mount, 7, 2);
      await keepBest(mount);
      const { operations, died } = await onFailingDisk(() => save(1, true), death);
      const step = await loadedStep(mount);
      assert(step === 1 || died && step === 7, `step ${step}`);
      found.add(step);
      await prepareOutput(mount); // as the next run does
      // the model that was kept before is never gone before the new one counts
      if (step === 7) assert.equal(await loadedStep(join(mount, "old")), 6);
      await save(2, step === 7);
      assert.deepEqual([await loadedStep(mount), await loadedStep(join(mount, "old"))], [2, 7]);
      assert.equal(await loadedStep(join(mount, "old/checkpoints/best")), 7);
      assert.deepEqual(await namesIn(mount), [...CHECKPOINT_FILES.gpt, "old"].sort());
      return operations;
    };
    const operations = await run({ at: Infinity });
    for (const [at, { name }] of operations.entries()) {
      await run({ at });
      if (name === "write") await run({ at, midway: true });
    }
    assert.deepEqual([...found].sort(), [1, 7]);
  }));

/** Saves step 2 over step 1 as a process that may write nowhere but in the directory and the log's. */
const SAVE_CONFINED = `
  import { saveCheckpoint } from ${JSON.stringify(import.meta.resolve("../../../model/files/checkpoint.ts"))};
  import { checkpointAt } from ${JSON.stringify(import.meta.resolve("./checkpoint_fixture.ts"))};
  const [dir, metrics] = Deno.args;
  await saveCheckpoint(dir, await checkpointAt(1, metrics));
  await saveCheckpoint(dir, await checkpointAt(2, metrics), { keepOld: true });`;

Deno.test("where nothing may be written beside it, the old model is kept inside", () =>
  withDirectory(async (root) => {
    const dir = join(root, "model"), metrics = join(root, "metrics");
    await Deno.mkdir(dir);
    await Deno.writeTextFile(`${dir}.ts`, SAVE_CONFINED);
    const flags = ["--no-check", "--no-prompt", "--allow-read", `--allow-write=${dir},${metrics}`];
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", ...flags, `${dir}.ts`, dir, metrics],
    }).output();
    assert(success, new TextDecoder().decode(stderr));
    assert.deepEqual([await loadedStep(dir), await loadedStep(join(dir, "old"))], [2, 1]);
  }));
