/** The settings of a training run that a person can choose, their defaults, and the presets. */
import { LIMITS } from "./config.ts";
import { MicrogptError } from "./errors.ts";

/** What a run is made of, beside its data and its device. */
export interface Settings {
  /** steps; on resume so many more */
  steps: number;
  /** peak learning rate */
  learningRate: number;
  /** steps of linear warmup before the linear decay */
  warmupSteps: number;
  /** of weights, batches and validation split */
  seed: number;
  /** width of the embedding */
  nEmbd: number;
  /** attention heads, a divisor of nEmbd */
  nHead: number;
  /** layers */
  nLayer: number;
  /** longest context in tokens */
  blockSize: number;
  /** documents a batch */
  batchSize: number;
  /** most tokens of a new tokenizer */
  vocabSize: number;
  /** largest global gradient norm; 0 = off */
  gradClip: number;
  /** batches a step */
  gradAccum: number;
  /** decoupled weight decay; 0 = off */
  weightDecay: number;
  /** share of documents held out; 0 = none */
  valFraction: number;
  /** steps between evaluations; 0 = only at the end */
  evalEvery: number;
  /** steps between checkpoints; 0 = only at the end */
  checkpointEvery: number;
  /** drop documents that are longer than the block instead of truncating them */
  skipLong: boolean;
}

/** What a setting is that nobody chooses. */
export const DEFAULTS: Settings = {
  steps: 5000,
  learningRate: 0.01,
  warmupSteps: 200,
  seed: 42,
  nEmbd: 64,
  nHead: 4,
  nLayer: 2,
  blockSize: 256,
  batchSize: 8,
  vocabSize: 4096,
  gradClip: 1,
  gradAccum: 1,
  weightDecay: 0,
  valFraction: 0.05,
  evalEvery: 250,
  checkpointEvery: 0,
  skipLong: false,
};

/** What a preset sets: the architecture, the rate and the length of the run, and more where it has a reason. */
export type Preset =
  & Pick<Settings, "nEmbd" | "nHead" | "nLayer" | "blockSize" | "learningRate" | "steps" | "batchSize">
  & Partial<Settings>;

/** Settings for a purpose; explicit ones win. */
export const PRESETS: Record<PresetName, Preset> = {
  // tuned, see docs/log.md: short words in short documents want a small vocabulary and a large batch
  names: {
    nEmbd: 48,
    nHead: 3,
    nLayer: 2,
    blockSize: 256,
    learningRate: 0.007,
    steps: 2000,
    batchSize: 96,
    vocabSize: 512,
  },
  "chat-small": {
    nEmbd: 128,
    nHead: 4,
    nLayer: 4,
    blockSize: 512,
    learningRate: 0.006,
    steps: 8000,
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
};

/** The name of a preset. */
export type PresetName = "names" | "chat-small" | "chat-medium" | "chat-large";

/** How a setting is called on the command line, and what values it takes. */
interface SettingRule {
  flag: string;
  kind: "whole" | "number" | "switch";
  min: number;
  max: number;
  /** `min` itself is not allowed */
  exclusive?: boolean;
}

/** One row a setting; also the flags' names. */
export const SETTING_RULES: Record<keyof Settings, SettingRule> = {
  steps: { flag: "--steps", kind: "whole", min: 1, max: 1e9 },
  learningRate: { flag: "--lr", kind: "number", min: 0, max: 1000, exclusive: true },
  warmupSteps: { flag: "--warmup-steps", kind: "whole", min: 0, max: 1e9 },
  seed: { flag: "--seed", kind: "whole", min: 0, max: Number.MAX_SAFE_INTEGER },
  nEmbd: { flag: "--n-embd", kind: "whole", min: 1, max: LIMITS.n_embd },
  nHead: { flag: "--n-head", kind: "whole", min: 1, max: LIMITS.n_head },
  nLayer: { flag: "--n-layer", kind: "whole", min: 1, max: LIMITS.n_layer },
  blockSize: { flag: "--block-size", kind: "whole", min: 1, max: LIMITS.block_size },
  batchSize: { flag: "--batch-size", kind: "whole", min: 1, max: 1 << 16 },
  vocabSize: { flag: "--vocab-size", kind: "whole", min: 257, max: LIMITS.vocab_size },
  gradClip: { flag: "--grad-clip", kind: "number", min: 0, max: 1e9 },
  gradAccum: { flag: "--grad-accum", kind: "whole", min: 1, max: 1 << 16 },
  weightDecay: { flag: "--weight-decay", kind: "number", min: 0, max: 1000 },
  valFraction: { flag: "--val-fraction", kind: "number", min: 0, max: 0.9 },
  evalEvery: { flag: "--eval-every", kind: "whole", min: 0, max: 1e9 },
  checkpointEvery: { flag: "--checkpoint-every", kind: "whole", min: 0, max: 1e9 },
  skipLong: { flag: "--skip-long", kind: "switch", min: 0, max: 1 },
};

/**
 * Checks every setting that is given.
 * @throws {MicrogptError} naming the flag, the range and what was got
 */
export function checkSettings(settings: Partial<Settings>): void {
  for (const [name, rule] of Object.entries(SETTING_RULES) as [keyof Settings, SettingRule][]) {
    const value = settings[name];
    if (value === undefined || rule.kind === "switch") continue;
    const fits = typeof value === "number" && Number.isFinite(value) &&
      (rule.kind !== "whole" || Number.isInteger(value)) &&
      value <= rule.max && (rule.exclusive ? value > rule.min : value >= rule.min);
    if (fits) continue;
    const noun = rule.kind === "whole" ? "a whole number" : "a number";
    const from = rule.exclusive ? `above ${rule.min}` : `from ${rule.min}`;
    throw new MicrogptError(`${rule.flag} must be ${noun} ${from} to ${rule.max}, got ${value}`, {
      usage: true,
    });
  }
}
