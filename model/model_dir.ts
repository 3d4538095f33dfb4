/**
 * A model directory on disk: which files it has, how they are replaced all together or not at all, and how they are
 * found when the process died in between. The protocol (docs/file-formats.md explains it):
 *
 * 1. A save writes all its files into DIR/.saving and flushes them. DIR's own files are as they were.
 * 2. DIR/.saving is renamed to DIR/.saved: the instant from which the new files count.
 * 3. Each file of DIR/.saved is moved over its namesake in DIR; DIR/.saved is removed.
 *
 * A reader looks into DIR/.saved first, then into DIR, so it sees the old files before the rename of step 2 and the
 * new ones after it, wherever step 3 stands. Whoever saves next finishes step 3.
 */
import { createHash } from "node:crypto";
import { dirname, join, resolve } from "node:path";
import { MicrogptError } from "./errors.ts";
import type { FileDigest } from "./file_digest.ts";

/** The files of an inference model. */
export const MODEL_FILES = ["meta.json", "tokenizer.json", "weights.safetensors"] as const;

/** The files of a training checkpoint. */
export const CHECKPOINT_FILES = [
  ...MODEL_FILES,
  "optimizer_m.safetensors",
  "optimizer_v.safetensors",
  "metrics.jsonl",
  "train_state.json",
] as const;

/** A file that belongs to a model. */
export type ModelFile = (typeof CHECKPOINT_FILES)[number];

/** Where `--keep` keeps earlier checkpoints. */
export const KEPT_DIR = "checkpoints";

const STAGING = ".saving";
const COMMITTED = ".saved";
/** An empty file in `.saved`: what it replaces is another run's model and goes to DIR.old instead of nowhere. */
const KEEP_OLD = "keep-old";

/** At most 60 characters of what a file holds, fit for an error message: one line, nothing a terminal would obey. */
export function printable(text: string): string {
  const line = text.slice(0, 400).replace(/[\p{C}\p{Z}]+/gu, " ");
  return line.length > 60 ? `${line.slice(0, 60)}…` : line;
}

/** The error for a file that holds what no save wrote. */
export function wrongContent(message: string, cause?: unknown): MicrogptError {
  const hint = "the file was changed or damaged; copy the whole model directory again";
  return new MicrogptError(message, { hint, cause });
}

/** The error for a file that another save wrote than the rest of a checkpoint. */
export function otherSave(path: string): MicrogptError {
  return new MicrogptError(`${path} is not the file that train_state.json was saved with`, {
    hint: "the files come from two saves, or one was changed; copy the whole checkpoint again",
  });
}

/** How Deno ends the operating system's words; the rarer errors have no class and no code. */
const OS_ERROR = / \(os error \d+\)[^]*$/;

/** True for failures of the file system, false for mistakes in this program. */
function isSystemError(error: unknown): error is Error {
  if (!(error instanceof Error)) return false;
  return "code" in error || error instanceof Deno.errors.NotCapable || OS_ERROR.test(error.message);
}

/** `what` and the operating system's own words as a user's error; errors that are no file system's stay as they are. */
export function fileError(what: string, error: unknown, hint?: string): unknown {
  if (!isSystemError(error)) return error;
  const reason = error.message.replace(OS_ERROR, "");
  return new MicrogptError(`${what}: ${reason}`, { cause: error, ...(hint ? { hint } : {}) });
}

/** What `operation` returns, or undefined when the file or directory it names is not there. */
export async function ifThere<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** @throws {MicrogptError} unless `dir` is a directory */
export async function checkDirectory(dir: string): Promise<void> {
  let info: Deno.FileInfo | undefined;
  try {
    info = await ifThere(Deno.stat(dir));
  } catch (error) {
    throw fileError(`cannot open model directory ${dir}`, error);
  }
  if (info?.isDirectory) return;
  throw new MicrogptError(
    info ? `${dir} is a file, a model is a directory` : `model directory ${dir} does not exist`,
    { hint: "name the directory that `train` wrote" },
  );
}

