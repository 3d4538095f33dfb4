/** Sweeps: every combination once, whatever interrupted it, and a table at the end. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { sweep, type SweepEvent, type SweepOptions, type SweepResult } from "../../../mod.ts";
import { combinations } from "../../../model/train/sweeping.ts";
import { microgpt, NAMES } from "../../cli/program.ts";
import { withDirectory } from "../files/checkpoint_fixture.ts";

const SMALL = {
  nEmbd: 8,
  nHead: 2,
  nLayer: 1,
  blockSize: 16,
  vocabSize: 270,
  batchSize: 4,
  steps: 6,
  evalEvery: 2,
  checkpointEvery: 1,
  valFraction: 0.2,
  device: "cpu" as const,
  threads: 1,
};

/** Sweeps until `stop` says so. */
async function run(
  options: SweepOptions,
  stop: (event: SweepEvent) => boolean = () => false,
): Promise<{ results: SweepResult[]; failures: string[]; trained: string[] }> {
  const signal = new AbortController();
  const [results, failures, trained]: [SweepResult[], string[], string[]] = [[], [], []];
  for await (const event of sweep({ ...options, signal: signal.signal })) {
    if (event.type === "plan") trained.push(`${event.output} from ${event.startStep}`);
    if (event.type === "result" && event.result) results.push(event.result);
    if (event.type === "result" && event.failure) failures.push(event.failure.message);
    if (stop(event)) signal.abort();
  }
  return { results, failures, trained };
}

const sha = async (path: string) =>
  new Uint8Array(await crypto.subtle.digest("SHA-256", await Deno.readFile(path))).toHex();

Deno.test("combinations: the setting named last varies fastest", () => {
  assert.deepEqual(combinations({ learningRate: [1, 2], nLayer: [3, 4] }), [
    { learningRate: 1, nLayer: 3 },
    { learningRate: 1, nLayer: 4 },
    { learningRate: 2, nLayer: 3 },
    { learningRate: 2, nLayer: 4 },
  ]);
});

Deno.test("a sweep that was interrupted goes on where it was, to the same bits; values may be added", async () => {
  await withDirectory(async (dir) => {
    const input = join(dir, "names.txt");
    await Deno.writeTextFile(input, NAMES);
    const options = { ...SMALL, input, values: { learningRate: [0.01, 0.03], seed: [1, 2] } };
    const whole = await run({ ...options, output: join(dir, "whole") });
    assert.equal(whole.results.length, 4);
    for (const { step, loss, bitsPerByte, bestStep } of whole.results) {
      assert.equal(step, 6);
      assert(loss > 0 && bitsPerByte > 0 && [2, 4, 6].includes(bestStep));
    }

    const output = join(dir, "parts");
    const second = (directory: string) => directory.endsWith("lr-0.01_seed-2");
    let at = "";
    const first = await run({ ...options, output }, (event) => {
      if (event.type === "run") at = event.directory;
      return event.type === "step" && event.step === 3 && second(at);
    });
    assert.equal(first.results.length, 1);
    const rest = await run({ ...options, output });
    assert.deepEqual(rest.trained.map((line) => line.slice(output.length + 1)), [
      "lr-0.01_seed-2 from 3",
      "lr-0.03_seed-1 from 0",
      "lr-0.03_seed-2 from 0",
    ]);
    for (const [i, { directory, loss }] of rest.results.entries()) {
      assert.equal(loss, whole.results[i]!.loss);
      const weights = (of: string) => sha(join(of, "weights.safetensors"));
      assert.equal(await weights(directory), await weights(whole.results[i]!.directory));
    }

    const more = { ...options, output, values: { learningRate: [0.01, 0.02, 0.03], seed: [1, 2] } };
    assert.equal((await run(more)).trained.length, 2);
    await assert.rejects(run({ ...more, steps: 7 }), /holds a sweep whose `steps` is 6/);
    await assert.rejects(
      run({ ...options, output, values: { nEmbd: [8, 16] } }),
      /holds a sweep that varies `learningRate`, `seed`/,
    );
  });
});

Deno.test("a combination that cannot be trained does not end the sweep; what cannot be compared is refused", async () => {
  await withDirectory(async (dir) => {
    const input = join(dir, "names.txt");
    await Deno.writeTextFile(input, NAMES);
    const options = { ...SMALL, input, output: join(dir, "sweep"), steps: 2 };
    const { results, failures } = await run({ ...options, values: { nHead: [3, 2] } });
    assert.deepEqual(results.map(({ values }) => values), [{ nHead: 2 }]);
    assert.match(String(failures), /`nEmbd` 8 is not divisible by `nHead` 3/);
    await assert.rejects(run({ ...options, values: {} }), /varies at least one setting/);
    await assert.rejects(run({ ...options, values: { nLayer: [1, 0] } }), /`nLayer` must be/);
    const none = { ...options, valFraction: 0, values: { nLayer: [1, 2] } };
    await assert.rejects(run(none), /compares held-out losses/);
  });
});

Deno.test("microgpt sweep: lists of values, then a table and a chart, the best first", async () => {
  await withDirectory(async (dir) => {
    await Deno.writeTextFile(join(dir, "names.txt"), NAMES);
    const flags =
      "--input names.txt --n-embd 8 --n-head 2 --block-size 16 --vocab-size 270 --device cpu --steps 3";
    const { code, stdout, stderr } = await microgpt(
      ["sweep", ...flags.split(" "), "--n-layer", "1,2", "--lr", "0.001,0.02"],
      { cwd: dir },
    );
    assert.equal(code, 0, stderr);
    assert.match(stderr, /^run 4 of 4: --lr 0\.02 --n-layer 2$/m);
    const lines = stdout.trimEnd().split("\n");
    assert.match(lines[0]!, /^ *lr +n-layer +loss +bits\/byte/);
    const bits = lines.slice(1, 5).map((line) => Number(line.trim().split(/ +/)[3]));
    assert.deepEqual(bits, bits.toSorted());
    assert.match(lines[6]!, /│●/);
    assert.match(lines[9]!, /●│ \d/);
    assert.match(lines[10]!, /bits per byte$/);
    assert.deepEqual(Array.from(Deno.readDirSync(join(dir, "sweep")), ({ name }) => name).sort(), [
      "lr-0.001_n-layer-1",
      "lr-0.001_n-layer-2",
      "lr-0.02_n-layer-1",
      "lr-0.02_n-layer-2",
      "sweep.json",
    ]);
  });
});
