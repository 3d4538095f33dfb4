/**
 * How the files of a directory are replaced all together or not at all, and how that is finished if the process dies
 * in between. The protocol (docs/file-formats.md explains it):
 *
 * 1. A save writes all its files into DIR/.saving and flushes them. DIR's own files are as they were.
 * 2. DIR/.saving is renamed to DIR/.saved: the instant from which the new files count.
 * 3. Each file of DIR/.saved is moved over its namesake in DIR; DIR/.saved is removed.
 *
 * A reader looks into DIR/.saved first, then into DIR, so it sees the old files before the rename of step 2 and the
 * new ones after it, wherever step 3 stands. Whoever saves next finishes step 3.
 */
import { files, isFileError } from "../../platform/files.ts";
import { os } from "../../platform/host.ts";
import { basename, dirname, join, relative, resolve } from "../../platform/paths.ts";
import { MicrogptError } from "../../device/errors.ts";
import { writeHashed } from "./digest.ts";
import {
  ALL_CHECKPOINT_FILES,
  COMMITTED,
  fileError,
  ifThere,
  KEPT_DIR,
  KEPT_NAME,
  STAGING,
  wrongContent,
} from "./directory.ts";
import { oldModelPlace } from "./old_model.ts";
import {
  checkBeginning,
  isEntry,
  KEEP_OLD,
  namesOf,
  ownTree,
  recognizeKeptCheckpoint,
  removeOwnTree,
  REPLACED,
} from "./own_files.ts";

/**
 * Replaces files of `dir`, all or none.
 * @param stage writes the new files, flushed, into the directory it is given
 * @param keepOld move the model that `dir` holds to the place that `oldModelPlace` names
 * @throws {MicrogptError} when something cannot be written, or would replace what is not ours; the old files then still
 * count
 */
export async function publish(
  dir: string,
  stage: (staging: string) => Promise<void>,
  keepOld = false,
): Promise<void> {
  const staging = join(dir, STAGING);
  try {
    await makeDirectory(dir);
    // where this finishes a save that kept the old model, `dir` now holds that save, and what it kept must not be lost
    const kept = await finishPublish(dir);
    await discardStaging(dir);
    const old = keepOld && !kept ? await oldModelPlace(dir) : undefined;
    await files.mkdir(staging);
    try {
      await stage(staging);
      await checkReplaceable(dir, await namesOf(staging));
      if (old) {
        // what a model of another architecture has besides goes too
        const staged = await namesOf(staging);
        const others = old.names.filter((name) => !staged.includes(name));
        const lines = [relative(await files.realPath(dir), old.path), ...others].join("\n");
        await writeHashed(join(staging, KEEP_OLD), (file) => file.write(new TextEncoder().encode(lines)));
        if (old.replaces) await files.rename(old.path, join(staging, REPLACED));
      }
      await syncDirectory(staging);
      await files.rename(staging, join(dir, COMMITTED));
    } catch (error) {
      // should this fail too, the next save does it; the first error is the one to report
      await discardStaging(dir).catch(() => undefined);
      throw error;
    }
  } catch (error) {
    throw fileError(`cannot save to ${dir}`, error, "what was saved there before is untouched");
  }
  try {
    await finishPublish(dir);
  } catch (error) {
    const hint = "the save itself is complete and loads; saving again finishes the move";
    throw fileError(`cannot move the saved files into place in ${dir}`, error, hint);
  }
}

/**
 * A quick look, because a person may have put files there since the run began: what is replaced must look like ours.
 */
async function checkReplaceable(dir: string, names: string[]): Promise<void> {
  for (const name of names) {
    if (await isEntry(dir, name, "file")) await checkBeginning(dir, name);
  }
}

/**
 * Removes what a save staged that never came to count, and puts back the model it had taken from the old one's place.
 */
export async function discardStaging(dir: string): Promise<void> {
  const staging = join(dir, STAGING);
  if (await isEntry(dir, STAGING, "directory") && await isEntry(staging, REPLACED, "directory")) {
    await files.rename(join(staging, REPLACED), (await placeFrom(staging, dir)).place);
  }
  await removeOwnTree(dir, STAGING);
}

