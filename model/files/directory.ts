/**
 * A model directory on disk: which files it has, and how they are read. A save puts new files in place of all of them
 * (publish.ts): while it moves them from DIR/.saved into DIR they count already, so a reader looks there first.
 */
import { type FileHandle, type FileInfo, files, isFileError } from "../../platform/files.ts";
import { sha256 } from "../../platform/hash.ts";
import { join } from "../../platform/paths.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { FileDigest } from "./digest.ts";
import type { Architecture } from "../config.ts";
import type { StateName } from "../optimizer_state.ts";

/** The files of an inference model of the architecture gpt. */
export const MODEL_FILES = ["meta.json", "tokenizer.json", "weights.safetensors"] as const;

/** Those of a Llama: but for `meta.json` a HuggingFace directory. */
export const LLAMA_FILES = [
  "meta.json",
  "tokenizer.json",
  "config.json",
  "generation_config.json",
  "tokenizer_config.json",
  "model.safetensors",
] as const;

/** What a training checkpoint has besides. */
const TRAINING_FILES = [
  "optimizer_m.safetensors",
  "optimizer_v.safetensors",
  "metrics.jsonl",
  "train_state.json",
] as const;

/** The files of a training checkpoint. */
export const CHECKPOINT_FILES = {
  gpt: [...MODEL_FILES, ...TRAINING_FILES],
  llama: [...LLAMA_FILES, ...TRAINING_FILES],
} as const satisfies Record<Architecture, readonly string[]>;

/** The names of both. */
export const ALL_CHECKPOINT_FILES: readonly ModelFile[] = [
  ...new Set([...CHECKPOINT_FILES.gpt, ...CHECKPOINT_FILES.llama]),
];

/** A file that belongs to a model. */
export type ModelFile = (typeof CHECKPOINT_FILES)[Architecture][number];

/** The file of a model's weights. */
export function weightsFile(architecture: Architecture = "gpt"): "weights.safetensors" | "model.safetensors" {
  return architecture === "llama" ? "model.safetensors" : "weights.safetensors";
}

/** The files of an ONNX export. */
export const ONNX_FILES = [
  "model.onnx",
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
] as const;

/** The files of an export to GGUF. */
export const GGUF_FILES = ["model.gguf", "Modelfile"] as const;

/** The log of a run that goes on, beside the checkpoint. Each save copies it to `metrics.jsonl`; it follows no other file. */
export const WORKING_LOG = "metrics.jsonl.part";

/** The file of a state tensor of the optimizer. */
export function optimizerFile<Name extends StateName>(name: Name): `optimizer_${Name}.safetensors` {
  return `optimizer_${name}.safetensors`;
}

/** Where `keep` keeps earlier checkpoints. */
export const KEPT_DIR = "checkpoints";
/** The names of its directories: a step, the best, and what was the best until other documents were held out. */
export const KEPT_NAME = /^(?:step-\d{6,}|best(?:-until-step-\d{6,}(?:-\d+)?)?)$/;

/** Where a save writes its files, before they count. */
export const STAGING = ".saving";
/** Where they are from the instant they count until they are moved into place. */
export const COMMITTED = ".saved";

/** At most 60 characters of what a file holds, fit for an error message: one line, nothing a terminal would obey. */
export function printable(text: string): string {
  const line = text.slice(0, 400).replace(/[\p{C}\p{Z}]+/gu, " ");
  return line.length > 60 ? `${line.slice(0, 60)}…` : line;
}

/** The error for a file whose content no save wrote. */
export function wrongContent(message: string, cause?: unknown): MicrogptError {
  const hint = "the file was changed or damaged; copy the whole model directory again";
  return new MicrogptError(message, { hint, cause });
}

/** The error for a file written by a different save from the rest of a checkpoint. */
export function otherSave(path: string): MicrogptError {
  return new MicrogptError(`${path} is not the file that train_state.json was saved with`, {
    hint: "the files come from two saves, or one was changed; copy the whole checkpoint again",
  });
}

/** How Deno ends the operating system's words; the rarer errors have no class and no code. */
const OS_ERROR = / \(os error \d+\)[^]*$/;

/** True for failures of the file system, false for mistakes in this program. */
export function isSystemError(error: unknown): error is Error {
  if (!(error instanceof Error)) return false;
  return "code" in error || isFileError(error, "NotCapable") || OS_ERROR.test(error.message);
}

