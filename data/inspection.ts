/**
 * A look at a corpus before it is trained on: counts, lengths, characters, copies, and documents as the model sees
 * them.
 */

import type { Message } from "./chat.ts";
import { cleanupOf, type CleanupRow, copyRows } from "./cleanup.ts";
import { contentHashes } from "./content_hash.ts";
import type { Corpus, CorpusReport } from "./corpus.ts";
import { DistinctCount } from "./distinct.ts";
import { type DocumentEncoder, ownEncoder, type TokenDocuments } from "./documents.ts";
import { LengthCounts, type LengthStatistics } from "./lengths.ts";
import { SPECIAL_TOKENS, type Tokenizer } from "./tokenizer.ts";

/** Documents that are shown, and tokens of each. */
const EXAMPLES = 5;
const EXAMPLE_TOKENS = 48;

/** How many characters are listed. */
const COMMON_CHARACTERS = 32;

/** A document as the model sees it. */
export interface ExampleDocument {
  /** its first tokens as text, special ones by name; bytes that are not a character as \xff */
  tokens: string[];
  /** tokens of all of it */
  length: number;
}

/** What a corpus is made of. */
export interface Inspection extends LengthStatistics {
  /** the inputs as they were named */
  input: string;
  /** what the documents are */
  mode: "text" | "chat";
  /** tokens of the tokenizer that counted */
  vocab_size: number;
  /** documents that repeat an earlier one word for word */
  copies: number;
  /** false where there are so many documents that `copies` is an estimate */
  copiesExact: boolean;
  /** what the documents are written in */
  alphabet: {
    /** different characters (code points) */
    characters: number;
    /** the most frequent ones, and how often each occurs */
    common: { character: string; count: number }[];
  };
  /** documents that are longer than the block, where a block size is known, their tokens, and those that do not fit */
  long?: { blockSize: number; documents: number; tokens: number; cutTokens: number };
  /** what would not be trained on as it is */
  cleanup: CleanupRow[];
  /** chosen by a hash of their content */
  examples: ExampleDocument[];
  /** what was read, left out and changed */
  data: Omit<CorpusReport, "notices">;
}

/**
 * Reads a corpus and describes it. Memory does not grow with it.
 * @param tokenizer counts the tokens
 * @param options.blockSize of the model that is to be trained on it
 * @param options.onRead told the bytes read so far
 * @throws {MicrogptError} when the corpus cannot be read
 */
export async function inspectCorpus(
  corpus: Omit<Corpus, "textBlocks">,
  tokenizer: Tokenizer,
  { encoder = ownEncoder(tokenizer), blockSize, onRead, signal }: {
    /** default: our own way to write documents */
    encoder?: DocumentEncoder;
    blockSize?: number;
    onRead?: (bytes: number) => void;
    signal?: AbortSignal;
  } = {},
): Promise<Inspection> {
  const lengths = new LengthCounts();
  const distinct = new DistinctCount();
  const characters = new CharacterCounts();
  const examples = new Examples();
  for await (const { documents, bytesRead } of corpus.blocks(signal)) {
    onRead?.(bytesRead);
    const encoded = corpus.mode === "chat"
      ? await encoder.conversations(documents as Message[][], false)
      : await encoder.texts(documents as string[]);
    lengths.add(lengthsOf(encoded));
    contentHashes(documents, 0).forEach((hash, d) => {
      distinct.add(hash);
      examples.offer(hash, encoded, d);
      const document = documents[d]!;
      if (typeof document === "string") characters.add(document);
      else for (const { content } of document) characters.add(content);
    });
  }
  const { notices: _, ...data } = corpus.report();
  const statistics = lengths.statistics();
  const unit = corpus.mode === "chat" ? "conversations" : "documents";
  const copies = Math.max(statistics.documents - distinct.count, 0);
  return {
    input: corpus.path,
    mode: corpus.mode,
    vocab_size: tokenizer.vocabSize,
    ...statistics,
    copies,
    copiesExact: distinct.isExact,
    alphabet: characters.summary(),
    ...(blockSize === undefined ? {} : { long: longOf(lengths, blockSize) }),
    cleanup: [
      ...cleanupOf(data, unit),
      ...copyRows(copies, unit),
    ],
    examples: examples.shown(tokenizer),
    data,
  };
}

function longOf(lengths: LengthCounts, blockSize: number): NonNullable<Inspection["long"]> {
  const { documents, tokens } = lengths.above(blockSize + 1);
  return { blockSize, documents, tokens, cutTokens: tokens - documents * (blockSize + 1) };
}

function* lengthsOf({ offsets }: TokenDocuments): Generator<number> {
  for (let d = 0; d + 1 < offsets.length; d++) yield offsets[d + 1]! - offsets[d]!;
}

/** How often each character occurs. */
class CharacterCounts {
  readonly #counts = new Float64Array(0x11_0000);

  add(text: string): void {
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      if ((unit & 0xfc00) !== 0xd800) this.#counts[unit]!++;
      else this.#counts[text.codePointAt(i++)!]!++;
    }
  }

  summary(): Inspection["alphabet"] {
    const found: { character: string; count: number }[] = [];
    this.#counts.forEach((count, code) => {
      if (count > 0) found.push({ character: String.fromCodePoint(code), count });
    });
    found.sort((a, b) => b.count - a.count);
    return { characters: found.length, common: found.slice(0, COMMON_CHARACTERS) };
  }
}

/** The documents with the smallest hashes: the same ones in whatever order they come, and no two alike. */
class Examples {
  #chosen: { hash: number; ids: Uint32Array; length: number }[] = [];

  offer(hash: number, { ids, offsets }: TokenDocuments, document: number): void {
    const last = this.#chosen[EXAMPLES - 1];
    if (last && hash >= last.hash || this.#chosen.some((other) => other.hash === hash)) return;
    const [start, end] = [offsets[document]!, offsets[document + 1]!];
    const first = ids.slice(start, Math.min(end, start + EXAMPLE_TOKENS));
    this.#chosen.push({ hash, ids: first, length: end - start });
    this.#chosen.sort((a, b) => a.hash - b.hash);
    this.#chosen.length = Math.min(this.#chosen.length, EXAMPLES);
  }

  shown(tokenizer: Tokenizer): ExampleDocument[] {
    const special = new Map<number, string>();
    for (const name of Object.values(SPECIAL_TOKENS)) {
      const id = tokenizer.id(name);
      if (id !== undefined) special.set(id, name);
    }
    return this.#chosen.map(({ ids, length }) => ({
      tokens: Array.from(ids, (id) => special.get(id) ?? visible(tokenizer.tokenBytes(id))),
      length,
    }));
  }
}

/** The text of a token; where it is only part of a character, its bytes as \xff. */
function visible(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    // a byte-level vocabulary has tokens that are not whole characters
    return Array.from(bytes, (byte) => byte < 0x80 ? String.fromCharCode(byte) : `\\x${byte.toString(16)}`)
      .join("");
  }
}
