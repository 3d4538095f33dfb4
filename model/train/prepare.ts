/** Everything up to the first step of a run: output, checkpoint, data, tokenizer, device. */
import { Cleanup } from "../../platform/cleanup.ts";
import { cleanupOf, type CleanupRow, longRows } from "../../data/cleanup.ts";
import { type Corpus, isDataFile } from "../../data/corpus.ts";
import type { LengthStatistics } from "../../data/lengths.ts";
import { defaultCacheDir } from "../../data/tokens/cache.ts";
import { fitDocuments } from "../../data/tokens/pieces.ts";
import { type NewTokenizer, type PreparedTokens, prepareTokens } from "../../data/tokens/prepare_tokens.ts";
import { checkAgreement } from "../../device/group.ts";
import { type DocumentEncoder, ownEncoder } from "../../data/documents.ts";
import { withLeadingToken } from "../../data/leading_token.ts";
import { SPECIAL_TOKENS, type Tokenizer, type WordCounter } from "../../data/tokenizer.ts";
import { parseTokenizerJson } from "../../data/tokenizer_json.ts";
import type { Device } from "../../device/device.ts";
import type { ModelConfig } from "../config.ts";
import { openDevice, openTokenizer, openWordCounter } from "../devices.ts";
import { type LoadedCheckpoint, readCheckpoint } from "../files/checkpoint.ts";
import { checkDirectory, openModelFile, sameDirectory } from "../files/directory.ts";
import { isLocked, RunLock } from "../files/lock.ts";
import { checkFree } from "../files/own_files.ts";
import { checkTrainingOutput } from "../files/output_directory.ts";
import { foreignEncoder, type ForeignRules, foreignRules } from "../generate/foreign.ts";
import { checkConfig, networkKind, networkOf } from "../networks.ts";
import { emptyState } from "../optimizer_state.ts";
import { checkArchitecture, longDocuments, savedSettings, type Settings } from "../settings.ts";
import { type BaseModel, readBase } from "./base_model.ts";
import { type MemoryPlan, memoryPlan } from "./memory_plan.ts";
import { checkMicroBatches } from "./gradient_sum.ts";
import { checkTrainOptions, deviceOptions, RUN_OPTIONS, type TrainOptions } from "./options.ts";
import { digestOfArrays, digestOfText, type Ranks, type RanksPlan } from "./ranks.ts";
import { sharedBuffers } from "./shared_step.ts";
import { isChat, outputOf, resolveRecipe, resolveSettings, settingOf } from "./resolve.ts";
import { type RunRecord, TrainingRun } from "./run.ts";
import { type Recipe, Trainer, type TrainingData, type TrainingState } from "./trainer.ts";
import {
  batches,
  checkDataSource,
  dataNotices,
  openData,
  type Parts,
  savedReading,
  splitData,
  unitOf,
} from "./training_data.ts";

/** A run that is ready to start. */
export interface PreparedRun {
  run: TrainingRun;
  config: ModelConfig;
  settings: Settings;
  mode: "text" | "chat";
  dataPath: string;
  /** they lie in files, which can be read again to go on with the run */
  rereadable: boolean;
  /** the model that the run started from */
  from?: string;
  device: Device;
  tokenizer: Tokenizer;
  /** of a model of others */
  foreign?: ForeignRules;
  /** the model knows the turns of a conversation */
  chat: boolean;
  parameters: number;
  /** of all documents, before any is truncated */
  lengths: LengthStatistics;
  /** tokens of them that are trained on or held out: others do not fit a sequence, or are left out with their document */
  usedTokens: number;
  /** what is not trained on as it is */
  cleanup: CleanupRow[];
  trainingDocuments: number;
  validationDocuments: number;
  memory: MemoryPlan;
  /** where several processes share the steps */
  ranks?: RanksPlan;
  /** what a person should know: warnings, cleanup, truncation */
  notices: string[];
}

/**
 * Does everything up to the first step, but for allocating the memory of training. Locks the output directory: no other run
 * writes to it until this one is closed.
 * @throws {MicrogptError} for options out of range, unusable data, a checkpoint that does not load, a device that is not
 * there, an output directory that another run writes to
 */
