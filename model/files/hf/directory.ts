/**
 * A model as a HuggingFace directory: `config.json`, weights, `tokenizer.json` and what says how to use them. Read and
 * written here; what a Llama's `config.json` means is config.ts's.
 */
import { files } from "../../../platform/files.ts";
import { join } from "../../../platform/paths.ts";
import { withLeadingToken } from "../../../data/leading_token.ts";
import { parseTokenizerJson, type TokenizerFile } from "../../../data/tokenizer_json.ts";
import { MicrogptError } from "../../../device/errors.ts";
import type { LlamaConfig } from "../../llama_config.ts";
import type { ParameterLayout } from "../../parameters.ts";
import { fileError, ifThere, parseObject } from "../directory.ts";
import { type EntryReader, type FileDtype, writeParameters } from "../safetensors.ts";
import { type FileDigest, writeHashed } from "../digest.ts";
import { type EndIds, endIds, hfConfig, llamaOfHf } from "./config.ts";
import { llamaTensors } from "./tensors.ts";
import { findHfWeights, type HfWeights, ONE_FILE } from "./weights.ts";

/** What a directory says of its model beside the weights' values. */
export interface HfModel {
  config: LlamaConfig;
  weights: HfWeights;
  tokenizer: TokenizerFile;
  chatTemplate?: string;
  ends: EndIds;
  /** texts begin with the `bos` token */
  addBos: boolean;
}

const MAX_CONFIG_BYTES = 4 << 20;
const MAX_TOKENIZER_BYTES = 64 << 20;

/** The fields of a directory's `config.json`. @throws {MicrogptError} when it is missing or malformed */
export async function readHfConfig(dir: string): Promise<Record<string, unknown>> {
  return parseObject(await required(dir, "config.json", MAX_CONFIG_BYTES), join(dir, "config.json"));
}

/**
 * Reads everything but the weights' values.
 * @param json the parsed config.json
 * @throws {MicrogptError} for a file that is missing or malformed, another network, and files that contradict each other
 */
export async function readHfDirectory(dir: string, json: Record<string, unknown>): Promise<HfModel> {
  const path = join(dir, "config.json");
  const config = llamaOfHf(json, path);
  const weights = await findHfWeights(dir, { shapes: llamaTensors(config), tied: config.tie });
  const tokenizer = tokenizerOf(await required(dir, "tokenizer.json", MAX_TOKENIZER_BYTES), dir);
  if (tokenizer.tokens.length > config.vocab_size) {
    throw new MicrogptError(
      `${
        join(dir, "tokenizer.json")
      } has ${tokenizer.tokens.length} tokens, config.json has vocab_size ${config.vocab_size}`,
      { hint: "the files come from different models; get the whole directory again" },
    );
  }
  const generation = await object(dir, "generation_config.json");
  const tokenizerConfig = await object(dir, "tokenizer_config.json");
  const ends = withNames(endIds(json, generation, config.vocab_size, dir), tokenizerConfig, tokenizer.ids);
  const chatTemplate = await template(dir, tokenizerConfig);
  return {
    config,
    weights,
    tokenizer,
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
    ends,
    addBos: ends.bos !== undefined &&
      (tokenizer.first !== undefined || tokenizerConfig.add_bos_token === true),
  };
}

function tokenizerOf(json: string, dir: string) {
  try {
    return parseTokenizerJson(json);
  } catch (error) {
    if (error instanceof MicrogptError) throw new MicrogptError(`${dir}: ${error.message}`, { cause: error });
    throw error;
  }
}

/** Ids that `config.json` leaves out, by the names in `tokenizer_config.json`; its `eos_token` ends a chat's answers too. */
function withNames(ends: EndIds, config: Record<string, unknown>, ids: ReadonlyMap<string, number>): EndIds {
  const id = (key: string): number | undefined => {
    const value = config[key];
    const name = typeof value === "object" && value !== null
      ? (value as Record<string, unknown>).content
      : value;
    return typeof name === "string" ? ids.get(name) : undefined;
  };
  const [bos, eos, pad] = [ends.bos ?? id("bos_token"), id("eos_token"), ends.pad ?? id("pad_token")];
  return {
    ...(bos === undefined ? {} : { bos }),
    eos: [...new Set([...ends.eos, ...(eos === undefined ? [] : [eos])])],
    ...(pad === undefined ? {} : { pad }),
  };
}

/** `chat_template.jinja`, or the template in `tokenizer_config.json`: of several named ones the default. */
async function template(dir: string, config: Record<string, unknown>): Promise<string | undefined> {
  const file = await optional(dir, "chat_template.jinja", MAX_CONFIG_BYTES);
  if (file !== undefined) return file;
  const found = config.chat_template;
  if (typeof found === "string" || found === undefined || found === null) return found ?? undefined;
  const named = Array.isArray(found) ? found.find((entry) => entry?.name === "default")?.template : undefined;
  if (typeof named === "string") return named;
  throw new MicrogptError(
    `${join(dir, "tokenizer_config.json")}: chat_template is neither text nor a list with a default`,
  );
}

