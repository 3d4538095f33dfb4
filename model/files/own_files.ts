/**
 * Which files of a directory this program wrote: nothing else is ever replaced, moved or removed. A name proves
 * nothing; docs/file-formats.md says by what each file is known.
 */
import { type FileInfo, files } from "../../platform/files.ts";
import { basename, join } from "../../platform/paths.ts";
import { MicrogptError } from "../../device/errors.ts";
import { digestOf, forEachChunk, readFull } from "./digest.ts";
import type { Architecture } from "../config.ts";
import {
  ALL_CHECKPOINT_FILES,
  CHECKPOINT_FILES,
  COMMITTED,
  fileError,
  GGUF_FILES,
  ifThere,
  isOnnxExport,
  KEPT_DIR,
  KEPT_NAME,
  type ModelFile,
  ONNX_FILES,
  openIfThere,
  openModelFile,
  printable,
  readText,
  STAGING,
  weightsFile,
  WORKING_LOG,
} from "./directory.ts";
import { readMeta, readTokenizer } from "./description.ts";
import { HF_FILES } from "./hf/directory.ts";
import { networkOf } from "../networks.ts";
import type { ParameterLayout } from "../parameters.ts";
import { checkTensors, readHeader, readMetadata } from "./safetensors.ts";
import { parseTrainState, type SavedDigests, STATE_MAX_BYTES, type TrainState } from "./train_state.ts";

/** In `.saved`: what is replaced is another run's model and goes where this file says, instead of nowhere. */
export const KEEP_OLD = "keep-old";
/** In `.saved`: the model that was kept there before, which is removed last. */
export const REPLACED = "replaced";

/** A kept checkpoint that is being removed, which no longer has a checkpoint's name. */
export const REMOVING = ".removing";

const FILE_NAMES: ReadonlySet<string> = new Set([...ALL_CHECKPOINT_FILES, ...ONNX_FILES, KEEP_OLD]);

/** What a save stages may be an export for other programs as well. */
const STAGED_NAMES: ReadonlySet<string> = new Set([...FILE_NAMES, ...HF_FILES, ...GGUF_FILES]);

/** First byte of the files that do not begin with "{". */
const FIRST_BYTES: Record<string, string> = {
  "model.gguf": "G",
  Modelfile: "F",
  "model.onnx": "\b",
  "configuration_microgpt.py": '"',
  "modeling_microgpt.py": '"',
};

const isDirectoryName = (name: string) =>
  [KEPT_DIR, STAGING, COMMITTED, REPLACED, REMOVING].includes(name) || KEPT_NAME.test(name);

/** What a directory holds that is this program's. */
export interface Holding {
  /** a checkpoint: the run's last, or one that it kept */
  kind: "nothing" | "model" | "checkpoint";
  /** steps of the longest run in it, kept checkpoints counted in; undefined where nothing says so */
  steps: number | undefined;
  /** its files */
  names: readonly ModelFile[];
}

/** The error for what would be replaced, moved or removed although this program did not write it. */
export function notOurs(dir: string, name: string, reason: string): MicrogptError {
  return new MicrogptError(`${dir} holds ${printable(name)}, which microgpt did not write (${reason})`, {
    hint: "only microgpt's own files are replaced: choose another directory with `output`, or move that away",
  });
}

/** The names in a directory; none where it is not there. @throws {MicrogptError} when it cannot be read */
export async function namesOf(dir: string): Promise<string[]> {
  try {
    return await ifThere(Array.fromAsync(files.readDir(dir), (entry) => entry.name)) ?? [];
  } catch (error) {
    throw fileError(`cannot read ${dir}`, error);
  }
}

/**
 * Whether there is something of that name, which must be a file or directory itself, not a link to one.
 * @throws {MicrogptError} when it is something else, or closed to writing
 */
export async function isEntry(dir: string, name: string, what: "file" | "directory"): Promise<boolean> {
  let info: FileInfo | undefined;
  try {
    info = await ifThere(files.lstat(join(dir, name)));
  } catch (error) {
    throw fileError(`cannot read ${join(dir, name)}`, error);
  }
  if (!info) return false;
  if (info.isSymlink) throw notOurs(dir, name, "it is a symbolic link");
  if (what === "file" ? !info.isFile : !info.isDirectory) throw notOurs(dir, name, `it is no ${what}`);
  if (what === "file" && info.mode !== null && (info.mode & 0o222) === 0) {
    throw new MicrogptError(`${join(dir, name)} is read-only, so it is not replaced`, {
      hint: "choose another directory with `output`, or make it writable",
    });
  }
  return true;
}

/**
 * Recognizes the model, its kept checkpoints, and what a save that was interrupted left.
 * @param thorough compares files of any size with the digests of their save, not the small ones alone
 * @param keptToo looks at the kept checkpoints: a run that goes on leaves alone what is not its own among them, a fresh
 * one moves them
 * @throws {MicrogptError} naming a file that a save would replace and this program did not write
 */
