/**
 * Models of HuggingFace's hub, kept in the user's cache directory: hub/OWNER--NAME/COMMIT/NAME is the model's directory,
 * hub/OWNER--NAME/COMMIT/FILE.gguf a GGUF file. What has such a name is whole and was compared with the hub's digests; what
 * is not whole yet ends in .part. hub/OWNER--NAME/refs says which commit a branch was at, for when there is no network.
 */
import { type FileHandle, files } from "../../../platform/files.ts";
import { thisProcess } from "../../../platform/host.ts";
import { join } from "../../../platform/paths.ts";
import { cacheDirectory } from "../../../platform/cache_directory.ts";
import { MicrogptError } from "../../../device/errors.ts";
import { environment } from "../../../platform/permissions.ts";
import {
  fileError,
  ifThere,
  isSystemError,
  LLAMA_FILES,
  MODEL_FILES,
  parseObject,
  printable,
  weightsFile,
} from "../directory.ts";
import { llamaOfHf } from "../hf/config.ts";
import { INDEX, ONE_FILE, shardsOf } from "../hf/weights.ts";
import { Hub, type HubFile, type HubLimits, LIMITS, UnreachableError } from "./connection.ts";
import { fetchFile, PART } from "./file.ts";
import type { DownloadOptions } from "./local_model.ts";
import { type HubName, isCommit, isGgufName, parseHubName } from "./name.ts";

/** Beside the weights, what of a HuggingFace directory is read. */
const TEXTS = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "chat_template.jinja",
];

/** More than this no text of a model has. */
const MAX_TEXT_BYTES = 64 << 20;

/**
 * The path in the cache of a model of the hub.
 * @param text `hf:OWNER/NAME[@REVISION][:FILE.gguf]`
 * @param limits how long answers are waited for
 * @throws {MicrogptError} when there is no such model, it is of a kind that is not read, the network fails, or what came is
 *   not what the hub lists; what came until the network failed is kept, and the next call goes on
 */
export async function downloadModel(
  text: string,
  options: DownloadOptions = {},
  limits: HubLimits = LIMITS,
): Promise<string> {
  const model = parseHubName(text);
  const home = homeOf(model);
  const { revision } = model;
  const known = isCommit(revision) ? revision : await knownCommit(home, revision);
  if (environment("HF_HUB_OFFLINE") === "1") {
    return await kept(home, known, model, true) ?? notHere(model, "HF_HUB_OFFLINE is 1");
  }
  if (isCommit(revision)) {
    const found = await kept(home, revision, model);
    if (found !== undefined) return found;
  }
  const hub = await Hub.open(limits);
  try {
    const commit = isCommit(revision) ? revision : await hub.commitOf(model);
    const local = await kept(home, commit, model) ??
      await download(hub, model, home, commit, options, limits);
    if (!isCommit(revision)) await remember(home, revision, commit);
    return local;
  } catch (error) {
    if (!(error instanceof UnreachableError)) throw error;
    const found = await kept(home, known, model, true);
    if (found === undefined) {
      throw new MicrogptError(error.message, { hint: error.hint ?? NO_NETWORK, cause: error });
    }
    options.notice?.(`${error.message}; using the ${model.text} that was downloaded before (${known})`);
    return found;
  }
}

const NO_NETWORK = "run it again when there is a network: it goes on where it stopped";

function notHere({ text }: HubName, why: string): never {
  throw new MicrogptError(`${text} is not in the cache, and ${why}`, {
    hint: "unset HF_HUB_OFFLINE to download it",
  });
}

/** The model's own directory in the cache. */
function homeOf({ text, owner, name }: HubName): string {
  const cache = cacheDirectory();
  if (cache !== undefined) return join(cache, "hub", `${owner}--${name}`);
  throw new MicrogptError(`${text}: there is no cache directory to download it to`, {
    hint: "set XDG_CACHE_HOME, and run Deno with --allow-env=HOME,XDG_CACHE_HOME",
  });
}

