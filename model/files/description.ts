/** What a model is, as two of its files say it: `meta.json` and `tokenizer.json`. */
import { join } from "../../platform/paths.ts";
import { withLeadingToken } from "../../data/leading_token.ts";
import type { TokenizerFile } from "../../data/tokenizer_json.ts";
import { SPECIAL_TOKENS } from "../../data/tokenizer.ts";
import type { ModelConfig } from "../config.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { EndIds } from "./hf/config.ts";
import type { FileDigest } from "./digest.ts";
import { parseObject, printable, readText, wrongContent } from "./directory.ts";
import { checkConfig, networkKind, networkOf } from "../networks.ts";

/** How a model of others has texts and conversations written. */
export interface TextRules {
  ends: EndIds;
  /** texts begin with the `bos` token */
  addBos: boolean;
  /** how a conversation is written (Jinja); absent: the model is of plain text */
  chatTemplate?: string;
}

/** How this program's own models write a conversation, for other programs; between the marks is what is learned. */
export const OWN_TEMPLATE = "{{ bos_token }}{% for message in messages %}" +
  "{% if message['role'] == 'assistant' %}" +
  "{{ '<assistant>' }}{% generation %}{{ message['content'] + '<end_turn>' }}{% endgeneration %}" +
  "{% elif message['role'] == 'user' %}{{ '<user>' + message['content'] + '<end_turn>' }}" +
  "{% else %}{{ raise_exception('roles are user and assistant') }}{% endif %}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";

/** This program's own way to write texts, as other programs are told of it. */
export function ownRules(ids: ReadonlyMap<string, number>, chat: boolean): TextRules {
  const bos = ids.get(SPECIAL_TOKENS.bos)!;
  const eos = chat ? [ids.get(SPECIAL_TOKENS.endTurn)!, bos] : [bos];
  return { ends: { bos, eos, pad: bos }, addBos: true, ...(chat ? { chatTemplate: OWN_TEMPLATE } : {}) };
}

/**
 * The text of a model's `tokenizer.json`. A Llama's says what texts begin with, for programs that take the directory for
 * one of HuggingFace's; this program reads that in `meta.json`.
 */
export function savedTokenizer(
  { architecture }: Pick<ModelConfig, "architecture">,
  tokenizer: TokenizerFile,
  { ends, addBos }: Pick<TextRules, "ends" | "addBos">,
): string {
  return architecture === "llama"
    ? withLeadingToken(tokenizer, addBos ? ends.bos : undefined)
    : tokenizer.json;
}

/** What `meta.json` and `tokenizer.json` say. */
export interface ModelDescription {
  config: ModelConfig;
  /** the model knows the turns of a chat (`special_tokens` in meta.json, or a template) */
  chat: boolean;
  /** the text of `tokenizer.json` */
  tokenizerJson: string;
  /** absent: texts are written in this program's own way, from `<bos>` to `<bos>` */
  rules?: TextRules;
}

/** What meta.json calls the special tokens: theirs without the angle brackets. */
const [BOS, ...CHAT_TOKENS] = Object.values(SPECIAL_TOKENS).map((token) => token.slice(1, -1));

const META_MAX_BYTES = 1 << 20;
/** A tokenizer takes about 100 bytes a token; more than this is not one for the vocabulary. */
const tokenizerMaxBytes = (vocabulary: number) => Math.min((1 << 20) + 1024 * vocabulary, 64 << 20);

/**
 * Reads `meta.json`.
 * @param expected what the file must be, where a save says so
 * @throws {MicrogptError} when it is missing, malformed or another file than expected
 */
export async function readMeta(
  dir: string,
  expected?: FileDigest,
): Promise<Omit<ModelDescription, "tokenizerJson">> {
  const path = join(dir, "meta.json");
  const meta = parseObject(await readText(dir, "meta.json", META_MAX_BYTES, expected), path);
  const wrong = (what: string, cause?: unknown) => wrongContent(`${path}: ${what}`, cause);
  let config: ModelConfig;
  try {
    config = networkKind(meta.architecture).readConfig(meta);
    checkConfig(config);
  } catch (error) {
    if (!(error instanceof MicrogptError)) throw error;
    throw wrong(error.message, error);
  }
  if (meta.text_rules !== undefined) {
    const rules = readRules(meta.text_rules, config.vocab_size, wrong);
    return { config, chat: rules.chatTemplate !== undefined, rules };
  }
  const special = meta.special_tokens ?? [];
  if (!Array.isArray(special)) throw wrong("special_tokens is not a list");
  const chat = special.length > 0;
  if (chat && !CHAT_TOKENS.every((token) => special.includes(token))) {
    throw wrong(`special_tokens of a chat model are ${CHAT_TOKENS.join(", ")}`);
  }
  return { config, chat };
}

