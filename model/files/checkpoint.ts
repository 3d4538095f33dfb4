/** Models and training checkpoints: reading them from a directory, and saving them so that a crash loses nothing. */
import { files, SEEK_START } from "../../platform/files.ts";
import { join } from "../../platform/paths.ts";
import { digestOf, type FileDigest, forEachChunk, HashedReader, writeHashed } from "./digest.ts";
import { parseTokenizerJson } from "../../data/tokenizer_json.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { MetricsSnapshot } from "./metrics_log.ts";
import { metaJson, type ModelDescription, ownRules, readMeta, readTokenizer } from "./description.ts";
import {
  checkDirectory,
  CHECKPOINT_FILES,
  type ModelFile,
  openIfThere,
  openModelFile,
  optimizerFile,
  otherSave,
  readBetweenSaves,
  readText,
  readTextIfThere,
  weightsFile,
  wrongContent,
} from "./directory.ts";
import type { LlamaConfig } from "../llama_config.ts";
import { networkOf } from "../networks.ts";
import { type OptimizerState, type StateName, stateTensors } from "../optimizer_state.ts";
import { writeHfDirectory } from "./hf/directory.ts";
import { checkModelOutput } from "./output_directory.ts";
import type { ParameterLayout } from "../parameters.ts";
import { publish } from "./publish.ts";
import {
  checkTensors,
  dtypeOf,
  type EntryReader,
  type FileDtype,
  type FileParameters,
  readHeader,
  readParameters,
  writeParameters,
} from "./safetensors.ts";
import { sendRows } from "./safetensors_rows.ts";
import {
  formatTrainState,
  parseTrainState,
  type SavedDigests,
  STATE_MAX_BYTES,
  type TrainState,
} from "./train_state.ts";
import type { WeightSink } from "./weight_source.ts";

/** A model read from files. */
export interface LoadedModel extends ModelDescription {
  layout: ParameterLayout;
  /** the weights, [layout.length] */
  params: Float32Array<ArrayBuffer>;
  /** element type in the file: F32, BF16 or F16 */
  fileDtype: string;
}

/** A training checkpoint read from files. */
export interface LoadedCheckpoint extends LoadedModel {
  optimizer: OptimizerState;
  trainState: TrainState;
}

/** What `info` shows of a model without reading its weights. */
export interface ModelHeader extends ModelDescription {
  parameters: number;
  fileDtype: string;
  /** the same, by the parameter's name */
  types: Map<string, FileDtype>;
  /** size of the file of weights */
  weightsBytes: number;
  /** undefined for an inference model */
  trainState: TrainState | undefined;
}

/**
 * A training checkpoint to save: arrays, or for a large model what reads each parameter as it is written. Neither must
 * change while it is saved.
 */
export interface Checkpoint extends ModelDescription {
  params: Float32Array | EntryReader;
  optimizer: Record<StateName, Float32Array | EntryReader>;
  trainState: TrainState;
  metrics: MetricsSnapshot;
}

/**
 * Reads a model for inference.
 * @throws {MicrogptError} when a file is missing, malformed or belongs to another model, or a weight is not finite
 */
export async function readModel(dir: string): Promise<LoadedModel> {
  await checkDirectory(dir);
  return await readBetweenSaves(dir, () => readModelFiles(dir));
}

/** @param digests what the files must be, where a save says so */
async function readModelFiles(dir: string, digests: SavedDigests = {}): Promise<LoadedModel> {
  const description = await readMeta(dir, digests["meta.json"]);
  const { layout } = networkOf(description.config);
  const tokenizerJson = await readTokenizer(dir, description, digests["tokenizer.json"]);
  const weights = weightsFile(description.config.architecture);
  const { flat, dtype } = await readTensors(dir, weights, layout, digests);
  return { ...description, tokenizerJson, layout, params: flat, fileDtype: dtype };
}

/**
 * Reads everything needed to go on training, and checks that all files come from one save. Each file is read once,
 * so that the bytes that were checked are the bytes that are used.
 * @throws {MicrogptError} as `readModel`, and when it is not a whole training checkpoint
 */
export async function readCheckpoint(dir: string): Promise<LoadedCheckpoint> {
  await checkDirectory(dir);
  return await readBetweenSaves(dir, () => readCheckpointFiles(dir));
}

