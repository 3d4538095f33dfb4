/** The options of a training run. */
import type { Message } from "../../data/chat.ts";
import type { Items } from "../../data/corpus.ts";
import type { CorpusSettings } from "../../data/corpus_options.ts";
import type { PreparationProgress } from "../../data/tokens/prepare_tokens.ts";
import { checkOptions, type Options } from "../../device/options.ts";
import { DEVICE_OPTIONS, type DeviceOptions } from "../devices.ts";
import { MicrogptError } from "../../device/errors.ts";
import { checkSettings, PRESET_NAMES, type PresetName, type Settings } from "../settings.ts";

/** Options of a run that a checkpoint does not keep. */
export const RUN_OPTIONS = {
  minutes: {
    type: "number",
    min: 0,
    exclusive: true,
    max: 100_000,
    default: 10,
    help: "with `preset` auto: how long training may take on this machine",
  },
  keep: {
    type: "whole",
    min: 0,
    max: 1e9,
    default: 0,
    help: "keep the last n checkpoints under DIR/checkpoints, where the best is in any case",
  },
  sampleEvery: {
    type: "whole",
    min: 0,
    max: 1e9,
    default: 0,
    help: "print three samples every n steps; 0 = never",
  },
  log: {
    type: "choice",
    choices: ["none", "tensorboard"],
    default: "none",
    help: "beside metrics.jsonl: event files in DIR/tensorboard",
  },
  distributed: {
    type: "choice",
    choices: ["none", "mpi"],
    default: "none",
    help: "share each step among the processes that mpirun or srun started, see docs/distributed.md",
  },
  reduceDtype: {
    type: "choice",
    choices: ["f32", "bf16"],
    default: "f32",
    help: "how gradients travel between processes; bf16 halves the traffic and changes the bits",
  },
  tokenizerSample: {
    type: "whole",
    min: 0,
    max: 1e6,
    default: 0,
    help: "megabytes of text that a new tokenizer is made of; 0 = all",
  },
  cacheDir: {
    type: "text",
    value: "dir",
    help: "where large data is kept as tokens, for the next run (default: in your cache directory)",
  },
  cacheSize: {
    type: "whole",
    min: 0,
    max: 1e6,
    default: 20,
    help: "most gigabytes there; what was not used for longest goes first",
  },
} as const satisfies Options;

/** Options of a training run; every setting that is not given comes from the checkpoint, the preset or the defaults. */
export interface TrainOptions
  extends Partial<Settings>, DeviceOptions, Partial<Omit<CorpusSettings, "input">> {
  /**
   * files, directories and patterns; "-" is standard input. One of `input`, `documents`, `conversations` unless resuming
   */
  input?: string | readonly string[];
  /** texts to train on, of any number, in place of files */
  documents?: Items<string>;
  /** conversations to train a chat model on, of any number, in place of files */
  conversations?: Items<Message[]>;
  /** `input` is conversations */
  chat?: boolean;
  /** directory of the checkpoint; default: the resumed one, or "output" */
  output?: string;
  /** goes on from this checkpoint */
  resume?: string;
  /**
   * starts a new run from the weights and the tokenizer of this model: a directory of this program or of HuggingFace, a
   * GGUF file, or a name on the hub (`hf:OWNER/NAME`)
   */
  from?: string;
  /** settings to start from, auto: chosen for the data and this machine; a resumed run has its checkpoint's */
  preset?: PresetName | "auto";
  /** with `preset` auto: how long training may take; default 10 */
  minutes?: number;
  /** keep the last N checkpoints under DIR/checkpoints, where the best is in any case; 0 = none */
  keep?: number;
  /** steps between samples, which come as events; 0 = none */
  sampleEvery?: number;
  /** "tensorboard": its event files in DIR/tensorboard, beside metrics.jsonl */
  log?: "none" | "tensorboard";
  /** "mpi": share each step among the processes of a launch, all of which call `train` with the same options */
  distributed?: "none" | "mpi";
  /** how gradients travel between processes; bf16 halves the traffic and changes the bits */
  reduceDtype?: "f32" | "bf16";
  /** samples of the finished model, in an event before the last; 0 = none */
  finalSamples?: number;
  /** ends after the plan: takes no lock and writes nothing */
  dryRun?: boolean;
  /** megabytes of text that a new tokenizer is made of; 0 = all */
  tokenizerSample?: number;
  /** where large data is kept as tokens, for the next run; default: in the user's cache directory */
  cacheDir?: string;
  /** most gigabytes there; what was not used for longest goes first */
  cacheSize?: number;
  /** told how far the preparation of large data is */
  onPreparing?: (progress: PreparationProgress) => void;
  /** ends the run after the current step, with a checkpoint */
  signal?: AbortSignal;
}

/**
 * Checks every option that has a range.
 * @throws {MicrogptError} naming the option, its range and what was got
 */
export function checkTrainOptions(options: TrainOptions): void {
  checkSettings(options);
  checkOptions(RUN_OPTIONS, options);
  checkOptions(DEVICE_OPTIONS, options);
  const { preset, loss, chat, conversations, resume, from } = options;
  if (from !== undefined && resume !== undefined) {
    throw new MicrogptError("`from` and `resume` are both given", {
      hint: "`resume` goes on with a run, `from` begins a new one from the weights of a model",
      usage: true,
    });
  }
  if (from !== undefined && preset !== undefined) {
    throw new MicrogptError("`preset` is for new models, and `from` has a shape of its own", {
      hint: "leave it out, and set `learningRate`, `steps` or `batchSize` where its values are wanted",
      usage: true,
    });
  }
  if (loss === "answers" && !chat && !conversations && resume === undefined) {
    throw new MicrogptError("`loss` answers is for conversations: plain text has no answers", {
      hint: "train on conversations with `chat`, or leave `loss` out",
      usage: true,
    });
  }
  if (options.minutes !== undefined && preset !== "auto") {
    throw new MicrogptError("`minutes` is for `preset` auto, which counts the steps", {
      hint: "other presets have `steps`",
      usage: true,
    });
  }
  if (preset === undefined || PRESET_NAMES.includes(preset)) return;
  throw new MicrogptError(`\`preset\` must be one of ${PRESET_NAMES.join(", ")}, got ${preset}`, {
    usage: true,
  });
}

/** The device's options among others. */
export function deviceOptions({ device, dtype, threads, adapter }: DeviceOptions): DeviceOptions {
  return {
    ...(device === undefined ? {} : { device }),
    ...(dtype === undefined ? {} : { dtype }),
    ...(threads === undefined ? {} : { threads }),
    ...(adapter === undefined ? {} : { adapter }),
  };
}
