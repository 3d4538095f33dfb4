/**
 * Exports a gpt for transformers: a HuggingFace directory with the network as a small PyTorch module beside it, which
 * `trust_remote_code=True` loads. transformers has no such architecture of its own.
 */
import { files } from "../../platform/files.ts";
import { join } from "../../platform/paths.ts";
import { parseTokenizerJson } from "../../data/tokenizer_json.ts";
import { withLeadingToken } from "../../data/leading_token.ts";
import { MicrogptError } from "../../device/errors.ts";
import { writeHashed } from "../files/digest.ts";
import { parseObject } from "../files/directory.ts";
import { HF_PRODUCER, type HfFile, TORCH_NAMES } from "../files/hf/directory.ts";
import { GPT_TYPE, torchLayout } from "../files/hf/gpt_directory.ts";
import { ONE_FILE } from "../files/hf/weights.ts";
import { publish } from "../files/publish.ts";
import { type FileDtype, readParameters, writeParameters } from "../files/safetensors.ts";
import type { GptConfig } from "../gpt.ts";
import type { ParameterLayout } from "../parameters.ts";
import configurationSource from "./configuration_microgpt.py" with { type: "text" };
import { isClose } from "./compare_weights.ts";
import { checkHfOutput, removeOldHf } from "./llama_output.ts";
import modelingSource from "./modeling_microgpt.py" with { type: "text" };
import { generationConfig, modelConfig, specialTokens, tokenizerConfig } from "./onnx_config.ts";

/** What is exported. */
export interface GptSource {
  config: GptConfig;
  layout: ParameterLayout;
  /** [layout.length] */
  params: Float32Array;
  tokenizerJson: string;
}

/**
 * Writes the directory, reads it back and compares it before it counts.
 * @param to may hold an earlier export, which is replaced, and files of other names, which stay
 * @returns path of the weights
 * @throws {MicrogptError} when `to` cannot be written or holds what is not ours, or a weight does not fit the type
 */
export async function exportGptHf(to: string, source: GptSource, dtype: FileDtype): Promise<string> {
  await checkHfOutput(to);
  const texts = textsOf(source, dtype);
  const layout = torchLayout(source.layout);
  await publish(to, async (staging) => {
    const metadata: Record<string, string> = { format: "pt", producer: HF_PRODUCER };
    for (const [name, text] of texts) {
      const write = await writeHashed(
        join(staging, name),
        (file) => file.write(new TextEncoder().encode(text)),
      );
      metadata[name] = write.sha256;
    }
    await writeParameters(join(staging, ONE_FILE), layout, source.params, dtype, metadata);
    await compare(staging, source, layout, texts, dtype);
  });
  await removeOldHf(to, [...texts.keys(), ONE_FILE]);
  return join(to, ONE_FILE);
}

function textsOf({ config, tokenizerJson }: GptSource, dtype: FileDtype): Map<HfFile, string> {
  const json = (value: object) => JSON.stringify(value, null, 2) + "\n";
  const tokens = specialTokens(tokenizerJson, config.vocab_size);
  const { vocab_size, n_embd, n_head, n_layer, block_size } = config;
  const { bos_token_id, eos_token_id } = modelConfig(config, tokens) as Record<string, unknown>;
  const torchType = TORCH_NAMES[dtype];
  return new Map<HfFile, string>([
    [
      "config.json",
      json({
        architectures: ["MicrogptForCausalLM"],
        model_type: GPT_TYPE,
        auto_map: {
          AutoConfig: "configuration_microgpt.MicrogptConfig",
          AutoModelForCausalLM: "modeling_microgpt.MicrogptForCausalLM",
        },
        ...{ vocab_size, n_embd, n_head, n_layer, block_size },
        tie_word_embeddings: false,
        bos_token_id,
        eos_token_id,
        pad_token_id: bos_token_id,
        torch_dtype: torchType,
        dtype: torchType,
      }),
    ],
    ["generation_config.json", json(generationConfig(config, tokens))],
    ["tokenizer.json", withLeadingToken(parseTokenizerJson(tokenizerJson), tokens.bos)],
    ["tokenizer_config.json", json(tokenizerConfig(config, tokens))],
    ["configuration_microgpt.py", configurationSource],
    ["modeling_microgpt.py", modelingSource],
  ]);
}

/** Compares what was written, as it reads, with what it was made of. @throws {MicrogptError} naming what differs */
async function compare(
  dir: string,
  { config, params }: GptSource,
  layout: ParameterLayout,
  texts: ReadonlyMap<string, string>,
  dtype: FileDtype,
): Promise<void> {
  const differs = (what: string) => {
    throw new MicrogptError(`the export reads back with another ${what}; nothing was written`);
  };
  for (const [name, text] of texts) {
    if (await files.readTextFile(join(dir, name)) !== text) differs(name);
  }
  const written = parseObject(await files.readTextFile(join(dir, "config.json")), "config.json");
  for (const [field, value] of Object.entries(config)) if (written[field] !== value) differs(field);
  const path = join(dir, ONE_FILE);
  using file = await files.open(path);
  const { flat } = await readParameters(file, path, layout);
  for (const { name, offset, rows, cols } of layout.entries) {
    const range = [offset, offset + rows * cols] as const;
    if (!isClose(flat.subarray(...range), params.subarray(...range), dtype)) differs(name);
  }
}
