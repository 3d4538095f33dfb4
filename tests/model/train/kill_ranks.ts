/**
 * Kills one of two ranks at random instants, goes on each time, and compares the end with a run that nobody disturbed:
 * the test of distributed_test.ts, many times.
 *
 *     deno run -A tests/model/train/kill_ranks.ts 50 mpirun.openmpi
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { NAMES } from "../../cli/program.ts";
import { digests, ended, LONG, ranksOf, resumed, start } from "./distributed_run.ts";

const [kills = "50", program = "mpirun.openmpi"] = Deno.args;
const STEPS = "12000";
/** Within which a rank is killed: longer than it takes to start, shorter than the run. */
const WINDOW_MS = 4000;

const dir = await Deno.makeTempDir();
const [undisturbed, output] = [join(dir, "undisturbed"), join(dir, "model")];
await Deno.writeTextFile(join(dir, "names.txt"), NAMES);
const input = ["--input", join(dir, "names.txt")];
const launcher = { program };

async function stepOf(directory: string): Promise<number> {
  try {
    return JSON.parse(await Deno.readTextFile(join(directory, "train_state.json"))).step;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 0;
    throw error;
  }
}

/** Compares a run that came to its end, and makes room for the next. */
async function isUndisturbed(): Promise<void> {
  assert.deepEqual(await digests(output), await digests(undisturbed));
  console.log("weights and moments are those of the undisturbed run");
  await Deno.remove(output, { recursive: true });
}

const before = await ended(start(launcher, 2, [...input, "--output", undisturbed, ...LONG, STEPS]));
assert.equal(before.code, 0, before.text);
console.log(`undisturbed: step ${await stepOf(undisturbed)}`);
let seconds = 0;
const steps: number[] = [];
for (let killed = 0; killed < Number(kills);) {
  const begun = await stepOf(output);
  const args = begun > 0 ? resumed(output) : [...input, "--output", output, ...LONG, STEPS];
  const process = start(launcher, 2, args);
  const running = ended(process);
  await new Promise((resolve) => setTimeout(resolve, WINDOW_MS * Math.random()));
  const victims = ranksOf(output);
  const victim = victims[Math.floor(Math.random() * victims.length)];
  const at = performance.now();
  if (victim !== undefined) Deno.kill(victim, "SIGKILL");
  const { code, text } = await running;
  if (victim === undefined) {
    // it had not started yet, or was at its end
    assert(code === 0 || /is complete/.test(text), text);
    if (Number(STEPS) === await stepOf(output)) await isUndisturbed();
    continue;
  }
  assert.notEqual(code, 0, text);
  seconds = Math.max(seconds, (performance.now() - at) / 1000);
  steps.push(await stepOf(output));
  killed++;
}
console.log(
  `killed ${steps.length} times, at steps saved ${steps.join(" ")}; the others ended within ${seconds} s`,
);
if (await stepOf(output) < Number(STEPS)) {
  const begun = await stepOf(output) > 0;
  const args = begun ? resumed(output) : [...input, "--output", output, ...LONG, STEPS];
  const after = await ended(start(launcher, 2, args));
  assert.equal(after.code, 0, after.text);
}
await isUndisturbed();
await Deno.remove(dir, { recursive: true });
