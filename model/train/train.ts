/**
 * Training from data to checkpoint: what `microgpt train` does, for programs. Reads the data, makes or takes the
 * tokenizer, opens the device, trains, and saves.
 */
import { bytesOfTokens, targetBytes } from "../../data/bits_per_byte.ts";
import { batchesInOrder, BatchSampler, longestInput } from "../../data/batches.ts";
import type { Message } from "../../data/chat.ts";
import {
  checkDataSource,
  dataNotices,
  type Dataset,
  datasetInMemory,
  documentsOf,
  encodeDataset,
  isFile,
  loadDataset,
  textsOf,
  unitOf,
} from "../../data/dataset.ts";
import { fitDocuments, type FittedDocuments, type TokenDocuments } from "../../data/documents.ts";
import { type LengthStatistics, lengthStatistics } from "../../data/lengths.ts";
import { copiesNotice, type Split, splitByCount, splitDocuments, splitHashes } from "../../data/split.ts";
import type { Tokenizer } from "../../data/tokenizer.ts";
import { type DeviceName, openDevice, openTokenizer, trainTokenizer } from "../devices.ts";
import { holdsCheckpoint, type LoadedCheckpoint, readCheckpoint } from "../files/checkpoint.ts";
import type { ModelConfig } from "../config.ts";
import type { Device, Dtype } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import { type MemoryPlan, memoryPlan } from "./memory_plan.ts";
import { checkDirectory, openModelFile, sameDirectory } from "../files/directory.ts";
import { checkTrainingOutput, keptIn } from "../files/output_directory.ts";
import { checkConfig, networkKind, networkOf } from "../networks.ts";
import { emptyState } from "../optimizer_state.ts";
import {
  checkSettings,
  DEFAULTS,
  fieldsOf,
  type PresetName,
  PRESETS,
  savedSettings,
  type SettingName,
  type Settings,
} from "../settings.ts";
import { type Recipe, Trainer, type TrainingData, type TrainingState } from "./trainer.ts";
import { RunLock } from "../files/lock.ts";
import { type RunEvent, TrainingRun } from "./run.ts";

/** Options of a training run; every setting that is not given comes from the checkpoint, the preset or the defaults. */
export interface TrainOptions extends Partial<Settings> {
  /** a file; "-" is standard input. One of `input`, `documents`, `conversations` unless resuming */
  input?: string;
  /** texts to train on, in place of a file */
  documents?: string[];
  /** conversations to train a chat model on, in place of a file */
  conversations?: Message[][];
  /** `input` is JSONL of conversations */
  chat?: boolean;
  /** directory of the checkpoint; default: the resumed one, or "output" */
  output?: string;
  /** goes on from this checkpoint */
  resume?: string;
  /** settings to start from; a resumed run has its checkpoint's */
  preset?: PresetName;
  /** where to compute; default cpu */
  device?: DeviceName;
  /** type of working weights and activations; default bf16 for `metal`, f32 otherwise */
  dtype?: Dtype;
  /** CPU threads; default: all */
  threads?: number;
  /** keep the last so many checkpoints under DIR/checkpoints, where the best is in any case; 0 = none */
  keep?: number;
  /** ends the run after the step in hand, with a checkpoint */
  signal?: AbortSignal;
}

/** A run that is ready to start. */
export interface PreparedRun {
  run: TrainingRun;
  config: ModelConfig;
  settings: Settings;
  mode: "text" | "chat";
  dataPath: string;
  device: Device;
  tokenizer: Tokenizer;
  parameters: number;
  /** of all documents, before any is truncated */
  lengths: LengthStatistics;
  trainingDocuments: number;
  validationDocuments: number;
  memory: MemoryPlan;
  /** what a person should know: warnings, cleanup, truncation */
  notices: string[];
}

/**
 * Trains a model, or goes on training one, and tells each step. Checkpoints are saved on the way and at the end; leaving the loop
 * ends the run without one, `options.signal` ends it with one.
 *
 * @example
 * ```ts
 * import { train } from "../../mod.ts";
 *
 * const documents = ["anna", "bob", "carla", "dora"];
 * const output = await Deno.makeTempDir();
 * const small = { nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 260 };
 * for await (const event of train({ documents, output, steps: 10, ...small })) {
 *   if (event.type === "step") console.log(event.step, event.loss);
 *   if (event.type === "checkpoint") console.log("saved to", event.directory);
 * }
 * for await (const _ of train({ documents, resume: output, steps: 10 })); // ten more
 * ```
 *
 * @param options data, settings and where to compute; every option has the name and the default of its flag
 * @returns the events of the run, in their order
 * @throws {MicrogptError} for options out of range, unusable data, a checkpoint that does not load, a device that is not
 * there, a directory that cannot be written, and when training fails
 */