export async function recognizeModel(dir: string, thorough: boolean, keptToo = true): Promise<Holding> {
  for (const name of [STAGING, COMMITTED]) await checkStaged(dir, name);
  const present: ModelFile[] = [];
  for (const name of await isLlama(dir) ? ALL_CHECKPOINT_FILES : CHECKPOINT_FILES.gpt) {
    const staged = await isEntry(join(dir, COMMITTED), name, "file");
    if (await isEntry(dir, name, "file") || staged) present.push(name);
  }
  await checkWorkingLog(dir);
  if (present.length === 0) {
    const steps = keptToo ? await recognizeKept(dir) : undefined;
    return { kind: steps === undefined ? "nothing" : "checkpoint", steps, names: present };
  }
  if (await isOnnxExport(dir)) {
    throw new MicrogptError(`${dir} holds an ONNX export, which this would break`, {
      hint: "choose another directory with `output`",
    });
  }
  const state = present.includes("train_state.json")
    ? await recognized(dir, "train_state.json", () => readState(dir))
    : undefined;
  if (state?.digests) await checkDigests(dir, present, state.digests, thorough);
  else await checkContents(dir, present, state !== undefined);
  const kept = keptToo ? await recognizeKept(dir) : undefined;
  const steps = state === undefined ? undefined : Math.max(state.state.step, kept ?? 0);
  return { kind: state ? "checkpoint" : "model", steps, names: present };
}

/** Whether the files of `dir` that this program would know are those of a Llama. */
async function isLlama(dir: string): Promise<boolean> {
  try {
    if (await openedAndClosed(dir, "meta.json")) {
      if ((await readMeta(dir)).config.architecture === "llama") return true;
    }
    if (!await openedAndClosed(dir, "train_state.json")) return false;
    const { digests } = await readState(dir);
    return digests !== undefined && weightsFile("llama") in digests;
  } catch (error) {
    if (error instanceof MicrogptError) return false; // what is wrong with it is said where it is looked at
    throw error;
  }
}

async function openedAndClosed(dir: string, name: ModelFile): Promise<boolean> {
  using file = await openIfThere(dir, name);
  return file !== undefined;
}

/**
 * Checks that no name is taken that a model of an architecture has, but by the model that is there.
 * @param names its files
 * @throws {MicrogptError} naming a file that would be replaced
 */
export async function checkFree(
  dir: string,
  names: readonly ModelFile[],
  architecture: Architecture = "gpt",
): Promise<void> {
  for (const name of CHECKPOINT_FILES[architecture]) {
    if (names.includes(name) || !await isEntry(dir, name, "file")) continue;
    throw notOurs(dir, name, "it is no part of a model of microgpt's there");
  }
}

/** What `look` returns; a file that is not as it should be is not ours. */
async function recognized<T>(dir: string, name: string, look: () => Promise<T>): Promise<T> {
  try {
    return await look();
  } catch (error) {
    if (error instanceof MicrogptError) throw notOurs(dir, name, error.message);
    throw error;
  }
}

async function readState(dir: string): Promise<{ state: TrainState; digests: SavedDigests | undefined }> {
  const text = await readText(dir, "train_state.json", STATE_MAX_BYTES);
  return parseTrainState(text, join(dir, "train_state.json"));
}

/** Files up to this size are always compared with the digest of their save. */
const SMALL_BYTES = 1 << 20;

/** Each file must be the one that its save names. A person may have removed some. */
async function checkDigests(
  dir: string,
  present: ModelFile[],
  digests: SavedDigests,
  thorough: boolean,
): Promise<void> {
  for (const name of present) {
    const expected = digests[name];
    if (!expected) continue;
    using file = await openModelFile(dir, name);
    const same = (await file.stat()).size === expected.bytes &&
      (!thorough && expected.bytes > SMALL_BYTES || (await digestOf(file)).sha256 === expected.sha256);
    if (!same) throw notOurs(dir, name, "it is not the file that train_state.json was saved with");
  }
}

/** An inference model, or a checkpoint of the Rust program: each file must fit `meta.json`. */
async function checkContents(dir: string, present: ModelFile[], checkpoint: boolean): Promise<void> {
  if (!present.includes("meta.json")) throw notOurs(dir, present[0]!, "there is no meta.json beside it");
  const description = await recognized(dir, "meta.json", () => readMeta(dir));
  const { layout } = networkOf(description.config);
  for (const name of present) {
    if (name === "tokenizer.json") await recognized(dir, name, () => readTokenizer(dir, description));
    if (name.endsWith(".safetensors")) await recognized(dir, name, () => checkHeader(dir, name, layout));
    if ((HF_TEXTS as readonly string[]).includes(name)) {
      await recognized(dir, name, () => checkText(dir, name));
    }
    if (name === "metrics.jsonl") {
      if (!checkpoint) throw notOurs(dir, name, "there is no train_state.json beside it");
      await checkLog(dir, name);
    }
  }
}