/** Reading is tried anew this often when a save comes between. */
const READ_ATTEMPTS = 10;

/**
 * Reads several files of a model as one save left them: where a save came between the first and the last look, what was
 * read may be of two saves, and is read again.
 * @param read reads the files, and may be called several times
 * @throws {MicrogptError} what `read` throws when no save came between, or that saves leave no time to read
 */
export async function readBetweenSaves<T>(dir: string, read: () => Promise<T>): Promise<T> {
  for (let attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
    const before = await filesAsTheyAre(dir);
    const outcome = await read().then((value) => ({ value }), (error) => ({ error }));
    if (await filesAsTheyAre(dir) !== before) continue;
    if ("error" in outcome) throw outcome.error;
    return outcome.value;
  }
  throw new MicrogptError(`${dir} is saved to faster than it can be read`, {
    hint: "wait for the run that saves there, or name one of its checkpoints/",
  });
}

/** Which files a model consists of at this instant: a save puts new ones in place of all of them. */
async function filesAsTheyAre(dir: string): Promise<string> {
  const files = CHECKPOINT_FILES.map(async (name) => {
    for (const path of [join(dir, COMMITTED, name), join(dir, name)]) {
      try {
        const { dev, ino, size, mtime } = await Deno.stat(path);
        return [dev, ino, size, mtime?.getTime()].join(" ");
      } catch (error) {
        // what cannot be looked at cannot be read either, and reading says why
        if (!isSystemError(error)) throw error;
      }
    }
    return "";
  });
  return (await Promise.all(files)).join("\n");
}

/** Opens a file of a model, or returns undefined when the model has none of that name. */
export async function openIfThere(dir: string, name: ModelFile): Promise<Deno.FsFile | undefined> {
  const committed = join(dir, COMMITTED, name);
  const final = join(dir, name);
  // The second round is for a save that moved the file between the first two looks.
  for (const path of [committed, final, committed, final]) {
    try {
      const info = await ifThere(Deno.stat(path));
      if (!info) continue;
      // opening a pipe would wait for ever
      if (!info.isFile) throw new MicrogptError(`${final} is not a regular file`);
      const file = await ifThere(Deno.open(path));
      if (file) return file;
    } catch (error) {
      throw fileError(`cannot read ${final}`, error);
    }
  }
  return undefined;
}

/** Opens a file of a model. @throws {MicrogptError} when there is none or it cannot be read */
export async function openModelFile(dir: string, name: ModelFile): Promise<Deno.FsFile> {
  const file = await openIfThere(dir, name);
  if (file) return file;
  await checkDirectory(dir);
  if (await isOnnxExport(dir)) {
    throw new MicrogptError(
      `${dir} is an ONNX export: it runs in transformers.js, onnxruntime and \`OnnxModel\``,
      {
        hint: "name the directory that it was exported from",
      },
    );
  }
  throw new MicrogptError(`${join(dir, name)} is missing`, {
    hint: (MODEL_FILES as readonly string[]).includes(name)
      ? "this is not a whole model directory"
      : "this is not a whole training checkpoint; it can be used, but not resumed",
  });
}

/** True where there is a graph and no model beside it. */
export async function isOnnxExport(dir: string): Promise<boolean> {
  try {
    const names = await ifThere(Array.fromAsync(Deno.readDir(dir), (entry) => entry.name)) ?? [];
    return names.includes("model.onnx") && !names.includes("meta.json");
  } catch (error) {
    throw fileError(`cannot read ${dir}`, error);
  }
}

/** Reads a text file of a model, or returns undefined when there is none. @throws {MicrogptError} above `maxBytes` */
export async function readTextIfThere(
  dir: string,
  name: ModelFile,
  maxBytes: number,
): Promise<string | undefined> {
  using file = await openIfThere(dir, name);
  return file && await textOf(file, join(dir, name), maxBytes);
}

