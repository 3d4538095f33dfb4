/** What a run with `from` starts from: the weights of a model, its tokenizer, and how it writes texts. */
import { withChatTokens } from "../../data/chat_tokens.ts";
import type { CorpusOptions } from "../../data/corpus.ts";
import { type DocumentEncoder, ownEncoder } from "../../data/documents.ts";
import { parseTokenizerJson } from "../../data/tokenizer_json.ts";
import { SPECIAL_TOKENS, type Tokenizer } from "../../data/tokenizer.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { ModelConfig } from "../config.ts";
import { type AnyModel, readAnyModel } from "../files/any_model.ts";
import { localModel } from "../files/hub/local_model.ts";
import { type ModelDescription, OWN_TEMPLATE, savedTokenizer } from "../files/description.ts";
import { foreignEncoder, foreignRules } from "../generate/foreign.ts";
import { checkConfig, networkOf } from "../networks.ts";
import type { ParameterLayout } from "../parameters.ts";

/** A model to start from, described. */
export interface BaseModel extends ModelDescription {
  /** as it was named */
  path: string;
  /** what was done to it */
  notices: string[];
  /**
   * Reads the weights, with rows for the tokens that were added.
   * @returns [length of the config's layout]
   * @throws {MicrogptError} when the files changed, or a value is not finite
   */
  readParameters(): Promise<Float32Array<ArrayBuffer>>;
}

/**
 * Describes a model to start from; its weights are read later.
 * @param path of it, or its name on the hub as `localModel` takes it
 * @param chat it is to be trained on conversations: a model of plain text gets chat tokens
 * @throws {MicrogptError} when there is none, or it cannot be trained
 */
export async function readBase(path: string, chat: boolean): Promise<BaseModel> {
  const model = await readAnyModel(await localModel(path));
  checkConfig(model.config, { name: (field) => `${path}: ${field}` });
  return chat && !model.chat ? withTurns(model) : {
    ...described(model),
    path,
    notices: [],
    readParameters: () => model.readParameters(networkOf(model.config).layout),
  };
}

/** Longer ones do not fit into `meta.json`; real ones have some ten thousand characters. */
const MAX_TEMPLATE = 1 << 17;

function described(model: AnyModel): ModelDescription {
  const { config, chat, tokenizer, ownWay, ends, addBos, chatTemplate } = model;
  const tokenizerJson = savedTokenizer(config, tokenizer, model);
  if (ownWay) return { config, chat, tokenizerJson };
  if (chatTemplate !== undefined && chatTemplate.length > MAX_TEMPLATE) {
    throw new MicrogptError(
      `${model.path}: the chat template has ${chatTemplate.length} characters, ` +
        `a run can keep ${MAX_TEMPLATE} of one`,
      { hint: "take the model's template from its newest release" },
    );
  }
  const rules = { ends, addBos, ...(chatTemplate === undefined ? {} : { chatTemplate }) };
  return { config, chat, tokenizerJson, rules };
}

/** A model of plain text, with tokens and rows for the turns of a conversation. */
function withTurns(model: AnyModel): BaseModel {
  const { config: old, path, ends } = model;
  const { tokens: { length: tokens }, json } = model.tokenizer;
  const { json: withTokens, added } = withChatTokens(json);
  const tokenizer = parseTokenizerJson(withTokens);
  const config: ModelConfig = { ...old, vocab_size: Math.max(old.vocab_size, tokens + added.length) };
  const endTurn = tokenizer.ids.get(SPECIAL_TOKENS.endTurn)!;
  const rules = {
    addBos: model.addBos,
    ends: { ...ends, eos: [endTurn, ...ends.eos] },
    chatTemplate: OWN_TEMPLATE,
  };
  const notice = `${path} is a model of plain text: its tokenizer gets ${added.join(", ")}, ` +
    "each with the mean of all tokens as its row of the embedding and the head";
  return {
    config,
    chat: true,
    tokenizerJson: savedTokenizer(config, tokenizer, model),
    ...(model.ownWay ? {} : { rules }),
    path,
    notices: added.length === 0 ? [] : [notice],
    readParameters: async () => {
      const [from, to] = [networkOf(old).layout, networkOf(config).layout];
      return withRows(await model.readParameters(from), from, to, { first: tokens, count: added.length });
    },
  };
}

/**
 * Weights with rows for more tokens, in the embedding and the head: each is the mean of those of the tokens before.
 * @param from the layout of `params`
 * @param to the layout with the rows
 * @param rows which of them are new; there may have been some already, without a token
 * @returns [to.length]
 */
function withRows(
  params: Float32Array<ArrayBuffer>,
  from: ParameterLayout,
  to: ParameterLayout,
  { first, count }: { first: number; count: number },
): Float32Array<ArrayBuffer> {
  const grown = from.length === to.length ? params : new Float32Array(to.length);
  for (const entry of to.entries) {
    const before = from.byName.get(entry.name)!;
    const { offset, cols } = entry;
    if (grown !== params) {
      grown.set(params.subarray(before.offset, before.offset + before.rows * cols), offset);
    }
    if (!entry.perToken) continue;
    const mean = meanRow(grown.subarray(offset, offset + first * cols), cols);
    for (let row = first; row < first + count; row++) grown.set(mean, offset + row * cols);
  }
  return grown;
}

function meanRow(table: Float32Array, cols: number): Float32Array {
  const sum = new Float64Array(cols);
  table.forEach((value, i) => sum[i % cols]! += value);
  return Float32Array.from(sum, (value) => value * cols / table.length);
}

/**
 * Checks that a setting says nothing else than the model.
 * @throws {MicrogptError} naming the first that does
 */
export function checkShape(path: string, shape: object, given: object): void {
  for (const [name, value] of Object.entries(shape)) {
    const asked = (given as Record<string, unknown>)[name];
    if (asked === undefined || asked === value) continue;
    throw new MicrogptError(`\`${name}\` is ${asked}, the model in ${path} has ${value}`, {
      hint: "leave it out: a run keeps the shape of the model that it starts from",
      usage: true,
    });
  }
}

/** How documents become tokens of a model, and where it takes system messages. */
export async function encoderOf(
  { config, rules }: BaseModel,
  tokenizer: Tokenizer,
): Promise<{ encoder: DocumentEncoder; keepSystem: boolean | "first" }> {
  if (!rules) return { encoder: ownEncoder(tokenizer), keepSystem: false };
  const foreign = await foreignRules({ ...rules, config }, tokenizer);
  const { keepsSystem: keepSystem = false } = foreign.template ?? {};
  return { encoder: foreignEncoder(tokenizer, foreign, rules), keepSystem };
}

/** Whether data is read as conversations, where nobody says: for a chat model, unless it is read as plain text. */
export function readsConversations(
  model: { chat: boolean } | undefined,
  { chat, format, document }: Pick<CorpusOptions, "chat" | "format" | "document">,
): boolean {
  return chat ?? (model?.chat === true && format !== "text" && document === undefined);
}
