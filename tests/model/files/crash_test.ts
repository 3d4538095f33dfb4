/** The process dies at every single operation of a save: the last complete checkpoint must load, and nothing in between. */

import assert from "node:assert/strict";
import { basename, dirname, join } from "node:path";
import { readModel, saveCheckpoint, saveInferenceModel } from "../../../model/files/checkpoint.ts";
import { keepBest, keepCheckpoint } from "../../../model/files/kept_checkpoints.ts";
import { CHECKPOINT_FILES } from "../../../model/files/directory.ts";
import { prepareOutput } from "../../../model/files/output_directory.ts";
import {
  checkpointAt,
  contentsOf,
  loadedStep,
  namesIn,
  OTHER_CONFIG,
  withDirectory,
} from "./checkpoint_fixture.ts";
import { type Death, onFailingDisk, type Operation } from "./failing_disk.ts";

/** One thing that can be interrupted. */
interface Scenario {
  /** what is on disk before */
  before: (dir: string, metrics: string) => Promise<void>;
  /** what dies */
  act: (dir: string, metrics: string) => Promise<void>;
  /** checks what a death left, `done` when there was none @returns what was found, for a look at which outcomes came up */
  after: (dir: string, metrics: string, done: boolean) => Promise<string>;
}

const save = async (dir: string, metrics: string, step: number, keepOld = false) =>
  await saveCheckpoint(dir, await checkpointAt(step, metrics), { keepOld });

const SCENARIOS: Record<string, Scenario> = {
  "the first save": {
    before: () => Promise.resolve(),
    act: (dir, metrics) => save(dir, metrics, 1),
    after: async (dir, metrics, done) => {
      const found = await loadedStep(dir).then(String, (error) => {
        assert.match(error.message, /is missing$|does not exist$/);
        return "nothing";
      });
      if (done) assert.equal(found, "1");
      await prepareOutput(dir);
      await save(dir, metrics, 2);
      assert.equal(await loadedStep(dir), 2);
      assert.deepEqual(await namesIn(dir), [...CHECKPOINT_FILES.gpt].sort());
      return found;
    },
  },
  "a save over the one before": {
    before: async (dir, metrics) => {
      await save(dir, metrics, 1);
      await Deno.writeTextFile(join(dir, "README.md"), "mine");
      await keepCheckpoint(dir, 1, 2);
      await keepBest(dir);
    },
    act: (dir, metrics) => save(dir, metrics, 2),
    after: async (dir, metrics, done) => {
      const found = await loadedStep(dir);
      assert(found === 2 || !done && found === 1, `step ${found}`);
      assert.equal((await readModel(dir)).params[0], found);
      await save(dir, metrics, 3);
      assert.equal(await loadedStep(dir), 3);
      assert.deepEqual(await namesIn(dir), [...CHECKPOINT_FILES.gpt, "README.md", "checkpoints"].sort());
      assert.equal(await loadedStep(join(dir, "checkpoints/best")), 1);
      return `${found}`;
    },
  },
  "a fresh run's first save over another model": {
    before: async (dir, metrics) => {
      await saveCheckpoint(dir, await checkpointAt(6, metrics, OTHER_CONFIG));
      await saveCheckpoint(dir, await checkpointAt(7, metrics, OTHER_CONFIG), { keepOld: true });
      await keepCheckpoint(dir, 7, 2);
      await keepBest(dir);
    },
    act: (dir, metrics) => save(dir, metrics, 1, true),
    after: async (dir, metrics, done) => {
      const found = await loadedStep(dir);
      assert(found === 1 || !done && found === 7, `step ${found}`);
      assert.equal((await readModel(dir)).params[0], found);
      await prepareOutput(dir); // as the next run does
      await save(dir, metrics, 2, found === 7);
      assert.deepEqual([await loadedStep(dir), await loadedStep(`${dir}.old`)], [2, 7]);
      assert.equal(await loadedStep(`${dir}.old/checkpoints/best`), 7);
      assert.deepEqual(await namesIn(dir), [...CHECKPOINT_FILES.gpt].sort());
      return `${found}`;
    },
  },
  "keeping a checkpoint and dropping an old one": {
    before: async (dir, metrics) => {
      await save(dir, metrics, 1);
      await keepCheckpoint(dir, 1, 1);
      await keepBest(dir);
      await save(dir, metrics, 2);
    },
    act: async (dir) => {
      await keepBest(dir);
      await keepCheckpoint(dir, 2, 1);
    },
    after: async (dir, metrics, done) => {
      assert.equal(await loadedStep(dir), 2);
      const best = await loadedStep(join(dir, "checkpoints/best"));
      assert(best === 2 || !done && best === 1, `best ${best}`);
      for (const name of await namesIn(join(dir, "checkpoints"))) {
        if (!name.startsWith("step-")) continue;
        const there = await namesIn(join(dir, "checkpoints", name));
        if (there.length === 0 || there.includes(".saving")) continue;
        assert.equal(await loadedStep(join(dir, "checkpoints", name)), Number(name.slice(5)));
      }
      await save(dir, metrics, 3);
      await keepCheckpoint(dir, 3, 1);
      await keepBest(dir);
      assert.deepEqual(await namesIn(join(dir, "checkpoints")), ["best", "step-000003"]);
      return `${best}`;
    },
  },
  "an inference model over another": {
    before: async (dir, metrics) =>
      await saveInferenceModel(dir, await checkpointAt(1, metrics), { half: true }),
    act: async (dir, metrics) => await saveInferenceModel(dir, await checkpointAt(2, metrics)),
    after: async (dir, _metrics, done) => {
      const { params, fileDtype } = await readModel(dir);
      const found = `${params[0]} ${fileDtype}`;
      assert(found === "2 F32" || !done && found === "1 F16", found);
      return found;
    },
  },
};

