/** The directory that a run or an export is told to write to: whether it may be, and what is lost if it is. */
import { files, isFileError } from "../../platform/files.ts";
import { isPermitted } from "../../platform/host.ts";
import { basename, dirname, join, normalize, resolve } from "../../platform/paths.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { Architecture } from "../config.ts";
import {
  fileError,
  ifThere,
  KEPT_DIR,
  KEPT_NAME,
  type ModelFile,
  openIfThere,
  sameDirectory,
  STAGING,
  weightsFile,
} from "./directory.ts";
import { checkFree, type Holding, recognizeModel } from "./own_files.ts";
import { discardStaging, finishPublish, makeDirectory } from "./publish.ts";

const OTHER_OUTPUT = "choose another directory with `output`";

/**
 * Checks that files could be written to `dir`, and leaves nothing behind.
 * @throws {MicrogptError} when not, or when it is a checkpoint that a run keeps
 */
export async function checkWritable(dir: string): Promise<void> {
  try {
    const place = await nearestDirectory(resolve(dir));
    if (place !== undefined) await files.remove(await files.makeTempDir({ dir: place, prefix: ".trying-" }));
  } catch (error) {
    throw fileError(`cannot write to ${dir}`, error, OTHER_OUTPUT);
  }
  const kept = await keptIn(dir);
  if (!kept) return;
  throw new MicrogptError(`${dir} is a checkpoint that the run in ${kept.run} keeps, and may remove`, {
    hint: OTHER_OUTPUT,
  });
}

/**
 * Checks that a training run may write to `dir`: everything there that it would replace or move is ours.
 * @param goesOn it is resumed there
 * @returns what it holds; `checkFree` looks at the names that only some architectures write
 * @throws {MicrogptError} when not, naming the file
 */
export async function checkTrainingOutput(dir: string, goesOn = false): Promise<Holding> {
  await checkWritable(dir);
  return await recognizeModel(dir, true, !goesOn);
}

/**
 * Checks that an inference model may be written to `dir`.
 * @returns the files of the model that is there
 * @throws {MicrogptError} when it holds a training checkpoint, an ONNX export, or what is not ours
 */
export async function checkModelOutput(
  dir: string,
  architecture: Architecture | undefined,
): Promise<readonly ModelFile[]> {
  await checkWritable(dir);
  const { kind, names } = await recognizeModel(dir, true);
  await checkFree(dir, names, architecture);
  if (kind !== "checkpoint") return names;
  throw new MicrogptError(`${dir} holds a training checkpoint, which this would break`, {
    hint: OTHER_OUTPUT,
  });
}

/** `path`, or the nearest directory above it that exists; undefined where this program is not allowed to look. */
async function nearestDirectory(path: string): Promise<string | undefined> {
  if (!await isPermitted("read", path) || !await isPermitted("write", path)) return undefined;
  const above = dirname(path);
  return await ifThere(files.stat(path)) || above === path ? path : await nearestDirectory(above);
}

/** A directory that belongs to a run. */
export interface KeptCheckpoint {
  /** the run's directory */
  run: string;
  /** the directory for a run that goes on from it */
  next: string;
}

/**
 * The run that a directory belongs to, as one of the checkpoints that it keeps.
 * @returns undefined for any other directory
 */
export async function keptIn(dir: string): Promise<KeptCheckpoint | undefined> {
  const real = await realPathIfThere(resolve(dir)) ?? resolve(dir);
  const [name, kept] = [basename(real), dirname(real)];
  if (basename(kept) !== KEPT_DIR || !KEPT_NAME.test(name)) return undefined;
  const run = dirname(kept);
  if (!await isPermitted("read", run)) return undefined;
  using weights = await openIfThere(run, weightsFile("gpt")) ?? await openIfThere(run, weightsFile("llama"));
  if (!weights) return undefined;
  // as the person wrote it, where that ends in a name
  const written = normalize(join(dir, "..", ".."));
  const named = !/^\.\.?$/.test(basename(written)) && await sameDirectory(written, run);
  const shown = named ? written : run;
  return { run: shown, next: `${shown}-${name}` };
}

async function realPathIfThere(path: string): Promise<string | undefined> {
  if (!await isPermitted("read", path)) return undefined;
  try {
    return await ifThere(files.realPath(path));
  } catch (error) {
    if (isFileError(error, "NotADirectory")) return undefined;
    throw fileError(`cannot look at ${path}`, error);
  }
}

/**
 * Makes sure that files can be written to `dir`, creating it, and finishes or discards what a save that died left
 * there.
 * @param goesOn the run is resumed there
 * @returns what it holds
 * @throws {MicrogptError} when nothing can be written, or a save would replace what is not ours
 */
export async function prepareOutput(
  dir: string,
  goesOn = false,
  architecture?: Architecture,
): Promise<Omit<Holding, "names">> {
  try {
    await makeDirectory(dir);
    if (!(await files.stat(dir)).isDirectory) {
      throw new MicrogptError(`cannot write to ${dir}: it is a file`, { hint: OTHER_OUTPUT });
    }
    await recognizeModel(dir, false, !goesOn);
    await finishPublish(dir);
    await discardStaging(dir);
    await files.mkdir(join(dir, STAGING)); // says now, not after hours of training, that nothing can be written
    await files.remove(join(dir, STAGING));
  } catch (error) {
    throw fileError(`cannot write to ${dir}`, error, OTHER_OUTPUT);
  }
  const { names, ...holding } = await recognizeModel(dir, false, !goesOn);
  await checkFree(dir, names, architecture);
  return holding;
}
