/**
 * Trains byte-level BPE without the native library: the same documents and size give `tokenizer.json` byte for byte as the
 * Rust `tokenizers` crate writes it (native/src/tokenizer/train.rs; the crate's trainer is `models/bpe/trainer.rs`).
 *
 * The words of the corpus are counted, and each is a list of tokens, at first its bytes. Again and again the pair of
 * tokens that stands side by side most often, in all words by their counts, becomes a token of its own. A heap knows
 * the most frequent pair; what it knows may be outdated, and is then put right when the pair comes up.
 */
import { MicrogptError } from "../device/errors.ts";
import { BYTE_CHARS } from "./byte_level.ts";
import { wordsOf } from "./hf_tokenizer.ts";
import { preTokenizerOf } from "./splits.ts";
import { SPECIAL_TOKENS } from "./tokenizer.ts";

/** Longer words are counted in pieces of at most this many bytes, cut between characters. */
const MAX_WORD = 256;

/** The crate counts in 32 bits. */
const MAX_CORPUS = 2 ** 31 - 2;

/** Two tokens as one number: ids are below 2²⁶. */
const PAIR = 2 ** 26;

/** A pair of tokens with the words that it was seen in when its count was this. */
interface Candidate {
  pair: number;
  count: number;
  words: number[];
}

/** Most frequent first, then the lowest ids. */
function before(a: Candidate, b: Candidate): boolean {
  return a.count !== b.count ? a.count > b.count : a.pair < b.pair;
}

/** A binary heap of candidates. */
class Queue {
  readonly #items: Candidate[] = [];

  push(item: Candidate): void {
    const items = this.#items;
    let at = items.push(item) - 1;
    for (let above = (at - 1) >> 1; at > 0 && before(item, items[above]!); above = (at - 1) >> 1) {
      items[at] = items[above]!;
      at = above;
    }
    items[at] = item;
  }

  pop(): Candidate | undefined {
    const items = this.#items;
    const first = items[0];
    const last = items.pop();
    if (!last || items.length === 0) return first;
    let at = 0;
    for (let below = 1; below < items.length; below = 2 * at + 1) {
      if (below + 1 < items.length && before(items[below + 1]!, items[below]!)) below++;
      if (!before(items[below]!, last)) break;
      items[at] = items[below]!;
      at = below;
    }
    items[at] = last;
    return first;
  }
}

/** The crate reads its signed counts as unsigned ones. */
function unsigned(count: number): number {
  return count < 0 ? count + 2 ** 64 : count;
}

/** Pieces of at most MAX_WORD bytes of UTF-8 that end with a character. */
function* pieces(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length;) {
    let end = Math.min(at + MAX_WORD, bytes.length);
    while (end < bytes.length && (bytes[end]! & 0xc0) === 0x80) end--;
    yield bytes.subarray(at, end);
    at = end;
  }
}

/** Words of the documents, joined with newlines, and how often each comes; a word is in the byte alphabet. */
function countWords(documents: readonly string[]): Map<string, number> {
  const encoder = new TextEncoder();
  const counts = new Map<string, number>();
  let corpus = documents.length;
  documents.forEach((document, d) => {
    corpus += document.length;
    if (corpus > MAX_CORPUS) {
      throw new MicrogptError(`a tokenizer can be trained on at most ${MAX_CORPUS} bytes of text`);
    }
    const text = document.toWellFormed() + (d + 1 < documents.length ? "\n" : "");
    for (const word of wordsOf(text, "gpt-2")) counts.set(word, (counts.get(word) ?? 0) + 1);
  });
  const inAlphabet = new Map<string, number>();
  for (const [word, count] of counts) {
    for (const piece of pieces(encoder.encode(word))) {
      let chars = "";
      for (const byte of piece) chars += BYTE_CHARS[byte];
      inAlphabet.set(chars, (inAlphabet.get(chars) ?? 0) + count);
    }
  }
  return inAlphabet;
}

/** Tokens and merges in the making. */
class Training {
  readonly ids = new Map<string, number>();
  readonly names: string[] = [];
  /** pair → its two tokens; a pair that comes up again counts from then on */
  readonly merges = new Map<number, [string, string]>();
  readonly #words: number[][] = [];
  readonly #wordCounts: number[] = [];
  readonly #pairCounts = new Map<number, number>();
  readonly #queue = new Queue();
  /** words of pairs that are new, or came to more words, since the last merge */
  #seen = new Map<number, number[]>();

