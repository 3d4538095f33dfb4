/** A GGUF file's tokenizer as `tokenizer.json`, and the other way round. */
import { preTokenizerOf, type SplitName, splitOfLlamaCpp, SPLITS } from "../../../data/splits.ts";
import type { AddedToken } from "../../../data/added_tokens.ts";
import {
  checkedTokenizer,
  namedMerges,
  ordinaryTokens,
  type TokenizerFile,
} from "../../../data/tokenizer_json.ts";
import { MicrogptError } from "../../../device/errors.ts";
import { printable } from "../directory.ts";
import type { EndIds } from "../hf/config.ts";
import type { GgufFile } from "./read.ts";
import type { GgufValue } from "./types.ts";

/** llama.cpp's kinds of tokens (llama_token_type). */
const NORMAL = 1;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;
/** 2 is the unknown token, which is special here; 6 is a byte of a vocabulary of another kind. */
const UNKNOWN = 2;

/** Names of tokens that end an answer whatever the metadata says, as in llama.cpp. */
const END_NAMES = new Set([
  "<|eot_id|>",
  "<|im_end|>",
  "<|end|>",
  "<end_of_turn>",
  "<end_turn>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "<|eom_id|>",
]);

/** A file's tokenizer. */
export interface GgufTokenizer {
  tokenizer: TokenizerFile;
  ends: EndIds;
  /** texts begin with the `bos` token */
  addBos: boolean;
  chatTemplate?: string;
}

/**
 * Makes a tokenizer of a file's metadata.
 * @throws {MicrogptError} for another kind of tokenizer, and lists that do not fit together
 */
export function tokenizerOfGguf(gguf: GgufFile): GgufTokenizer {
  const { metadata, path } = gguf;
  const split = splitOf(gguf);
  const names = metadata.strings("tokenizer.ggml.tokens");
  const types = metadata.has("tokenizer.ggml.token_type")
    ? metadata.numbers("tokenizer.ggml.token_type")
    : new Int32Array(names.length).fill(NORMAL);
  if (types.length !== names.length) {
    throw new MicrogptError(`${path}: ${names.length} tokens have ${types.length} types`);
  }
  const added: (AddedToken & { special: boolean })[] = [];
  const vocab: [string, number][] = [];
  names.forEach((name, id) => {
    const type = types[id]!;
    if (type === NORMAL) vocab.push([name, id]);
    else if (type === USER_DEFINED || type === CONTROL || type === UNUSED || type === UNKNOWN) {
      const special = type !== USER_DEFINED;
      added.push({ id, content: name, singleWord: false, lstrip: false, rstrip: false, special });
    } else throw new MicrogptError(`${path}: token ${id} is of type ${type}, which is not read`);
  });
  const ends = endsOf(gguf, names, types);
  const merges = metadata.strings("tokenizer.ggml.merges"); // "left right"; a space inside a token is written Ġ
  const { ignoreMerges } = SPLITS[split];
  const tokenizer = named(path, () => {
    const parts = { vocab, added, merges, split, ignoreMerges, nfc: split === "qwen2" };
    const file = checkedTokenizer(parts, () => jsonOf(file));
    return file;
  });
  const addBos = metadata.has("tokenizer.ggml.add_bos_token")
    ? metadata.bool("tokenizer.ggml.add_bos_token")
    : split === "llama-bpe";
  const template = "tokenizer.chat_template";
  return {
    tokenizer,
    ends,
    addBos: addBos && ends.bos !== undefined,
    ...(metadata.has(template) ? { chatTemplate: metadata.string(template) } : {}),
  };
}

/** Errors about a tokenizer that this file holds. */
function named<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof MicrogptError)) throw error;
    throw new MicrogptError(`${path}: ${error.message.replace(/^tokenizer\.json: /, "")}`, { cause: error });
  }
}

/** The text of a `tokenizer.json` of a tokenizer that splits in a known way. */
function jsonOf(file: TokenizerFile): string {
  const { split, ignoreMerges, nfc } = file;
  const added = [...file.special, ...file.added].toSorted((a, b) => a.id - b.id);
  return JSON.stringify({
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added.map(({ id, content, singleWord, lstrip, rstrip }) => {
      const { special } = file.tokens[id]!;
      return { id, content, single_word: singleWord, lstrip, rstrip, normalized: !special, special };
    }),
    normalizer: nfc ? { type: "NFC" } : null,
    pre_tokenizer: preTokenizerOf(split!),
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: ignoreMerges,
      vocab: Object.fromEntries(ordinaryTokens(file)),
      merges: namedMerges(file),
    },
  });
}