async function required(dir: string, name: string, maxBytes: number): Promise<string> {
  const text = await optional(dir, name, maxBytes);
  if (text !== undefined) return text;
  throw new MicrogptError(`${join(dir, name)} is missing`, {
    hint: name === "tokenizer.json"
      ? "only models with a tokenizer.json are read; transformers' save_pretrained writes one"
      : "this is not a whole model directory",
  });
}

async function object(dir: string, name: string): Promise<Record<string, unknown>> {
  const text = await optional(dir, name, MAX_CONFIG_BYTES);
  return text === undefined ? {} : parseObject(text, join(dir, name));
}

async function optional(dir: string, name: string, maxBytes: number): Promise<string | undefined> {
  const path = join(dir, name);
  try {
    const info = await ifThere(files.stat(path));
    if (!info) return undefined;
    if (!info.isFile) throw new MicrogptError(`${path} is not a regular file`);
    if (info.size > maxBytes) {
      throw new MicrogptError(`${path} has ${info.size} bytes, at most ${maxBytes} are read`);
    }
    return new TextDecoder("utf-8", { fatal: true }).decode(await files.readFile(path));
  } catch (error) {
    if (error instanceof TypeError) throw new MicrogptError(`${path} is not valid UTF-8`, { cause: error });
    throw fileError(`cannot read ${path}`, error);
  }
}

/** A model to write. */
export interface HfExport {
  config: LlamaConfig;
  /** of HuggingFace's names and the config's shapes */
  layout: ParameterLayout;
  /** [layout.length] */
  params: Float32Array;
  tokenizer: TokenizerFile;
  ends: EndIds;
  addBos: boolean;
  chatTemplate?: string;
}

/** The files that are written; `chat_template.jinja` only where there is a template, the code only for a gpt. */
export const HF_FILES = [
  "config.json",
  "generation_config.json",
  "model.safetensors",
  "tokenizer.json",
  "tokenizer_config.json",
  "chat_template.jinja",
  "configuration_microgpt.py",
  "modeling_microgpt.py",
] as const;

/** One of them. */
export type HfFile = (typeof HF_FILES)[number];

/** What the weights' file of an export says of who made it. */
export const HF_PRODUCER = "microgpt";

/** What PyTorch calls the types. */
export const TORCH_NAMES: Record<FileDtype, string> = { F32: "float32", BF16: "bfloat16", F16: "float16" };

/**
 * Writes all files of a model. The weights' file names the digests of the others, by which an export is known again.
 * @param dir an empty directory, such as what `publish` gives
 * @param templateFile writes the chat template to a file of its own too, as new versions of transformers do
 * @returns the digest of each file
 * @throws {MicrogptError} when a weight is not finite or does not fit the type
 */
export async function writeHfDirectory(
  dir: string,
  model: Omit<HfExport, "params"> & { params: Float32Array | EntryReader },
  dtype: FileDtype,
  templateFile = true,
): Promise<Partial<Record<HfFile, FileDigest>>> {
  const { layout, params, chatTemplate } = model;
  const texts = new Map(hfTexts(model, dtype));
  if (templateFile && chatTemplate !== undefined) texts.set("chat_template.jinja", chatTemplate);
  const metadata: Record<string, string> = { format: "pt", producer: HF_PRODUCER };
  const digests: Partial<Record<HfFile, FileDigest>> = {};
  for (const [name, text] of texts) {
    const digest = await writeHashed(
      join(dir, name),
      (file) => file.write(new TextEncoder().encode(text)),
    );
    digests[name] = digest;
    metadata[name] = digest.sha256;
  }
  const weights = join(dir, ONE_FILE);
  digests[ONE_FILE] = await writeParameters(weights, layout, params, dtype, metadata);
  return digests;
}

/** The JSON files. */
function hfTexts(
  { config, tokenizer: file, ends, addBos, chatTemplate }: Omit<HfExport, "params">,
  dtype: FileDtype,
): [HfFile, string][] {
  const { tokens, special } = file;
  const name = (id: number | undefined) => id === undefined ? undefined : tokens[id]?.name;
  const bos = name(ends.bos);
  const json = (value: object) => JSON.stringify(value, null, 2) + "\n";
  const generation = {
    ...(ends.bos === undefined ? {} : { bos_token_id: ends.bos }),
    eos_token_id: ends.eos,
    ...(ends.pad === undefined ? {} : { pad_token_id: ends.pad }),
    do_sample: true,
    temperature: 0.5,
  };
  const named = new Set([bos, name(ends.eos[0]), name(ends.pad)]);
  const others = special.map(({ content }) => content).filter((content) => !named.has(content));
  const tokenizerConfig = {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: bos,
    eos_token: name(ends.eos[0]),
    pad_token: name(ends.pad),
    add_bos_token: addBos,
    additional_special_tokens: others,
    model_max_length: config.block_size,
    clean_up_tokenization_spaces: false,
    chat_template: chatTemplate,
  };
  return [
    ["config.json", json(hfConfig(config, ends, TORCH_NAMES[dtype]))],
    ["generation_config.json", json(generation)],
    ["tokenizer.json", withLeadingToken(file, addBos ? ends.bos : undefined)],
    ["tokenizer_config.json", json(tokenizerConfig)],
  ];
}
