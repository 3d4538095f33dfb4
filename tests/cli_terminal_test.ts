/** Training and generating in a terminal: the live line, Ctrl-C, streaming. */
import assert from "node:assert/strict";
import { readCheckpoint } from "../model/checkpoint.ts";
import { withDirectory } from "./checkpoint_fixture.ts";
import { microgpt, NAMES, TINY } from "./program.ts";
import { inTerminal, KEY, TERMINAL_TESTS } from "./terminal.ts";

const ignore = !TERMINAL_TESTS;

Deno.test({
  name: "train in a terminal: a live line; Ctrl-C ends with a checkpoint and says how to go on",
  ignore,
  fn: async () => {
    await withDirectory(async (dir) => {
      await Deno.writeTextFile(`${dir}/names.txt`, NAMES);
      const train = ["train", "--input", "names.txt", "--output", "model", ...TINY, "--steps", "100000000"];
      const { code, pieces } = await inTerminal(train, [
        { wait: "─ 1/100000000  loss " },
        { wait: "tok/s" },
        { wait: "ETA" },
        { wait: "\r\x1b[K" },
        { send: KEY.ctrlC },
        { wait: "stopping after this step and saving; Ctrl-C again stops at once" },
        { wait: "model in model" },
        { wait: "train --resume model" },
      ], { cwd: dir });
      assert.equal(code, 130);
      assert.match(
        pieces.join(""),
        /─+ \d+\/100000000 {2}loss \d\.\d{4} {2}lr \S+ {2}[\d,]+ tok\/s {2}[\d.]+ ms {2}ETA \d/,
      );
      const { trainState } = await readCheckpoint(`${dir}/model`);
      assert.ok(trainState.step > 0);
      const resumed = await microgpt(["train", "--resume", "model", "--steps", "1"], { cwd: dir });
      assert.equal(resumed.code, 0, resumed.stderr);
      assert.match(resumed.stderr, new RegExp(`^step ${trainState.step + 1} / `, "m"));
    });
  },
});

Deno.test({
  name: "train in a terminal: a second Ctrl-C stops at once, and a terminal without colours gets none",
  ignore,
  fn: async () => {
    await withDirectory(async (dir) => {
      await Deno.writeTextFile(`${dir}/names.txt`, NAMES);
      // slow enough to be still at its work when the second comes: most documents are measured at the end
      const slow =
        "--device reference --n-embd 128 --n-layer 4 --steps 100000 --batch-size 1 --val-fraction 0.9".split(
          " ",
        );
      const train = ["train", "--input", "names.txt", "--output", "model", ...TINY, ...slow];
      const { code, pieces } = await inTerminal(train, [
        { wait: "tok/s" },
        { send: KEY.ctrlC },
        { wait: "Ctrl-C again" },
        { send: KEY.ctrlC },
      ], { cwd: dir, env: { NO_COLOR: "1" } });
      assert.equal(code, 130);
      assert.ok(!pieces.join("").includes("resume with"));
      // deno-lint-ignore no-control-regex
      assert.doesNotMatch(pieces.join(""), /\x1b\[\d*m/);
    });
  },
});

Deno.test({
  name: "train in a terminal that is closed ends with a checkpoint",
  ignore,
  fn: async () => {
    await withDirectory(async (dir) => {
      await Deno.writeTextFile(`${dir}/names.txt`, NAMES);
      const train = ["train", "--input", "names.txt", "--output", "model", ...TINY, "--steps", "100000000"];
      const { code } = await inTerminal(train, [{ wait: "tok/s" }, { hangUp: true }], { cwd: dir });
      assert.equal(code, 130);
      const { trainState } = await readCheckpoint(`${dir}/model`);
      assert.ok(trainState.step > 0);
    });
  },
});

Deno.test({
  name: "generate in a terminal streams each sample on its line, as the pipe gets it",
  ignore,
  fn: async () => {
    await withDirectory(async (dir) => {
      await Deno.writeTextFile(`${dir}/names.txt`, NAMES);
      const trained = await microgpt(["train", "--input", "names.txt", "--output", "model", ...TINY], {
        cwd: dir,
      });
      assert.equal(trained.code, 0);
      const generate = [
        "generate",
        "--model-dir",
        "model",
        "--num-samples",
        "6",
        "--temperature",
        "1",
        "--prompt",
        "an",
      ];
      const piped = await microgpt(generate, { cwd: dir });
      const { code, pieces } = await inTerminal(generate, [{ wait: "sample  6: " }], { cwd: dir });
      assert.equal(code, 0);
      const shown = pieces.join("").replaceAll("\r\n", "\n");
      const spaces = (text: string) => text.replace(/ +/g, " ");
      assert.equal(spaces(shown), spaces(piped.stdout));
    });
  },
});
