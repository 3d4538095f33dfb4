/** Models and training checkpoints: reading them from a directory, and saving them so that a crash costs nothing. */
import { join } from "node:path";
import { SPECIAL_TOKENS } from "../data/tokenizer.ts";
import { checkConfig, type ModelConfig } from "./config.ts";
import { MicrogptError } from "./errors.ts";
import { digestOf, type FileDigest, forEachChunk, writeHashed } from "./file_digest.ts";
import type { MetricsSnapshot } from "./metrics_log.ts";
import {
  checkDirectory,
  CHECKPOINT_FILES,
  isOnnxExport,
  openIfThere,
  openModelFile,
  parseObject,
  printable,
  publish,
  readText,
  readTextIfThere,
  wrongContent,
} from "./model_dir.ts";
import { type ParameterLayout, parameterLayout } from "./parameters.ts";
import { checkTensors, dtypeOf, readHeader, readParameters, writeParameters } from "./safetensors.ts";
import { formatTrainState, parseTrainState, type SavedDigests, type TrainState } from "./train_state.ts";

/** What `meta.json` and `tokenizer.json` say. */
export interface ModelDescription {
  config: ModelConfig;
  /** the model knows the turns of a chat (`special_tokens` in meta.json) */
  chat: boolean;
  /** the text of `tokenizer.json` */
  tokenizerJson: string;
}

/** A model as it was read. */
export interface LoadedModel extends ModelDescription {
  layout: ParameterLayout;
  /** the weights, [layout.length] */
  params: Float32Array<ArrayBuffer>;
  /** element type in the file: F32, BF16 or F16 */
  fileDtype: string;
}

/** A training checkpoint as it was read. */
export interface LoadedCheckpoint extends LoadedModel {
  /** Adam's first moments, [layout.length] */
  m: Float32Array<ArrayBuffer>;
  /** Adam's second moments, [layout.length] */
  v: Float32Array<ArrayBuffer>;
  trainState: TrainState;
}

/** What `info` shows of a model without reading its weights. */
export interface ModelSummary extends ModelDescription {
  parameters: number;
  fileDtype: string;
  /** size of weights.safetensors */
  weightsBytes: number;
  /** undefined for an inference model */
  trainState: TrainState | undefined;
}

/** A training checkpoint to save. The arrays must not change while it is saved. */
export interface Checkpoint extends ModelDescription {
  params: Float32Array;
  m: Float32Array;
  v: Float32Array;
  trainState: TrainState;
  metrics: MetricsSnapshot;
}

/** What meta.json calls the special tokens: theirs without the angle brackets. */
const [BOS, ...CHAT_TOKENS] = Object.values(SPECIAL_TOKENS).map((token) => token.slice(1, -1));

const META_MAX_BYTES = 1 << 20;
const STATE_MAX_BYTES = 1 << 20;
/** A tokenizer takes about 100 bytes a token; more than this is not one for the vocabulary. */
const tokenizerMaxBytes = (vocabulary: number) => Math.min((1 << 20) + 1024 * vocabulary, 64 << 20);

/**
 * Reads a model for inference.
 * @throws {MicrogptError} when a file is missing, malformed or belongs to another model, or a weight is not finite
 */
export async function readModel(dir: string): Promise<LoadedModel> {
  await checkDirectory(dir);
  const { config, chat } = await readMeta(dir);
  const layout = parameterLayout(config);
  const tokenizerJson = await readTokenizer(dir, config, chat);
  using file = await openModelFile(dir, "weights.safetensors");
  const { flat, dtype } = await readParameters(file, join(dir, "weights.safetensors"), layout);
  return { config, chat, tokenizerJson, layout, params: flat, fileDtype: dtype };
}

/**
 * Reads everything that training goes on from, and checks that all files come from one save.
 * @throws {MicrogptError} as `readModel`, and when it is no whole training checkpoint
 */
export async function readCheckpoint(dir: string): Promise<LoadedCheckpoint> {
  await checkDirectory(dir);
  const statePath = join(dir, "train_state.json");
  const { state, digests } = parseTrainState(
    await readText(dir, "train_state.json", STATE_MAX_BYTES),
    statePath,
  );
  if (digests) await checkDigests(dir, digests);
  const model = await readModel(dir);
  if ((state.dataset_mode === "chat") !== model.chat) {
    const other = model.chat ? "a chat model" : "no chat model";
    throw wrongContent(
      `${statePath}: dataset_mode is ${state.dataset_mode}, but meta.json describes ${other}`,
    );
  }
  const m = await readMoments(dir, "optimizer_m.safetensors", model.layout);
  const v = await readMoments(dir, "optimizer_v.safetensors", model.layout);
  return { ...model, m, v, trainState: state };
}

