/**
 * A gpt of this program as a HuggingFace directory, as `export --format hf` writes it with the network's Python code beside
 * it: how its tensors are called, and how it is read again.
 */
import { files } from "../../../platform/files.ts";
import { join } from "../../../platform/paths.ts";
import { SPECIAL_TOKENS } from "../../../data/tokenizer.ts";
import { parseTokenizerJson, type TokenizerFile } from "../../../data/tokenizer_json.ts";
import { MicrogptError } from "../../../device/errors.ts";
import { gpt, type GptConfig, gptNetwork } from "../../gpt.ts";
import type { ParameterLayout } from "../../parameters.ts";
import { fileError, parseObject } from "../directory.ts";
import type { FileDtype } from "../safetensors.ts";
import { findHfWeights, type HfWeights } from "./weights.ts";

/** `model_type` of its config.json. */
export const GPT_TYPE = "microgpt";

/** What a directory says of its model beside the weights' values. */
export interface GptHfModel {
  config: GptConfig;
  weights: HfWeights;
  /** of each parameter in the files, by our own names */
  types: ReadonlyMap<string, FileDtype>;
  tokenizer: TokenizerFile;
  /** it was trained on conversations */
  chat: boolean;
}

/** A layout with the parameters' names as PyTorch's modules have them. */
export function torchLayout(layout: ParameterLayout): ParameterLayout {
  const entries = layout.entries.map((entry) => ({
    ...entry,
    name: `${entry.name.replace(/^layer(\d+)\./, "layers.$1.")}.weight`,
  }));
  return { ...layout, entries, byName: new Map(entries.map((entry) => [entry.name, entry])) };
}

/**
 * Reads everything but the weights' values.
 * @param json the parsed config.json
 * @throws {MicrogptError} for a file that is missing or malformed, and files that contradict each other
 */
export async function readGptHfDirectory(dir: string, json: Record<string, unknown>): Promise<GptHfModel> {
  const config = gpt.readConfig(json);
  gpt.checkConfig(config, { name: (field) => `${join(dir, "config.json")}: ${field}` });
  const { layout } = gptNetwork(config);
  const { entries } = torchLayout(layout);
  const shapes = new Map(entries.map(({ name, shape }) => [name, shape]));
  const weights = await findHfWeights(dir, { shapes, tied: false });
  const types = new Map(layout.entries.map(({ name }, i) => {
    return [name, weights.places.get(entries[i]!.name)!.tensor.dtype] as const;
  }));
  const tokenizer = await readTokenizer(join(dir, "tokenizer.json"));
  if (tokenizer.tokens.length > config.vocab_size) {
    throw new MicrogptError(
      `${dir}: tokenizer.json has ${tokenizer.tokens.length} tokens, config.json has vocab_size ${config.vocab_size}`,
      { hint: "the files come from different models; get the whole directory again" },
    );
  }
  return { config, weights, types, tokenizer, chat: tokenizer.ids.has(SPECIAL_TOKENS.endTurn) };
}

/** The tokenizer as it was before the export, which put `<bos>` in front of each text for other programs. */
async function readTokenizer(path: string): Promise<TokenizerFile> {
  let text: string;
  try {
    text = await files.readTextFile(path);
  } catch (error) {
    throw fileError(`cannot read ${path}`, error, "get the whole directory again");
  }
  return parseTokenizerJson(JSON.stringify({ ...parseObject(text, path), post_processor: null }));
}