/** Where the save in `staged` keeps the old model, and names of it that the save does not have. */
async function placeFrom(staged: string, dir: string): Promise<{ place: string; others: string[] }> {
  const real = await files.realPath(dir);
  const [place = "", ...others] = (await files.readTextFile(join(staged, KEEP_OLD))).split("\n");
  // earlier versions wrote nothing here: it goes beside the directory
  if (place === "") return { place: `${real}.old`, others };
  const known = others.every((name) => (ALL_CHECKPOINT_FILES as readonly string[]).includes(name));
  if (known && /^(?:\.\.[/\\])?[^/\\]+$/.test(place)) return { place: resolve(real, place), others };
  throw wrongContent(`${join(staged, KEEP_OLD)} names no place beside or in ${dir}`);
}

/**
 * Step 3 of a save, from wherever it stands; nothing when there is none to finish.
 * @returns whether the save kept the old model
 */
export async function finishPublish(dir: string): Promise<boolean> {
  const committed = join(dir, COMMITTED);
  if ((await ownTree(dir, COMMITTED)).length === 0) return false;
  const names = await namesOf(committed);
  await syncDirectory(dir);
  const kept = names.includes(KEEP_OLD);
  if (kept) {
    const { place, others } = await placeFrom(committed, dir);
    await moveToOld(dir, place, [...names, ...others]);
  }
  for (const name of names) {
    if (name !== KEEP_OLD && name !== REPLACED) await files.rename(join(committed, name), join(dir, name));
  }
  await syncDirectory(dir);
  await removeOwnTree(dir, COMMITTED);
  await syncDirectory(dir);
  return kept;
}

/** What has a namesake still in `.saved` is the old model's, and so is what the save names besides. */
async function moveToOld(dir: string, old: string, names: string[]): Promise<void> {
  await makeDirectory(old);
  for (const name of names) {
    if (name === KEEP_OLD || name === REPLACED) continue;
    if (await isEntry(dir, name, "file")) await moveNew(join(dir, name), join(old, name));
  }
  if (await isEntry(dir, KEPT_DIR, "directory")) await moveKept(join(dir, KEPT_DIR), join(old, KEPT_DIR));
  await syncDirectory(old);
}

/** Moves the old model's kept checkpoints; a person's files beside them stay. */
async function moveKept(from: string, to: string): Promise<void> {
  for (const name of await namesOf(from)) {
    if (!KEPT_NAME.test(name)) continue;
    await recognizeKeptCheckpoint(from, name);
    await makeDirectory(to);
    await moveNew(join(from, name), join(to, name));
  }
  if (await ifThere(files.lstat(to))) await syncDirectory(to);
  if ((await namesOf(from)).length === 0) await files.remove(from);
  else await syncDirectory(from);
}

/** Moves to a name that is free: a rename would replace what is there without a word. */
async function moveNew(from: string, to: string): Promise<void> {
  if (await ifThere(files.lstat(to))) {
    throw new MicrogptError(
      `${from} cannot be moved to ${dirname(to)}, which holds another ${basename(to)}`,
      {
        hint: "move that away; the next save or run then finishes this one",
      },
    );
  }
  await files.rename(from, to);
}

/** Creates a directory durably. */
export async function makeDirectory(dir: string): Promise<void> {
  if (await ifThere(files.stat(dir))) return;
  await files.mkdir(dir, { recursive: true });
  try {
    await syncDirectory(dirname(resolve(dir)));
  } catch (error) {
    // A parent that may be passed but not read cannot be flushed by name; the system will do it in its own time.
    if (isFileError(error, "PermissionDenied", "NotCapable")) return;
    throw error;
  }
}

/** Flushes the names in a directory to disk. Windows offers no such call and needs none. */
export async function syncDirectory(dir: string): Promise<void> {
  if (os === "windows") return;
  using handle = await files.open(dir);
  await handle.sync();
}
