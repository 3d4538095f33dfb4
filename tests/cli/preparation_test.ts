/** How far the preparation of large data is, as a person sees it, and its end by Ctrl-C. */
import assert from "node:assert/strict";
import { microgpt } from "./program.ts";
import { inTerminal, KEY, TERMINAL_TESTS } from "./terminal.ts";

/** Two blocks of text and a half, of few words. */
const LARGE = Array.from({ length: 1000 }, (_, i) => `line ${i} ${"of words ".repeat(i % 90)}`).join("\n");

async function withLargeData(
  megabytes: number,
  use: (dir: string, args: string[]) => Promise<void>,
): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  try {
    await Deno.writeTextFile(
      `${dir}/large.txt`,
      `${LARGE}\n`.repeat(Math.ceil(megabytes * 1e6 / LARGE.length)),
    );
    const recipe = "--steps 2 --n-embd 8 --n-head 2 --n-layer 1 --vocab-size 300".split(" ");
    const places = ["--input", `${dir}/large.txt`, "--output", `${dir}/model`, "--cache-dir", `${dir}/cache`];
    await use(dir, ["train", ...places, ...recipe]);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

Deno.test({
  name: "a terminal shows bytes, speed and the time that is left; Ctrl-C ends the preparation",
  ignore: !TERMINAL_TESTS,
  fn: () =>
    // so much that it is not done before Ctrl-C comes
    withLargeData(150, async (dir, args) => {
      const { code, pieces } = await inTerminal(args, [
        { wait: "MB/s  ETA " },
        { wait: "encoding " },
        { send: KEY.ctrlC },
        { wait: "stopped before the first step" },
      ]);
      assert.equal(code, 130);
      assert.match(pieces[0]!, /(counting words|encoding) [━─]+ +\d+ MB of 150 MB +[\d.]+ MB\/s +ETA $/u);
      await assert.rejects(Deno.stat(`${dir}/model/meta.json`), Deno.errors.NotFound);
    }),
});

Deno.test("a pipe gets no bar, and doctor shows what is kept", () =>
  withLargeData(40, async (dir, args) => {
    const { code, stderr } = await microgpt([...args, "--dry-run"]);
    assert.equal(code, 0, stderr);
    assert.match(stderr, /^data +.*large\.txt: \d+ documents/mu);
    assert(!stderr.includes("\x1b") && !stderr.includes("━"), stderr);
    const doctor = await microgpt(["doctor", "--cache-dir", `${dir}/cache`]);
    const kept = `cache +${dir}/cache: 1 data set as tokens in 3 files, [\\d.]+ MB; at most 20 GB`;
    assert.match(doctor.stdout, new RegExp(`^${kept}`, "m"));
  }));
