/**
 * Reads `tokenizer.json`: the one place where it is judged, for the native tokenizer and the one in JavaScript. The file
 * may come from anywhere. Nothing of it is compiled or run: its pre-tokenizer must be one of those that are known
 * (splits.ts), and every id, token and merge is checked.
 */

import { MicrogptError } from "../device/errors.ts";
import { BYTE_CHARS } from "./byte_level.ts";
import { SPECIAL_TOKENS } from "./tokenizer.ts";
import type { AddedToken } from "./added_tokens.ts";
import { type Json, type SplitName, splitOfPreTokenizer } from "./splits.ts";
import { type WholeTokenizer, wholeTokenizer } from "./whole_tokenizer.ts";

/** Larger files are refused unread, in UTF-16 units. */
const MAX_FILE = 64 * 2 ** 20;

/** A checked byte-level BPE tokenizer: all that a tokenizer needs to know of its file. */
export interface TokenizerFile {
  /** The text of the `tokenizer.json`; one that came in another form is written when it is asked for. */
  readonly json: string;
  /** Every token by its id, special ones included. */
  tokens: TokenEntry[];
  /** The id of every token by its name, special ones included. */
  ids: ReadonlyMap<string, number>;
  /** Pairs of ids, those to merge first at the front, [2 · merges]. */
  merges: Uint32Array<ArrayBuffer>;
  /** How text is cut into words; absent: as HuggingFace's implementations do with `whole`. */
  split?: SplitName;
  whole?: WholeTokenizer;
  /** A word that is a token is that token, whatever the merges say. */
  ignoreMerges: boolean;
  /** Text is brought into Unicode's composed form (NFC) first. */
  nfc: boolean;
  /** Tokens that stand in a text as they are. */
  added: AddedToken[];
  /** Tokens that no text becomes. */
  special: AddedToken[];
  /** The special token that a text begins with, where the file's post-processor says so. */
  first?: string;
}

/** A token of the table. */
export interface TokenEntry {
  name: string;
  special: boolean;
  /** its name is its text, not in the byte alphabet */
  literal: boolean;
}

type JsonObject = { [key: string]: Json };

/** What a tokenizer is made of, unchecked. */
export interface TokenizerParts {
  /** names and ids of the tokens that BPE makes of text */
  vocab: Iterable<readonly [name: string, id: unknown]>;
  added: (AddedToken & { special: boolean })[];
  /** each two names, or both with a space between them */
  merges: Iterable<unknown>;
  /** how text is cut into words, where that is known by its name */
  split: SplitName | undefined;
  ignoreMerges: boolean;
  nfc: boolean;
}

/**
 * Parses and checks `tokenizer.json`.
 * @throws {MicrogptError} when it is not JSON or not a byte-level BPE tokenizer of a known kind
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
  if ((model.type ?? "BPE") !== "BPE") throw refuse(`the model is ${kind(model)}, only BPE is read`);
  if (!isObject(model.vocab)) throw refuse("the model has no vocab");
  if (!Array.isArray(model.merges)) throw refuse("the model has no merges");
  const split = knownSplit(root, model);
  const file = checkedTokenizer({
    vocab: Object.entries(model.vocab),
    added: addedTokens(root),
    merges: model.merges,
    split,
    ignoreMerges: model.ignore_merges === true,
    nfc: split !== undefined && kind(root.normalizer) === "NFC",
  }, () => text);
  const first = firstToken(root.post_processor, file.ids);
  if (first !== undefined) file.first = first;
  if (split) return file;
  file.whole = wholeTokenizer(root, model, new Set(file.special.map(({ content }) => content)));
  return file;
}

/**
 * Checks the parts of a tokenizer.
 * @param json writes it as the text of a `tokenizer.json`
 * @throws {MicrogptError} when they do not fit together
 */
export function checkedTokenizer(parts: TokenizerParts, json: () => string): TokenizerFile {
  const { added, split, ignoreMerges, nfc } = parts;
  const { tokens, ids } = tokenTable(parts);
  return {
    get json() {
      return json();
    },
    tokens,
    ids,
    merges: checkedMerges(parts.merges, tokens, ids),
    ...(split ? { split } : {}),
    ignoreMerges,
    nfc,
    added: added.filter(({ special }) => !special),
    special: added.filter(({ special }) => special),
  };
}

/** Names of the tokens that BPE can make of text, with their ids: neither special nor added ones. */
export function ordinaryTokens({ tokens }: TokenizerFile): [name: string, id: number][] {
  return tokens.flatMap(({ name, special, literal }, id): [string, number][] =>
    special || literal ? [] : [[name, id]]
  );
}

/** The merges by the names of their tokens. */
export function namedMerges({ tokens, merges }: TokenizerFile): [string, string][] {
  return Array.from({ length: merges.length / 2 }, (_, i) => {
    return [tokens[merges[2 * i]!]!.name, tokens[merges[2 * i + 1]!]!.name];
  });
}

/** Documents in the form that their tokenizer takes. */
export function normalized(documents: readonly string[], { nfc }: TokenizerFile): readonly string[] {
  return nfc ? documents.map((document) => document.normalize("NFC")) : documents;
}

