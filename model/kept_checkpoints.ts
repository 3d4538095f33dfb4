/** Earlier checkpoints under DIR/checkpoints: the last few, and the best by validation loss. */
import { join } from "node:path";
import { MicrogptError } from "./errors.ts";
import { CHECKPOINT_FILES, fileError, ifThere, KEPT_DIR } from "./model_dir.ts";
import { isEntry, recognizeKeptCheckpoint, removeOwnTree, REMOVING } from "./own_files.ts";
import { publish } from "./publish.ts";

const STEP_NAME = /^step-(\d{6,})$/;

/**
 * Keeps the checkpoint just saved in `dir` under checkpoints/step-NNNNNN, and drops all but the newest `keep`.
 * @param best it has the lowest validation loss so far: keep it as checkpoints/best too
 * @throws {MicrogptError} when something cannot be written
 */
export async function keepCheckpoint(dir: string, step: number, keep: number, best: boolean): Promise<void> {
  const kept = join(dir, KEPT_DIR);
  await linkCheckpoint(dir, `step-${String(step).padStart(6, "0")}`);
  if (best) await linkCheckpoint(dir, "best");
  try {
    const steps = await keptSteps(dir);
    for (const name of steps.slice(0, Math.max(0, steps.length - keep))) {
      if (await isOurs(kept, name)) await removeKept(kept, name);
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

/** Whether a directory holds a checkpoint of ours, or a part, and nothing else: where a person put something in, it stays. */
async function isOurs(kept: string, name: string): Promise<boolean> {
  try {
    await recognizeKeptCheckpoint(kept, name);
    return true;
  } catch (error) {
    if (error instanceof MicrogptError) return false;
    throw error;
  }
}

async function removeKept(kept: string, name: string): Promise<void> {
  await removeOwnTree(kept, REMOVING);
  // renamed first, so that a half-removed checkpoint has no checkpoint's name
  await Deno.rename(join(kept, name), join(kept, REMOVING));
  await removeOwnTree(kept, REMOVING);
}

/** The files of a save are never changed in place, so another name for them is as good as a copy, and free. */
async function linkCheckpoint(dir: string, name: string): Promise<void> {
  const kept = join(dir, KEPT_DIR);
  await isEntry(dir, KEPT_DIR, "directory");
  await recognizeKeptCheckpoint(kept, name);
  await publish(join(kept, name), async (staging) => {
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
