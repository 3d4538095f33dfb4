import type { Dtype } from "../../device/device.ts";
import type { Option } from "../../device/options.ts";
import { fieldsOf, type SavedSettings, SETTINGS } from "../settings.ts";
import type { FileDigest } from "./digest.ts";
import {
  CHECKPOINT_FILES,
  type ModelFile,
  parseObject,
  printable,
  weightsFile,
  wrongContent,
} from "./directory.ts";

/** Anything larger is not a `train_state.json`. */
export const STATE_MAX_BYTES = 1 << 20;

/** Settings that every checkpoint has, including those of the Rust program. */
export type RequiredSetting = "learning_rate" | "batch_size";

/**
 * `train_state.json`. Its settings are those of the run that are saved, by their field names. The Rust program writes
 * the fields that are not optional here; the rest are ours.
 */
export interface TrainState
  extends Pick<SavedSettings, RequiredSetting>, Partial<Omit<SavedSettings, RequiredSetting>> {
  /** steps done */
  step: number;
  /** Adam updates applied: `step` less the skipped ones */
  adam_step: number;
  /** where the documents came from: a file, "-", or "(memory)" */
  dataset_path: string;
  /** the same, where it was more than one input */
  dataset_inputs?: string[];
  /** how they were read: `format`, `document`, `field`, `strict`, as far as they were given */
  dataset_reading?: { format?: string; document?: string; field?: string; strict?: boolean };
  /** what they are */
  dataset_mode: "text" | "chat";
  /** type of working weights and activations */
  dtype: Dtype;

  /** the preset that was chosen */
  preset?: string;
  /** the hardware's own name */
  device?: string;
  /** CPU threads that were asked for */
  threads?: number;
  /** steps done when this run began: 0, or where it was resumed */
  start_step?: number;
  /** S of the learning rate's schedule */
  steps_total?: number;
  /** the model that the run started from, as it was named */
  from?: string;
  /** tokens that a document may have besides its last, where that is less than the model's context */
  block_size?: number;
  /** hash of the data the run read */
  dataset_sha256?: string;
  /** documents held out */
  val_documents?: number;
  /** documents whose hash is below it are held out, see data/split.ts; not in early checkpoints of ours */
  val_threshold?: number;
  /** lowest loss of an evaluation so far */
  best_val_loss?: number;
  /** the step of that evaluation */
  best_val_step?: number;
  /** steps whose loss or gradient was not finite */
  skipped_steps?: number;
  /** the run went back to a checkpoint with half the learning rate */
  lr_halved?: boolean;
  /** f16: factor on the loss gradient */
  loss_scale?: number;
  /** f16: finite steps since it changed */
  good_steps?: number;
  /** the run had reached `steps_total` */
  final?: boolean;
}

function isNumber(value: unknown): value is number {
  return typeof value === "number" && value >= 0 && value < Infinity;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && isNumber(value);
}

function isTexts(value: unknown): boolean {
  return Array.isArray(value) && value.length > 0 && value.every((text) => typeof text === "string");
}

/** Names that are not known are for other versions; the values are checked where data is opened. */
function isReading(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value) &&
    Object.values(value).every((option) => typeof option === "string" || typeof option === "boolean");
}

/** What a value of `train_state.json` must be. */
type Kind =
  | "count"
  | "positive count"
  | "number"
  | "positive number"
  | "text"
  | "texts"
  | "reading"
  | "flag"
  | "mode"
  | "dtype";

const KINDS: Record<Kind, { expected: string; accepts: (value: unknown) => boolean }> = {
  count: { expected: "a whole number from 0", accepts: isCount },
  "positive count": { expected: "a whole number from 1", accepts: (v) => isCount(v) && v > 0 },
  number: { expected: "a number from 0", accepts: isNumber },
  "positive number": { expected: "a number above 0", accepts: (v) => isNumber(v) && v > 0 },
  text: { expected: "text", accepts: (v) => typeof v === "string" },
  texts: { expected: "a list of texts", accepts: isTexts },
  reading: { expected: "options of reading", accepts: isReading },
  flag: { expected: "true or false", accepts: (v) => typeof v === "boolean" },
  mode: { expected: '"text" or "chat"', accepts: (v) => v === "text" || v === "chat" },
  dtype: { expected: '"f32", "bf16" or "f16"', accepts: (v) => v === "f32" || v === "bf16" || v === "f16" },
};