async function checkHeader(dir: string, name: ModelFile, layout: ParameterLayout): Promise<void> {
  using file = await openModelFile(dir, name);
  checkTensors(await readHeader(file, join(dir, name)), layout, join(dir, name));
}

/** What other programs read beside a Llama's weights, whose file names the digests. */
const HF_TEXTS = ["config.json", "generation_config.json", "tokenizer_config.json"] as const;

async function checkText(dir: string, name: ModelFile): Promise<void> {
  using weights = await openModelFile(dir, weightsFile("llama"));
  const digests = await readMetadata(weights, join(dir, weightsFile("llama")));
  using file = await openModelFile(dir, name);
  if ((await digestOf(file)).sha256 !== digests[name]) throw notOurs(dir, name, "it was changed");
}

async function checkWorkingLog(dir: string): Promise<void> {
  if (await isEntry(dir, WORKING_LOG, "file")) await checkLog(dir, WORKING_LOG);
}

/** Each whole line must be a JSON object with a step; a crash may have cut off the last. */
async function checkLog(dir: string, name: string): Promise<void> {
  using file = await files.open(join(dir, name));
  const decoder = new TextDecoder();
  let rest = "";
  await forEachChunk(file, (chunk) => {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      if (!isLogLine(line)) throw notOurs(dir, name, "it is no log of training steps");
    }
  });
  if (!/^(?:\{|\0*$)/.test(rest)) throw notOurs(dir, name, "it is no log of training steps");
}

function isLogLine(line: string): boolean {
  try {
    return line.trim() === "" || typeof JSON.parse(line)?.step === "number";
  } catch {
    return false; // not JSON
  }
}

/** @returns the most steps of a kept checkpoint; undefined where there is none */
async function recognizeKept(dir: string): Promise<number | undefined> {
  if (!await isEntry(dir, KEPT_DIR, "directory")) return undefined;
  const kept = join(dir, KEPT_DIR);
  let most: number | undefined;
  for (const name of await namesOf(kept)) {
    if (name === REMOVING) await ownTree(kept, name);
    if (!KEPT_NAME.test(name)) continue;
    const { steps } = await recognizeKeptCheckpoint(kept, name);
    if (steps !== undefined) most = Math.max(most ?? 0, steps);
  }
  return most;
}

/** @throws {MicrogptError} when a directory with a kept checkpoint's name holds anything but one of ours */
export async function recognizeKeptCheckpoint(kept: string, name: string): Promise<Holding> {
  await ownTree(kept, name);
  return await recognizeModel(join(kept, name), false);
}

/** What a save stages may be cut off anywhere, so only its beginnings are looked at. */
export async function checkStaged(dir: string, name: string): Promise<void> {
  for (const path of await ownTree(dir, name)) {
    const relative = path.slice(join(dir, name).length + 1);
    if (!relative.includes("/") && !relative.includes("\\") && STAGED_NAMES.has(relative)) {
      await checkBeginning(dir, `${name}/${relative}`);
    }
  }
}

/**
 * Checks that a file begins as this program's of that name do, whether whole or cut off by a crash. For a quick look
 * before each save; `recognizeModel` looks at the whole file.
 */
export async function checkBeginning(dir: string, name: string): Promise<void> {
  const path = join(dir, name);
  using file = await files.open(path);
  const { size } = await file.stat();
  const bytes = new Uint8Array(Math.min(size, 9));
  await readFull(file, bytes);
  const ownName = basename(name);
  // a crash of the machine leaves zeros; a template begins with anything
  if (bytes.every((byte) => byte === 0) || ownName === KEEP_OLD || ownName === "chat_template.jinja") return;
  const at = name.endsWith(".safetensors") ? 8 : 0; // after the header's length
  const expected = (FIRST_BYTES[ownName] ?? "{").charCodeAt(0);
  if (at < bytes.length && bytes[at] !== expected) {
    throw notOurs(dir, name, "it begins as none of its files do");
  }
}

/**
 * All paths of a directory that consists of nothing but this program's names, files first, itself last; none where it
 * is not there. Links are not followed: one is not ours.
 * @throws {MicrogptError} naming what is not ours
 */
export async function ownTree(dir: string, name: string): Promise<string[]> {
  if (!await isEntry(dir, name, "directory")) return [];
  const path = join(dir, name);
  const paths: string[] = [];
  const names = name === STAGING || name === COMMITTED ? STAGED_NAMES : FILE_NAMES;
  for (const entry of await namesOf(path)) {
    if (isDirectoryName(entry)) paths.push(...await ownTree(path, entry));
    else if (!names.has(entry)) throw notOurs(path, entry, "none of its files has that name");
    else if (await isEntry(path, entry, "file")) paths.push(join(path, entry));
  }
  return [...paths, path];
}

/** Removes a directory of this program's files, after checking that it holds nothing else. */
export async function removeOwnTree(dir: string, name: string): Promise<void> {
  for (const path of await ownTree(dir, name)) await ifThere(files.remove(path));
}
