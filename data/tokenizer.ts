/** The tokenizer as the rest of the program sees it. Implementations: native/tokenizer.ts and data/hf_tokenizer.ts. */

import { MicrogptError } from "../device/errors.ts";
import type { AddedToken } from "./added_tokens.ts";
import type { Texts } from "./packed_texts.ts";

/** The special tokens by their names in `tokenizer.json`, in the order of their ids. Text mode has only `bos`. */
export const SPECIAL_TOKENS = {
  bos: "<bos>",
  user: "<user>",
  assistant: "<assistant>",
  endTurn: "<end_turn>",
} as const;

/** Documents as token ids, end to end. Document d is `ids[offsets[d] … offsets[d + 1])`. */
export interface EncodedDocuments {
  /** of all documents, end to end */
  ids: Uint32Array<ArrayBuffer>;
  /** [documents + 1] */
  offsets: Uint32Array<ArrayBuffer>;
}

/** Byte-level BPE: any text goes in, and text never becomes a special token. */
export interface Tokenizer {
  /** Number of tokens, special ones included; ids are below it. */
  readonly vocabSize: number;

  /**
   * Encodes documents, each by itself.
   * @param documents any Unicode text (a lone surrogate becomes U+FFFD); special-token text in it stays text
   * @returns ids of all documents end to end, and the start of each
   */
  encode(documents: readonly string[]): EncodedDocuments;

  /** The same as `encode`; where the native library does it, the program goes on meanwhile. */
  encodeInBackground(documents: Texts): Promise<EncodedDocuments>;

  /** Encodes one text. */
  encodeOne(text: string): Uint32Array<ArrayBuffer>;

  /**
   * The text of the ids. Special tokens have none, and bytes that are not UTF-8 become U+FFFD.
   * @throws {RangeError} for an id that is not below `vocabSize`
   */
  decode(ids: Iterable<number>): string;

  /**
   * The bytes of text that a token stands for, none for a special token. They need not be whole characters.
   * @returns a view that must not be written to
   * @throws {RangeError} for an id that is not below `vocabSize`
   */
  tokenBytes(id: number): Uint8Array;

  /** The id of a token by its name in `tokenizer.json`, such as `<bos>`. */
  id(token: string): number | undefined;

  /** The special tokens, which no text becomes. */
  readonly special: readonly AddedToken[];

  /** The tokenizer as the exact text of its `tokenizer.json`. */
  toJSON(): string;
}

/** Makes a new tokenizer of a corpus, a part at a time. Memory grows with the number of different words. */
export interface WordCounter {
  /** Counts the words of some more documents; wait for it before the next. */
  add(documents: Texts): Promise<void>;
  /**
   * Trains on what was counted. The same documents give the same `tokenizer.json`, byte for byte, whatever parts they
   * came in. Call it once.
   */
  train(): Promise<Tokenizer>;
  /** frees the counts */
  close(): void;
}

/** The text of a stream of tokens, in whole characters: one split across tokens is held back until it is complete. */
export class StreamDecoder {
  readonly #tokenizer: Pick<Tokenizer, "tokenBytes">;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(tokenizer: Pick<Tokenizer, "tokenBytes">) {
    this.#tokenizer = tokenizer;
  }

  /**
   * Takes the next token.
   * @returns the characters that it completes, often one word, possibly none
   */
  push(id: number): string {
    return this.#decoder.decode(this.#tokenizer.tokenBytes(id), { stream: true });
  }

  /** Ends the stream. @returns U+FFFD where a character was left incomplete, else nothing */
  flush(): string {
    return this.#decoder.decode();
  }
}

/** The bytes of every token of a vocabulary. */
export class TokenTable {
  readonly #bytes: Uint8Array;
  readonly #offsets: Uint32Array;

  /**
   * @param bytes of all tokens end to end
   * @param offsets start of each, [vocabulary + 1]
   */
  constructor(bytes: Uint8Array, offsets: Uint32Array) {
    this.#bytes = bytes;
    this.#offsets = offsets;
  }

  /** See {@link Tokenizer.vocabSize}. */
  get size(): number {
    return this.#offsets.length - 1;
  }

  /** See {@link Tokenizer.tokenBytes}. */
  get(id: number): Uint8Array {
    if (!Number.isInteger(id) || id < 0 || id >= this.size) {
      throw new RangeError(`there is no token ${id} in a vocabulary of ${this.size}`);
    }
    return this.#bytes.subarray(this.#offsets[id]!, this.#offsets[id + 1]!);
  }

  /** See {@link Tokenizer.decode}. */
  decode(ids: Iterable<number>): string {
    const stream = new StreamDecoder({ tokenBytes: (id) => this.get(id) });
    let text = "";
    for (const id of ids) text += stream.push(id);
    return text + stream.flush();
  }
}

/** The smallest vocabulary: 256 bytes and the special tokens. */
export function smallestVocabulary(chat: boolean): number {
  return 256 + (chat ? Object.keys(SPECIAL_TOKENS).length : 1);
}

/**
 * Checks the size asked of a new tokenizer.
 * @throws {MicrogptError} when it is not an integer that holds at least the alphabet
 */
export function checkVocabSize(vocabSize: number, chat: boolean): void {
  const smallest = smallestVocabulary(chat);
  if (Number.isInteger(vocabSize) && vocabSize >= smallest && vocabSize <= 0xffff_ffff) return;
  throw new MicrogptError(
    `a vocabulary of ${vocabSize} is not possible: the 256 bytes and ${
      smallest - 256
    } special tokens need at least ` +
      smallest,
    { hint: `\`vocabSize\` takes an integer from ${smallest}`, usage: true },
  );
}