async function readCheckpointFiles(dir: string): Promise<LoadedCheckpoint> {
  const statePath = join(dir, "train_state.json");
  const { state, digests } = parseTrainState(
    await readText(dir, "train_state.json", STATE_MAX_BYTES),
    statePath,
  );
  // the log is read when the run goes on, and what is for other programs not at all; they must be of this save
  for (
    const name of ["metrics.jsonl", "config.json", "generation_config.json", "tokenizer_config.json"] as const
  ) {
    const expected = digests?.[name];
    if (expected) await checkFile(dir, name, expected);
  }
  const model = await readModelFiles(dir, digests);
  // a chat model that a run started from may have gone on with plain text
  const mayDiffer = state.from !== undefined && model.chat;
  if ((state.dataset_mode === "chat") !== model.chat && !mayDiffer) {
    const other = model.chat ? "a chat model" : "no chat model";
    throw wrongContent(
      `${statePath}: dataset_mode is ${state.dataset_mode}, but meta.json describes ${other}`,
    );
  }
  const optimizer: Partial<OptimizerState> = {};
  for (const { name, layout } of stateTensors(model.layout)) {
    optimizer[name] = (await readTensors(dir, optimizerFile(name), layout, digests)).flat;
  }
  return { ...model, optimizer: optimizer as OptimizerState, trainState: state };
}

/**
 * Reads the training state of a model, or returns undefined when it has none.
 * @throws {MicrogptError} when it is malformed
 */
export async function readTrainState(dir: string): Promise<TrainState | undefined> {
  const text = await readTextIfThere(dir, "train_state.json", STATE_MAX_BYTES);
  return text === undefined ? undefined : parseTrainState(text, join(dir, "train_state.json")).state;
}

/** Reads what can be said about a model without its weights, of which only the header is checked. */
export async function readModelHeader(dir: string): Promise<ModelHeader> {
  await checkDirectory(dir);
  return await readBetweenSaves(dir, async () => {
    const description = await readMeta(dir);
    const tokenizerJson = await readTokenizer(dir, description);
    const { layout } = networkOf(description.config);
    const name = weightsFile(description.config.architecture);
    using file = await openModelFile(dir, name);
    const path = join(dir, name);
    const tensors = await readHeader(file, path);
    checkTensors(tensors, layout, path);
    return {
      ...description,
      tokenizerJson,
      parameters: layout.count,
      fileDtype: dtypeOf(tensors),
      types: new Map(tensors.map(({ name, dtype }) => [name, dtype])),
      weightsBytes: (await file.stat()).size,
      trainState: await readTrainState(dir),
    };
  });
}

/**
 * Hands a model's weights on, as they are in the file.
 * @param expected what was read of the model before
 * @throws {MicrogptError} when another model has taken its place, the file is malformed, or `sink` did not take a number
 */
export async function sendModelWeights(
  dir: string,
  expected: ModelDescription,
  sink: WeightSink,
): Promise<void> {
  await readBetweenSaves(dir, async () => {
    const description = await readMeta(dir);
    const tokenizerJson = await readTokenizer(dir, description);
    const same = tokenizerJson === expected.tokenizerJson &&
      metaJson({ ...description, tokenizerJson }) === metaJson(expected);
    if (!same) {
      throw new MicrogptError(`${dir}: another model took its place while it was read`, {
        hint: "try again",
      });
    }
    const { layout } = networkOf(description.config);
    const name = weightsFile(description.config.architecture);
    const path = join(dir, name);
    using file = await openModelFile(dir, name);
    const tensors = await readHeader(file, path);
    checkTensors(tensors, layout, path);
    for (const tensor of tensors) await sendRows(file, path, tensor, layout.byName.get(tensor.name)!, sink);
  });
}

/** A file of parameters, or of what the optimizer keeps of them. */
type ParameterFile = Extract<ModelFile, `${string}.safetensors`>;

/** Reads weights or what the optimizer keeps, hashing them on the way where a save says what they must be. */
async function readTensors(
  dir: string,
  name: ParameterFile,
  layout: ParameterLayout,
  digests: SavedDigests = {},
): Promise<FileParameters> {
  const path = join(dir, name);
  const expected = digests[name];
  using file = await openModelFile(dir, name);
  if (!expected) return await readParameters(file, path, layout);
  if ((await file.stat()).size !== expected.bytes) throw otherSave(path);
  const reader = new HashedReader(file);
  const parameters = await readParameters(reader, path, layout);
  if (reader.digest().sha256 !== expected.sha256) throw otherSave(path);
  return parameters;
}

/** @throws {MicrogptError} when a file is not the one that the save wrote */
async function checkFile(dir: string, name: ModelFile, expected: FileDigest): Promise<void> {
  using file = await openModelFile(dir, name);
  const { bytes, sha256 } = await digestOf(file);
  if (bytes !== expected.bytes || sha256 !== expected.sha256) throw otherSave(join(dir, name));
}

/** Whether a directory holds a training checkpoint. */
export async function holdsCheckpoint(dir: string): Promise<boolean> {
  using file = await openIfThere(dir, "train_state.json");
  return file !== undefined;
}

