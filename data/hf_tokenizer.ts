/**
 * The tokenizer in plain JavaScript, for where the native library cannot be had: it loads, encodes and decodes, with
 * the same ids (bpe_trainer.ts trains it). The npm package merges the pieces of a word; splitting and special tokens are handled
 * here, because the package takes special-token text for the token, and JavaScript's `\s` is not Unicode's.
 */

import { BYTE_CHARS, tokenTable } from "./byte_level.ts";
import { type AddedToken, AddedTokens } from "./added_tokens.ts";
import { type Texts, unpacked } from "./packed_texts.ts";
import type { SplitName } from "./splits.ts";
import type { EncodedDocuments, Tokenizer, TokenTable } from "./tokenizer.ts";
import {
  namedMerges,
  normalized,
  ordinaryTokens,
  parseTokenizerJson,
  type TokenizerFile,
} from "./tokenizer_json.ts";

/** A text into ids. */
type EncodeText = (text: string) => Iterable<number>;

/** Unicode's White_Space. JavaScript's `\s` also has U+FEFF, and lacks U+0085. */
const SPACE = String.raw`\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000`;

/** Words as the ways of splits.ts cut them, the same as in native/src/tokenizer/split.rs. */
const WORDS: Record<SplitName, RegExp> = {
  "gpt-2": words(String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+`),
  // digits stand alone, and the white space before them is whole
  smollm: words(String.raw`\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})`),
  "llama-bpe": words(modern("{1,3}")),
  qwen2: words(modern("")),
};

/** Contractions in any case (long s is one of s), words, numbers, signs, lines. */
function modern(digits: string): string {
  const contraction = "'(?:[sSſ]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])";
  return contraction +
    String.raw`|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+`;
}

/** A pattern with the parts for white space at its end, and Unicode's white space throughout. */
function words(parts: string): RegExp {
  const unicode = (part: string) =>
    part.replaceAll(String.raw`[^\s`, `[^${SPACE}`).replaceAll(String.raw`\s`, `[${SPACE}]`);
  return new RegExp(unicode(parts) + `|[${SPACE}]+(?![^${SPACE}])|[${SPACE}]+`, "gu");
}

/** The words of a text, which are all of it. */
export function* wordsOf(text: string, split: SplitName): Generator<string> {
  for (const [word] of text.matchAll(WORDS[split])) yield word;
}

/** A tokenizer without the native library. */
export class HfTokenizer implements Tokenizer {
  readonly #file: TokenizerFile;
  readonly #encodeText: EncodeText;
  readonly #table: TokenTable;
  readonly #added: AddedTokens;

  private constructor(file: TokenizerFile, encodeText: EncodeText) {
    this.#file = file;
    this.#encodeText = encodeText;
    this.#table = tokenTable(file);
    this.#added = new AddedTokens(file.added);
  }

  /**
   * Loads a tokenizer.
   * @param json the text of a `tokenizer.json`; hostile ones are refused
   * @throws {MicrogptError} when it is not a BPE tokenizer of a known kind
   */
  static async fromJson(json: string): Promise<HfTokenizer> {
    return await HfTokenizer.fromFile(parseTokenizerJson(json));
  }

  /** Loads a tokenizer that was checked. */
  static async fromFile(file: TokenizerFile): Promise<HfTokenizer> {
    const { BPE, Tokenizer } = await import("npm:@huggingface/tokenizers@0.2.0");
    if (file.whole) {
      const whole = new Tokenizer(JSON.parse(file.whole.json), {});
      return new HfTokenizer(file, (text) => whole.encode(text, { add_special_tokens: false }).ids);
    }
    const vocab = new Map(ordinaryTokens(file));
    const bpe = new BPE({
      type: "BPE",
      vocab: Object.fromEntries(vocab),
      merges: namedMerges(file),
      ignore_merges: file.ignoreMerges,
    });
    return new HfTokenizer(file, wordByWord(vocab, file.split!, (word) => bpe.bpe(word)));
  }

  get vocabSize(): number {
    return this.#table.size;
  }

  encode(documents: readonly string[]): EncodedDocuments {
    return this.#added.encode(normalized(documents, this.#file), (texts) => this.#encode(texts));
  }

  #encode(documents: readonly string[]): EncodedDocuments {
    const offsets = new Uint32Array(documents.length + 1);
    let ids = new Uint32Array(1024);
    let count = 0;
    documents.forEach((document, d) => {
      for (const id of this.#encodeText(document.toWellFormed())) {
        if (count === ids.length) {
          const larger = new Uint32Array(2 * count);
          larger.set(ids);
          ids = larger;
        }
        ids[count++] = id;
      }
      offsets[d + 1] = count;
    });
    return { ids: ids.slice(0, count), offsets };
  }

  // deno-lint-ignore require-await
  async encodeInBackground(documents: Texts): Promise<EncodedDocuments> {
    return this.encode(unpacked(documents));
  }

  encodeOne(text: string): Uint32Array<ArrayBuffer> {
    return this.encode([text]).ids;
  }

  decode(ids: Iterable<number>): string {
    return this.#table.decode(ids);
  }

  tokenBytes(id: number): Uint8Array {
    return this.#table.get(id);
  }

  id(token: string): number | undefined {
    return this.#file.ids.get(token);
  }

  get special(): readonly AddedToken[] {
    return this.#file.special;
  }

  toJSON(): string {
    return this.#file.json;
  }
}

/** Words that are remembered; a text has many of a few. */
const MAX_KNOWN = 1 << 16;

/**
 * Encodes word by word. Bytes that an old tokenizer does not know are dropped before merging, as the native one does.
 * @param mergeWord a word of the byte alphabet into tokens
 */
function wordByWord(
  vocab: ReadonlyMap<string, number>,
  split: SplitName,
  mergeWord: (word: string) => string[],
): EncodeText {
  const known = new Map<string, number[]>();
  const encodeWord = (word: string): number[] => {
    let chars = "";
    for (const byte of new TextEncoder().encode(word)) {
      const char = BYTE_CHARS[byte]!;
      if (vocab.has(char)) chars += char;
    }
    return mergeWord(chars).map((token) => vocab.get(token)!);
  };
  return function* (text) {
    for (const word of wordsOf(text, split)) {
      let tokens = known.get(word);
      if (tokens === undefined) {
        if (known.size === MAX_KNOWN) known.clear();
        known.set(word, tokens = encodeWord(word));
      }
      yield* tokens;
    }
  };
}