function refPath(home: string, revision: string): string {
  return join(home, "refs", encodeURIComponent(revision));
}

async function knownCommit(home: string, revision: string): Promise<string | undefined> {
  const text = await looked(files.readTextFile(refPath(home, revision)), home);
  return text !== undefined && isCommit(text) ? text : undefined;
}

async function remember(home: string, revision: string, commit: string): Promise<void> {
  const path = refPath(home, revision);
  const written = `${path}.${thisProcess().pid}${PART}`;
  try {
    await files.mkdir(join(home, "refs"), { recursive: true });
    await files.writeTextFile(written, commit);
    await files.rename(written, path);
  } catch (error) {
    throw fileError(`cannot write ${path}`, error);
  }
}

async function looked<T>(operation: Promise<T>, path: string): Promise<T | undefined> {
  try {
    return await ifThere(operation);
  } catch (error) {
    throw fileError(`cannot read ${path}`, error);
  }
}

/**
 * What is kept of a commit, if it is what the name means.
 * @param only where no file is named, the one GGUF file that is there will do: without the hub's list nobody knows better
 */
async function kept(
  home: string,
  commit: string | undefined,
  { name, file }: HubName,
  only = false,
): Promise<string | undefined> {
  if (commit === undefined) return;
  const dir = join(home, commit);
  const path = join(dir, file ?? name);
  if (await looked(files.stat(path), path)) return path;
  if (file !== undefined || !only) return;
  const names = await looked(Array.fromAsync(files.readDir(dir), (entry) => entry.name), dir) ?? [];
  const gguf = names.filter(isGgufName);
  return gguf.length === 1 ? join(dir, gguf[0]!) : undefined;
}

/** Takes turns with other processes: who comes second finds what the first has fetched. */
async function download(
  hub: Hub,
  model: HubName,
  home: string,
  commit: string,
  options: DownloadOptions,
  limits: HubLimits,
): Promise<string> {
  const listed = new Map((await hub.files(model, commit)).map((file) => [file.name, file]));
  const gguf = ggufOf(model, listed);
  const dir = join(home, commit);
  const into = gguf ? dir : join(dir, model.name + PART);
  try {
    await files.mkdir(into, { recursive: true });
  } catch (error) {
    throw fileError(`cannot make ${into}`, error, "set XDG_CACHE_HOME to a directory that can be written");
  }
  using _turn = await takeTurn(dir, model, options);
  const found = await kept(home, commit, gguf ? { ...model, file: gguf.name } : model);
  if (found !== undefined) return found;
  if (gguf) {
    await fetchFile(hub, model, commit, gguf, dir, limits, (received) => {
      options.progress?.({ file: gguf.name, received, total: gguf.bytes });
    });
    return join(dir, gguf.name);
  }
  await fetchDirectory(hub, model, commit, listed, into, options, limits);
  const whole = join(dir, model.name);
  try {
    await files.rename(into, whole);
  } catch (error) {
    throw fileError(`cannot write ${whole}`, error);
  }
  return whole;
}

