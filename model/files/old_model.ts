/** Where the model goes that a fresh run replaces: beside its directory, or inside where it cannot leave. */
import { files } from "../../platform/files.ts";
import { isPermitted } from "../../platform/host.ts";
import { basename, dirname, join } from "../../platform/paths.ts";
import { MicrogptError } from "../../device/errors.ts";
import { ifThere, isSystemError, type ModelFile, STAGING } from "./directory.ts";
import { namesOf, ownTree, recognizeModel } from "./own_files.ts";

/** A place for the old model. */
export interface OldModelPlace {
  path: string;
  /** the model there is ours, and has no more steps than the one that is to be kept: it goes */
  replaces: boolean;
  /** the files of the model that goes there */
  names: readonly ModelFile[];
}

/**
 * The place for the model that `dir` holds: DIR.old, or DIR/old where `dir` is a mount point or nothing may be written
 * beside it; with a number where a model of more steps, or something of a person's, is there already.
 * @throws {MicrogptError} when what `dir` holds is not ours, or nothing can be moved anywhere
 */
export async function oldModelPlace(dir: string): Promise<OldModelPlace> {
  const real = await files.realPath(dir); // beside the directory itself, not beside a link to it
  const { steps, names } = await recognizeModel(real, false);
  const place = await firstPlace(real, `${real}.old`, steps) ??
    await firstPlace(real, join(real, "old"), steps);
  if (place) return { ...place, names };
  throw new MicrogptError(`the model in ${dir} cannot be moved to ${real}.old or ${join(real, "old")}`, {
    hint: "choose another directory with `output`",
  });
}

/** @returns undefined where nothing can be moved from `dir` to a new name like that */
async function firstPlace(
  dir: string,
  base: string,
  steps: number | undefined,
): Promise<Omit<OldModelPlace, "names"> | undefined> {
  // this is not worth asking the person for a permission
  for (const name of ["read", "write"] as const) {
    if (!await isPermitted(name, dirname(base))) return undefined;
  }
  for (let number = 1;; number++) {
    const path = number === 1 ? base : `${base}-${number}`;
    const replaces = await mayBeReplaced(path, steps);
    if (replaces === undefined) continue;
    const isThere = await ifThere(files.lstat(path)) !== undefined;
    if (await canMoveTo(dir, isThere ? join(path, STAGING) : path)) return { path, replaces };
    if (!isThere) return undefined;
  }
}

/** @returns false where there is nothing to replace, undefined where what is there must stay */
async function mayBeReplaced(path: string, steps: number | undefined): Promise<boolean | undefined> {
  const info = await ifThere(files.lstat(path));
  if (!info) return false;
  if (!info.isDirectory) return undefined;
  try {
    if ((await namesOf(path)).length === 0) return false;
    await ownTree(dirname(path), basename(path));
    const there = await recognizeModel(path, true);
    // nobody knows how long a model without training state was trained
    return there.steps !== undefined && steps !== undefined && there.steps <= steps ? true : undefined;
  } catch (error) {
    if (error instanceof MicrogptError) return undefined; // not ours, or unreadable
    throw error;
  }
}

/**
 * Whether a directory can be moved from inside `dir` to a new path: by trying it, because a bind mount cannot be
 * recognized otherwise.
 */
async function canMoveTo(dir: string, target: string): Promise<boolean> {
  const source = join(dir, STAGING);
  await files.mkdir(source);
  try {
    await files.rename(source, target);
  } catch (error) {
    if (!isSystemError(error)) throw error;
    await files.remove(source);
    return false;
  }
  await files.remove(target);
  return true;
}
