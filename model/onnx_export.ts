/** Writes an exported model as the folder that transformers.js (and `OnnxModel`) loads. */
import { join } from "node:path";
import type { ModelConfig } from "./config.ts";
import { MicrogptError } from "./errors.ts";
import { writeHashed } from "./file_digest.ts";
import { fileError, ifThere, publish } from "./model_dir.ts";
import {
  generationConfig,
  modelConfig,
  specialTokens,
  tokenizerConfig,
  withLeadingBos,
} from "./onnx_config.ts";
import type { PromptLogits } from "./onnx_verify.ts";
import type { ParameterLayout } from "./parameters.ts";

/** What is exported. */
export interface OnnxSource {
  config: ModelConfig;
  layout: ParameterLayout;
  /** [layout.length] f32 weights */
  params: Float32Array;
  /** the text of tokenizer.json */
  tokenizerJson: string;
}

export interface OnnxExportOptions {
  /** store weights as f16 */
  half?: boolean;
  /**
   * Calls `run` with our own logits for the weights given (those of `half` are rounded): the graph is checked against
   * them before anything is written. `withPromptLogits` bound to a device does it.
   */
  reference: (
    params: Float32Array,
    run: (logits: PromptLogits) => Promise<number>,
  ) => Promise<number>;
}

/** What an export came to. */
export interface OnnxExportResult {
  /** size of model.onnx */
  bytes: number;
  /** largest absolute difference between the logits of the graph in onnxruntime-web and ours, on fixed prompts */
  maxDifference: number;
}

/** A graph further off than this is not the model. */
const TOLERANCE = 1e-3;

const FILES = [
  "model.onnx",
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
] as const;

/**
 * Exports a model to a new folder: `model.onnx`, `config.json`, `generation_config.json`, `tokenizer.json`,
 * `tokenizer_config.json`. The graph is run in onnxruntime-web first; a folder appears only when it agrees with ours.
 * @param directory must not exist, be empty, or hold an earlier export, which is replaced
 * @throws {MicrogptError} when logits differ by more than 1e-3, the model is too large for the format, the tokenizer
 * does not fit, or the folder cannot be written
 */
export async function exportOnnx(
  directory: string,
  source: OnnxSource,
  { half = false, reference }: OnnxExportOptions,
): Promise<OnnxExportResult> {
  const { config, layout, params } = source;
  await checkTarget(directory);
  const tokens = specialTokens(source.tokenizerJson, config.vocab_size);
  // Loaded here, so that programs which never export do not load protobuf.js.
  const { buildOnnx, roundToHalf } = await import("./onnx.ts");
  const { verifyOnnx } = await import("./onnx_verify.ts");
  const graph = buildOnnx(config, layout, params, { half });
  const maxDifference = await reference(
    half ? roundToHalf(params) : params,
    (logits) => verifyOnnx(graph, config, logits),
  );
  if (!(maxDifference <= TOLERANCE)) {
    throw new MicrogptError(
      `the exported graph's logits are ${maxDifference} away from the model's, at most ${TOLERANCE} is allowed`,
      { hint: "nothing was written; weights that are not finite or very large do this" },
    );
  }
  const files: Record<(typeof FILES)[number], Uint8Array> = {
    "model.onnx": graph,
    "config.json": json(modelConfig(config, tokens)),
    "generation_config.json": json(generationConfig(config, tokens)),
    "tokenizer.json": json(withLeadingBos(source.tokenizerJson, tokens.bos)),
    "tokenizer_config.json": json(tokenizerConfig(config, tokens)),
  };
  await publish(directory, async (staging) => {
    for (const name of FILES) await writeHashed(join(staging, name), (file) => file.write(files[name]));
  });
  return { bytes: graph.length, maxDifference };
}

const json = (value: object) => new TextEncoder().encode(JSON.stringify(value, null, 2) + "\n");

/** @throws {MicrogptError} when `directory` holds files that are not an export's */
async function checkTarget(directory: string): Promise<void> {
  let names: string[] | undefined;
  try {
    names = await ifThere(Array.fromAsync(Deno.readDir(directory), (entry) => entry.name));
  } catch (error) {
    throw fileError(`cannot write to ${directory}`, error);
  }
  const other = names?.find((name) =>
    !name.startsWith(".sav") && !(FILES as readonly string[]).includes(name)
  );
  if (other === undefined) return;
  throw new MicrogptError(`${directory} holds ${other}, which is no part of an ONNX export`, {
    hint: "choose a new directory with --output",
  });
}
