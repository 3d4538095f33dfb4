/** Training over MPI with the real program, under every launcher that is installed; without one the tests are skipped. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { NAMES, programArgs, TINY } from "../../cli/program.ts";
import { ENVIRONMENT, type Launcher, mpiTest } from "../../native/mpi_launch.ts";
import { withDirectory } from "../files/checkpoint_fixture.ts";

/** {@link mpiTest} with a directory that holds `names.txt`. */
function trainingTest(name: string, fn: (launcher: Launcher, dir: string) => Promise<void>): void {
  mpiTest(name, (launcher) =>
    withDirectory(async (dir) => {
      await Deno.writeTextFile(join(dir, "names.txt"), NAMES);
      await fn(launcher, dir);
    }));
}

const SHARED = "--distributed mpi --threads 1 --grad-accum 4 --eval-every 3 --lr 0.01".split(" ");

/** Starts `microgpt train`; a `$RANK` in its words is the number of the process. */
function start({ program }: Launcher, ranks: number, args: string[]): Deno.ChildProcess {
  const script = "RANK=${OMPI_COMM_WORLD_RANK:-$PMI_RANK}; for a; do shift; case $a in *@RANK*) " +
    'a="${a%@RANK*}$RANK${a#*@RANK}";; esac; set -- "$@" "$a"; done; exec "$@"';
  return new Deno.Command(program, {
    args: ["-n", String(ranks), "sh", "-c", script, "sh", ...programArgs(["train", ...args])],
    env: { ...ENVIRONMENT, MICROGPT_DEBUG: "" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(120_000), // mpirun ends its ranks when it is told to end
  }).spawn();
}

async function ended(process: Deno.ChildProcess): Promise<{ code: number; text: string }> {
  const { code, stdout, stderr } = await process.output();
  return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

/** Digests of weights and moments. */
async function digests(dir: string): Promise<string[]> {
  const files = ["weights", "optimizer_m", "optimizer_v"].map((name) => join(dir, `${name}.safetensors`));
  return await Promise.all(files.map(async (path) => {
    return createHash("sha256").update(await Deno.readFile(path)).digest("hex");
  }));
}

/** The processes that a launcher started with `--output dir`, by Linux's /proc. */
function ranksOf(dir: string): number[] {
  return [...Deno.readDirSync("/proc")].map(({ name }) => Number(name)).filter((pid) => {
    if (!Number.isInteger(pid)) return false;
    try {
      const words = Deno.readTextFileSync(`/proc/${pid}/cmdline`).split("\0");
      return words[0] === Deno.execPath() && words[words.indexOf("--output") + 1] === dir;
    } catch {
      return false; // it ended meanwhile
    }
  });
}

/** Waits until a run has written something. */
async function until(path: string): Promise<void> {
  for (let i = 0; i < 600; i++) {
    if (await Deno.stat(path).then(() => true, () => false)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${path} does not appear`);
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

trainingTest("processes that would each train alone are refused", async (launcher, dir) => {
  const args = ["--input", join(dir, "names.txt"), "--output", join(dir, "model"), ...TINY];
  const { code, text } = await ended(start(launcher, 2, args));
  assert.notEqual(code, 0);
  assert.match(text, /2 processes were started .* train the whole model alone/);
});

const LONG = [...TINY, ...SHARED, "--checkpoint-every", "10", "--steps"];

for (const [signal, whole] of [["SIGINT", true], ["SIGKILL", false]] as const) {
  const name = whole
    ? "Ctrl-C on one rank ends all with a checkpoint, which one process goes on from to the same bits"
    : "a rank killed at random ends all, and two go on from the last checkpoint to the same bits";
  trainingTest(name, async (launcher, dir) => {
    if (Deno.build.os !== "linux") return;
    const [undisturbed, output] = [join(dir, "undisturbed"), join(dir, "model")];
    const input = ["--input", join(dir, "names.txt")];
    // Ctrl-C comes with the first checkpoint and must find the run going; a kill may come at any moment, the end too
    const steps = whole ? "1000" : "240";
    const before = await ended(start(launcher, 2, [...input, "--output", undisturbed, ...LONG, steps]));
    assert.equal(before.code, 0, before.text);
    let args = [...input, "--output", output, ...LONG, steps];
    for (let round = 0; round < (whole ? 1 : 2); round++) {
      const process = start(launcher, 2, args);
      const running = ended(process);
      await until(join(output, "train_state.json"));
      if (!whole) await new Promise((resolve) => setTimeout(resolve, 300 * Math.random()));
      const victims = ranksOf(output);
      const victim = victims[Math.floor(Math.random() * victims.length)];
      if (victim !== undefined) Deno.kill(victim, signal);
      const { code, text } = await running;
      if (whole) assert.match(text, /resume with: /);
      if (whole || (victim !== undefined && !text.includes("model in "))) assert.notEqual(code, 0, text);
      args = ["--resume", output, "--output", output, "--checkpoint-every", "10"];
      args.push("--distributed", "mpi", "--threads", "1");
    }
    const after = await ended(start(launcher, whole ? 1 : 2, args));
    if (!/is complete/.test(after.text)) assert.equal(after.code, 0, after.text);
    assert.deepEqual(await digests(output), await digests(undisturbed));
  });
}
