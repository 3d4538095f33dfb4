/** What the server tells of training runs. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { handler, type ServeHandler } from "../../../mod.ts";
import { LOCK_FILE, RunLock } from "../../../model/files/lock.ts";
import { programArgs, TINY } from "../../cli/program.ts";

const get = (serve: ServeHandler, path: string) => serve(new Request(`http://127.0.0.1${path}`));
const json = async (serve: ServeHandler, path: string) => await (await get(serve, path)).json();
const logPath = (run: string, after = "") => `/microgpt/v1/runs?${new URLSearchParams({ run, after })}`;
/** What the one run's log says since. */
const pieceOf = async (serve: ServeHandler, after = "") =>
  (await json(serve, logPath("run", after))).runs[0].piece;

async function withRun(
  log: string,
  test: (serve: ServeHandler, dir: string) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  const dir = join(folder, "run");
  await Deno.mkdir(dir);
  await Deno.writeTextFile(join(dir, "metrics.jsonl.part"), log);
  const serve = await handler(undefined, { watch: [folder] });
  await test(serve, dir);
  await serve.close();
  await Deno.remove(folder, { recursive: true });
}

const line = (step: number) => `{"step":${step},"loss":2}\n`;

Deno.test("a log is told piece by piece, whole lines only", async () => {
  await withRun(line(1) + line(2) + '{"step":3,', async (serve, dir) => {
    const first = await pieceOf(serve);
    assert.deepEqual(first.metrics, [{ step: 1, loss: 2 }, { step: 2, loss: 2 }]);
    assert.deepEqual([first.reset, first.more], [true, false]);
    const none = await pieceOf(serve, first.cursor);
    assert.deepEqual([none.metrics, none.reset, none.cursor], [[], false, first.cursor]);
    const rest = '"loss":1}\nno JSON\n' + line(4);
    await Deno.writeTextFile(join(dir, "metrics.jsonl.part"), rest, { append: true });
    const next = await pieceOf(serve, none.cursor);
    assert.deepEqual(next.metrics, [{ step: 3, loss: 1 }, { step: 4, loss: 2 }]);
  });
});

Deno.test("another log in its place begins anew, and a long one comes in pieces", async () => {
  const lines = Array.from({ length: 40_000 }, (_, i) => line(i + 1)).join("");
  await withRun(lines, async (serve, dir) => {
    const told: unknown[] = [];
    let piece = await pieceOf(serve);
    for (told.push(...piece.metrics); piece.more; told.push(...piece.metrics)) {
      piece = await pieceOf(serve, piece.cursor);
      assert.equal(piece.reset, false);
    }
    assert.equal(told.length, 40_000);
    await Deno.writeTextFile(join(dir, "metrics.jsonl"), line(1));
    await Deno.remove(join(dir, "metrics.jsonl.part"));
    const other = await pieceOf(serve, piece.cursor);
    assert.deepEqual([other.reset, other.metrics], [true, [{ step: 1, loss: 2 }]]);
  });
});

Deno.test("one request tells of several runs, and of as much as one answer may have", async () => {
  const lines = Array.from({ length: 40_000 }, (_, i) => line(i + 1)).join("");
  await withRun(lines, async (serve, dir) => {
    for (const name of ["a", "b", "c", "d", "e"]) {
      await Deno.mkdir(join(dir, "..", name));
      await Deno.writeTextFile(join(dir, "..", name, "metrics.jsonl"), lines);
    }
    const told = new Map(["a", "b", "c", "d", "e", "run"].map((id) => [id, { cursor: "", lines: 0 }]));
    for (let isMore = true; isMore;) {
      const query = new URLSearchParams(
        [...told].flatMap(([id, { cursor }]) => [["run", id], ["after", cursor]]),
      );
      const response = await get(serve, `/microgpt/v1/runs?${query}`);
      const text = await response.text();
      assert.ok(text.length < 3 << 20, `${text.length} characters`);
      isMore = false;
      for (const { id, piece } of JSON.parse(text).runs) {
        const run = told.get(id)!;
        run.cursor = piece.cursor;
        run.lines += piece.metrics.length;
        isMore ||= piece.more;
      }
    }
    for (const { lines } of told.values()) assert.equal(lines, 40_000);
  });
});

