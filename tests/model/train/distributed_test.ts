/** Training over MPI with the real program, under every launcher that is installed; without one the tests are skipped. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { NAMES, programArgs, TINY } from "../../cli/program.ts";
import { type Launcher, mpiTest } from "../../native/mpi_launch.ts";
import {
  digests,
  ended,
  LONG,
  ranksOf,
  resumed,
  SHARED,
  start,
  stepOf,
  untilSaved,
} from "./distributed_run.ts";
import { killRanks } from "./kill_ranks.ts";
import { withDirectory } from "../files/checkpoint_fixture.ts";

/** {@link mpiTest} with a directory that holds `names.txt`. */
function trainingTest(name: string, fn: (launcher: Launcher, dir: string) => Promise<void>): void {
  mpiTest(name, (launcher) =>
    withDirectory(async (dir) => {
      await Deno.writeTextFile(join(dir, "names.txt"), NAMES);
      await fn(launcher, dir);
    }));
}

/** What a shared run says of itself before it begins: megabytes a step, time and speed of a sum, the share of waiting. */
function planOf(ranks: number): RegExp {
  return new RegExp(
    `${ranks} processes, each sends and receives ([\\d.]+) MB a step: measured [\\d.]+ ms, [\\d.e-]+ GB/s; ` +
      "waiting takes about \\d+ % of the time(, under 10 % with --grad-accum \\d+)?\\n",
  );
}

trainingTest("1, 2 and 4 ranks train the same weights and moments, bit for bit", async (launcher, dir) => {
  const results = [];
  for (const ranks of [1, 2, 4]) {
    const output = join(dir, `on-${ranks}`);
    const args = ["--input", join(dir, "names.txt"), "--output", output, ...TINY, ...SHARED];
    const { code, text } = await ended(start(launcher, ranks, args));
    assert.equal(code, 0, text);
    assert.equal(text.split("model in ").length, 2, text); // only rank 0 speaks
    if (ranks > 1) assert.match(text, planOf(ranks));
    results.push([await digests(output), /held out loss (\d\S+)/.exec(text)?.[1]]);
  }
  assert.deepEqual(results, Array(3).fill(results[0]));
});

trainingTest(
  "gradients travel as bf16: half the bytes, other bits, the same on all",
  async (launcher, dir) => {
    const results = [];
    for (const dtype of ["f32", "bf16"]) {
      const output = join(dir, dtype);
      const args = ["--input", join(dir, "names.txt"), "--output", output, ...TINY, ...SHARED];
      const { code, text } = await ended(start(launcher, 2, [...args, "--reduce-dtype", dtype]));
      assert.equal(code, 0, text); // at the end ranks have compared their weights
      const [, megabytes] = planOf(2).exec(text)!;
      results.push({ megabytes: Number(megabytes), digests: await digests(output) });
    }
    const [f32, bf16] = results as [typeof results[0], typeof results[0]];
    assert(Math.abs(f32!.megabytes - 2 * bf16!.megabytes) <= 0.15, JSON.stringify(results));
    assert.notDeepEqual(bf16!.digests, f32!.digests);
  },
);

trainingTest("ranks of one machine prepare large data together", async (launcher, dir) => {
  const text = Array.from(
    { length: 550_000 },
    (_, i) => `name ${i % 5000} of many more, number ${i * i % 977}`,
  );
  await Deno.writeTextFile(join(dir, "large.txt"), text.join("\n"));
  for (const output of ["first", "second"]) {
    const args = ["--input", join(dir, "large.txt"), "--output", join(dir, output), ...TINY, ...SHARED];
    const { code, text } = await ended(
      start(launcher, 2, [...args, "--cache-dir", join(dir, "cache")]),
    );
    assert.equal(code, 0, text);
  }
});

trainingTest("a rank with other data is named, and nothing is trained", async (launcher, dir) => {
  await Deno.copyFile(join(dir, "names.txt"), join(dir, "0.txt"));
  await Deno.writeTextFile(join(dir, "1.txt"), `${NAMES}\nanother`);
  const output = join(dir, "model");
  const args = ["--input", join(dir, "@RANK.txt"), "--output", output, ...TINY, ...SHARED];
  const { code, text } = await ended(start(launcher, 2, args));
  assert.notEqual(code, 0);
  assert.match(text, /rank 1 differs from rank 0 in its training data/);
});

