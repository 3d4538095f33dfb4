/** Exports of a Llama for other programs: a HuggingFace directory, or a GGUF file with a Modelfile. */
import { join } from "../../platform/paths.ts";
import { MicrogptError } from "../../device/errors.ts";
import { type AnyModel, readAnyModel } from "../files/any_model.ts";
import { writeHashed } from "../files/digest.ts";
import { exportGguf, modelfile } from "../files/gguf/llama_export.ts";
import type { WrittenType } from "../files/gguf/quantize.ts";
import { type HfExport, writeHfDirectory } from "../files/hf/directory.ts";
import { namesOf } from "../files/own_files.ts";
import { publish } from "../files/publish.ts";
import type { FileDtype } from "../files/safetensors.ts";
import type { LlamaConfig } from "../llama_config.ts";
import { networkOf } from "../networks.ts";
import { isClose } from "./compare_weights.ts";
import { checkGgufOutput, checkHfOutput, MODELFILE_KEY, removeOldHf, textDigest } from "./llama_output.ts";

/** Element types of an export's matrices. */
export type ExportType = "f32" | "f16" | "bf16" | "q8_0";

/** What is exported. */
export interface LlamaSource extends HfExport {
  name: string;
}

/**
 * Reads a Llama of any kind.
 * @param format what it is to become, for errors
 * @throws {MicrogptError} when it does not load, or is no Llama
 */
export async function readLlama(path: string, format: string): Promise<LlamaSource> {
  const model = await readAnyModel(path);
  const { config, name, tokenizer, ends, addBos } = model;
  if (config.architecture !== "llama") {
    throw new MicrogptError(`\`format\` ${format} is for the architecture llama, and ${path} is a gpt`, {
      hint: "export it with `format` hf or onnx, or train with `arch` llama",
      usage: true,
    });
  }
  const llama = config as LlamaConfig;
  const { layout } = networkOf(config);
  const { chatTemplate } = model;
  return {
    name,
    config: llama,
    layout,
    params: await model.readParameters(layout),
    tokenizer,
    ends,
    addBos,
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
  };
}

/**
 * Writes a HuggingFace directory, reads it back and compares it before it counts.
 * @param to may hold an earlier export, which is replaced, and files of other names, which stay
 * @returns path of the weights
 * @throws {MicrogptError} when `to` cannot be written or holds what is not ours, or a weight does not fit the type
 */
export async function exportHf(to: string, source: LlamaSource, dtype: FileDtype): Promise<string> {
  await checkHfOutput(to);
  let written: string[] = [];
  await publish(to, async (staging) => {
    await writeHfDirectory(staging, source, dtype);
    await compare(await readAnyModel(staging), source, () => dtype);
    written = await namesOf(staging);
  });
  await removeOldHf(to, written);
  return join(to, "model.safetensors");
}

/**
 * Writes a GGUF file and a Modelfile, reads the file back and compares it before it counts.
 * @param to a directory; may hold an earlier export, which is replaced, and files of other names, which stay
 * @returns path of the file
 * @throws {MicrogptError} as `exportHf`, and for a tokenizer that llama.cpp does not know
 */
export async function exportGgufDirectory(
  to: string,
  source: LlamaSource,
  type: ExportType,
): Promise<string> {
  await checkGgufOutput(to);
  const written = type.toUpperCase() as WrittenType;
  const { tokens } = source.tokenizer;
  const stops = source.ends.eos.flatMap((id) => tokens[id]?.name ?? []);
  const text = modelfile("model.gguf", stops, source.chatTemplate);
  // what is learned is marked for transformers only
  const chatTemplate = source.chatTemplate?.replace(/\{% (?:end)?generation %\}/g, "");
  const model = { ...source, ...(chatTemplate === undefined ? {} : { chatTemplate }) };
  await publish(to, async (staging) => {
    const path = join(staging, "model.gguf");
    const marks = new Map([[MODELFILE_KEY, textDigest(text)]]);
    await exportGguf(path, { ...model, tokenizer: model, marks }, written);
    await compare(await readAnyModel(path), model, ({ length }) => length === 2 ? written : "F32");
    await writeHashed(join(staging, "Modelfile"), (file) => file.write(new TextEncoder().encode(text)));
  });
  return join(to, "model.gguf");
}

/** Compares what was written, as it reads, with what it was made of. @throws {MicrogptError} naming what differs */
async function compare(
  read: AnyModel,
  source: LlamaSource,
  typeOf: (shape: readonly number[]) => WrittenType,
): Promise<void> {
  const differs = (what: string) => {
    throw new MicrogptError(`the export reads back with another ${what}; nothing was written`);
  };
  for (const [field, value] of Object.entries(source.config)) {
    if (!same((read.config as unknown as Record<string, unknown>)[field], value)) differs(field);
  }
  if (read.chatTemplate !== source.chatTemplate) differs("chat template");
  if (read.ends.bos !== source.ends.bos || read.addBos !== source.addBos) differs("beginning of texts");
  if (read.ends.eos[0] !== source.ends.eos[0]) differs("end of texts");
  const [a, b] = [read.tokenizer, source.tokenizer];
  // rows without a token become unused tokens in GGUF
  if (!b.tokens.every(({ name }, id) => a.tokens[id]?.name === name)) differs("vocabulary");
  if (a.merges.length !== b.merges.length || a.merges.some((id, i) => id !== b.merges[i])) {
    differs("list of merges");
  }
  const params = await read.readParameters(source.layout);
  for (const { name, offset, rows, cols, shape } of source.layout.entries) {
    const range = [offset, offset + rows * cols] as const;
    if (!isClose(params.subarray(...range), source.params.subarray(...range), typeOf(shape))) differs(name);
  }
}

/** Numbers of GGUF metadata are f32. */
function same(a: unknown, b: unknown): boolean {
  if (typeof a === "number" && typeof b === "number") return Math.abs(a - b) <= 1e-6 * Math.abs(b);
  if (typeof a !== "object" || typeof b !== "object" || !a || !b) return a === b;
  return Object.entries(b).every(([key, value]) => same((a as Record<string, unknown>)[key], value));
}