/** The rules as `meta.json` has them. @param wrong makes the error */
function readRules(value: unknown, vocabulary: number, wrong: (what: string) => MicrogptError): TextRules {
  const { bos, eos, pad, add_bos: addBos, chat_template: chatTemplate } = (value ?? {}) as Record<
    string,
    unknown
  >;
  const isId = (id: unknown) => Number.isInteger(id) && Number(id) >= 0 && Number(id) < vocabulary;
  const ids = [bos, pad].filter((id) => id !== undefined);
  if (!Array.isArray(eos) || ![...ids, ...eos].every(isId) || typeof addBos !== "boolean") {
    throw wrong(
      "text_rules are bos, eos, pad and add_bos: ids of tokens, a list of them, one more, and true or false",
    );
  }
  if (chatTemplate !== undefined && typeof chatTemplate !== "string") {
    throw wrong("chat_template of text_rules is not a text");
  }
  const ends = {
    ...(bos === undefined ? {} : { bos: bos as number }),
    eos: eos as number[],
    ...(pad === undefined ? {} : { pad: pad as number }),
  };
  return { ends, addBos, ...(chatTemplate === undefined ? {} : { chatTemplate }) };
}

/**
 * Reads `tokenizer.json` and checks that its vocabulary is the model's. Its contents are the tokenizer's to judge.
 * @param expected what the file must be, where a save says so
 * @returns its text
 * @throws {MicrogptError} when it is missing, of another vocabulary or another file than expected
 */
export async function readTokenizer(
  dir: string,
  { config, chat, rules }: Omit<ModelDescription, "tokenizerJson">,
  expected?: FileDigest,
): Promise<string> {
  const path = join(dir, "tokenizer.json");
  const text = await readText(dir, "tokenizer.json", tokenizerMaxBytes(config.vocab_size), expected);
  const ids = vocabulary(parseObject(text, path), path);
  const size = new Set(ids.values()).size;
  // models of others may have rows without a token
  if (rules ? size > config.vocab_size : size !== config.vocab_size) {
    throw new MicrogptError(`${path} has ${size} tokens, meta.json has vocab_size ${config.vocab_size}`, {
      hint: "the files come from different models; copy the whole directory",
    });
  }
  for (const token of rules ? [] : [BOS, ...(chat ? CHAT_TOKENS : [])]) {
    if (!ids.has(`<${token}>`)) throw wrongContent(`${path} has no token <${token}>`);
  }
  for (const [token, id] of ids) {
    if (Number.isInteger(id) && id >= 0 && id < size) continue;
    const got = printable(JSON.stringify(id) ?? "none");
    throw wrongContent(`${path}: token ${printable(token)} has id ${got}, not 0 to ${size - 1}`);
  }
  return text;
}

/** Ids of all tokens: the BPE model's and those added to it. */
function vocabulary(tokenizer: Record<string, unknown>, path: string): Map<string, number> {
  const { model, added_tokens: added } = tokenizer as {
    model?: { vocab?: Record<string, number> };
    added_tokens?: { content: string; id: number }[];
  };
  const vocab = model?.vocab;
  if (typeof vocab !== "object" || vocab === null || Array.isArray(vocab)) {
    throw wrongContent(`${path}: model.vocab is missing`);
  }
  const ids = new Map(Object.entries(vocab));
  for (const token of Array.isArray(added) ? added : []) ids.set(String(token?.content), token?.id);
  return ids;
}

/** The text of `meta.json`. */
export function metaJson({ config, chat, rules }: ModelDescription): string {
  const meta = networkOf(config).toMeta();
  const ways = rules ? { text_rules: rulesJson(rules) } : chat ? { special_tokens: CHAT_TOKENS } : {};
  return JSON.stringify({ ...meta, ...ways }, null, 2) + "\n";
}

function rulesJson({ ends: { bos, eos, pad }, addBos, chatTemplate }: TextRules): Record<string, unknown> {
  return { bos, eos, pad, add_bos: addBos, chat_template: chatTemplate };
}
