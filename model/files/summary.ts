/** What can be said about a model without its weights: what `microgpt info` shows. */
import { isDataFile } from "../../data/dataset.ts";
import { SPECIAL_TOKENS } from "../../data/tokenizer.ts";
import type { ModelConfig } from "../config.ts";
import { networkOf } from "../networks.ts";
import { readModelHeader } from "./checkpoint.ts";
import { bestDirectory, keptBestStep } from "./kept_checkpoints.ts";
import { keptIn } from "./output_directory.ts";
import type { TrainState } from "./train_state.ts";

/** A model directory, described. */
export interface ModelSummary {
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
  /** of `weights.safetensors` */
  file: { dtype: string; bytes: number };
  /** undefined for an inference-only model */
  training: TrainingSummary | undefined;
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
 * @param dir of a model or a training checkpoint
 * @returns the architecture, the tokenizer, the file, and the state of the run where there is one
 * @throws {MicrogptError} when a file is missing or malformed
 */
export async function describeModel(dir: string): Promise<ModelSummary> {
  const { config, chat, parameters, fileDtype, weightsBytes, tokenizerJson, trainState } =
    await readModelHeader(dir);
  const listed: unknown = JSON.parse(tokenizerJson).model.merges;
  const merges = Array.isArray(listed) ? listed.length : 0;
  const special: string[] = chat ? Object.values(SPECIAL_TOKENS) : [SPECIAL_TOKENS.bos];
  return {
    config,
    network: networkOf(config).describe(),
    parameters,
    chat,
    tokenizer: { tokens: config.vocab_size, merges, special },
    file: { dtype: fileDtype, bytes: weightsBytes },
    training: trainState && await describeTraining(dir, trainState),
  };
}

async function describeTraining(dir: string, state: TrainState): Promise<TrainingSummary> {
  const kept = state.best_val_step !== undefined && state.best_val_step === await keptBestStep(dir);
  return {
    state,
    rereadable: isDataFile(state.dataset_path),
    goesOnIn: (await keptIn(dir))?.next,
    bestDirectory: kept ? bestDirectory(dir) : undefined,
  };
}