  constructor(words: Map<string, number>, special: readonly string[]) {
    for (const name of [...special, ...[...BYTE_CHARS].sort()]) this.#token(name);
    for (const [word, count] of words) {
      this.#wordCounts.push(count);
      this.#words.push(Array.from(word, (char) => this.ids.get(char)!));
    }
    this.#words.forEach((tokens, word) => {
      for (let i = 1; i < tokens.length; i++) this.#count(tokens[i - 1]! * PAIR + tokens[i]!, 1, word);
    });
    this.#enqueue();
  }

  #token(name: string): number {
    const known = this.ids.get(name);
    if (known !== undefined) return known;
    this.ids.set(name, this.names.length);
    return this.names.push(name) - 1;
  }

  /** Counts a pair in a word once more (1) or less (−1). */
  #count(pair: number, change: 1 | -1, word: number): void {
    const counts = this.#pairCounts;
    counts.set(pair, (counts.get(pair) ?? 0) + change * this.#wordCounts[word]!);
    if (change < 0) return;
    const words = this.#seen.get(pair);
    if (!words) this.#seen.set(pair, [word]);
    else if (words.at(-1) !== word) words.push(word); // words come one after the other
  }

  #enqueue(): void {
    for (const [pair, words] of this.#seen) {
      const count = this.#pairCounts.get(pair)!;
      if (count > 0) this.#queue.push({ pair, count, words });
    }
    this.#seen = new Map();
  }

  /** Makes a token of the most frequent pair. @returns false when none is left */
  merge(): boolean {
    for (let top; (top = this.#queue.pop());) {
      const count = unsigned(this.#pairCounts.get(top.pair)!);
      if (top.count !== count) this.#queue.push({ ...top, count });
      else if (count < 1) return false;
      else {
        const [a, b] = [Math.floor(top.pair / PAIR), top.pair % PAIR];
        const [left, right] = [this.names[a]!, this.names[b]!];
        const id = this.#token(left + right);
        this.merges.delete(top.pair);
        this.merges.set(top.pair, [left, right]);
        for (const word of top.words) this.#mergeIn(word, a, b, id);
        this.#enqueue();
        return true;
      }
    }
    return false;
  }

  /** Puts `id` in place of a, b in a word, and counts its neighbours anew. */
  #mergeIn(word: number, a: number, b: number, id: number): void {
    const tokens = this.#words[word]!;
    for (let i = 0; i + 1 < tokens.length; i++) {
      if (tokens[i] !== a || tokens[i + 1] !== b) continue;
      tokens.splice(i, 2, id);
      if (i > 0) {
        this.#count(tokens[i - 1]! * PAIR + a, -1, word);
        this.#count(tokens[i - 1]! * PAIR + id, 1, word);
      }
      if (i + 1 < tokens.length) {
        this.#count(b * PAIR + tokens[i + 1]!, -1, word);
        this.#count(id * PAIR + tokens[i + 1]!, 1, word);
      }
    }
  }
}

/** The text of `tokenizer.json`. JSON.stringify would put the tokens "0" to "9" first, so the vocabulary is written here. */
function tokenizerText({ names, merges }: Training, special: readonly string[]): string {
  const byteLevel = preTokenizerOf("gpt-2");
  const file = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: "VOCAB",
      merges: [...merges.values()],
    },
  };
  const vocab = names.map((name, id) => `      ${JSON.stringify(name)}: ${id}`).join(",\n");
  return JSON.stringify(file, null, 2).replace('"VOCAB"', () => `{\n${vocab}\n    }`);
}

/**
 * Trains a tokenizer.
 * @param documents the corpus; it is trained on as if joined with newlines
 * @param options.vocabSize most tokens it may have, at least 256 and the special ones
 * @returns the text of its `tokenizer.json`
 * @throws {MicrogptError} for more than 2 GB of text
 */
export function trainTokenizerJson(
  documents: readonly string[],
  { vocabSize, chat }: { vocabSize: number; chat: boolean },
): string {
  const special = chat ? Object.values(SPECIAL_TOKENS) : [SPECIAL_TOKENS.bos];
  const training = new Training(countWords(documents), special);
  while (training.names.length < vocabSize && training.merge());
  return tokenizerText(training, special);
}
