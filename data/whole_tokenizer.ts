/**
 * Tokenizers whose way to split is not one of splits.ts: SentencePiece's BPE as Llama 2 and Mistral have it, and regular
 * expressions of other families. The whole file, less its special tokens and what adds them, goes to HuggingFace's own
 * implementations, natively or in JavaScript. What they would compile is judged here first.
 */
import { MicrogptError } from "../device/errors.ts";
import type { Json } from "./splits.ts";

type JsonObject = { [key: string]: Json };

/** Parts of each kind that both implementations have. */
const KNOWN: Record<string, readonly string[]> = {
  normalizer: ["Sequence", "Prepend", "Replace", "NFC", "NFKC", "NFD", "NFKD", "Lowercase", "Strip"],
  pre_tokenizer: [
    "Sequence",
    "ByteLevel",
    "Split",
    "Digits",
    "Metaspace",
    "Whitespace",
    "WhitespaceSplit",
    "Punctuation",
  ],
  decoder: ["Sequence", "ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"],
};

/** Longer expressions are no tokenizer's. */
const MAX_REGEX = 4096;

/** What of a tokenizer.json HuggingFace's implementations get. */
export interface WholeTokenizer {
  /** a tokenizer.json without special tokens, so that no text becomes one */
  json: string;
  /** tokens are written in SentencePiece's way: ▁ for a space, <0x0A> for a byte */
  sentencePiece: boolean;
}

/**
 * Judges a file and takes its special tokens out.
 * @param special names of the special tokens
 * @throws {MicrogptError} for parts that are not known and expressions that could take for ever
 */
export function wholeTokenizer(
  root: JsonObject,
  model: JsonObject,
  special: ReadonlySet<string>,
): WholeTokenizer {
  for (const [place, kinds] of Object.entries(KNOWN)) checkParts(place, root[place], kinds);
  for (const name of ["dropout", "continuing_subword_prefix", "end_of_word_suffix"]) {
    if (model[name]) throw refuse(`the model sets ${name}, which is not supported`);
  }
  const sentencePiece = !kindsOf(root.decoder).includes("ByteLevel");
  if (sentencePiece && !kindsOf(root.decoder).some((kind) => kind === "Metaspace" || kind === "Replace")) {
    throw refuse("the decoder is neither ByteLevel nor one of SentencePiece");
  }
  const vocab = Object.entries(model.vocab as JsonObject).filter(([name]) => {
    return !special.has(name) || name === model.unk_token; // the model needs its unknown token
  });
  const merges = (model.merges as Json[]).filter((merge) => {
    const parts = typeof merge === "string" ? merge.split(" ") : merge as string[];
    return !special.has(parts.join(""));
  });
  const json = {
    ...root,
    added_tokens: [],
    post_processor: null,
    truncation: null,
    padding: null,
    model: { ...model, type: "BPE", vocab: Object.fromEntries(vocab), merges },
  };
  return { json: JSON.stringify(json), sentencePiece };
}

function refuse(message: string): MicrogptError {
  return new MicrogptError(`tokenizer.json: ${message}`);
}

/** The kinds of a part and of those in it. */
function kindsOf(part: Json | undefined): string[] {
  if (!isObject(part)) return [];
  const inner = Object.values(part).flatMap((value) => Array.isArray(value) ? value.flatMap(kindsOf) : []);
  return [String(part.type), ...inner];
}

function checkParts(place: string, part: Json | undefined, kinds: readonly string[]): void {
  for (const kind of kindsOf(part)) {
    if (!kinds.includes(kind)) throw refuse(`the ${place} is ${kind.slice(0, 40)}, which is not read`);
  }
  for (const regex of regexesOf(part)) {
    if (regex.length > MAX_REGEX || repeatsRepetition(regex)) {
      throw refuse(`the ${place} has a regular expression that could take for ever`);
    }
  }
}

function regexesOf(value: Json | undefined): string[] {
  if (Array.isArray(value)) return value.flatMap(regexesOf);
  if (!isObject(value)) return [];
  return Object.entries(value).flatMap(([key, inner]) => {
    return key === "Regex" && typeof inner === "string" ? [inner] : regexesOf(inner);
  });
}

/**
 * Whether a group that repeats something, or leaves a choice, is itself repeated, as in (a*)*, (a|a)* and (a?){40}: the way to
 * exponential time.
 */
function repeatsRepetition(regex: string): boolean {
  const repeats: boolean[] = [false];
  for (let i = 0; i < regex.length; i++) {
    const char = regex[i]!;
    if (char === "\\") i++;
    else if (char === "[") i = endOfClass(regex, i);
    else if (char === "(") repeats.push(false);
    else if (char === ")" && repeats.length > 1) {
      const inner = repeats.pop()!;
      const repeated = /^(?:[*+]|\{\d)/.test(regex.slice(i + 1, i + 3));
      if (inner && repeated) return true;
      if (inner) repeats[repeats.length - 1] = true;
    } else if (isOpen(regex, i, repeats.length > 1)) repeats[repeats.length - 1] = true;
  }
  return false;
}

/** Whether what stands here can be read in more than one way: a repetition, and within a group a choice. */
function isOpen(regex: string, i: number, inGroup: boolean): boolean {
  if ("*+{".includes(regex[i]!)) return true;
  if (!inGroup) return false;
  return regex[i] === "|" || regex[i] === "?" && regex[i + 1] === ")" && !"(*+?}".includes(regex[i - 1]!);
}

/** Where a character class ends; classes may lie in classes. */
function endOfClass(regex: string, start: number): number {
  let depth = 0;
  for (let i = start; i < regex.length; i++) {
    if (regex[i] === "\\") i++;
    else if (regex[i] === "[") depth++;
    else if (regex[i] === "]" && --depth === 0) return i;
  }
  return regex.length;
}

function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