async function takeTurn(
  dir: string,
  { text }: HubName,
  { notice }: DownloadOptions,
): Promise<Disposable> {
  const file = await files.open(join(dir, ".lock"), { write: true, create: true });
  for (let waited = false; !await isLocked(file); waited = true) {
    if (!waited) notice?.(`another process downloads ${text}; waiting for it`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return { [Symbol.dispose]: () => file.close() };
}

/** Locks a file, or finds that there are no locks: two downloads at once would fail at the digest, which does no harm. */
async function isLocked(file: FileHandle): Promise<boolean> {
  try {
    return await file.tryLock(true);
  } catch (error) {
    if (isSystemError(error)) return true;
    throw error;
  }
}

/**
 * The GGUF file that a name means: the one that it names, or the only one of a model that has no other weights.
 * @throws {MicrogptError} when it is not there, or one of several must be named
 */
function ggufOf({ text, file }: HubName, listed: ReadonlyMap<string, HubFile>): HubFile | undefined {
  const names = [...listed.keys()].filter(isGgufName);
  if (file !== undefined) {
    const found = listed.get(file);
    if (found) return found;
    throw new MicrogptError(`${text}: the model has no file ${file}`, { hint: namesOf(names) });
  }
  if (listed.has(ONE_FILE) || listed.has(INDEX) || listed.has("weights.safetensors")) return undefined;
  if (names.length === 1) return listed.get(names[0]!);
  if (names.length > 1) {
    throw new MicrogptError(`${text} has ${names.length} GGUF files`, {
      hint: `name one, as ${text}:${names[0]}; ${namesOf(names)}`,
      usage: true,
    });
  }
  throw new MicrogptError(`${text} has no weights as safetensors or GGUF`, {
    hint: [...listed.keys()].some((name) => name.startsWith("pytorch_model"))
      ? "its pytorch_model.bin would have to be run as a program; take a copy of the model in safetensors"
      : "take a model that has them",
  });
}

function namesOf(names: readonly string[], most = 6): string {
  if (names.length === 0) return "it has no GGUF file at its top";
  const more = names.length > most ? ` and ${names.length - most} more` : "";
  return `it has ${names.slice(0, most).join(", ")}${more}`;
}

/** Fetches texts first: a model of a kind that is not read is refused before its weights come. */
async function fetchDirectory(
  hub: Hub,
  model: HubName,
  commit: string,
  listed: ReadonlyMap<string, HubFile>,
  dir: string,
  { progress }: DownloadOptions,
  limits: HubLimits,
): Promise<void> {
  const ours = !listed.has("meta.json")
    ? undefined
    : listed.has(weightsFile("gpt"))
    ? MODEL_FILES
    : LLAMA_FILES;
  const texts = (ours ?? [...TEXTS, ...(listed.has(ONE_FILE) ? [] : [INDEX])])
    .flatMap((name) => listed.get(name) ?? []).filter(({ name }) =>
      name.endsWith(".json") || name.endsWith(".jinja")
    );
  for (const { name, bytes } of texts) {
    if (bytes > MAX_TEXT_BYTES) {
      throw new MicrogptError(
        `${model.text}: ${name} has ${bytes} bytes, at most ${MAX_TEXT_BYTES} are read`,
      );
    }
  }
  let done = 0;
  let total = NaN;
  const fetch = async (file: HubFile) => {
    await fetchFile(hub, model, commit, file, dir, limits, (bytes) => {
      if (!Number.isNaN(total)) progress?.({ file: file.name, received: done + bytes, total });
    });
    done += file.bytes;
  };
  for (const file of texts) await fetch(file);
  const weights = ours
    ? [need(model, listed, weightsFile(ours === LLAMA_FILES ? "llama" : "gpt"))]
    : await hfWeights(model, listed, dir);
  total = done + weights.reduce((sum, { bytes }) => sum + bytes, 0);
  for (const file of weights) await fetch(file);
}

/** @throws {MicrogptError} when the directory is not one that will be read */
async function hfWeights(
  model: HubName,
  listed: ReadonlyMap<string, HubFile>,
  dir: string,
): Promise<HubFile[]> {
  need(model, listed, "config.json");
  need(model, listed, "tokenizer.json");
  const config = join(dir, "config.json");
  llamaOfHf(parseObject(await files.readTextFile(config), config), model.text);
  if (listed.has(ONE_FILE)) return [listed.get(ONE_FILE)!];
  const index = join(dir, INDEX);
  const shards = shardsOf(parseObject(await files.readTextFile(index), index), index);
  return [...new Set(shards.values())].map((name) => need(model, listed, name));
}

function need({ text }: HubName, listed: ReadonlyMap<string, HubFile>, name: string): HubFile {
  const file = listed.get(name);
  if (file) return file;
  throw new MicrogptError(`${text} has no ${printable(name)}`, {
    hint: name === "tokenizer.json"
      ? "only models with a tokenizer.json are read; take a newer copy of the model, or a GGUF file"
      : "take a copy of the model that is whole",
  });
}