export async function* train(options: TrainOptions): AsyncGenerator<RunEvent, void, void> {
  const { run, notices } = await prepareRun(options);
  try {
    for (const message of notices) yield { type: "notice", message };
    yield* run.events(options.signal ? { signal: options.signal } : {});
  } finally {
    run.close();
  }
}

/**
 * Does everything up to the first step, but for allocating the memory of training. Locks the output directory: no other run
 * writes to it until this one is closed.
 * @param options.lookOnly takes no lock and writes nothing; the run is not to be started
 * @throws {MicrogptError} for options out of range, unusable data, a checkpoint that does not load, a device that is not
 * there, an output directory that another run writes to
 */
export async function prepareRun(options: TrainOptions & { lookOnly?: boolean }): Promise<PreparedRun> {
  checkSettings(options);
  checkDataSource(options);
  const notices: string[] = [];
  // what can be wrong without the data is said before minutes go into them
  const output = await outputOf(options, notices);
  if (options.resume !== undefined) await checkResumable(options.resume);
  // before anything there is looked at: another run may be about to save
  const lock = options.lookOnly ? undefined : await RunLock.take(output);
  try {
    return await prepareLocked(options, output, lock, notices);
  } catch (error) {
    lock?.release();
    throw error;
  }
}

/** @throws {MicrogptError} when a directory holds no training checkpoint, saying what it is */
async function checkResumable(dir: string): Promise<void> {
  await checkDirectory(dir);
  using _state = await openModelFile(dir, "train_state.json");
}

/** Where the run goes. One that goes on from a checkpoint kept by another run gets a directory of its own. */
async function outputOf({ output, resume }: TrainOptions, notices: string[]): Promise<string> {
  if (output !== undefined || resume === undefined) return output ?? "output";
  const kept = await keptIn(resume);
  if (!kept) return resume;
  const own = kept.next;
  if (await holdsCheckpoint(own)) {
    throw new MicrogptError(`${own}, where the run from ${resume} would go, holds a run already`, {
      hint: `go on with \`resume\` ${own}, or choose another directory with \`output\``,
      usage: true,
    });
  }
  notices.push(`the run goes on in ${own}: ${resume} stays as the run in ${kept.run} keeps it`);
  return own;
}

