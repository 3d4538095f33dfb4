/** The settings of a training run that a person can choose, and the presets. Each is declared once, here. */
import { checkOptions, defaultsOf, type Options, type OptionValues } from "../device/options.ts";
import { MicrogptError } from "../device/errors.ts";
import { LIMITS } from "./config.ts";
import { NOTHING } from "./freeze.ts";

/** What defines a run, besides its data and its device. */
export const SETTINGS = {
  steps: {
    type: "whole",
    min: 1,
    max: 1e9,
    default: 5000,
    help: "steps to train; with `resume` this many more, with `from` 500",
  },
  learningRate: {
    type: "number",
    min: 0,
    exclusive: true,
    max: 1000,
    default: 0.01,
    help: "peak learning rate; with `from` 0.0002",
    flag: "--lr",
    saved: "learning_rate",
  },
  warmupSteps: {
    type: "whole",
    min: 0,
    max: 1e9,
    default: 200,
    help: "steps of linear warmup before the learning rate falls; with `from` 20",
    saved: "warmup_steps",
  },
  seed: {
    type: "whole",
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    default: 42,
    help: "seed of weights, batches and validation split",
    saved: "seed",
  },
  arch: {
    type: "choice",
    choices: ["gpt", "llama"],
    default: "gpt",
    help: "the network: this program's own, or Llama's, which other programs run too",
    config: "architecture",
  },
  nEmbd: {
    type: "whole",
    min: 1,
    max: LIMITS.n_embd,
    default: 64,
    help: "width of the embedding",
    config: "n_embd",
  },
  nHead: {
    type: "whole",
    min: 1,
    max: LIMITS.n_head,
    default: 4,
    help: "attention heads, a divisor of `nEmbd` unless `headDim` is given",
    config: "n_head",
  },
  nLayer: { type: "whole", min: 1, max: LIMITS.n_layer, default: 2, help: "layers", config: "n_layer" },
  blockSize: {
    type: "whole",
    min: 1,
    max: LIMITS.block_size,
    default: 256,
    help: "longest context in tokens; with `from` so much of the model's, 512 or all",
    config: "block_size",
  },
  nKvHead: {
    type: "whole",
    min: 0,
    max: LIMITS.n_head,
    default: 0,
    help: "llama: heads of keys and values, a divisor of `nHead`; 0 = as many",
    config: "n_kv_head",
  },
  headDim: {
    type: "whole",
    min: 0,
    max: 1024,
    default: 0,
    help: "llama: width of a head; 0 = `nEmbd` / `nHead`",
    config: "head_dim",
  },
  ffn: {
    type: "whole",
    min: 0,
    max: 1 << 17,
    default: 0,
    help: "llama: width of the MLP; 0 = 8/3 of `nEmbd`",
    config: "ffn",
  },
  tie: {
    type: "switch",
    default: false,
    help: "llama: the embedding is the head, too",
    config: "tie",
  },
  ropeTheta: {
    type: "number",
    min: 1,
    max: 1e9,
    default: 10_000,
    help: "llama: the larger, the slower positions turn",
    config: "rope_theta",
  },
  batchSize: {
    type: "whole",
    min: 1,
    max: 1 << 16,
    default: 8,
    help: "documents a batch",
    saved: "batch_size",
  },
  vocabSize: {
    type: "whole",
    min: 257,
    max: LIMITS.vocab_size,
    default: 4096,
    help: "most tokens of the tokenizer",
    config: "vocab_size",
  },
  gradClip: {
    type: "number",
    min: 0,
    max: 1e9,
    default: 1,
    help: "largest global gradient norm; 0 = off",
    saved: "grad_clip",
  },
  gradAccum: {
    type: "whole",
    min: 1,
    max: 1 << 16,
    default: 1,
    help: "batches a step, one after the other in the same memory",
    saved: "grad_accum",
  },
  weightDecay: {
    type: "number",
    min: 0,
    max: 1000,
    default: 0,
    help: "decoupled weight decay; with `optimizer` muon of the matrices",
    saved: "weight_decay",
  },
  optimizer: {
    type: "choice",
    choices: ["adam", "muon"],
    default: "adam",
    help: "the rule of the updates; muon for the matrices of layers, and Adam for the rest",
    saved: "optimizer",
  },
  muonLearningRate: {
    type: "number",
    min: 0,
    exclusive: true,
    max: 1000,
    default: 0.02,
    help: "peak learning rate of what muon updates",
    flag: "--muon-lr",
    saved: "muon_learning_rate",
  },
  cautiousDecay: {
    type: "switch",
    default: false,
    help: "muon: weight decay only where it goes the way of the update",
    saved: "cautious_decay",
  },
  zeroInit: {
    type: "switch",
    default: false,
    help: "a new model's head, and what its layers add, begin at 0",
    saved: "zero_init",
  },
  schedule: {
    type: "choice",
    choices: ["linear", "cosine", "trapezoid"],
    default: "linear",
    help: "how the learning rate falls to 0 after the warmup; a trapezoid stays at its peak before it falls",
    saved: "schedule",
  },
  decayFraction: {
    type: "number",
    min: 0,
    max: 1,
    default: 0.5,
    help: "trapezoid: the last part of the steps, in which the learning rate falls",
    saved: "decay_fraction",
  },
  valFraction: {
    type: "number",
    min: 0,
    max: 0.9,
    default: 0.05,
    help: "share of documents held out; 0 = none",
    saved: "val_fraction",
  },
  evalEvery: {
    type: "whole",
    min: 0,
    max: 1e9,
    default: 250,
    help: "steps between evaluations; 0 = only at the end",
    saved: "eval_every",
  },
  patience: {
    type: "whole",
    min: 0,
    max: 1e9,
    default: 0,
    help: "end when so many evaluations in a row were no better than the best; 0 = never",
    saved: "patience",
  },
  checkpointEvery: {
    type: "whole",
    min: 0,
    max: 1e9,
    default: 0,
    help: "steps between checkpoints; 0 = only at the end",
  },
  maskTokens: {
    type: "number",
    min: 0,
    max: 0.9,
    default: 0,
    help: "share of input tokens that training hides, against learning by heart",
    saved: "mask_tokens",
  },
  dropout: {
    type: "number",
    min: 0,
    max: 0.9,
    default: 0,
    help: "share of what layers and embeddings give that training sets to 0, against learning by heart",
    saved: "dropout",
  },
  zLoss: {
    type: "number",
    min: 0,
    max: 1,
    default: 0,
    help: "weight of log² of the softmax's divisor beside the loss, against logits that drift; 1e-4 is usual",
    saved: "z_loss",
  },
  loss: {
    type: "choice",
    choices: ["all", "answers"],
    default: "all",
    help: "with `chat`: the targets that count, all or what the assistant says (so with `from`)",
    saved: "loss",
  },
  freeze: {
    type: "text",
    default: NOTHING,
    help: "leave as they are: embeddings, layers:0-9, or several with commas between; none",
    value: "parts",
    saved: "freeze",
  },
  long: {
    type: "choice",
    choices: ["truncate", "skip", "split"],
    default: "truncate",
    help:
      "documents longer than the block: cut off, dropped, or split into several, conversations at messages " +
      "(with `preset` and plain text split)",
    saved: "long",
  },
  skipLong: {
    type: "switch",
    default: false,
    help: "the same as `long` skip",
    saved: "skip_long",
  },
} as const satisfies Options;

