/** What can be said about a model without its weights: what `microgpt info` shows. */
import type { WeightType } from "../../device/device.ts";
import type { ModelConfig } from "../config.ts";
import type { ModelKind } from "./any_model.ts";
import type { TrainState } from "./train_state.ts";

/** A model, described. */
export interface ModelSummary {
  /** what it is on disk: a directory of this program, a HuggingFace directory or a GGUF file */
  source: ModelKind;
  /** the architecture */
  config: ModelConfig;
  /** its layers, heads and width, in words */
  network: string;
  /** how many parameters it has */
  parameters: number;
  /** it was trained on conversations */
  chat: boolean;
  /** of `tokenizer.json` */
  tokenizer: { tokens: number; merges: number; special: string[] };
  /** of the weights' file or files */
  file: { format: "safetensors" | "gguf"; dtype: string; bytes: number };
  /** what it takes to run it on the CPU */
  memory: RunningMemory;
  /** why it can be looked at only; undefined where it generates */
  unusable: string | undefined;
  /** what it can become by an export */
  formats: readonly ModelFormat[];
  /** undefined for an inference-only model */
  training: TrainingSummary | undefined;
}

/** What an export may be. */
export type ModelFormat = "safetensors" | "onnx" | "hf" | "gguf";

/** Bytes that generating takes on the CPU. */
export interface RunningMemory {
  /** of the weights */
  weights: number;
  /** their types */
  dtype: string;
  /** of the weights by the type that is asked for */
  byDtype: Record<WeightType, number>;
  /** of keys and values of a full context */
  context: number;
}

/** What the checkpoint of a run says. */
export interface TrainingSummary {
  /** `train_state.json` */
  state: TrainState;
  /** the data lie in files, which can be read again to go on */
  rereadable: boolean;
  /** where a run resumed from it goes on, if that is another directory */
  goesOnIn: string | undefined;
  /** where the weights of the best evaluation are, if they are kept */
  bestDirectory: string | undefined;
}

/**
 * Describes a model without reading its weights, whose header alone is checked.
 * @param path of a model or a training checkpoint, a HuggingFace directory or a GGUF file, or either of the hub as `localModel` takes it
 * @param options.dtype the type of matrices to count memory with; default: the one that it would run in
 * @returns the architecture, the tokenizer, the file, and the state of the run where there is one
 * @throws {MicrogptError} when a file is missing or malformed
 */
export async function describeModel(
  path: string,
  options: { dtype?: WeightType } = {},
): Promise<ModelSummary> {
  const { summarize } = await import("./summarize.ts");
  return await summarize(path, options.dtype);
}