function splitOf({ metadata, path }: GgufFile): SplitName {
  const model = metadata.string("tokenizer.ggml.model");
  if (model !== "gpt2") {
    throw new MicrogptError(
      `${path}: the tokenizer is ${printable(model)}; only byte-level BPE (gpt2) is read`,
    );
  }
  const pre = metadata.string("tokenizer.ggml.pre");
  const split = splitOfLlamaCpp(pre);
  if (split) return split;
  throw new MicrogptError(
    `${path}: the pre-tokenizer ${printable(pre)} is not known; ${Object.keys(SPLITS).join(", ")} are`,
  );
}

function endsOf({ metadata, path }: GgufFile, names: string[], types: ArrayLike<number>): EndIds {
  const id = (name: string): number | undefined => {
    const key = `tokenizer.ggml.${name}_token_id`;
    if (!metadata.has(key)) return undefined;
    const value = metadata.count(key);
    if (value < names.length) return value;
    throw new MicrogptError(`${path}: ${key} is ${value}, there are ${names.length} tokens`);
  };
  const ending = names.flatMap((name, i) => types[i] === CONTROL && END_NAMES.has(name) ? [i] : []);
  const [bos, pad] = [id("bos"), id("padding")];
  const eos = [id("eos"), id("eot"), id("eom"), ...ending].filter((value) => value !== undefined);
  return {
    ...(bos === undefined ? {} : { bos }),
    eos: [...new Set(eos)],
    ...(pad === undefined ? {} : { pad }),
  };
}

/**
 * The metadata of a tokenizer.
 * @param vocabulary rows of the embedding; those beyond the tokens become unused ones
 * @throws {MicrogptError} for a tokenizer.json that is not read, or splits in a way that has no name
 */
export function ggufTokenizer(
  { tokenizer: file, ends, addBos, chatTemplate }: GgufTokenizer,
  vocabulary: number,
): Map<string, GgufValue> {
  if (!file.split) {
    throw new MicrogptError(
      "this model's tokenizer cannot be written as GGUF: llama.cpp must know it by name",
      {
        hint: "export it as a HuggingFace directory",
      },
    );
  }
  const names = file.tokens.map(({ name }) => name);
  const userDefined = new Set(file.added.map(({ id }) => id));
  const types = file.tokens.map(({ special }, id): number =>
    special ? CONTROL : userDefined.has(id) ? USER_DEFINED : NORMAL
  );
  for (let id = names.length; id < vocabulary; id++) {
    names.push(`[UNUSED${id}]`);
    types.push(UNUSED);
  }
  const u32 = (value: number): GgufValue => ({ type: "u32", value });
  const values = new Map<string, GgufValue>([
    ["model", { type: "string", value: "gpt2" }],
    ["pre", { type: "string", value: file.split }],
    ["tokens", { type: "array", of: "string", value: names }],
    ["token_type", { type: "array", of: "i32", value: Int32Array.from(types) }],
    ["merges", { type: "array", of: "string", value: namedMerges(file).map((pair) => pair.join(" ")) }],
  ]);
  if (ends.bos !== undefined) values.set("bos_token_id", u32(ends.bos));
  // the format has three places for tokens that end an answer; llama.cpp knows further ones by their names
  ["eos", "eot", "eom"].forEach((name, i) => {
    const id = ends.eos[i];
    if (id !== undefined) values.set(`${name}_token_id`, u32(id));
  });
  if (ends.pad !== undefined) values.set("padding_token_id", u32(ends.pad));
  for (
    const [name, value] of [["add_bos_token", addBos], ["add_eos_token", false], [
      "add_space_prefix",
      false,
    ]] as const
  ) {
    values.set(name, { type: "bool", value });
  }
  const entries = new Map([...values].map(([name, value]) => [`tokenizer.ggml.${name}`, value]));
  if (chatTemplate !== undefined) {
    entries.set("tokenizer.chat_template", { type: "string", value: chatTemplate });
  }
  return entries;
}