/** Reads the training state of a model, or returns undefined when it has none. @throws {MicrogptError} when it is malformed */
export async function readTrainState(dir: string): Promise<TrainState | undefined> {
  const text = await readTextIfThere(dir, "train_state.json", STATE_MAX_BYTES);
  return text === undefined ? undefined : parseTrainState(text, join(dir, "train_state.json")).state;
}

/** Reads what can be said about a model without its weights, whose header alone is checked. */
export async function readSummary(dir: string): Promise<ModelSummary> {
  await checkDirectory(dir);
  const { config, chat } = await readMeta(dir);
  const tokenizerJson = await readTokenizer(dir, config, chat);
  const layout = parameterLayout(config);
  using file = await openModelFile(dir, "weights.safetensors");
  const path = join(dir, "weights.safetensors");
  const tensors = await readHeader(file, path);
  checkTensors(tensors, layout, path);
  return {
    config,
    chat,
    tokenizerJson,
    parameters: layout.count,
    fileDtype: dtypeOf(tensors),
    weightsBytes: (await file.stat()).size,
    trainState: await readTrainState(dir),
  };
}

async function readMeta(dir: string): Promise<{ config: ModelConfig; chat: boolean }> {
  const path = join(dir, "meta.json");
  const meta = parseObject(await readText(dir, "meta.json", META_MAX_BYTES), path);
  const wrong = (what: string, cause?: unknown) => wrongContent(`${path}: ${what}`, cause);
  const field = (name: keyof ModelConfig): number => {
    const value = meta[name];
    if (typeof value === "number") return value;
    const got = value === undefined ? "is missing" : "is not a number";
    throw wrong(`${name} ${got}`);
  };
  const config: ModelConfig = {
    vocab_size: field("vocab_size"),
    n_embd: field("n_embd"),
    n_head: field("n_head"),
    n_layer: field("n_layer"),
    block_size: field("block_size"),
  };
  try {
    checkConfig(config);
  } catch (error) {
    if (!(error instanceof MicrogptError)) throw error;
    throw wrong(error.message, error);
  }
  const special = meta.special_tokens ?? [];
  if (!Array.isArray(special)) throw wrong("special_tokens is not a list");
  const chat = special.length > 0;
  if (chat && !CHAT_TOKENS.every((token) => special.includes(token))) {
    throw wrong(`special_tokens of a chat model are ${CHAT_TOKENS.join(", ")}`);
  }
  return { config, chat };
}

/** The tokenizer's text, after a look at whether its vocabulary is the model's. Its contents are the tokenizer's to judge. */
async function readTokenizer(dir: string, config: ModelConfig, chat: boolean): Promise<string> {
  const path = join(dir, "tokenizer.json");
  const text = await readText(dir, "tokenizer.json", tokenizerMaxBytes(config.vocab_size));
  const ids = vocabulary(parseObject(text, path), path);
  const size = new Set(ids.values()).size;
  if (size !== config.vocab_size) {
    throw new MicrogptError(`${path} has ${size} tokens, meta.json has vocab_size ${config.vocab_size}`, {
      hint: "the files come from different models; copy the whole directory",
    });
  }
  for (const token of [BOS, ...(chat ? CHAT_TOKENS : [])]) {
    if (!ids.has(`<${token}>`)) throw wrongContent(`${path} has no token <${token}>`);
  }
  for (const [token, id] of ids) {
    if (Number.isInteger(id) && id >= 0 && id < size) continue;
    const got = printable(JSON.stringify(id) ?? "none");
    throw wrongContent(`${path}: token ${printable(token)} has id ${got}, not 0 to ${size - 1}`);
  }
  return text;
}

/** Ids of all tokens: the BPE model's and those added to it. */
function vocabulary(tokenizer: Record<string, unknown>, path: string): Map<string, number> {
  const { model, added_tokens: added } = tokenizer as {
    model?: { vocab?: Record<string, number> };
    added_tokens?: { content: string; id: number }[];
  };
  const vocab = model?.vocab;
  if (typeof vocab !== "object" || vocab === null || Array.isArray(vocab)) {
    throw wrongContent(`${path}: model.vocab is missing`);
  }
  const ids = new Map(Object.entries(vocab));
  for (const token of Array.isArray(added) ? added : []) ids.set(String(token?.content), token?.id);
  return ids;
}

