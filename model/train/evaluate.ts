/** How well a model predicts given text: log-probabilities of a corpus, by any model that can be trained on. */
import type { CleanupRow } from "../../data/cleanup.ts";
import type { CorpusSettings } from "../../data/corpus_options.ts";
import type { PreparationProgress } from "../../data/tokens/prepare_tokens.ts";
import { checkOptions, type Options } from "../../device/options.ts";
import { LIMITS } from "../config.ts";
import { DEVICE_OPTIONS, type DeviceOptions } from "../devices.ts";

/** Windows are no longer than this unless asked for: memory grows with them. */
export const USUAL_WINDOW = 1024;

/** The options of an evaluation, beside what is read and on which device. */
export const EVALUATE_OPTIONS = {
  blockSize: {
    type: "whole",
    min: 1,
    max: LIMITS.block_size,
    help: "tokens of a window, at most the model's context; longer documents are cut into several " +
      `(default: the context, at most ${USUAL_WINDOW})`,
  },
  loss: {
    type: "choice",
    choices: ["all", "answers"],
    default: "all",
    help: "with conversations: what counts, everything or what the assistant says",
  },
} as const satisfies Options;

/** What to evaluate, and how. */
export interface EvaluateOptions extends DeviceOptions, Partial<CorpusSettings> {
  /** a model of ours, a HuggingFace directory, a GGUF file, or a name on the hub */
  modelDir: string;
  /** the input is conversations; default: whether the model is a chat model */
  chat?: boolean;
  /** tokens of a window; default: the model's context, at most 1024 */
  blockSize?: number;
  /** what counts of conversations; default: all */
  loss?: "all" | "answers";
  /** told how far the preparation of large data is */
  onPreparing?: (progress: PreparationProgress) => void;
  /** told each document's figures, in order */
  onDocument?: (document: DocumentEvaluation) => void;
  /** ends it with an error */
  signal?: AbortSignal;
}

/** How well some text is predicted. */
export interface TextEvaluation {
  /** targets that count */
  tokens: number;
  /** bytes of text that they stand for, see `bytesOfTokens` */
  bytes: number;
  /** mean of −log p of a target, in nats */
  loss: number;
  /** e^loss */
  perplexity: number;
  /** the same loss for a byte, in bits: comparable between tokenizers */
  bitsPerByte: number;
}

/** One document's figures. */
export interface DocumentEvaluation extends TextEvaluation {
  /** its number, from 1 */
  document: number;
}

/** The figures of a corpus. */
export interface CorpusEvaluation extends TextEvaluation {
  /** how many it has */
  documents: number;
  /** tokens of a window */
  blockSize: number;
  /** what it is */
  mode: "text" | "chat";
  /** the hardware's own name */
  device: string;
  /** what of the data is not measured as it is */
  cleanup: CleanupRow[];
  /** what a person should know of the data */
  notices: string[];
}

/**
 * Measures how well a model predicts a corpus. Every token but the first of a document is predicted once, from those
 * before it in its window.
 * @throws {MicrogptError} for a model or data that cannot be read, and where nothing counts
 */
export async function evaluate(options: EvaluateOptions): Promise<CorpusEvaluation> {
  checkOptions(EVALUATE_OPTIONS, options);
  checkOptions(DEVICE_OPTIONS, options);
  const { evaluateModel } = await import("./evaluation.ts");
  return await evaluateModel(options);
}