export async function prepareRun(options: TrainOptions, ranks?: Ranks): Promise<PreparedRun> {
  checkTrainOptions(options);
  checkDataSource(options);
  const notices: string[] = [];
  // what can be wrong without the data is said before minutes go into them
  const output = await outputOf(options, notices);
  if (options.resume !== undefined) await checkResumable(options.resume);
  // before anything there is looked at: another run may be about to save
  const lock = options.dryRun || ranks?.isFirst === false ? undefined : await RunLock.take(output);
  try {
    if (options.preset !== "auto") return await prepareLocked(options, output, lock, notices, ranks);
    const { withAutomaticSettings } = await import("./auto.ts");
    const automatic = await withAutomaticSettings(options);
    if (automatic.notice) notices.push(automatic.notice);
    return await prepareLocked(automatic.options, output, lock, notices, ranks);
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

/** The data of a run as the trainer takes them, and what is known of them. */
interface PreparedData {
  corpus: Corpus;
  /** SHA-256 of the data */
  digest: string;
  tokenizer: Tokenizer;
  foreign: ForeignRules | undefined;
  config: ModelConfig;
  lengths: LengthStatistics;
  /** tokens of them that are trained on or held out */
  usedTokens: number;
  cleanup: CleanupRow[];
  parts: Parts;
  trainingData: TrainingData;
}

async function prepareData(
  options: TrainOptions,
  settings: Settings,
  checkpoint: LoadedCheckpoint | undefined,
  base: BaseModel | undefined,
  notices: string[],
  ranks: Ranks | undefined,
): Promise<PreparedData> {
  const given = checkpoint ?? base;
  const known = given && await openTokenizer(given.tokenizerJson, options.threads);
  const foreign = given?.rules && await foreignRules({ ...given.rules, config: given.config }, known!);
  const corpus = await openData(options, checkpoint, foreign?.template?.keepsSystem);
  const encoderOf = (tokenizer: Tokenizer) =>
    foreign ? foreignEncoder(tokenizer, foreign, given!.rules!) : ownEncoder(tokenizer);
  const tokens = await tokensOf(corpus, options, settings, known, encoderOf, ranks);
  try {
    const { store, tokenizer, report: { sha256: digest } } = tokens;
    const config = given?.config ?? networkKind(settings.arch).configOf(settings, tokenizer.vocabSize);
    notices.push(...dataNotices(corpus, tokens, checkpoint));
    const { counts } = store;
    const { blockSize, loss } = settings;
    const long = longDocuments(settings);
    const fitted = fitDocuments(store, counts, blockSize, long, loss === "answers", corpus.mode);
    notices.push(...fitted.notices);
    const unit = unitOf(corpus.mode);
    const left = fitted.kept?.length ?? counts.documents;
    const cleanup = [
      ...cleanupOf(tokens.report, unit),
      ...longRows(counts, left, blockSize, long, unit),
    ];
    const parts = splitData(tokens, fitted.kept, corpus.mode, settings, checkpoint, notices, cleanup);
    const trainingData = batches(store, parts, long, settings, tokenizer, encoderOf(tokenizer).end);
    const lengths = counts.statistics();
    const usedTokens = fitted.tokens;
    return { corpus, digest, tokenizer, foreign, config, lengths, usedTokens, cleanup, parts, trainingData };
  } catch (error) {
    tokens.store.close();
    throw error;
  }
}

/** Tokens of the data, and the tokenizer: of a new model the first rank makes it, for all. */
export async function tokensOf(
  corpus: Corpus,
  options: Pick<
    TrainOptions,
    "threads" | "cacheDir" | "cacheSize" | "tokenizerSample" | "onPreparing" | "signal"
  >,
  { vocabSize, seed, loss, arch }: Pick<Settings, "vocabSize" | "seed" | "loss" | "arch">,
  tokenizer: Tokenizer | undefined,
  encoderOf: (tokenizer: Tokenizer) => DocumentEncoder,
  ranks?: Ranks,
): Promise<PreparedTokens> {
  const { threads, cacheDir, cacheSize = RUN_OPTIONS.cacheSize.default, onPreparing } = options;
  const { tokenizerSample = RUN_OPTIONS.tokenizerSample.default } = options;
  const chat = corpus.mode === "chat";
  return await prepareTokens(corpus, {
    tokenizer,
    encoderOf,
    answersOnly: loss === "answers",
    newTokenizer: {
      ...newTokenizerOf({ vocabSize, arch, chat, tokenizerSample, threads }),
      share: ranks && { isFirst: ranks.isFirst, text: (json) => ranks.shareText(json) },
    },
    seed,
    cacheDir: cacheDir ?? defaultCacheDir(),
    cacheBytes: cacheSize * 1e9,
    onProgress: ranks?.isFirst === false ? undefined : onPreparing,
    signal: options.signal,
  });
}

/** How a new model's tokenizer is made. */
export function newTokenizerOf(
  { vocabSize, arch, chat, tokenizerSample, threads }:
    & Pick<Settings, "vocabSize" | "arch">
    & { chat: boolean; tokenizerSample: number; threads?: number | undefined },
): NewTokenizer {
  return {
    key: JSON.stringify({ vocabSize, chat, tokenizerSample, ...(arch === "llama" ? { arch } : {}) }),
    sample: tokenizerSample * 1e6,
    openCounter: async () => {
      const counter = await openWordCounter({ vocabSize, chat, threads });
      return arch === "llama" ? withSavedText(counter, threads) : counter;
    },
    load: (json) => openTokenizer(json, threads),
  };
}

/** Makes tokenizers with the text that a Llama's directory has, so that a resumed run finds the tokens of this one. */
function withSavedText(counter: WordCounter, threads: number | undefined): WordCounter {
  return {
    add: (documents) => counter.add(documents),
    close: () => counter.close(),
    train: async () => {
      const file = parseTokenizerJson((await counter.train()).toJSON());
      return await openTokenizer(withLeadingToken(file, file.ids.get(SPECIAL_TOKENS.bos)), threads);
    },
  };
}

/**
 * Compares what all ranks must have in common before the first step.
 * @throws {AgreedError} on every rank, naming one that differs
 */
function checkSameRun(
  { group, version }: Ranks,
  options: TrainOptions,
  settings: Settings,
  { corpus, digest, tokenizer }: PreparedData,
  { params, optimizer, step }: TrainingState,
): void {
  const { dtype, dryRun, reduceDtype } = options;
  checkAgreement(group, {
    version,
    "training data": digest,
    tokenizer: digestOfText(tokenizer.toJSON()),
    settings: JSON.stringify({ ...settings, mode: corpus.mode, step, dtype, dryRun, reduceDtype }),
    "starting weights": digestOfArrays([params, ...Object.values(optimizer ?? {})]),
  });
}

async function prepareLocked(
  options: TrainOptions,
  output: string,
  lock: RunLock | undefined,
  notices: string[],
  ranks: Ranks | undefined,
): Promise<PreparedRun> {
  const goesOn = options.resume !== undefined && await sameDirectory(options.resume, output);
  // who only looks while another run saves would find files of two saves
  const looksOn = options.dryRun && await isLocked(output);
  const writes = !looksOn && (ranks === undefined || ranks.isFirst);
  const holding = writes ? await checkTrainingOutput(output, goesOn) : undefined;
  const checkpoint = options.resume === undefined ? undefined : await readCheckpoint(options.resume);
  const base = options.from === undefined ? undefined : await readBase(options.from, isChat(options));
  notices.push(...base?.notices ?? []);
  const settings = resolveSettings(options, checkpoint, notices, base);
  if (!checkpoint && !base) checkNewModel(settings);
  if (ranks) checkMicroBatches(ranks.group, settings.gradAccum);
  const { architecture } = checkpoint?.config ?? base?.config ?? { architecture: settings.arch };
  if (holding) await checkFree(output, holding.names, architecture);
  const recipe = resolveRecipe(
    settings,
    checkpoint?.trainState.step ?? 0,
    checkpoint?.config.n_layer ?? settings.nLayer,
  );
  const prepared = await prepareData(options, settings, checkpoint, base, notices, ranks);
  const { corpus, tokenizer, foreign, config, lengths, usedTokens, cleanup, parts, trainingData } = prepared;
  // whatever is thrown until the run is there frees data and device; who gets the run closes it, and with it both
  using opened = new Cleanup();
  opened.defer(() => trainingData.close?.());
  const initial = checkpoint
    ? resumedState(checkpoint)
    : base
    ? startedState(await base.readParameters())
    : freshState(config, settings);
  const given = checkpoint ?? base;
  const chat = given ? given.chat : corpus.mode === "chat";
  if (ranks) checkSameRun(ranks, options, settings, prepared, initial());
  const trial = (candidate: Device) => timeSteps(candidate, config, trainingData, recipe, initial());
  // a resumed run goes on with the same bits, whichever device happens to be faster today
  const before = checkpoint && { before: checkpoint.trainState };
  const device = await openDevice(deviceOptions(options), { trial, ...before });
  opened.defer(() => device.destroy());
  notices.push(...deviceNotices(device, checkpoint));
  if (ranks && device.kind === "webgpu" && ranks.group.localSize > 1) {
    const share = `${ranks.group.localSize} processes of this machine share one GPU`;
    notices.push(`warning: ${share}; docs/distributed.md says how each gets its own`);
  }
  const record = recordOf(options, settings, checkpoint, prepared, device);
  const run = new TrainingRun({
    device,
    config,
    chat,
    tokenizerJson: tokenizer.toJSON(),
    rules: given?.rules,
    data: trainingData,
    recipe,
    startStep: checkpoint?.trainState.step ?? 0,
    initial,
    initialAgain: base && rereading(base),
    output,
    lock,
    resumed: checkpoint && { dir: options.resume!, state: checkpoint.trainState },
    checkpointEvery: settings.checkpointEvery,
    keep: options.keep ?? 0,
    skippedSteps: checkpoint?.trainState.skipped_steps ?? 0,
    recovered: checkpoint?.trainState.lr_halved ?? false,
    record,
    ranks,
  });
  const { layout } = networkOf(config);
  const buffers = ranks ? sharedBuffers(ranks, recipe.gradAccum, layout.length) : [];
  const ready: PreparedRun = {
    run,
    config,
    settings,
    mode: corpus.mode,
    dataPath: corpus.path,
    rereadable: isDataFile(corpus.path),
    ...(record.from === undefined ? {} : { from: record.from }),
    device,
    tokenizer,
    ...(foreign ? { foreign } : {}),
    chat,
    parameters: layout.count,
    lengths,
    usedTokens,
    cleanup,
    trainingDocuments: parts.training.length,
    validationDocuments: parts.validation.length,
    memory: memoryPlan(device, config, trainingData, recipe.optimizer, buffers),
    ...(ranks ? { ranks: await planOfRanks(ranks, run, layout.length, recipe.gradAccum, options) } : {}),
    notices,
  };
  opened.cancel();
  return ready;
}

/** Measures, with the memory of training. @throws {MicrogptError} when that is short on this rank */
async function planOfRanks(
  ranks: Ranks,
  run: TrainingRun,
  parameters: number,
  gradAccum: number,
  { reduceDtype }: TrainOptions,
): Promise<RanksPlan> {
  const seconds = await run.trainer.timeMicroBatch();
  return ranks.plan(parameters, reduceDtype === "bf16", gradAccum, seconds);
}

/** @throws {MicrogptError} when the settings of a new model do not go together */
function checkNewModel(settings: Settings): void {
  checkArchitecture(settings);
  longDocuments(settings); // what can be wrong is said before the data are read
  const asked = networkKind(settings.arch).configOf(settings, settings.vocabSize);
  checkConfig(asked, { name: settingOf, usage: true });
}

/** What a person should know of the device, and of one that is not the checkpoint's. */
function deviceNotices(device: Device, checkpoint: LoadedCheckpoint | undefined): string[] {
  const notices = device.warnings.map((warning) => `warning: ${warning}`);
  if (!checkpoint) return notices;
  const { dtype, device: name } = checkpoint.trainState;
  if (dtype !== device.dtype) notices.push(`warning: dtype changes from ${dtype} to ${device.dtype}`);
  if (name !== undefined && name !== device.name) {
    notices.push(`warning: the device changes from ${name} to ${device.name}, see \`device\``);
  }
  return notices;
}

/** What `train_state.json` keeps of the run from its start to its end. */
function recordOf(
  options: TrainOptions,
  settings: Settings,
  checkpoint: LoadedCheckpoint | undefined,
  { corpus, digest, parts: { split }, config }: PreparedData,
  device: Device,
): RunRecord {
  const from = checkpoint ? checkpoint.trainState.from : options.from;
  const preset = checkpoint ? checkpoint.trainState.preset : options.preset;
  return {
    ...savedSettings(settings),
    dataset_path: corpus.path,
    dataset_mode: corpus.mode,
    ...savedReading(corpus),
    dtype: device.dtype,
    ...(preset === undefined ? {} : { preset }),
    ...(from === undefined ? {} : { from }),
    ...(settings.blockSize < config.block_size ? { block_size: settings.blockSize } : {}),
    device: device.name,
    ...(options.threads ? { threads: options.threads } : {}),
    ...(corpus.inputs.length > 0 ? { dataset_sha256: digest } : {}),
    val_documents: split.validation.length,
    ...(split.threshold === undefined ? {} : { val_threshold: split.threshold }),
  };
}

function freshState(config: ModelConfig, { seed, zeroInit }: Settings): () => TrainingState {
  const network = networkOf(config);
  return () => ({
    step: 0,
    adamStep: 0,
    params: network.initialParameters(seed, undefined, zeroInit),
    optimizer: emptyState(network.layout),
  });
}

/** The weights of a model, before the first step. */
function startedState(params: Float32Array): () => TrainingState {
  return () => ({ step: 0, adamStep: 0, params });
}

/** Reads them once more. A function of its own, so that what reads does not hold what was read before. */
function rereading(base: BaseModel): () => Promise<TrainingState> {
  return async () => startedState(await base.readParameters())();
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

/** Times a few training steps, for the device `auto`; what they change is thrown away with the device. */
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