/** Values of all settings. */
export type Settings = OptionValues<typeof SETTINGS>;

/** The name of a setting. */
export type SettingName = keyof typeof SETTINGS;

/** The value of each setting when nobody chooses one. */
export const DEFAULTS: Settings = defaultsOf(SETTINGS);

/** The field of a setting, where it has one of that kind. */
export type FieldOf<Name extends SettingName, Key extends "saved" | "config"> =
  (typeof SETTINGS)[Name] extends Record<Key, infer Field extends string> ? Field : never;

/** The settings that a checkpoint keeps, by their names in `train_state.json`. */
export type SavedSettings = { [Name in SettingName as FieldOf<Name, "saved">]: Settings[Name] };

/**
 * What is another for a run that starts from a model: small steps, for what it has learned is to stay. Context: at most so
 * long, for models of others have more than a batch has memory for.
 */
export const FROM_DEFAULTS = { learningRate: 2e-4, warmupSteps: 20, steps: 500, blockSize: 512 };

/** Names of the settings that have a field of a kind, with that field. */
export function fieldsOf(key: "saved" | "config"): [name: SettingName, field: string][] {
  const all = Object.entries(SETTINGS as Options) as [SettingName, Options[string]][];
  return all.flatMap(([name, option]) => option[key] === undefined ? [] : [[name, option[key]]]);
}