/** What a setting's field must be. Ranges are not looked at: another version may allow more. */
function kindOf({ type, min = 0, exclusive }: Option): Kind {
  if (type === "switch") return "flag";
  if (type === "choice" || type === "text") return "text";
  if (type === "whole") return min > 0 ? "positive count" : "count";
  return exclusive ? "positive number" : "number";
}

const SETTING_FIELDS = Object.fromEntries(
  fieldsOf("saved").map(([name, field]) => [field, kindOf(SETTINGS[name])]),
) as Record<keyof SavedSettings, Kind>;

const REQUIRED = {
  step: "count",
  adam_step: "count",
  learning_rate: SETTING_FIELDS.learning_rate,
  batch_size: SETTING_FIELDS.batch_size,
  dataset_path: "text",
  dataset_mode: "mode",
  dtype: "dtype",
} satisfies Partial<Record<keyof TrainState, Kind>>;

const OPTIONAL = {
  ...SETTING_FIELDS,
  dataset_inputs: "texts",
  dataset_reading: "reading",
  preset: "text",
  device: "text",
  threads: "count",
  start_step: "count",
  steps_total: "count",
  from: "text",
  block_size: "positive count",
  dataset_sha256: "text",
  val_documents: "count",
  val_threshold: "count",
  best_val_loss: "number",
  best_val_step: "count",
  skipped_steps: "count",
  lr_halved: "flag",
  loss_scale: "positive number",
  good_steps: "count",
  final: "flag",
} satisfies Record<Exclude<keyof TrainState, keyof typeof REQUIRED>, Kind>;

/** Digests of the other files of the save that wrote a `train_state.json`. */
export type SavedDigests = Partial<Record<ModelFile, FileDigest>>;

/**
 * Reads `train_state.json`. Fields that are not ours are ignored.
 * @param path what error messages call the file
 * @returns the state, and the digests of its sibling files where the file has them (the Rust program writes none)
 * @throws {MicrogptError} naming the field that is missing or wrong
 */
export function parseTrainState(
  text: string,
  path: string,
): { state: TrainState; digests: SavedDigests | undefined } {
  const source = parseObject(text, path);
  const state: Record<string, unknown> = {};
  for (const [name, kind] of Object.entries({ ...REQUIRED, ...OPTIONAL })) {
    const { expected, accepts } = KINDS[kind];
    let value = source[name];
    if (value === undefined || value === null) {
      if (name in REQUIRED) throw wrongContent(`${path}: ${name} is missing`);
      continue;
    }
    if ((kind === "mode" || kind === "dtype") && typeof value === "string") value = value.toLowerCase();
    if (!accepts(value)) {
      const got = printable(JSON.stringify(value));
      throw wrongContent(`${path}: ${name} must be ${expected}, got ${got}`);
    }
    state[name] = value;
  }
  return { state: state as unknown as TrainState, digests: parseDigests(source.files, path) };
}

/** The file's text: the state's known fields, and the digests of its sibling files. */
export function formatTrainState(state: TrainState, digests: SavedDigests): string {
  const known = [...Object.keys(REQUIRED), ...Object.keys(OPTIONAL)] as (keyof TrainState)[];
  const fields = Object.fromEntries(known.map((name) => [name, state[name]]));
  return JSON.stringify({ ...fields, files: digests }, null, 2) + "\n";
}

function parseDigests(value: unknown, path: string): SavedDigests | undefined {
  if (value === undefined) return undefined;
  const digests: SavedDigests = {};
  const isLlama = Object.hasOwn(Object(value), weightsFile("llama"));
  for (const name of CHECKPOINT_FILES[isLlama ? "llama" : "gpt"]) {
    if (name === "train_state.json") continue;
    const digest = (value as Record<string, Partial<FileDigest> | undefined> | null)?.[name];
    if (typeof digest?.bytes !== "number" || typeof digest.sha256 !== "string") {
      throw wrongContent(`${path}: files has no bytes and sha256 of ${name}`);
    }
    digests[name] = { bytes: digest.bytes, sha256: digest.sha256 };
  }
  return digests;
}