Deno.test("a run that was killed is no longer running", async () => {
  await withRun(line(1), async (serve, dir) => {
    const running = async () => (await json(serve, "/microgpt/v1/runs")).runs[0].running;
    const lock = await RunLock.take(dir);
    const text = await Deno.readTextFile(join(dir, LOCK_FILE));
    // looking disturbs neither who has it nor who wants it
    assert.deepEqual(await Promise.all(Array.from({ length: 50 }, running)), Array(50).fill(true));
    lock.release();
    await Deno.writeTextFile(join(dir, LOCK_FILE), text); // what SIGKILL leaves
    assert.equal(await running(), false);
    const looking = Promise.all(Array.from({ length: 200 }, running));
    (await RunLock.take(dir)).release();
    await looking;
    const elsewhere = { ...JSON.parse(text), host: "elsewhere", boot: "another" };
    await Deno.writeTextFile(join(dir, LOCK_FILE), JSON.stringify(elsewhere));
    assert.equal(await running(), true);
  });
});

Deno.test("runs are found in a folder or named, nothing else is read, and there is no model", async () => {
  await withRun(line(1), async (serve, dir) => {
    await Deno.writeTextFile(join(dir, "train_state.json"), '{"steps_total": 7}');
    const { watching, runs } = await json(serve, "/microgpt/v1/runs");
    assert.equal(watching, true);
    const { changed, ...run } = runs[0];
    assert.ok(Math.abs(changed - Date.now()) < 60_000);
    assert.deepEqual(run, { id: "run", name: "run", running: false, stepsTotal: 7 });
    for (const id of ["", "..", "run/..", dir, "run (2)"]) {
      const { runs } = await json(serve, logPath(id));
      assert.deepEqual(runs.map(({ piece }: { piece?: unknown }) => piece), [undefined], id);
    }
    const twice = await handler(undefined, { watch: [dir, join(dir, "..")] });
    const ids = (await json(twice, "/microgpt/v1/runs")).runs.map(({ id }: { id: string }) => id);
    assert.deepEqual(ids, ["run", "run (2)"]);
    assert.deepEqual(await json(serve, "/v1/models"), { object: "list", data: [] });
    assert.equal((await get(serve, "/health")).status, 200);
    const headers = { "content-type": "application/json" };
    const asked = new Request("http://127.0.0.1/v1/completions", { method: "POST", body: "{}", headers });
    assert.equal((await serve(asked)).status, 404);
  });
});

Deno.test("train --watch shows its run while it trains, with samples that nobody had to ask for", async () => {
  const folder = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  await Deno.writeTextFile(join(folder, "text.txt"), "some words\nother words\nmore words\n".repeat(20));
  const paths = ["--input", join(folder, "text.txt"), "--output", join(folder, "out")];
  // endless: a twentieth of it comes soon enough
  const args = programArgs(["train", ...paths, ...TINY, "--steps", "20000", "--watch", "0"]);
  const program = new Deno.Command(args[0]!, { args: args.slice(1), stdout: "null", stderr: "piped" })
    .spawn();
  let said = "";
  const listening = (async () => {
    for await (const text of program.stderr.pipeThrough(new TextDecoderStream())) said += text;
  })();
  const until = async <T>(look: () => Promise<T | undefined> | T | undefined): Promise<T> => {
    for (let tries = 0; tries < 600; tries++) {
      const seen = await look();
      if (seen !== undefined) return seen;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(said);
  };
  const url = await until(() => /http:\/\/127\.0\.0\.1:\d+/.exec(said)?.[0]);
  const ask = async (path: string) => await (await fetch(url + path)).json();
  const run = await until(async () => (await ask("/microgpt/v1/runs")).runs[0]);
  assert.deepEqual([run.id, run.running], ["out", true]);
  let cursor = "";
  const sampled = await until(async () => {
    const { runs: [{ piece }] } = await ask(logPath("out", cursor));
    cursor = piece.cursor;
    return piece.metrics.find(({ samples }: { samples?: string[] }) => samples);
  });
  assert.deepEqual([sampled.step, sampled.samples.length], [1000, 3]);
  assert.match(await (await fetch(url)).text(), /<title>microgpt<\/title>/);
  program.kill("SIGINT");
  await program.status;
  await listening;
  await Deno.remove(folder, { recursive: true });
});
