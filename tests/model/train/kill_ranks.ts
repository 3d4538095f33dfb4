/**
 * Kills one of two ranks at random instants, goes on each time, and compares the end with a run that nobody disturbed.
 * distributed_test.ts does so a few times; here as often as is wanted:
 *
 *     deno run -A tests/model/train/kill_ranks.ts 50 mpirun.openmpi
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { NAMES } from "../../cli/program.ts";
import type { Launcher } from "../../native/mpi_launch.ts";
import { digests, ended, LONG, ranksOf, resumed, start, stepOf } from "./distributed_run.ts";

/** What is done how often. */
export interface Kills {
  kills: number;
  /** of a run, with a checkpoint each ten */
  steps: number;
  /** returns when a rank of the run that writes to `output` is to be killed */
  instant: (output: string) => Promise<void>;
  say?: (line: string) => void;
}

/** How it went. */
export interface Killed {
  /** steps of the checkpoints that the kills left */
  steps: number[];
  /** the longest that the other rank lived on */
  seconds: number;
}

/** Sends SIGKILL to one rank. @returns whether there was one */
function killOne(output: string): boolean {
  const victims = ranksOf(output);
  const victim = victims[Math.floor(Math.random() * victims.length)];
  if (victim === undefined) return false;
  try {
    Deno.kill(victim, "SIGKILL");
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false; // it ended meanwhile
    throw error;
  }
}

/**
 * Trains on two ranks in `dir`, which holds names.txt, and kills until it was done often enough.
 * @throws where the end is not that of the undisturbed run, bit for bit
 */
export async function killRanks(
  launcher: Pick<Launcher, "program">,
  dir: string,
  { kills, steps, instant, say = () => {} }: Kills,
): Promise<Killed> {
  const [undisturbed, output] = [join(dir, "undisturbed"), join(dir, "model")];
  const from = (output: string) => [
    ...["--input", join(dir, "names.txt"), "--output", output],
    ...[...LONG, String(steps)],
  ];
  const goOn = async () => start(launcher, 2, await stepOf(output) > 0 ? resumed(output) : from(output));
  const compare = async () => {
    assert.deepEqual(await digests(output), await digests(undisturbed));
    say("weights and moments are those of the undisturbed run");
    await Deno.remove(output, { recursive: true }); // makes room for the next
  };

  const before = await ended(start(launcher, 2, from(undisturbed)));
  assert.equal(before.code, 0, before.text);
  say(`undisturbed: step ${await stepOf(undisturbed)}`);
  const killed: Killed = { steps: [], seconds: 0 };
  while (killed.steps.length < kills) {
    const running = ended(await goOn());
    await Promise.race([instant(output), running]);
    const at = performance.now();
    const hit = killOne(output);
    const { code, text } = await running;
    if (hit && code !== 0) {
      killed.seconds = Math.max(killed.seconds, (performance.now() - at) / 1000);
      killed.steps.push(await stepOf(output));
      continue;
    }
    assert(code === 0 || /is complete/.test(text), text); // it was at its end
    await compare();
  }
  if (await stepOf(output) < steps) {
    const after = await ended(await goOn());
    assert.equal(after.code, 0, after.text);
  }
  await compare();
  return killed;
}

/** Within which a rank is killed: longer than it takes to start, shorter than the run. */
const WINDOW_MS = 4000;

if (import.meta.main) {
  const [kills = "50", program = "mpirun.openmpi"] = Deno.args;
  const dir = await Deno.makeTempDir();
  await Deno.writeTextFile(join(dir, "names.txt"), NAMES);
  const instant = () => new Promise<void>((resolve) => setTimeout(resolve, WINDOW_MS * Math.random()));
  const say = (line: string) => console.log(line);
  const { steps, seconds } = await killRanks({ program }, dir, {
    kills: Number(kills),
    steps: 12_000,
    instant,
    say,
  });
  say(
    `killed ${steps.length} times, at steps saved ${steps.join(" ")}; the others ended within ${seconds} s`,
  );
  await Deno.remove(dir, { recursive: true });
}
