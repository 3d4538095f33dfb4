/** Training and generating in a terminal: the live line, Ctrl-C, streaming. */
import assert from "node:assert/strict";
import { jsonLine, lossCurve, styled } from "../../cli/terminal.ts";
import { readCheckpoint } from "../../model/files/checkpoint.ts";
import { withDirectory } from "../model/files/checkpoint_fixture.ts";
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
  name: "train in a terminal without colours shows none",
  ignore,
  fn: async () => {
    await withDirectory(async (dir) => {
      await Deno.writeTextFile(`${dir}/names.txt`, NAMES);
      const train = ["train", "--input", "names.txt", "--output", "model", ...TINY, "--steps", "100000000"];
      const { code, pieces } = await inTerminal(train, [
        { wait: "tok/s" },
        { send: KEY.ctrlC },
        { wait: "Ctrl-C again" },
      ], { cwd: dir, env: { NO_COLOR: "1" } });
      assert.equal(code, 130);
      // deno-lint-ignore no-control-regex
      assert.doesNotMatch(pieces.join(""), /\x1b\[\d*m/);
    });
  },
});

for (const columns of [0, 1, 2, 5, 19, 21]) {
  Deno.test({
    name: `train in a terminal of ${columns} columns, and in one whose width changes`,
    ignore,
    fn: async () => {
      await withDirectory(async (dir) => {
        await Deno.writeTextFile(`${dir}/names.txt`, NAMES);
        const train = ["train", "--input", "names.txt", "--output", "model", ...TINY, "--val-fraction", "0"];
        const { code, pieces } = await inTerminal([...train, "--steps", "100000000"], [
          { columns },
          { wait: "\r\x1b[K" },
          { wait: "\r\x1b[K" },
          { columns: 7 },
          { wait: "\r\x1b[K" },
          { wait: "\r\x1b[K" },
          { wait: "\r\x1b[K" },
          { columns },
          { send: KEY.ctrlC },
          { wait: "resume with: " },
        ], { cwd: dir });
        assert.equal(code, 130);
        // what stands before each redrawing is one live line
        const live = (piece: number) => pieces[piece]!.replace("\r\x1b[K", "");
        assert.ok(live(1).length < (columns || 80), JSON.stringify(live(1)));
        assert.ok(live(4).length < 7, JSON.stringify(live(4)));
      });
    },
  });
}

Deno.test({
  name: "train in a dumb terminal: plain lines",
  ignore,
  fn: async () => {
    await withDirectory(async (dir) => {
      await Deno.writeTextFile(`${dir}/names.txt`, NAMES);
      const train = ["train", "--input", "names.txt", "--output", "model", ...TINY];
      const { code, pieces } = await inTerminal(train, [{ wait: "step 4 / 4 " }], {
        cwd: dir,
        env: { TERM: "dumb" },
      });
      assert.equal(code, 0);
      assert.ok(!pieces.join("").includes("\x1b"));
    });
  },
});

Deno.test("JSON holds nothing that a terminal obeys, and colours go by the stream they are for", () => {
  const text = "\x1b[31m\x7f\x9b2J\x9fé\n";
  // deno-lint-ignore no-control-regex
  assert.doesNotMatch(jsonLine({ text }), /[\x00-\x1f\x7f-\x9f]/);
  assert.deepEqual(JSON.parse(jsonLine({ text })), { text });
  assert.equal(styled("red", "x", { isTerminal: () => false }), "x");
  if (!Deno.noColor) assert.equal(styled("red", "x", { isTerminal: () => true }), "\x1b[31mx\x1b[39m");
});

Deno.test("the loss curve: very many evaluations, few steps", () => {
  const training = Array.from({ length: 200_000 }, (_, i) => ({ step: i + 1, loss: 1 + 1 / (i + 1) }));
  const held = training.map(({ step }) => ({ step, loss: 3 }));
  const curve = lossCurve(training, held);
  assert.equal(curve.length, 13);
  assert.match(curve[1]!, /^ {3}3\.00 ┤/);
  assert.match(lossCurve(training.slice(0, 2), []).at(-1)!, /^ {9}1 2$/);
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