async function prepareLocked(
  options: TrainOptions,
  output: string,
  lock: RunLock | undefined,
  notices: string[],
): Promise<PreparedRun> {
  await checkTrainingOutput(
    output,
    options.resume !== undefined && await sameDirectory(options.resume, output),
  );
  const checkpoint = options.resume === undefined ? undefined : await readCheckpoint(options.resume);
  const settings = resolveSettings(options, checkpoint, notices);
  if (!checkpoint) {
    checkConfig(networkKind().configOf(settings, settings.vocabSize), { name: settingOf, usage: true });
  }
  const data = await loadData(options, checkpoint, notices);
  const tokenizer = checkpoint
    ? await openTokenizer(checkpoint.tokenizerJson, options.threads)
    : await trainTokenizer(textsOf(data), {
      vocabSize: settings.vocabSize,
      chat: data.mode === "chat",
      threads: options.threads,
    });
  const config = checkpoint?.config ?? networkKind().configOf(settings, tokenizer.vocabSize);

  const all = encodeDataset(data, tokenizer);
  const fitted = fitDocuments(all, config.block_size, settings.skipLong, data.mode);
  notices.push(...fitted.notices);
  const split = splitData(data, fitted, settings, checkpoint, notices);
  const trainingData = batches(fitted, split, settings, tokenizer);

  const state = checkpoint ? resumedState(checkpoint) : freshState(config, settings.seed);
  const recipe = resolveRecipe(settings, checkpoint?.trainState.step ?? 0);
  const device = await openDevice(
    {
      device: options.device ?? "cpu",
      ...(options.dtype === undefined ? {} : { dtype: options.dtype }),
      ...(options.threads === undefined ? {} : { threads: options.threads }),
    },
    {
      trial: (candidate) => timeSteps(candidate, config, trainingData, recipe, state()),
      // a resumed run goes on with the same bits, whichever device happens to be faster today
      ...(checkpoint ? { before: checkpoint.trainState } : {}),
    },
  );
  // whatever is thrown until the run is there frees the device; who gets the run closes it, and with it the device
  using opened = new DisposableStack();
  opened.defer(() => device.destroy());
  notices.push(...device.warnings.map((warning) => `warning: ${warning}`));
  const savedDtype = checkpoint?.trainState.dtype;
  if (savedDtype !== undefined && savedDtype !== device.dtype) {
    notices.push(`warning: dtype changes from ${savedDtype} to ${device.dtype}`);
  }
  const savedDevice = checkpoint?.trainState.device;
  if (savedDevice !== undefined && savedDevice !== device.name) {
    notices.push(`warning: the device changes from ${savedDevice} to ${device.name}, see --device`);
  }
  const run = new TrainingRun({
    device,
    config,
    chat: data.mode === "chat",
    tokenizerJson: tokenizer.toJSON(),
    data: trainingData,
    recipe,
    startStep: checkpoint?.trainState.step ?? 0,
    initial: state,
    output,
    lock,
    resumed: checkpoint && { dir: options.resume!, state: checkpoint.trainState },
    checkpointEvery: settings.checkpointEvery,
    keep: options.keep ?? 0,
    skippedSteps: checkpoint?.trainState.skipped_steps ?? 0,
    recovered: checkpoint?.trainState.lr_halved ?? false,
    record: {
      ...savedSettings(settings),
      dataset_path: data.path,
      dataset_mode: data.mode,
      dtype: device.dtype,
      ...presetOf(options, checkpoint),
      device: device.name,
      ...(options.threads ? { threads: options.threads } : {}),
      ...(data.hash === undefined ? {} : { dataset_sha256: data.hash }),
      val_documents: split.validation.length,
      ...(split.threshold === undefined ? {} : { val_threshold: split.threshold }),
    },
  });
  const prepared: PreparedRun = {
    run,
    config,
    settings,
    mode: data.mode,
    dataPath: data.path,
    device,
    tokenizer,
    parameters: networkOf(config).layout.count,
    lengths: lengthStatistics(all),
    trainingDocuments: split.training.length,
    validationDocuments: split.validation.length,
    memory: memoryPlan(device, config, trainingData),
    notices,
  };
  opened.move();
  return prepared;
}

/** Explicit options, then the checkpoint, then the preset, then the defaults. Says where an option changes a resumed run. */
function resolveSettings(
  options: TrainOptions,
  checkpoint: LoadedCheckpoint | undefined,
  notices: string[],
): Settings {
  const given = Object.fromEntries(
    Object.keys(DEFAULTS).filter((name) => options[name as keyof Settings] !== undefined)
      .map((name) => [name, options[name as keyof Settings]]),
  ) as Partial<Settings>;
  if (!checkpoint) return { ...DEFAULTS, ...(options.preset ? PRESETS[options.preset] : {}), ...given };

  const saved = settingsOf(checkpoint);
  const ofTheModel = fieldsOf("config").map(([name]) => name);
  for (const name of [...ofTheModel, "seed", "valFraction"] as const) {
    if (given[name] === undefined || saved[name] === undefined) continue;
    if (given[name] !== saved[name]) {
      notices.push(
        `warning: \`${name}\` ${given[name]} is ignored, the checkpoint has ${saved[name]}`,
      );
    }
    delete given[name];
  }
  if (options.preset !== undefined && options.preset !== checkpoint.trainState.preset) {
    notices.push(`warning: \`preset\` ${options.preset} is ignored, the settings are the checkpoint's`);
  }
  for (const name of ["learningRate", "batchSize"] as const) {
    if (given[name] === undefined || given[name] === saved[name]) continue;
    notices.push(`warning: \`${name}\` changes from ${saved[name]} to ${given[name]}`);
  }
  const { step, steps_total: total } = checkpoint.trainState;
  // none of a run that is complete: `TrainingRun.events` then asks for --steps
  const remaining = total !== undefined ? { steps: Math.max(0, total - step) } : {};
  return { ...DEFAULTS, ...saved, ...remaining, ...given };
}