/**
 * Reads a text file of a model.
 * @param expected what the file must be, where a save says so
 * @throws {MicrogptError} when it is missing, above `maxBytes`, another file than expected, or not UTF-8
 */
export async function readText(
  dir: string,
  name: ModelFile,
  maxBytes: number,
  expected?: FileDigest,
): Promise<string> {
  using file = await openModelFile(dir, name);
  return await textOf(file, join(dir, name), maxBytes, expected);
}

async function textOf(
  file: Deno.FsFile,
  path: string,
  maxBytes: number,
  expected?: FileDigest,
): Promise<string> {
  const { size } = await file.stat();
  if (size > maxBytes) {
    throw wrongContent(`${path} has ${size} bytes, more than the ${maxBytes} that can belong there`);
  }
  const buffer = new Uint8Array(size);
  let length = 0;
  for (let read; (read = await file.read(buffer.subarray(length))); length += read);
  const bytes = buffer.subarray(0, length);
  if (expected && createHash("sha256").update(bytes).digest("hex") !== expected.sha256) throw otherSave(path);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw wrongContent(`${path} is not valid UTF-8`, cause);
  }
}

/** Reads a JSON object. @throws {MicrogptError} when the text is something else */
export function parseObject(text: string, path: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw wrongContent(`${path} is not valid JSON`, cause);
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>;
  }
  throw wrongContent(`${path} is not a JSON object`);
}

/** Where the model that a fresh run replaces is kept: beside the directory itself, not beside a link to it. */
export async function oldModelPath(dir: string): Promise<string> {
  return `${(await ifThere(Deno.realPath(dir))) ?? resolve(dir)}.old`;
}

const OTHER_OUTPUT = "choose another directory with --output";

/** Checks that files could be written to `dir`, and leaves nothing behind. @throws {MicrogptError} when not */
export async function checkOutput(dir: string): Promise<void> {
  try {
    const place = await nearestDirectory(resolve(dir));
    if (place !== undefined) await Deno.remove(await Deno.makeTempDir({ dir: place, prefix: ".trying-" }));
  } catch (error) {
    throw fileError(`cannot write to ${dir}`, error, OTHER_OUTPUT);
  }
}

/** `path` or the nearest above it that is there; undefined where this program has no leave to look. */
async function nearestDirectory(path: string): Promise<string | undefined> {
  for (const name of ["read", "write"] as const) {
    if ((await Deno.permissions.query({ name, path })).state !== "granted") return undefined;
  }
  const above = dirname(path);
  return await ifThere(Deno.stat(path)) || above === path ? path : await nearestDirectory(above);
}

/** Makes sure that files can be written to `dir`, creating it. @returns whether it holds a model already */
export async function prepareOutput(dir: string): Promise<{ holdsModel: boolean }> {
  try {
    await makeDirectory(dir);
    await finishPublish(dir);
    await removeTree(join(dir, STAGING));
    await Deno.mkdir(join(dir, STAGING)); // says now, not after hours of training, that nothing can be written
    await Deno.remove(join(dir, STAGING));
  } catch (error) {
    throw fileError(`cannot write to ${dir}`, error, OTHER_OUTPUT);
  }
  using weights = await openIfThere(dir, "weights.safetensors");
  if (weights) await checkOldCanMove(dir);
  return { holdsModel: weights !== undefined };
}

/** A mount point cannot move its files beside itself; known before training, this costs nobody a checkpoint. */
async function checkOldCanMove(dir: string): Promise<void> {
  const real = await Deno.realPath(dir);
  if ((await Deno.stat(real)).dev === (await Deno.stat(dirname(real))).dev) return;
  throw new MicrogptError(`${dir} holds a model and is a mount point, so it cannot be kept as ${dir}.old`, {
    hint: OTHER_OUTPUT,
  });
}

/**
 * Replaces files of `dir`, all or none.
 * @param stage writes the new files, flushed, into the directory it is given
 * @param keepOld move the model that `dir` holds to DIR.old, in place of what was kept there
 * @throws {MicrogptError} when something cannot be written; the old files then still count
 */