async function readMoments(
  dir: string,
  name: "optimizer_m.safetensors" | "optimizer_v.safetensors",
  layout: ParameterLayout,
): Promise<Float32Array<ArrayBuffer>> {
  using file = await openModelFile(dir, name);
  return (await readParameters(file, join(dir, name), layout)).flat;
}

/** Every file must be the one that `train_state.json` was saved with. */
async function checkDigests(dir: string, digests: SavedDigests): Promise<void> {
  for (const name of CHECKPOINT_FILES) {
    const expected = digests[name];
    if (!expected) continue;
    using file = await openModelFile(dir, name);
    const { size } = await file.stat();
    if (size === expected.bytes && (await digestOf(file)).sha256 === expected.sha256) continue;
    throw new MicrogptError(`${join(dir, name)} is not the file that train_state.json was saved with`, {
      hint: "the files come from two saves, or one was changed; copy the whole checkpoint again",
    });
  }
}

/** Whether a directory holds a training checkpoint. */
export async function holdsCheckpoint(dir: string): Promise<boolean> {
  using file = await openIfThere(dir, "train_state.json");
  return file !== undefined;
}

/**
 * Saves a training checkpoint: all files or none, whenever the process dies. Works in small chunks, so that training
 * goes on meanwhile. One save at a time for a directory.
 * @param options.keepOld what `dir` holds is another run's model: move it to DIR.old
 * @throws {MicrogptError} when something cannot be written; what was saved before then still loads
 */
export async function saveCheckpoint(
  dir: string,
  checkpoint: Checkpoint,
  options: { keepOld?: boolean } = {},
): Promise<void> {
  const layout = parameterLayout(checkpoint.config);
  await publish(dir, async (staging) => {
    const at = (name: string) => join(staging, name);
    const digests: SavedDigests = {
      "meta.json": await writeText(at("meta.json"), metaJson(checkpoint)),
      "tokenizer.json": await writeText(at("tokenizer.json"), checkpoint.tokenizerJson),
      "weights.safetensors": await writeParameters(
        at("weights.safetensors"),
        layout,
        checkpoint.params,
        "F32",
      ),
      "optimizer_m.safetensors": await writeParameters(
        at("optimizer_m.safetensors"),
        layout,
        checkpoint.m,
        "F32",
      ),
      "optimizer_v.safetensors": await writeParameters(
        at("optimizer_v.safetensors"),
        layout,
        checkpoint.v,
        "F32",
      ),
      "metrics.jsonl": await copyMetrics(checkpoint.metrics, at("metrics.jsonl")),
    };
    await writeText(at("train_state.json"), formatTrainState(checkpoint.trainState, digests));
  }, options.keepOld);
}

/**
 * Saves a model for inference only, with the same guarantees.
 * @param options.half write f16 instead of f32
 * @throws {MicrogptError} when `dir` holds a training checkpoint or an ONNX export, something cannot be written, or a
 * weight does not fit f16
 */
export async function saveInferenceModel(
  dir: string,
  model: ModelDescription & { params: Float32Array },
  options: { half?: boolean } = {},
): Promise<void> {
  const held = await holdsCheckpoint(dir)
    ? "a training checkpoint"
    : await isOnnxExport(dir)
    ? "an ONNX export"
    : undefined;
  if (held !== undefined) {
    throw new MicrogptError(`${dir} holds ${held}, which this would break`, {
      hint: "choose another directory with --output",
    });
  }
  await publish(dir, async (staging) => {
    await writeText(join(staging, "meta.json"), metaJson(model));
    await writeText(join(staging, "tokenizer.json"), model.tokenizerJson);
    const layout = parameterLayout(model.config);
    const path = join(staging, "weights.safetensors");
    await writeParameters(path, layout, model.params, options.half ? "F16" : "F32");
  });
}

function metaJson({ config, chat }: ModelDescription): string {
  return JSON.stringify(chat ? { ...config, special_tokens: CHAT_TOKENS } : config, null, 2) + "\n";
}

async function writeText(path: string, text: string): Promise<FileDigest> {
  return await writeHashed(path, (file) => file.write(new TextEncoder().encode(text)));
}

/** The first bytes of the log, as it was when the snapshot was taken; the run may have added lines since. */
async function copyMetrics(metrics: MetricsSnapshot, path: string): Promise<FileDigest> {
  using source = await Deno.open(metrics.path);
  return await writeHashed(path, (file) => forEachChunk(source, (chunk) => file.write(chunk), metrics.bytes));
}