/** The settings that a checkpoint holds. */
function settingsOf({ config, trainState }: LoadedCheckpoint): Partial<Settings> {
  const held = trainState as unknown as Record<string, Settings[SettingName] | undefined>;
  const saved = fieldsOf("saved").map(([name, field]) => [name, held[field]]);
  return {
    ...Object.fromEntries(saved.filter(([, value]) => value !== undefined)),
    ...networkOf(config).toShape(),
    vocabSize: config.vocab_size,
  };
}

async function loadData(
  options: TrainOptions,
  checkpoint: LoadedCheckpoint | undefined,
  notices: string[],
): Promise<Dataset> {
  const saved = checkpoint?.trainState;
  const data = await readData(options, saved?.dataset_mode, saved?.dataset_path);
  // a resumed run goes on with data that was there before
  if (!saved || data.mode === "chat") notices.push(...dataNotices(data));
  if (!saved) return data;
  if (options.input !== undefined && options.input !== saved.dataset_path) {
    notices.push(`warning: --input changes from ${saved.dataset_path} to ${options.input}`);
  }
  const { dataset_sha256: savedHash } = saved;
  if (savedHash !== undefined && data.hash !== undefined && savedHash !== data.hash) {
    notices.push(
      `warning: the data changed since the checkpoint: ${saved.dataset_path} was ${
        savedHash.slice(0, 12)
      }…, ` +
        `${data.path} is ${data.hash.slice(0, 12)}…`,
    );
  }
  return data;
}

async function readData(
  options: TrainOptions,
  savedMode: "text" | "chat" | undefined,
  savedPath: string | undefined,
): Promise<Dataset> {
  const { documents, conversations } = options;
  if (documents && savedMode === "chat") {
    throw new MicrogptError("documents: the checkpoint was trained on conversations", { usage: true });
  }
  if (conversations && savedMode === "text") {
    throw new MicrogptError("conversations: the checkpoint was trained on plain text", { usage: true });
  }
  const inMemory = datasetInMemory(options);
  if (inMemory) return inMemory;
  const path = options.input ?? savedPath;
  if (path === undefined) {
    throw new MicrogptError("--input is required", {
      hint: "name a text file with one document a line, or JSONL with --chat",
      usage: true,
    });
  }
  if (options.input === undefined && !isFile(path)) {
    throw new MicrogptError(
      "the run was trained on data that came from no file, which cannot be read again",
      {
        hint: "give the same data with --input",
      },
    );
  }
  const mode = savedMode ?? (options.chat ? "chat" : "text");
  if (options.chat && mode === "text") {
    throw new MicrogptError("--chat: the checkpoint was trained on plain text", { usage: true });
  }
  if (options.chat === false && mode === "chat") {
    throw new MicrogptError("chat: false: the checkpoint was trained on conversations", { usage: true });
  }
  return await loadFile(path, mode, options.input === undefined);
}

/** @param remembered the path is the checkpoint's, which nobody gave now */
async function loadFile(path: string, mode: "text" | "chat", remembered: boolean): Promise<Dataset> {
  try {
    return await loadDataset(path, mode);
  } catch (error) {
    if (!remembered || !(error instanceof MicrogptError)) throw error;
    if (!(error.cause instanceof Deno.errors.NotFound)) throw error;
    throw new MicrogptError(error.message, {
      hint: "the path is as it was where the run began; say where its data is now with `input`",
      cause: error.cause,
    });
  }
}

/** Chooses what is held out; a resumed run keeps each document on its side. */
function splitData(
  data: Dataset,
  fitted: FittedDocuments,
  settings: Settings,
  checkpoint: LoadedCheckpoint | undefined,
  notices: string[],
): Split {
  const all = splitHashes(documentsOf(data), settings.seed);
  const hashes = Float64Array.from(fitted.numbers, (d) => all[d]!);
  const split = (checkpoint && earlierSplit(data, hashes.length, settings, checkpoint, notices)) ??
    splitDocuments(hashes, settings.valFraction, checkpoint?.trainState.val_threshold);
  if (split.notice) notices.push(split.notice);
  const copies = copiesNotice(hashes, unitOf(data), split);
  if (copies) notices.push(copies);
  return split;
}