export async function publish(
  dir: string,
  stage: (staging: string) => Promise<void>,
  keepOld = false,
): Promise<void> {
  const staging = join(dir, STAGING);
  try {
    await makeDirectory(dir);
    // where this finishes a save that kept the old model, `dir` now holds that save, and DIR.old what must not be lost
    const kept = await finishPublish(dir);
    await removeTree(staging);
    await Deno.mkdir(staging);
    await stage(staging);
    if (keepOld && !kept) {
      await Deno.writeFile(join(staging, KEEP_OLD), new Uint8Array(0));
      await removeModel(await oldModelPath(dir));
    }
    await syncDirectory(staging);
    await Deno.rename(staging, join(dir, COMMITTED));
  } catch (error) {
    // should this fail too, the next save removes it; the first error is the one to know
    await removeTree(staging).catch(() => undefined);
    throw fileError(`cannot save to ${dir}`, error, "what was saved there before is untouched");
  }
  try {
    await finishPublish(dir);
  } catch (error) {
    const hint = "the save itself is complete and loads; saving again finishes the move";
    throw fileError(`cannot move the saved files into place in ${dir}`, error, hint);
  }
}

/** Step 3 of a save, from wherever it stands; nothing when there is none to finish. @returns whether the save kept the old model */
async function finishPublish(dir: string): Promise<boolean> {
  const committed = join(dir, COMMITTED);
  const names = await ifThere(Array.fromAsync(Deno.readDir(committed), (entry) => entry.name));
  if (!names) return false;
  await syncDirectory(dir);
  const kept = names.includes(KEEP_OLD);
  if (kept) await moveToOld(dir, names);
  for (const name of names) {
    if (name !== KEEP_OLD) await Deno.rename(join(committed, name), join(dir, name));
  }
  await syncDirectory(dir);
  await removeTree(committed);
  await syncDirectory(dir);
  return kept;
}

/** What has a namesake still in `.saved` is the old model's. */
async function moveToOld(dir: string, names: string[]): Promise<void> {
  const old = await oldModelPath(dir);
  await Deno.mkdir(old, { recursive: true });
  for (const name of [KEPT_DIR, ...names]) {
    await ifThere(Deno.rename(join(dir, name), join(old, name)));
  }
  await syncDirectory(old);
}

/** Removes a model's files, and the directory when nothing else is in it. */
async function removeModel(dir: string): Promise<void> {
  for (const name of [KEPT_DIR, STAGING, COMMITTED, ...CHECKPOINT_FILES]) await removeTree(join(dir, name));
  const entries = await ifThere(Array.fromAsync(Deno.readDir(dir)));
  if (entries?.length === 0) await Deno.remove(dir);
}

async function removeTree(path: string): Promise<void> {
  await ifThere(Deno.remove(path, { recursive: true }));
}

/** Creates a directory durably. */
async function makeDirectory(dir: string): Promise<void> {
  if (await ifThere(Deno.stat(dir))) return;
  await Deno.mkdir(dir, { recursive: true });
  try {
    await syncDirectory(dirname(resolve(dir)));
  } catch (error) {
    // A parent that may be passed but not read cannot be flushed by name; the system will in its own time.
    if (error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.NotCapable) return;
    throw error;
  }
}

/** Flushes the names in a directory to disk. Windows offers no such call and needs none. */
export async function syncDirectory(dir: string): Promise<void> {
  if (Deno.build.os === "windows") return;
  using handle = await Deno.open(dir);
  await handle.sync();
}

/**
 * Whether two paths lead to the same directory; false where one of them leads nowhere.
 * @throws {MicrogptError} when one may not be looked at
 */
export async function sameDirectory(a: string, b: string): Promise<boolean> {
  try {
    return await Deno.realPath(a) === await Deno.realPath(b);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return false;
    throw fileError(`cannot compare ${a} with ${b}`, error);
  }
}
