/**
 * How text is cut into the words that byte-level BPE works inside. Models of the Llama family use one of four ways,
 * which `tokenizer.json` writes as pre-tokenizers with regular expressions, and a GGUF file names. They are known here
 * by their form and done by code of our own (native/src/tokenizer/split.rs, hf_tokenizer.ts): in linear time whatever
 * the text, and nothing that a file brings is compiled.
 */

/** A way to split, by llama.cpp's name for it. */
export type SplitName = "gpt-2" | "smollm" | "llama-bpe" | "qwen2";

/** What `tokenizer.json` holds. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** One way to split. */
export interface Split {
  /** its number in the native library */
  id: number;
  /** the regular expression of its `Split` part, for ways that have one */
  regex?: string;
  /** further names that llama.cpp has for it, with the models' `ignore_merges` */
  aliases: readonly string[];
  /** a word that is a token is that token, whatever the merges say */
  ignoreMerges: boolean;
}

/** Contractions in any case, words with one sign or space before them, numbers, signs, white space. */
const modern = (digits: string) =>
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*` +
  String.raw`|\s*[\r\n]+|\s+(?!\S)|\s+`;

/** All ways there are. */
export const SPLITS: Record<SplitName, Split> = {
  "gpt-2": { id: 0, aliases: ["phi-2", "olmo", "mpt"], ignoreMerges: false },
  smollm: {
    id: 1,
    aliases: ["starcoder", "refact", "command-r", "codeshell", "minerva-7b"],
    ignoreMerges: false,
  },
  "llama-bpe": {
    id: 2,
    regex: modern("{1,3}"),
    aliases: ["llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral"],
    ignoreMerges: true,
  },
  qwen2: { id: 3, regex: modern(""), aliases: ["deepseek-r1-qwen", "megrez"], ignoreMerges: false },
};

/** The way that llama.cpp calls by this name. */
export function splitOfLlamaCpp(name: string): SplitName | undefined {
  return (Object.keys(SPLITS) as SplitName[]).find((key) =>
    key === name || SPLITS[key].aliases.includes(name)
  );
}

const byteLevel = (useRegex: boolean): Json => ({
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
});

/** The `pre_tokenizer` of a tokenizer.json that splits so. */
export function preTokenizerOf(name: SplitName): Json {
  const { regex } = SPLITS[name];
  if (regex !== undefined) {
    const split = { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
    return { type: "Sequence", pretokenizers: [split, byteLevel(false)] };
  }
  if (name === "gpt-2") return byteLevel(true);
  const digits = { type: "Digits", individual_digits: true };
  return { type: "Sequence", pretokenizers: [digits, byteLevel(true)] };
}

/** The way that a `pre_tokenizer` of tokenizer.json splits; undefined for one that is not known. */
export function splitOfPreTokenizer(found: Json | undefined): SplitName | undefined {
  return (Object.keys(SPLITS) as SplitName[]).find((name) => sameParts(preTokenizerOf(name), found));
}

/** Whether `found` says what `known` does; ByteLevel's offsets do not matter, and its defaults may be left out. */
function sameParts(known: Json, found: Json | undefined): boolean {
  if (!isObject(known) || !isObject(found) || known.type !== found.type) return false;
  if (known.type === "ByteLevel") {
    return (found.add_prefix_space ?? true) === false && (found.use_regex ?? true) === known.use_regex;
  }
  if (known.type === "Sequence") {
    const [a, b] = [known.pretokenizers as Json[], found.pretokenizers];
    return Array.isArray(b) && a.length === b.length && a.every((part, i) => sameParts(part, b[i]));
  }
  if (known.type === "Digits") return found.individual_digits === known.individual_digits;
  const { pattern, behavior, invert = false } = found;
  return isObject(pattern) && behavior === "Isolated" && invert === false &&
    pattern.Regex === (known.pattern as { Regex: string }).Regex;
}

function isObject(value: Json | undefined): value is { [key: string]: Json } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