/**
 * `what` and the operating system's own words as a user's error; errors that are not the file system's stay as they
 * are.
 */
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
    if (isFileError(error, "NotFound")) return undefined;
    throw error;
  }
}

/** @throws {MicrogptError} unless `dir` is a directory */
export async function checkDirectory(dir: string): Promise<void> {
  let info: FileInfo | undefined;
  try {
    info = await ifThere(files.stat(dir));
  } catch (error) {
    throw fileError(`cannot open model directory ${dir}`, error);
  }
  if (info?.isDirectory) return;
  throw new MicrogptError(
    info ? `${dir} is a file, a model is a directory` : `model directory ${dir} does not exist`,
    { hint: "name the directory that `train` wrote" },
  );
}

/** How often reading is tried again when a save interferes. */
const READ_ATTEMPTS = 10;

/**
 * Reads several files of a model as one save left them: if a save came between the first and the last look, what was
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
  const looks = ALL_CHECKPOINT_FILES.map(async (name) => {
    for (const path of [join(dir, COMMITTED, name), join(dir, name)]) {
      try {
        const { dev, ino, size, mtime } = await files.stat(path);
        return [dev, ino, size, mtime?.getTime()].join(" ");
      } catch (error) {
        // what cannot be looked at cannot be read either, and reading says why
        if (!isSystemError(error)) throw error;
      }
    }
    return "";
  });
  return (await Promise.all(looks)).join("\n");
}

/** Opens a file of a model, or returns undefined when the model has none of that name. */
export async function openIfThere(dir: string, name: ModelFile): Promise<FileHandle | undefined> {
  const committed = join(dir, COMMITTED, name);
  const final = join(dir, name);
  // The second round is for a save that moved the file between the first two looks.
  for (const path of [committed, final, committed, final]) {
    try {
      const info = await ifThere(files.stat(path));
      if (!info) continue;
      // opening a pipe would wait forever
      if (!info.isFile) throw new MicrogptError(`${final} is not a regular file`);
      const file = await ifThere(files.open(path));
      if (file) return file;
    } catch (error) {
      throw fileError(`cannot read ${final}`, error);
    }
  }
  return undefined;
}

/** Opens a file of a model. @throws {MicrogptError} when there is none or it cannot be read */
export async function openModelFile(dir: string, name: ModelFile): Promise<FileHandle> {
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
  if (name === "model.safetensors" && await ifThere(files.stat(join(dir, "weights.safetensors")))) {
    throw new MicrogptError(`${dir} holds a Llama as unreleased versions saved it, which is no longer read`, {
      hint: "train it anew, or export it with `format` hf by the version that saved it",
    });
  }
  throw new MicrogptError(`${join(dir, name)} is missing`, {
    hint: ([...MODEL_FILES, ...LLAMA_FILES] as readonly string[]).includes(name)
      ? "this is not a whole model directory"
      : "this is not a whole training checkpoint; it can be used, but not resumed",
  });
}

/** True where there is a graph without a model beside it. */
export async function isOnnxExport(dir: string): Promise<boolean> {
  try {
    const names = await ifThere(Array.fromAsync(files.readDir(dir), (entry) => entry.name)) ?? [];
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
  file: FileHandle,
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
  if (expected && sha256().update(bytes).digest("hex") !== expected.sha256) throw otherSave(path);
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

/** Whether two looks were at the same file or directory; where a system numbers none, they count as the same. */
export function isSameFile(a: FileInfo, b: FileInfo): boolean {
  return a.ino === b.ino && a.dev === b.dev;
}

/**
 * Whether two paths lead to the same directory; false where one of them leads nowhere.
 * @throws {MicrogptError} when one may not be looked at
 */
export async function sameDirectory(a: string, b: string): Promise<boolean> {
  try {
    const [first, second] = await Promise.all([files.stat(a), files.stat(b)]);
    // by number where there is one: a bind mount, or other letter case on some disks, is another path to the same place
    if (first.ino && Number.isSafeInteger(first.ino)) {
      return first.dev === second.dev && first.ino === second.ino;
    }
    return await files.realPath(a) === await files.realPath(b);
  } catch (error) {
    if (isFileError(error, "NotFound", "NotADirectory")) return false;
    throw fileError(`cannot compare ${a} with ${b}`, error);
  }
}
