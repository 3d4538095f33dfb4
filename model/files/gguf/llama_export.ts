/** Writes a Llama as one GGUF file, which llama.cpp, ollama and LM Studio run, with a Modelfile for ollama. */
import type { LlamaConfig } from "../../llama_config.ts";
import type { ParameterEntry, ParameterLayout } from "../../parameters.ts";
import { OWN_TEMPLATE } from "../description.ts";
import type { FileDigest } from "../digest.ts";
import { checkScaling, ggufArchitecture, ggufConfig, ROPE_FACTORS, ropeFactors } from "./llama_config.ts";
import { ggufName, isInterleaved } from "./llama_tensors.ts";
import { type GgufTokenizer, ggufTokenizer } from "./llama_tokenizer.ts";
import type { WrittenType } from "./quantize.ts";
import { halvesRow } from "./rope_order.ts";
import type { GgufValue } from "./types.ts";
import { type TensorToWrite, writeGguf } from "./write.ts";

/** A model to write. */
export interface GgufModel {
  name: string;
  config: LlamaConfig;
  /** of HuggingFace's names and the config's shapes */
  layout: ParameterLayout;
  /** [layout.length] */
  params: Float32Array;
  tokenizer: GgufTokenizer;
  /** further text for the metadata, by its key */
  marks?: ReadonlyMap<string, string>;
}

/** llama.cpp's number for what most tensors of a file are (llama_ftype). */
const FILE_TYPES: Record<WrittenType, number> = { F32: 0, F16: 1, Q8_0: 7, BF16: 32 };

/**
 * Writes the file and flushes it to disk. Norms and biases are f32 in every type, as llama.cpp wants them.
 * @param path must not exist
 * @param type of the matrices
 * @throws {MicrogptError} when a weight does not fit the type, or rows are no multiple of 32 for Q8_0
 */
export async function exportGguf(path: string, model: GgufModel, type: WrittenType): Promise<FileDigest> {
  const { name, config, layout } = model;
  checkScaling(config);
  const metadata = new Map<string, GgufValue>([
    ["general.architecture", { type: "string", value: ggufArchitecture(config) }],
    ["general.type", { type: "string", value: "model" }],
    ["general.name", { type: "string", value: name }],
    ["general.file_type", { type: "u32", value: FILE_TYPES[type] }],
    ...(type === "Q8_0" ? [["general.quantization_version", { type: "u32", value: 2 }] as const] : []),
    ...ggufConfig(config),
    ...ggufTokenizer(model.tokenizer, config.vocab_size),
    ...[...model.marks ?? []].map(([key, value]) => [key, { type: "string", value }] as const),
  ]);
  const tensors = layout.entries.map((entry) => tensorToWrite(entry, model, type));
  if (config.rope_scaling) {
    const factors = ropeFactors(config, config.rope_scaling);
    tensors.push({
      name: ROPE_FACTORS,
      type: "F32",
      shape: [factors.length],
      rows: (_, into) => into.set(factors),
    });
  }
  return await writeGguf(path, metadata, tensors);
}

function tensorToWrite(
  entry: ParameterEntry,
  { config, params }: GgufModel,
  type: WrittenType,
): TensorToWrite {
  const { name, shape, cols, offset } = entry;
  const matrix = shape.length === 2;
  const move = isInterleaved(name, config);
  return {
    name: ggufName(name),
    type: matrix ? type : "F32",
    shape: [...shape],
    rows: (first, into) => {
      // a vector is one row; of a bias its elements move
      const length = matrix ? cols : 1;
      for (let i = 0; i < into.length / length; i++) {
        const row = (matrix ? first : first * cols) + i;
        const from = offset + (move ? halvesRow(row, config.head_dim) : row) * length;
        into.set(params.subarray(from, from + length), i * length);
      }
    },
  };
}

/** `OWN_TEMPLATE` as ollama writes templates, for which it finds only those that it knows in a GGUF. */
const OLLAMA_TEMPLATE =
  '{{ range .Messages }}{{ if eq .Role "assistant" }}<assistant>{{ .Content }}<end_turn>' +
  '{{ else if eq .Role "user" }}<user>{{ .Content }}<end_turn>{{ end }}{{ end }}<assistant>';

/**
 * The text of a Modelfile beside the file.
 * @param file the GGUF's name
 * @param stops texts that end an answer
 * @param chatTemplate of the model
 */
export function modelfile(
  file: string,
  stops: readonly string[],
  chatTemplate?: string,
  temperature = 0.5,
): string {
  const lines = [`FROM ./${file}`];
  if (chatTemplate === OWN_TEMPLATE) lines.push(`TEMPLATE """${OLLAMA_TEMPLATE}"""`);
  lines.push(`PARAMETER temperature ${temperature}`);
  for (const stop of stops) lines.push(`PARAMETER stop ${JSON.stringify(stop)}`);
  return lines.join("\n") + "\n";
}
