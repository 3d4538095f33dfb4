/**
 * The tokenizer in plain JavaScript, for where the native library cannot be had: it loads, encodes and decodes, with
 * the same ids, and cannot train. The merging of a word is the npm package's; splitting and special tokens are done
 * here, because the package takes special-token text for the token and JavaScript's `\s` is not Unicode's.
 */

import { BYTE_CHARS, tokenTable } from "./byte_level.ts";
import type { EncodedDocuments, Tokenizer, TokenTable } from "./tokenizer.ts";
import { parseTokenizerJson, type TokenizerFile } from "./tokenizer_json.ts";

/** A word of the byte alphabet into tokens. */
type MergeWord = (word: string) => string[];

/** Unicode's White_Space. JavaScript's `\s` has U+FEFF in addition and lacks U+0085. */
const SPACE = String.raw`\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000`;

/** GPT-2's words, as in native/src/tokenizer/split.rs. */
const WORD = new RegExp(
  String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^${SPACE}\p{L}\p{N}]+` +
    String.raw`|[${SPACE}]+(?![^${SPACE}])|[${SPACE}]+`,
  "gu",
);

/** A tokenizer without the native library. */
export class HfTokenizer implements Tokenizer {
  readonly #json: string;
  readonly #file: TokenizerFile;
  readonly #mergeWord: MergeWord;
  readonly #table: TokenTable;

  private constructor(json: string, file: TokenizerFile, mergeWord: MergeWord) {
    this.#json = json;
    this.#file = file;
    this.#mergeWord = mergeWord;
    this.#table = tokenTable(file);
  }

  /**
   * Loads a tokenizer.
   * @param json the text of a `tokenizer.json`; hostile ones are refused
   * @throws {MicrogptError} when it is not a byte-level BPE tokenizer with `<bos>`
   */
  static async fromJson(json: string): Promise<HfTokenizer> {
    const file = parseTokenizerJson(json);
    const { BPE } = await import("npm:@huggingface/tokenizers@0.2.0");
    const vocab = Object.fromEntries(file.vocab);
    const bpe = new BPE({ type: "BPE", vocab, merges: file.merges, ignore_merges: false });
    return new HfTokenizer(json, file, (word) => bpe.bpe(word));
  }

  get vocabSize(): number {
    return this.#table.size;
  }

  encode(documents: readonly string[]): EncodedDocuments {
    const known = new Map<string, number[]>();
    const offsets = new Uint32Array(documents.length + 1);
    let ids = new Uint32Array(1024);
    let count = 0;
    documents.forEach((document, d) => {
      for (const [word] of document.toWellFormed().matchAll(WORD)) {
        let tokens = known.get(word);
        if (tokens === undefined) known.set(word, tokens = this.#encodeWord(word));
        if (count + tokens.length > ids.length) {
          const larger = new Uint32Array(2 * (count + tokens.length));
          larger.set(ids);
          ids = larger;
        }
        ids.set(tokens, count);
        count += tokens.length;
      }
      offsets[d + 1] = count;
    });
    return { ids: ids.slice(0, count), offsets };
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

  toJSON(): string {
    return this.#json;
  }

  /** Bytes that an old tokenizer does not know are dropped before merging, as the native one does. */
  #encodeWord(word: string): number[] {
    const { vocab } = this.#file;
    let chars = "";
    for (const byte of new TextEncoder().encode(word)) {
      const char = BYTE_CHARS[byte]!;
      if (vocab.has(char)) chars += char;
    }
    return this.#mergeWord(chars).map((token) => vocab.get(token)!);
  }
}