/** Settings as the fields of `train_state.json`. */
export function savedSettings(settings: Settings): SavedSettings {
  return Object.fromEntries(
    fieldsOf("saved").map(([name, field]) => [field, settings[name]]),
  ) as unknown as SavedSettings;
}

/**
 * Checks every setting that is given.
 * @throws {MicrogptError} naming the setting, its range and what was got
 */
export function checkSettings(settings: Partial<Settings>): void {
  checkOptions(SETTINGS, settings);
}

/**
 * What becomes of documents that are longer than the block: `long`, or `skipLong`, its other name.
 * @throws {MicrogptError} where the two differ
 */
export function longDocuments({ long, skipLong }: Settings): Settings["long"] {
  if (skipLong && long === "split") {
    throw new MicrogptError("`skipLong` and `long` split exclude each other", { usage: true });
  }
  return skipLong ? "skip" : long;
}

/** Settings that only `arch` llama has. */
const LLAMA_SETTINGS = ["nKvHead", "headDim", "ffn", "tie", "ropeTheta"] as const;

/**
 * Checks that no setting is chosen which the architecture does not have.
 * @throws {MicrogptError} naming it
 */
export function checkArchitecture(settings: Settings): void {
  if (settings.arch === "llama") return;
  const odd = LLAMA_SETTINGS.find((name) => settings[name] !== DEFAULTS[name]);
  if (odd === undefined) return;
  throw new MicrogptError(`\`${odd}\` is a setting of \`arch\` llama, and this is a ${settings.arch}`, {
    usage: true,
  });
}

/** What a preset sets: the architecture, the rate and the length of the run, and more where it has a reason. */
export type Preset =
  & Pick<Settings, "nEmbd" | "nHead" | "nLayer" | "blockSize" | "learningRate" | "steps" | "batchSize">
  & Partial<Settings>;

/** Settings for a purpose; explicit ones win. */
export const PRESETS: Record<PresetName, Preset> = {
  // tuned, see docs/log.md: short words in short documents want a small vocabulary and a large batch
  names: {
    nEmbd: 64,
    nHead: 4,
    nLayer: 2,
    blockSize: 256,
    optimizer: "muon",
    learningRate: 0.005,
    muonLearningRate: 0.012,
    weightDecay: 0.1,
    warmupSteps: 50,
    zeroInit: true,
    steps: 2000,
    batchSize: 96,
    vocabSize: 304,
  },
  // few conversations, seen many times: what keeps it from learning them by heart was measured, see docs/log.md
  "chat-small": {
    nEmbd: 128,
    nHead: 4,
    nLayer: 4,
    blockSize: 512,
    optimizer: "muon",
    learningRate: 0.006,
    weightDecay: 0.1,
    cautiousDecay: true,
    dropout: 0.2,
    maskTokens: 0.05,
    warmupSteps: 50,
    steps: 2500,
    batchSize: 8,
  },
  "chat-medium": {
    nEmbd: 256,
    nHead: 8,
    nLayer: 6,
    blockSize: 1024,
    learningRate: 0.001,
    steps: 10_000,
    batchSize: 4,
  },
  "chat-large": {
    nEmbd: 384,
    nHead: 8,
    nLayer: 8,
    blockSize: 1024,
    learningRate: 0.001,
    steps: 100_000,
    batchSize: 4,
  },
  // plain text, for a model that conversations are to go on with; see docs/recipes.md
  base: {
    nEmbd: 128,
    nHead: 4,
    nLayer: 4,
    blockSize: 512,
    optimizer: "muon",
    learningRate: 0.006,
    warmupSteps: 50,
    steps: 4000,
    batchSize: 8,
    vocabSize: 8192,
  },
  // 15.7 million parameters, for short stories
  story: {
    arch: "llama",
    nEmbd: 384,
    nHead: 6,
    nKvHead: 2,
    nLayer: 8,
    blockSize: 512,
    learningRate: 0.001,
    steps: 20_000,
    batchSize: 8,
  },
  // chat-medium as a Llama
  "chat-llama": {
    arch: "llama",
    nEmbd: 256,
    nHead: 8,
    nKvHead: 4,
    nLayer: 6,
    blockSize: 1024,
    learningRate: 0.001,
    steps: 10_000,
    batchSize: 4,
  },
};

/** The name of a preset. */
export type PresetName =
  | "names"
  | "chat-small"
  | "chat-medium"
  | "chat-large"
  | "base"
  | "story"
  | "chat-llama";

/** What `preset` takes. */
export const PRESET_NAMES: readonly string[] = [...Object.keys(PRESETS), "auto"];
