/** Writes an exported model as the folder that transformers.js (and `OnnxModel`) loads. */
import { files } from "../../platform/files.ts";
import { join } from "../../platform/paths.ts";
import type { GptConfig } from "../gpt.ts";
import { MicrogptError } from "../../device/errors.ts";
import { readFull, writeHashed } from "../files/digest.ts";
import { COMMITTED, ONNX_FILES, STAGING } from "../files/directory.ts";
import {
  generationConfig,
  modelConfig,
  PRODUCER,
  specialTokens,
  tokenizerConfig,
  withLeadingBos,
} from "./onnx_config.ts";
import type { PromptLogits } from "./onnx_verify.ts";
import { checkWritable } from "../files/output_directory.ts";
import { checkStaged, isEntry, notOurs } from "../files/own_files.ts";
import type { ParameterLayout } from "../parameters.ts";
import { publish } from "../files/publish.ts";

/** What is exported. */
export interface OnnxSource {
  config: GptConfig;
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

/** The result of an export. */
export interface OnnxExportResult {
  /** size of model.onnx */
  bytes: number;
  /** largest absolute difference between the logits of the graph in onnxruntime-web and ours, on fixed prompts */
  maxDifference: number;
}

type OnnxFile = (typeof ONNX_FILES)[number];

/** A graph that is further off than this is not the model. */
const TOLERANCE = 1e-3;

/**
 * Exports a model to a new folder: `model.onnx`, `config.json`, `generation_config.json`, `tokenizer.json`,
 * `tokenizer_config.json`. The graph is run in onnxruntime-web first; a folder appears only when it agrees with ours.
 * @param directory may hold an earlier export, which is replaced, and files of other names, which stay
 * @throws {MicrogptError} when logits differ by more than 1e-3, the model is too large for the format, the tokenizer
 * does not fit, or the folder cannot be written
 */
export async function exportOnnx(
  directory: string,
  source: OnnxSource,
  { half = false, reference }: OnnxExportOptions,
): Promise<OnnxExportResult> {
  const { config, layout, params } = source;
  await checkOnnxOutput(directory);
  const texts = textsOf(config, source.tokenizerJson);
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
  await publish(directory, async (staging) => {
    for (const name of ONNX_FILES) {
      const bytes = name === "model.onnx" ? graph : new TextEncoder().encode(texts[name]);
      await writeHashed(join(staging, name), (file) => file.write(bytes));
    }
  });
  return { bytes: graph.length, maxDifference };
}

/**
 * Checks that an export may be written to `dir`. An earlier export is recognized by its content: the graph names this
 * program, and the four texts are exactly what an export writes beside it; a text that a person changed is that
 * person's.
 * @throws {MicrogptError} when it cannot be written, or holds a model or what is not ours
 */
export async function checkOnnxOutput(dir: string): Promise<void> {
  await checkWritable(dir);
  for (const name of [STAGING, COMMITTED]) await checkStaged(dir, name);
  if (await isEntry(dir, "meta.json", "file")) {
    throw new MicrogptError(`${dir} holds a model (meta.json), which this would break`, {
      hint: "choose another directory with `output`",
    });
  }
  // where an export was moved into place only in part, the new files count
  const texts = new Map<string, string>();
  for (const name of ONNX_FILES) {
    const staged = await isEntry(join(dir, COMMITTED), name, "file");
    if (!await isEntry(dir, name, "file") && !staged) continue;
    const path = join(dir, staged ? join(COMMITTED, name) : name);
    if (name === "model.onnx") await checkGraph(dir, path);
    else texts.set(name, await readSmall(path));
  }
  if (texts.size > 0) checkTexts(dir, texts);
}

/** The first field is the version, the second who made it. */
async function checkGraph(dir: string, path: string): Promise<void> {
  const expected = new TextEncoder().encode(PRODUCER);
  using file = await files.open(path);
  const bytes = new Uint8Array(4 + expected.length);
  const whole = await readFull(file, bytes);
  // 2 bytes of the version's field, then tag and length of the name
  if (whole && bytes[2] === 0x12 && bytes[3] === expected.length) {
    if (expected.every((byte, i) => bytes[4 + i] === byte)) return;
  }
  throw notOurs(dir, "model.onnx", "another program made it");
}

/** No text of an export is larger than this. */
const MAX_TEXT_BYTES = 64 << 20;

async function readSmall(path: string): Promise<string> {
  const { size } = await files.stat(path);
  return size > MAX_TEXT_BYTES ? "" : await files.readTextFile(path);
}

function checkTexts(dir: string, texts: Map<string, string>): void {
  const expected = expectedTexts(texts.get("config.json"), texts.get("tokenizer.json"));
  for (const [name, text] of texts) {
    if (text === expected?.[name]) continue;
    throw notOurs(dir, name, "it is not what an export writes");
  }
}

/**
 * What an export writes for the architecture and the tokenizer that two of its texts describe; undefined if they do
 * not.
 */
function expectedTexts(config = "", tokenizer = ""): Record<string, string> | undefined {
  try {
    const { vocab_size, n_embd, n_head, n_layer, n_positions: block_size } = JSON.parse(config);
    return textsOf({ vocab_size, n_embd, n_head, n_layer, block_size }, tokenizer);
  } catch {
    return undefined; // not JSON, or without these fields
  }
}

/** The texts beside the graph. */
function textsOf(
  config: GptConfig,
  tokenizerJson: string,
): Record<Exclude<OnnxFile, "model.onnx">, string> {
  const tokens = specialTokens(tokenizerJson, config.vocab_size);
  const json = (value: object) => JSON.stringify(value, null, 2) + "\n";
  return {
    "config.json": json(modelConfig(config, tokens)),
    "generation_config.json": json(generationConfig(config, tokens)),
    "tokenizer.json": json(withLeadingBos(tokenizerJson, tokens.bos)),
    "tokenizer_config.json": json(tokenizerConfig(config, tokens)),
  };
}
