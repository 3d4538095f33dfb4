/** Training over MPI with the real program, under every launcher that is installed; without one the tests are skipped. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { NAMES, programArgs, TINY } from "../../cli/program.ts";
import { type Launcher, mpiTest } from "../../native/mpi_launch.ts";
import { digests, ended, LONG, ranksOf, resumed, SHARED, start, until } from "./distributed_run.ts";
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

trainingTest("1, 2 and 4 ranks train the same weights and moments, bit for bit", async (launcher, dir) => {
  const results = [];
  for (const ranks of [1, 2, 4]) {
    const output = join(dir, `on-${ranks}`);
    const args = ["--input", join(dir, "names.txt"), "--output", output, ...TINY, ...SHARED];
    const { code, text } = await ended(start(launcher, ranks, args));
    assert.equal(code, 0, text);
    assert.equal(text.split("model in ").length, 2, text); // only rank 0 speaks
    results.push([await digests(output), /held out loss (\d\S+)/.exec(text)?.[1]]);
  }
  assert.deepEqual(results, Array(3).fill(results[0]));
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

trainingTest("processes that would each train alone are refused", async (launcher, dir) => {
  const args = ["--input", join(dir, "names.txt"), "--output", join(dir, "model"), ...TINY];
  const { code, text } = await ended(start(launcher, 2, args));
  assert.notEqual(code, 0);
  assert.match(text, /2 processes were started .* train the whole model alone/);
});

trainingTest(
  "Ctrl-C on one rank ends all with a checkpoint, which one process goes on from to the same bits",
  async (launcher, dir) => {
    if (Deno.build.os !== "linux") return;
    const [undisturbed, output] = [join(dir, "undisturbed"), join(dir, "model")];
    const input = ["--input", join(dir, "names.txt")];
    const steps = "1000"; // Ctrl-C comes with the first checkpoint, and must find the run going
    const before = await ended(start(launcher, 2, [...input, "--output", undisturbed, ...LONG, steps]));
    assert.equal(before.code, 0, before.text);
    const running = ended(start(launcher, 2, [...input, "--output", output, ...LONG, steps]));
    await until(join(output, "train_state.json"));
    const victims = ranksOf(output);
    Deno.kill(victims[Math.floor(Math.random() * victims.length)]!, "SIGINT");
    const { code, text } = await running;
    assert.match(text, /resume with: /);
    assert.notEqual(code, 0, text);
    const after = await ended(start(launcher, 1, resumed(output)));
    assert.equal(after.code, 0, after.text);
    assert.deepEqual(await digests(output), await digests(undisturbed));
  },
);

trainingTest(
  "a rank killed at random ends all, and two go on from the last checkpoint to the same bits",
  async (launcher, dir) => {
    if (Deno.build.os !== "linux") return;
    const instant = async (output: string) => {
      await until(join(output, "train_state.json"));
      await new Promise((resolve) => setTimeout(resolve, 2000 * Math.random()));
    };
    const { steps, seconds } = await killRanks(launcher, dir, { kills: 3, steps: 1000, instant });
    assert.equal(steps.length, 3);
    assert(seconds < 30, `${seconds} s`);
  },
);
