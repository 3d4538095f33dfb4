/** Earlier checkpoints under DIR/checkpoints: the last few, and the best by validation loss. */
import { files, isFileError } from "../../platform/files.ts";
import { join } from "../../platform/paths.ts";
import { readTrainState } from "./checkpoint.ts";
import { readMeta } from "./description.ts";
import { MicrogptError } from "../../device/errors.ts";
import { CHECKPOINT_FILES, fileError, ifThere, KEPT_DIR } from "./directory.ts";
import { isEntry, recognizeKeptCheckpoint, removeOwnTree, REMOVING } from "./own_files.ts";
import { publish } from "./publish.ts";

const STEP_NAME = /^step-(\d{6,})$/;
const BEST_NAME = "best";

/** Keeps what is saved in `dir` as checkpoints/best. @throws {MicrogptError} when something cannot be written */
export async function keepBest(dir: string): Promise<void> {
  await linkCheckpoint(dir, BEST_NAME);
}

/** Where the best checkpoint of the run in `dir` is kept. */
export function bestDirectory(dir: string): string {
  return join(dir, KEPT_DIR, BEST_NAME);
}

/** Step of the checkpoint that is kept as the best, undefined when there is none. */
export async function keptBestStep(dir: string): Promise<number | undefined> {
  return (await readTrainState(bestDirectory(dir)))?.step;
}

/**
 * Gives checkpoints/best another name, so that a later best does not replace it.
 * @param step the step up to which it was the best
 * @returns its new path, undefined when there is none
 * @throws {MicrogptError} when it cannot be renamed
 */
export async function setBestAside(dir: string, step: number): Promise<string | undefined> {
  const best = bestDirectory(dir);
  try {
    if (!(await ifThere(files.stat(best)))) return undefined;
    const name = `${best}-until-${stepName(step)}`;
    let free = name;
    for (let i = 2; await ifThere(files.lstat(free)); i++) free = `${name}-${i}`;
    await files.rename(best, free);
    return free;
  } catch (error) {
    throw fileError(`cannot rename ${best}`, error);
  }
}

/**
 * Keeps the checkpoint just saved in `dir` under checkpoints/step-NNNNNN, and drops all but the newest `keep`.
 * @throws {MicrogptError} when something cannot be written, or something else has that name
 */
export async function keepCheckpoint(dir: string, step: number, keep: number): Promise<void> {
  const kept = join(dir, KEPT_DIR);
  const name = stepName(step);
  const { steps } = await recognizeKeptCheckpoint(kept, name);
  if (steps !== undefined && steps !== step) {
    throw new MicrogptError(`${join(kept, name)} holds something else than the checkpoint of step ${step}`, {
      hint: "move it to another place",
    });
  }
  await linkCheckpoint(dir, name);
  try {
    const steps = await keptSteps(dir);
    for (const old of steps.slice(0, Math.max(0, steps.length - keep))) await removeKept(kept, old);
  } catch (error) {
    throw fileError(`cannot remove an old checkpoint in ${kept}`, error);
  }
}

/** Names of the kept steps' directories, oldest first. Anything else with such a name is a person's, and left alone. */
export async function keptSteps(dir: string): Promise<string[]> {
  const kept = join(dir, KEPT_DIR);
  const entries = await ifThere(Array.fromAsync(files.readDir(kept), (entry) => entry.name));
  const named = (entries ?? []).filter((name) => STEP_NAME.test(name));
  const ours = await Promise.all(named.map((name) => isKept(kept, name)));
  return named.filter((_, i) => ours[i]).sort((a, b) => stepOf(a) - stepOf(b));
}

function stepName(step: number): string {
  return `step-${String(step).padStart(6, "0")}`;
}

function stepOf(name: string): number {
  return Number(STEP_NAME.exec(name)![1]);
}

/**
 * Whether a directory holds what `keepCheckpoint` left there, whole or in part: no later steps, nothing that a person
 * put there.
 */
async function isKept(kept: string, name: string): Promise<boolean> {
  try {
    const { steps } = await recognizeKeptCheckpoint(kept, name);
    return steps === undefined || steps === stepOf(name);
  } catch (error) {
    if (error instanceof MicrogptError) return false;
    throw error;
  }
}

async function removeKept(kept: string, name: string): Promise<void> {
  await removeOwnTree(kept, REMOVING);
  // renamed first, so that a half-removed checkpoint has no checkpoint's name
  await files.rename(join(kept, name), join(kept, REMOVING));
  await removeOwnTree(kept, REMOVING);
}

/** The files of a save are never changed in place, so another name for one is as good as a copy, and free. */
async function linkCheckpoint(dir: string, name: string): Promise<void> {
  const kept = join(dir, KEPT_DIR);
  await isEntry(dir, KEPT_DIR, "directory");
  await recognizeKeptCheckpoint(kept, name);
  const { architecture = "gpt" } = (await readMeta(dir)).config;
  await publish(join(kept, name), async (staging) => {
    for (const name of CHECKPOINT_FILES[architecture]) await linkOrCopy(join(dir, name), join(staging, name));
  });
}

async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await files.link(from, to);
  } catch (error) {
    if (isFileError(error, "NotFound")) throw error;
    // this file system has no hard links; where the cause was another, the copy meets it too
    await files.copyFile(from, to);
    using copy = await files.open(to, { write: true });
    await copy.sync();
  }
}