/**
 * Saves a training checkpoint: all files or none, whenever the process dies. Works in small chunks, so that training
 * goes on meanwhile. One save at a time for a directory.
 * @param options.keepOld what `dir` holds is another run's model: move it to the place that `oldModelPlace` names
 * @throws {MicrogptError} when something cannot be written; what was saved before then still loads
 */
export async function saveCheckpoint(
  dir: string,
  checkpoint: Checkpoint,
  options: { keepOld?: boolean } = {},
): Promise<void> {
  const { layout } = networkOf(checkpoint.config);
  await publish(dir, async (staging) => {
    const at = (name: string) => join(staging, name);
    const digests: SavedDigests = await writeModel(staging, checkpoint, checkpoint.params, "F32");
    for (const { name, layout: stateLayout } of stateTensors(layout)) {
      const file = optimizerFile(name);
      digests[file] = await writeParameters(at(file), stateLayout, checkpoint.optimizer[name], "F32");
    }
    digests["metrics.jsonl"] = await copyMetrics(checkpoint.metrics, at("metrics.jsonl"));
    await writeText(at("train_state.json"), formatTrainState(checkpoint.trainState, digests));
  }, options.keepOld);
}

/** Whether a checkpoint is read while it is saved, so that training waits for that. */
export function isReadWhileSaved({ params }: Checkpoint): boolean {
  return typeof params === "function";
}

/** A checkpoint with all that is read of it in memory, so that training may go on. */
export async function heldCheckpoint(checkpoint: Checkpoint): Promise<Checkpoint> {
  const { layout } = networkOf(checkpoint.config);
  const hold = async (source: Float32Array | EntryReader, { length, entries }: ParameterLayout) => {
    if (typeof source !== "function") return source;
    const flat = new Float32Array(length);
    for (const entry of entries) flat.set(await source(entry), entry.offset);
    return flat;
  };
  const optimizer: Partial<Checkpoint["optimizer"]> = {};
  for (const tensor of stateTensors(layout)) {
    optimizer[tensor.name] = await hold(checkpoint.optimizer[tensor.name], tensor.layout);
  }
  const params = await hold(checkpoint.params, layout);
  return { ...checkpoint, params, optimizer: optimizer as Checkpoint["optimizer"] };
}

/**
 * Saves a model for inference only, with the same guarantees.
 * @param options.half write f16 instead of f32
 * @throws {MicrogptError} when `dir` holds a training checkpoint, an ONNX export or what is not ours, something cannot
 * be written, or a weight does not fit f16
 */
export async function saveInferenceModel(
  dir: string,
  model: ModelDescription & { params: Float32Array },
  options: { half?: boolean } = {},
): Promise<void> {
  const old = await checkModelOutput(dir, model.config.architecture);
  await publish(dir, async (staging) => {
    await writeModel(staging, model, model.params, options.half ? "F16" : "F32");
  });
  // of a model of the other architecture, nobody would know what the rest is
  const written: readonly ModelFile[] = CHECKPOINT_FILES[model.config.architecture ?? "gpt"];
  for (const name of old) if (!written.includes(name)) await files.remove(join(dir, name));
}

/** Writes the files of an inference model, a Llama's as a HuggingFace directory. @returns their digests */
async function writeModel(
  dir: string,
  description: ModelDescription,
  params: Float32Array | EntryReader,
  dtype: FileDtype,
): Promise<SavedDigests> {
  const { config, chat, tokenizerJson } = description;
  const { layout } = networkOf(config);
  const meta = await writeText(join(dir, "meta.json"), metaJson(description));
  if (config.architecture === "llama") {
    const tokenizer = parseTokenizerJson(tokenizerJson);
    const rules = description.rules ?? ownRules(tokenizer.ids, chat);
    const model = { config: config as LlamaConfig, layout, params, tokenizer, ...rules };
    return { "meta.json": meta, ...await writeHfDirectory(dir, model, dtype, false) };
  }
  return {
    "meta.json": meta,
    "tokenizer.json": await writeText(join(dir, "tokenizer.json"), tokenizerJson),
    "weights.safetensors": await writeParameters(
      join(dir, "weights.safetensors"),
      layout,
      params,
      dtype,
    ),
  };
}

async function writeText(path: string, text: string): Promise<FileDigest> {
  return await writeHashed(path, (file) => file.write(new TextEncoder().encode(text)));
}

/** The first bytes of the log, as it was when the snapshot was taken; the run may have added lines since. */
async function copyMetrics(metrics: MetricsSnapshot, path: string): Promise<FileDigest> {
  using opened = metrics.file ? undefined : await files.open(metrics.path);
  const source = metrics.file ?? opened!;
  await source.seek(0, SEEK_START);
  return await writeHashed(path, async (file) => {
    await forEachChunk(source, (chunk) => file.write(chunk), metrics.bytes);
    if (metrics.rest) await file.write(metrics.rest);
  });
}