for (const [name, { before, act, after }] of Object.entries(SCENARIOS)) {
  Deno.test(`death at every operation: ${name}`, async () => {
    const found: Record<string, number> = {};
    /** @returns the operations done until death */
    const run = (death: Death) =>
      withDirectory(async (root) => {
        const dir = join(root, "model"), metrics = join(root, "metrics");
        await before(dir, metrics);
        const { operations, died } = await onFailingDisk(() => act(dir, metrics), death);
        const outcome = await after(dir, metrics, !died);
        found[outcome] = (found[outcome] ?? 0) + 1;
        return operations;
      });
    const operations = await run({ at: Infinity });
    for (const [at, { name }] of operations.entries()) {
      await run({ at });
      if (name === "write") await run({ at, midway: true });
    }
    assert(operations.length > 10, `only ${operations.length} operations were seen`);
    assert.equal(
      Object.keys(found).length,
      2,
      `before and after must both come up: ${JSON.stringify(found)}`,
    );
  });
}

Deno.test("reading after a death repairs nothing and writes nothing", () =>
  withDirectory(async (root) => {
    const dir = join(root, "model"), metrics = join(root, "metrics");
    await save(dir, metrics, 1);
    const { operations } = await onFailingDisk(() => save(dir, metrics, 2));
    const commit = operations.findIndex(({ to }) => to && basename(to) === ".saved");
    await onFailingDisk(() => save(dir, metrics, 3), { at: commit + 4 });
    const before = await contentsOf(root);
    assert(Object.keys(before).some((path) => path.startsWith("model/.saved/")));
    assert.equal(await loadedStep(dir), 3);
    assert.deepEqual(await contentsOf(root), before);
  }));

/** Paths written or named, and not flushed since, when operation `at` comes. */
function unflushed(operations: Operation[], at: number): string[] {
  const dirty = new Set<string>();
  for (const { name, path, to } of operations.slice(0, at)) {
    if (name === "sync") dirty.delete(path);
    if (name === "write") dirty.add(path);
    if (name !== "sync" && name !== "write") dirty.add(dirname(path));
    if (to) dirty.add(dirname(to));
  }
  return [...dirty];
}

Deno.test("everything is flushed before it counts, and before what it replaces goes", () =>
  withDirectory(async (root) => {
    const dir = join(root, "model"), metrics = join(root, "metrics");
    await save(dir, metrics, 1);
    const { operations } = await onFailingDisk(() => save(dir, metrics, 2));
    const commit = operations.findIndex(({ to }) => to && basename(to) === ".saved");
    const notYet = unflushed(operations, commit).filter((path) => path.startsWith(join(dir, ".saving")));
    assert.deepEqual(notYet, []);
    assert.equal(
      operations.slice(0, commit).filter(({ name, path }) =>
        name === "sync" && dirname(path) === join(dir, ".saving")
      ).length,
      CHECKPOINT_FILES.gpt.length,
    );
    const moved = operations.findIndex(({ name }, i) => i > commit && name === "rename");
    assert.deepEqual(unflushed(operations, moved), []);
    const removed = operations.findIndex(({ name }, i) => i > commit && name === "remove");
    assert.deepEqual(unflushed(operations, removed).filter((path) => path === dir), []);
  }));
