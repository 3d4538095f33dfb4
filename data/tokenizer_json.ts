/**
 * Reads `tokenizer.json`: the one place where it is judged, for the native tokenizer and the one in JavaScript. The file
 * may come from anywhere. Nothing of it is compiled or run: one with a normalizer or a regular expression of its own is
 * refused, and every id, token and merge is checked.
 */

import { MicrogptError } from "../device/errors.ts";
import { SPECIAL_TOKENS } from "./tokenizer.ts";

/** Larger files are refused unread, in UTF-16 units. */
const MAX_FILE = 64 * 2 ** 20;

/** A checked byte-level BPE tokenizer: all that a tokenizer needs to know of its file. */
export interface TokenizerFile {
  /** Every token by its id, special ones included. */
  tokens: { name: string; special: boolean }[];
  /** The id of every token by its name, special ones included. */
  ids: Map<string, number>;
  /** Ids of the tokens that text can become: all but the special ones. */
  vocab: Map<string, number>;
  /** Pairs of tokens, those to merge first at the front. */
  merges: [string, string][];
}

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
type JsonObject = { [key: string]: Json };

/**
 * Parses and checks `tokenizer.json`.
 * @throws {MicrogptError} when it is not JSON or not a byte-level BPE tokenizer with `<bos>`
 */
export function parseTokenizerJson(text: string): TokenizerFile {
  if (text.length > MAX_FILE) throw refuse(`${text.length >> 20} MB, at most ${MAX_FILE >> 20} MB are read`);
  let root: Json;
  try {
    root = JSON.parse(text);
  } catch (cause) {
    throw refuse(`not JSON: ${(cause as Error).message}`, cause);
  }
  if (!isObject(root)) throw refuse("not a JSON object");
  const model = root.model;
  if (!isObject(model)) throw refuse("there is no model");
  checkKinds(root, model);
  checkModel(model);
  const tokens = tokenTable(root, model);
  const ids = new Map<string, number>();
  const vocab = new Map<string, number>();
  tokens.forEach(({ name, special }, id) => {
    ids.set(name, id);
    if (!special) vocab.set(name, id);
  });
  return { tokens, ids, vocab, merges: checkedMerges(model.merges, vocab) };
}

function checkKinds(root: JsonObject, model: JsonObject): void {
  if ((model.type ?? "BPE") !== "BPE") throw refuse(`the model is ${kind(model)}, only BPE is read`);
  for (const name of ["pre_tokenizer", "decoder"]) {
    const found = kind(root[name]);
    if (found !== "ByteLevel") throw refuse(`the ${name} is ${found}, only ByteLevel is read`);
  }
  const { add_prefix_space: prefix = false, use_regex: regex = true } = root.pre_tokenizer as JsonObject;
  if (prefix !== false || regex !== true) {
    throw refuse("the pre_tokenizer must have add_prefix_space false and use_regex true");
  }
  if (kind(root.normalizer) !== "none") {
    throw refuse(`the normalizer is ${kind(root.normalizer)}, only none is read`);
  }
  const post = kind(root.post_processor);
  if (post !== "none" && post !== "ByteLevel") {
    throw refuse(`the post_processor is ${post}, only ByteLevel or none is read`);
  }
}

function checkModel(model: JsonObject): void {
  const refused = [
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
  ];
  for (const name of [...refused, "ignore_merges"]) {
    const value = model[name] ?? false;
    if (value !== false && value !== 0 && value !== "") {
      throw refuse(`the model sets ${name}, which is not supported`);
    }
  }
}

/** Vocabulary and added tokens as one table by id: every id from 0 on exactly once. */
function tokenTable(root: JsonObject, model: JsonObject): TokenizerFile["tokens"] {
  if (!isObject(model.vocab)) throw refuse("the model has no vocab");
  const ids = new Map<string, { id: Json | undefined; special: boolean }>();
  for (const [name, id] of Object.entries(model.vocab)) ids.set(name, { id, special: false });
  const added = root.added_tokens ?? [];
  if (!Array.isArray(added)) throw refuse("added_tokens is not a list");
  for (const token of added) {
    if (!isObject(token) || typeof token.content !== "string") throw refuse("an added token has no content");
    const { id, content } = token;
    const known = ids.get(content);
    if (known !== undefined && known.id !== id) {
      throw refuse(`the token ${JSON.stringify(content)} has two ids, ${known.id} and ${id}`);
    }
    ids.set(content, { id, special: token.special === true });
  }
  const bos = ids.get(SPECIAL_TOKENS.bos);
  if (bos === undefined) throw refuse(`there is no ${SPECIAL_TOKENS.bos} token`);
  if (!bos.special) throw refuse(`${SPECIAL_TOKENS.bos} is not marked as a special token`);
  const table: TokenizerFile["tokens"] = new Array(ids.size);
  for (const [name, { id, special }] of ids) {
    if (name === "") throw refuse(`token ${id} is empty`);
    if (!name.isWellFormed()) throw refuse(`token ${id} is half a character`);
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= ids.size) {
      throw refuse(`the token ${JSON.stringify(name)} has id ${id}, but there are only ${ids.size} tokens`);
    }
    const other = table[id];
    if (other !== undefined) {
      throw refuse(`the tokens ${JSON.stringify(other.name)} and ${JSON.stringify(name)} both have id ${id}`);
    }
    table[id] = { name, special };
  }
  return table;
}

/** The merges as pairs; both parts and what they make must be ordinary tokens. */
function checkedMerges(merges: Json | undefined, vocab: Map<string, number>): [string, string][] {
  if (!Array.isArray(merges)) throw refuse("the model has no merges");
  return merges.map((merge, i) => {
    // "left right", as files were written until 2024.
    const pair = typeof merge === "string" ? merge.split(" ") : merge;
    if (!Array.isArray(pair) || pair.length !== 2 || !pair.every((part) => typeof part === "string")) {
      throw refuse(`merge ${i} is ${JSON.stringify(merge)}, not two tokens`);
    }
    const [left, right] = pair as [string, string];
    const missing = [left, right, left + right].find((token) => !vocab.has(token));
    if (missing !== undefined) {
      const token = JSON.stringify(missing);
      throw refuse(`merge ${i} needs the token ${token}, which is special or not in the vocabulary`);
    }
    return [left, right];
  });
}

function kind(part: Json | undefined): string {
  if (part === null || part === undefined) return "none";
  return isObject(part) && typeof part.type === "string" ? part.type : "unnamed";
}

function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function refuse(message: string, cause?: unknown): MicrogptError {
  return new MicrogptError(`tokenizer.json: ${message}`, cause === undefined ? {} : { cause });
}