trainingTest("a rank without memory says so, and ends the others", async (launcher, dir) => {
  if (Deno.build.os !== "linux") return;
  // a document of 16,000 tokens, and room for 64 of them; memory that is not touched costs rank 0 nothing
  await Deno.writeTextFile(join(dir, "long.txt"), `${NAMES}\n${"many words ".repeat(3000)}`);
  const output = join(dir, "model");
  const sizes = "--block-size 16384 --batch-size 64 --n-embd 64 --val-fraction 0".split(" ");
  const args = ["--input", join(dir, "long.txt"), "--output", output, ...TINY, ...SHARED, ...sizes];
  const limited = ["sh", "-c", 'if [ @RANK = 1 ]; then ulimit -d 1500000; fi; exec "$@"', "sh"];
  const { code, text } = await ended(
    start(launcher, 2, args, [...limited, ...programArgs(["train", ...args])]),
  );
  assert.notEqual(code, 0);
  assert.match(text, /error: rank 1 of 2: not enough memory for .*: [\d,]+ MB/);
  await assert.rejects(Deno.stat(join(output, "weights.safetensors")), Deno.errors.NotFound);
});

trainingTest(
  "ranks run out of patience together, though only one remembers the best",
  async (launcher, dir) => {
    const output = join(dir, "model");
    const shared = "--distributed mpi --threads 1 --grad-accum 4 --eval-every 2 --lr 0.5 --warmup-steps 0";
    const args = ["--input", join(dir, "names.txt"), "--output", output, ...TINY, ...shared.split(" ")];
    const first = await ended(start(launcher, 2, args));
    assert.equal(first.code, 0, first.text);
    const more = "--steps 40 --patience 2 --distributed mpi --threads 1".split(" ");
    const { code, text } = await ended(start(launcher, 2, ["--resume", output, "--output", output, ...more]));
    assert.equal(code, 0, text);
    assert.match(text, /2 evaluations in a row were no better than that of step \d+/);
  },
);

trainingTest("processes that would each train alone are refused", async (launcher, dir) => {
  const args = ["--input", join(dir, "names.txt"), "--output", join(dir, "model"), ...TINY];
  const { code, text } = await ended(start(launcher, 2, args));
  assert.notEqual(code, 0);
  assert.match(text, /2 processes were started .* train the whole model alone/);
});

trainingTest(
  "Ctrl-C or SIGTERM on one rank ends all with a checkpoint; others go on, at last one, to the same bits",
  async (launcher, dir) => {
    if (Deno.build.os !== "linux") return;
    const [undisturbed, output] = [join(dir, "undisturbed"), join(dir, "model")];
    const input = ["--input", join(dir, "names.txt")];
    const steps = "600"; // the first signal comes with the first checkpoint, and must find the run going
    const before = await ended(start(launcher, 2, [...input, "--output", undisturbed, ...LONG, steps]));
    assert.equal(before.code, 0, before.text);
    let args = [...input, "--output", output, ...LONG, steps];
    for (const [signal, ranks] of [["SIGINT", 2], ["SIGTERM", 4]] as const) {
      const begun = await stepOf(output);
      const process = start(launcher, ranks, args);
      const running = ended(process);
      await untilSaved(output, begun);
      const victims = ranksOf(output);
      Deno.kill(victims[Math.floor(Math.random() * victims.length)]!, signal);
      const { code, text } = await running;
      assert.match(text, new RegExp(`resume with: mpirun -n ${ranks} .* --distributed mpi`));
      assert.notEqual(code, 0, text);
      args = resumed(output);
    }
    const after = await ended(start(launcher, 1, args));
    assert.equal(after.code, 0, after.text);
    assert.deepEqual(await digests(output), await digests(undisturbed));
  },
);

trainingTest(
  "a rank killed at random ends all, and two go on from the last checkpoint to the same bits",
  async (launcher, dir) => {
    if (Deno.build.os !== "linux") return;
    const instant = async (output: string) => {
      await untilSaved(output);
      await new Promise((resolve) => setTimeout(resolve, 2000 * Math.random()));
    };
    const { steps, seconds } = await killRanks(launcher, dir, { kills: 3, steps: 600, instant });
    assert.equal(steps.length, 3);
    assert(seconds < 30, `${seconds} s`);
  },
);