/** The way to split of a byte-level tokenizer that does nothing unusual; undefined for any other. */
function knownSplit(root: JsonObject, model: JsonObject): SplitName | undefined {
  if (kind(root.decoder) !== "ByteLevel" || !["none", "NFC"].includes(kind(root.normalizer))) {
    return undefined;
  }
  for (const name of ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"]) {
    if (model[name]) return undefined;
  }
  const vocab = model.vocab as JsonObject;
  // where every byte of text is a token, the unknown one never comes up
  if (
    model.unk_token &&
    !BYTE_CHARS.every((char, byte) => NEVER_IN_UTF8.has(byte) || Object.hasOwn(vocab, char))
  ) {
    return undefined;
  }
  return splitOfPreTokenizer(root.pre_tokenizer);
}

/** The token that the post-processor puts in front of a text. @throws {MicrogptError} for any other post-processor */
function firstToken(processor: Json | undefined, ids: ReadonlyMap<string, number>): string | undefined {
  const found = kind(processor);
  if (found === "none" || found === "ByteLevel") return undefined;
  if (found === "Sequence" && isObject(processor) && Array.isArray(processor.processors)) {
    const tokens = processor.processors.map((part) => firstToken(part, ids)).filter((token) =>
      token !== undefined
    );
    if (tokens.length < 2) return tokens[0];
  }
  if (found !== "TemplateProcessing") {
    throw refuse(`the post_processor is ${found}, only ByteLevel, TemplateProcessing or none is read`);
  }
  const single = (processor as JsonObject).single;
  const names = Array.isArray(single)
    ? single.map((part) => isObject(part) && isObject(part.SpecialToken) ? part.SpecialToken.id : null)
    : [];
  if (names.length === 1 && names[0] === null) return undefined;
  const [name] = names;
  if (names.length !== 2 || typeof name !== "string" || names[1] !== null || !ids.has(name)) {
    throw refuse("the post_processor does something else than put one token in front of a text");
  }
  return name;
}

/** Bytes that no UTF-8 text has. */
const NEVER_IN_UTF8 = new Set([0xc0, 0xc1, ...Array.from({ length: 11 }, (_, i) => 0xf5 + i)]);

/** The added tokens, each checked alone. */
function addedTokens(root: JsonObject): (AddedToken & { special: boolean })[] {
  const added = root.added_tokens ?? [];
  if (!Array.isArray(added)) throw refuse("added_tokens is not a list");
  return added.map((token) => {
    if (!isObject(token) || typeof token.content !== "string") throw refuse("an added token has no content");
    return {
      id: token.id as number, // checked with the others' in the table
      content: token.content,
      special: token.special === true,
      lstrip: token.lstrip === true,
      rstrip: token.rstrip === true,
      singleWord: token.single_word === true,
    };
  });
}

/** Vocabulary and added tokens as one table by id: every id from 0 on exactly once. */
function tokenTable({ vocab, added }: TokenizerParts) {
  const ids = new Map<string, number>();
  for (const [name, id] of vocab) {
    if (ids.has(name)) throw refuse(`the token ${JSON.stringify(name)} is there twice`);
    ids.set(name, id as number); // checked below, when it is known how many there are
  }
  const literal = new Map(added.map(({ content, special }) => [content, special]));
  for (const { id, content } of added) {
    const known = ids.get(content);
    if (known !== undefined && known !== id) {
      throw refuse(`the token ${JSON.stringify(content)} has two ids, ${known} and ${id}`);
    }
    ids.set(content, id);
  }
  if (ids.has(SPECIAL_TOKENS.bos) && !literal.get(SPECIAL_TOKENS.bos)) {
    throw refuse(`${SPECIAL_TOKENS.bos} is not marked as a special token`);
  }
  const tokens: TokenEntry[] = new Array(ids.size);
  for (const [name, id] of ids) {
    if (name === "") throw refuse(`token ${id} is empty`);
    if (!name.isWellFormed()) throw refuse(`token ${id} is half a character`);
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= ids.size) {
      throw refuse(`the token ${JSON.stringify(name)} has id ${id}, but there are only ${ids.size} tokens`);
    }
    const other = tokens[id];
    if (other !== undefined) {
      throw refuse(`the tokens ${JSON.stringify(other.name)} and ${JSON.stringify(name)} both have id ${id}`);
    }
    tokens[id] = { name, special: literal.get(name) === true, literal: literal.has(name) };
  }
  return { tokens, ids };
}

/** The merges as pairs of ids; both parts and what they make must be ordinary tokens. */
function checkedMerges(
  merges: Iterable<unknown>,
  tokens: readonly TokenEntry[],
  ids: ReadonlyMap<string, number>,
): Uint32Array<ArrayBuffer> {
  const idOf = (name: string): number | undefined => {
    const id = ids.get(name);
    return id === undefined || tokens[id]!.special || tokens[id]!.literal ? undefined : id;
  };
  let pairs = new Uint32Array(1024);
  let count = 0;
  for (const merge of merges) {
    // "left right", as files were written until 2024.
    const pair = typeof merge === "string" ? merge.split(" ") : merge;
    if (!Array.isArray(pair) || pair.length !== 2 || !pair.every((part) => typeof part === "string")) {
      throw refuse(`merge ${count / 2} is ${JSON.stringify(merge)}, not two tokens`);
    }
    const [left, right] = pair as [string, string];
    const missing = [left, right, left + right].find((token) => idOf(token) === undefined);
    if (missing !== undefined) {
      const token = JSON.stringify(missing);
      throw refuse(`merge ${count / 2} needs the token ${token}, which is special or not in the vocabulary`);
    }
    if (count === pairs.length) {
      const larger = new Uint32Array(2 * count);
      larger.set(pairs);
      pairs = larger;
    }
    pairs[count++] = idOf(left)!;
    pairs[count++] = idOf(right)!;
  }
  return pairs.slice(0, count);
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
