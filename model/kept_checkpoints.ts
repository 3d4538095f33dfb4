/** Earlier checkpoints under DIR/checkpoints: the last few, and the best by validation loss. */
import { join } from "node:path";
import { CHECKPOINT_FILES, fileError, ifThere, KEPT_DIR, publish } from "./model_dir.ts";

const STEP_NAME = /^step-(\d{6,})$/;
const REMOVING = ".removing";

/**
 * Keeps the checkpoint just saved in `dir` under checkpoints/step-NNNNNN, and drops all but the newest `keep`.
 * @param best it has the lowest validation loss so far: keep it as checkpoints/best too
 * @throws {MicrogptError} when something cannot be written
 */
export async function keepCheckpoint(dir: string, step: number, keep: number, best: boolean): Promise<void> {
  const kept = join(dir, KEPT_DIR);
  await linkCheckpoint(dir, join(kept, `step-${String(step).padStart(6, "0")}`));
  if (best) await linkCheckpoint(dir, join(kept, "best"));
  try {
    const steps = await keptSteps(dir);
    for (const name of steps.slice(0, Math.max(0, steps.length - keep))) {
      // renamed first, so that a half-removed checkpoint has no checkpoint's name
      await ifThere(Deno.remove(join(kept, REMOVING), { recursive: true }));
      await Deno.rename(join(kept, name), join(kept, REMOVING));
      await Deno.remove(join(kept, REMOVING), { recursive: true });
    }
  } catch (error) {
    throw fileError(`cannot remove an old checkpoint in ${kept}`, error);
  }
}

/** Names of the kept steps' directories, oldest first. */
export async function keptSteps(dir: string): Promise<string[]> {
  const entries = await ifThere(Array.fromAsync(Deno.readDir(join(dir, KEPT_DIR)), (entry) => entry.name));
  const stepOf = (name: string) => Number(STEP_NAME.exec(name)![1]);
  return (entries ?? []).filter((name) => STEP_NAME.test(name)).sort((a, b) => stepOf(a) - stepOf(b));
}

/** The files of a save are never changed in place, so another name for them is as good as a copy, and free. */
async function linkCheckpoint(dir: string, target: string): Promise<void> {
  await publish(target, async (staging) => {
    for (const name of CHECKPOINT_FILES) await linkOrCopy(join(dir, name), join(staging, name));
  });
}

async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await Deno.link(from, to);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw error;
    // this file system has no hard links; where the cause was another, the copy meets it too
    await Deno.copyFile(from, to);
    using copy = await Deno.open(to, { write: true });
    await copy.sync();
  }
}