/** The split of a checkpoint that knows no threshold, as long as its data are the same; undefined otherwise. */
function earlierSplit(
  data: Dataset,
  count: number,
  settings: Settings,
  { trainState: saved }: LoadedCheckpoint,
  notices: string[],
): Split | undefined {
  if (saved.val_threshold !== undefined) return undefined;
  const split = splitByCount(count, settings.valFraction, settings.seed);
  const { dataset_sha256: savedHash } = saved;
  const changed = savedHash !== undefined && data.hash !== undefined && savedHash !== data.hash;
  const skipsOthers = saved.skip_long !== undefined && saved.skip_long !== settings.skipLong;
  const held = saved.val_documents ?? split.validation.length;
  const same = !changed && !skipsOthers && held === split.validation.length;
  if (split.validation.length > 0 && (!same || saved.val_fraction === undefined)) {
    notices.push(
      "warning: the checkpoint does not say which documents it held out: " +
        "it may have been trained on some of those that are held out now",
    );
  }
  return same ? split : undefined;
}

/** The setting that sets a field of the architecture, as messages call it. */
function settingOf(field: string): string {
  return `\`${fieldsOf("config").find(([, other]) => other === field)![0]}\``;
}

/** Most tokens of an evaluation's batch, unless one document has more. */
const EVALUATION_TOKENS = 1024;

/** Token documents as the trainer wants them. */
function batches(
  documents: TokenDocuments,
  split: { training: Uint32Array; validation: Uint32Array },
  settings: Settings,
  tokenizer: Tokenizer,
): TrainingData {
  const sampler = new BatchSampler(documents, split.training, settings.batchSize, settings.seed);
  const held = split.validation;
  const longestHeld = held.length > 0 ? longestInput(documents, held) : 0;
  const maxTokens = Math.max(sampler.maxTokens, longestHeld);
  // full batches would touch activations that training's own, of mixed lengths, hardly ever reach
  const heldTokens = Math.max(longestHeld, Math.min(maxTokens, EVALUATION_TOKENS));
  const maxDocuments = Math.max(settings.batchSize, Math.min(held.length, 64));
  const validation = () => batchesInOrder(documents, held, heldTokens, maxDocuments);
  const tokenBytes = bytesOfTokens(tokenizer);
  let validationBytes = 0;
  for (const batch of validation()) validationBytes += targetBytes(batch, tokenBytes);
  return { maxTokens, maxDocuments, batch: (number) => sampler.batch(number), validation, validationBytes };
}

function freshState(config: ModelConfig, seed: number): () => TrainingState {
  const network = networkOf(config);
  return () => ({
    step: 0,
    adamStep: 0,
    params: network.initialParameters(seed),
    optimizer: emptyState(network.layout),
  });
}

function resumedState(checkpoint: LoadedCheckpoint): () => TrainingState {
  const { params, optimizer, trainState } = checkpoint;
  const { step, adam_step: adamStep, loss_scale: lossScale, good_steps: goodSteps } = trainState;
  return () => ({
    step,
    adamStep,
    params,
    optimizer,
    ...(lossScale === undefined ? {} : { lossScale }),
    ...(goodSteps === undefined ? {} : { goodSteps }),
  });
}

function resolveRecipe(settings: Settings, start: number): Recipe {
  return {
    totalSteps: start + settings.steps,
    learningRate: settings.learningRate,
    warmupSteps: settings.warmupSteps,
    weightDecay: settings.weightDecay,
    gradClip: settings.gradClip,
    gradAccum: settings.gradAccum,
    evalEvery: settings.evalEvery,
  };
}

/** Times a few training steps, for `--device auto`; what they change is thrown away with the device. */
async function timeSteps(
  device: Device,
  config: ModelConfig,
  data: TrainingData,
  recipe: Recipe,
  state: TrainingState,
): Promise<number> {
  const trainer = new Trainer(device, config, { ...data, validationBytes: 0 }, recipe);
  trainer.load(state);
  const run = (steps: number) =>
    Array.fromAsync(trainer.run(trainer.step + steps, { lastGood: () => Promise.resolve(state) }));
  await run(2);
  const started = performance.now();
  await run(8);
  return performance.now() - started;
}

function presetOf(options: TrainOptions, checkpoint: LoadedCheckpoint | undefined): { preset?: string } {
  const preset = checkpoint ? checkpoint.trainState.preset : options.preset;
  return preset === undefined ? {} : { preset };
}
