/**
 * The data of a run as a stream: files of any number, format and size, standard input, or what a program hands over.
 * None of it is kept, so memory does not grow with its size.
 */

import { sha256 } from "../platform/hash.ts";
import { checkOptions } from "../device/options.ts";
import { MicrogptError } from "../device/errors.ts";
import { cleanupNotice, describe, type Message } from "./chat.ts";
import { CORPUS_OPTIONS, type CorpusSettings } from "./corpus_options.ts";
import { readConversation } from "./reading/conversation.ts";
import { type PackedTexts, TextPacker } from "./packed_texts.ts";
import { type FileSummary, readFile, type Sink } from "./reading/file_reader.ts";
import { findInputFiles, type InputFile } from "./reading/input_files.ts";
import type { EmitBytes } from "./reading/line_bytes.ts";
import { type FileCount, fileNotices } from "./reading/notices.ts";
import { type Cleanup, type SkipReason, Tally } from "./reading/tally.ts";

/** Some documents, in order: about a megabyte of text. */
export interface CorpusBlock {
  /** texts, or in mode "chat" conversations, each of which ends with an assistant turn */
  documents: string[] | Message[][];
  /** bytes of input read so far, compressed as they lie on disk */
  bytesRead: number;
}

/** Some texts, in order. */
export interface TextBlock {
  texts: PackedTexts;
  /** UTF-16 units of them */
  characters: number;
  /** bytes of input read so far */
  bytesRead: number;
}

/** When a block of texts is full. */
export interface TextBlockSize {
  /** fewest UTF-16 units of text, except in the last */
  characters: number;
  /** most texts */
  documents: number;
}

/** Data that is read block by block. */
export interface Corpus {
  mode: "text" | "chat";
  /** the inputs as given, for people and for train_state.json */
  path: string;
  /** the inputs as given; "-" is standard input, and data in memory has none */
  inputs: readonly string[];
  /** what is read, in order; nothing for standard input and data in memory */
  files: { path: string; bytes: number; modified: number }[];
  /** bytes of all files; undefined where they are not known before reading */
  totalBytes: number | undefined;
  /** what the documents depend on besides the files: how they are read */
  settings: Record<string, unknown>;
  /** whether `blocks` may be called again: files and arrays yes, standard input, pipes and generators no */
  rereadable: boolean;
  /**
   * Reads everything once, in order. May be called again where the input is `rereadable`, and then gives the same
   * documents or fails.
   * @param signal ends reading with its reason
   * @throws {MicrogptError} when something cannot be read or understood, was changed meanwhile, or nothing is left
   */
  blocks(signal?: AbortSignal): AsyncGenerator<CorpusBlock>;
  /**
   * The same in mode "text", packed, in blocks that depend on nothing but the documents. Plain text with a document a line
   * is handed on without making strings of it.
   */
  textBlocks(size: TextBlockSize, signal?: AbortSignal): AsyncGenerator<TextBlock>;
  /** What was read, after `blocks` has ended. */
  report(): CorpusReport;
}

/** What came of reading a corpus. */
export interface CorpusReport {
  /** of one file, its SHA-256; of several, the SHA-256 of theirs, each in hexadecimal on a line */
  sha256: string;
  /** documents or conversations that were handed out */
  documents: number;
  /** bytes of input, as they lie on disk */
  bytes: number;
  /** UTF-16 units of text that were handed out */
  characters: number;
  /** what each kind of file turned out to be; files of the same kind together */
  files: FileCount[];
  /** how many were left out, by the reason */
  skipped: Partial<Record<SkipReason, number>>;
  /** how many were changed, by what was done */
  cleaned: Partial<Record<Cleanup, number>>;
  /** what a person should know of the files, one line each */
  notices: string[];
}

/** What is read and how. */
export interface CorpusOptions extends Partial<Omit<CorpusSettings, "input">> {
  /** files, directories and patterns; "-" is standard input */
  input: string | readonly string[];
  /** read conversations rather than texts */
  chat?: boolean;
  /** where the model takes messages of the role "system", which are kept there: anywhere, or in front of all others */
  keepSystem?: boolean | "first";
}

/** The path given to data that a program passed in. */
export const IN_MEMORY = "(memory)";

/** Whether a `dataset_path` names files, which can be read again; "-" is standard input. */
export function isDataFile(datasetPath: string): boolean {
  return datasetPath !== "-" && datasetPath !== IN_MEMORY;
}

/** Most files that are described one by one; if there are more, those read alike are described together. */
const NAMED_FILES = 5;

/** Fewest UTF-16 units of text in a block, except the last. */
const BLOCK_CHARACTERS = 1 << 20;

/**
 * Finds the files of a corpus, and reads none of them yet.
 * @throws {MicrogptError} for options out of range, and when an input is not there
 */
export async function openCorpus(options: CorpusOptions): Promise<Corpus> {
  const inputs = typeof options.input === "string" ? [options.input] : [...options.input];
  checkOptions(CORPUS_OPTIONS, { ...options, input: inputs });
  if (!inputs.includes("-")) {
    const { files, notices } = await findInputFiles(inputs);
    return new FileCorpus(inputs, files, notices, options);
  }
  if (inputs.length > 1) {
    throw new MicrogptError("standard input (-) and files are both given", {
      hint: "give one of them: cat can put files and standard input together",
      usage: true,
    });
  }
  return new FileCorpus(inputs, [], [], options);
}

/** Collects documents into blocks, and counts them. */
interface Collector<Block> extends Sink {
  /** documents so far */
  count: number;
  /** UTF-16 units of their text */
  characters: number;
  /** The blocks that are full. @param last also what is left */
  take(bytesRead: number, last: boolean): Block[];
}

/** Collects documents as they are. */
class DocumentCollector implements Collector<CorpusBlock> {
  count = 0;
  characters = 0;
  #documents: (string | Message[])[] = [];
  #inBlock = 0;

  add(document: string | Message[]): void {
    this.#documents.push(document);
    this.count++;
    const length = typeof document === "string"
      ? document.length
      : document.reduce((sum, { content }) => sum + content.length, 0);
    this.characters += length;
    // short documents take more than their text
    this.#inBlock += length + 16;
  }

  take(bytesRead: number, last: boolean): CorpusBlock[] {
    if (last ? this.#documents.length === 0 : this.#inBlock < BLOCK_CHARACTERS) return [];
    const documents = this.#documents as CorpusBlock["documents"];
    this.#documents = [];
    this.#inBlock = 0;
    return [{ documents, bytesRead }];
  }
}

/** Collects texts, packed. */
class TextCollector implements Collector<TextBlock> {
  count = 0;
  characters = 0;
  readonly #size: TextBlockSize;
  #packer: TextPacker;
  #inBlock = 0;
  #full: Omit<TextBlock, "bytesRead">[] = [];

  constructor(size: TextBlockSize) {
    this.#size = size;
    this.#packer = this.#newPacker();
  }

  add(document: string | Message[]): void {
    this.#packer.add(document as string);
    this.#counted((document as string).length);
  }

  readonly addBytes: EmitBytes = (bytes, start, end, characters) => {
    this.#packer.addBytes(bytes, start, end);
    this.#counted(characters);
  };

  #newPacker(): TextPacker {
    const { characters } = this.#size;
    return new TextPacker(characters + (characters >> 4) + 1024, 1024);
  }

  #counted(characters: number): void {
    this.count++;
    this.characters += characters;
    this.#inBlock += characters;
    const { characters: full, documents } = this.#size;
    if (this.#inBlock >= full || this.#packer.count === documents) this.#endBlock();
  }

  #endBlock(): void {
    this.#full.push({ texts: this.#packer.take(), characters: this.#inBlock });
    this.#packer = this.#newPacker();
    this.#inBlock = 0;
  }

  take(bytesRead: number, last: boolean): TextBlock[] {
    if (last && this.#packer.count > 0) this.#endBlock();
    const full = this.#full.map((block) => ({ ...block, bytesRead }));
    this.#full = [];
    return full;
  }
}

/** What one reading has found so far. */
interface Reading {
  tally: Tally;
  collected: Collector<unknown>;
  kinds: Map<string, FileCount>;
  hashes: string[];
  bytes: number;
  notices: string[];
  ended: boolean;
}

/** What corpora from files and from memory have in common. */
abstract class CountedCorpus implements Corpus {
  abstract readonly mode: "text" | "chat";
  abstract readonly path: string;
  abstract readonly inputs: readonly string[];
  abstract readonly files: InputFile[];
  abstract readonly totalBytes: number | undefined;
  abstract readonly rereadable: boolean;
  abstract readonly settings: Record<string, unknown>;
  protected reading: Reading | undefined;

  /** Reads everything once, and hands out what is collected. */
  protected abstract read<Block>(collector: Collector<Block>, signal?: AbortSignal): AsyncGenerator<Block>;

  blocks(signal?: AbortSignal): AsyncGenerator<CorpusBlock> {
    return this.read(new DocumentCollector(), signal);
  }

  textBlocks(size: TextBlockSize, signal?: AbortSignal): AsyncGenerator<TextBlock> {
    return this.read(new TextCollector(size), signal);
  }

  /** Starts over. @throws {MicrogptError} where the first reading has used the input up */
  protected begin(strict: boolean, collected: Collector<unknown>): Reading {
    if (this.reading && !this.rereadable) {
      throw new MicrogptError(`${this.path === "-" ? "standard input" : this.path} can be read only once`, {
        hint: "write the data to a file",
      });
    }
    this.reading = {
      tally: new Tally(strict),
      collected,
      kinds: new Map(),
      hashes: [],
      bytes: 0,
      notices: [],
      ended: false,
    };
    return this.reading;
  }

  report(): CorpusReport {
    if (!this.reading?.ended) throw new Error("the corpus has not been read to its end");
    const { tally, collected, kinds, hashes, bytes, notices } = this.reading;
    const trimmed = tally.cleaned.get("trailing user turn removed") ?? 0;
    const skipped = tally.skipped.get("no assistant turn") ?? 0;
    const unit = this.mode === "chat" ? "conversations" : "documents";
    const said = [
      ...fileNotices([...kinds.values()], unit),
      ...notices,
      cleanupNotice({ trimmed, skipped }),
    ];
    return {
      sha256: hashes.length === 1 ? hashes[0]! : sha256().update(hashes.join("\n")).digest("hex"),
      documents: collected.count,
      bytes,
      characters: collected.characters,
      files: [...kinds.values()],
      skipped: Object.fromEntries(tally.skipped),
      cleaned: Object.fromEntries(tally.cleaned),
      notices: said.filter((notice) => notice !== undefined),
    };
  }

  /** @throws {MicrogptError} when nothing was handed out */
  protected checkSomeLeft(name: string, hint: string): void {
    const { collected, tally } = this.reading!;
    if (collected.count > 0) return;
    const skipped = [...tally.skipped].filter(([reason]) => reason !== "empty");
    const reasons = skipped.map(([reason, n]) => `${n} skipped: ${reason}`).join(", ");
    const without = tally.skipped.get("no assistant turn");
    const missing = skipped.length === 1 && without !== undefined
      ? ` with an assistant turn (${without} without)`
      : reasons && ` (${reasons})`;
    const unit = this.mode === "chat" ? "conversation" : "document";
    throw new MicrogptError(`${name} holds no ${unit}${missing}`, { hint });
  }
}

/** Files one after the other, or standard input. */
class FileCorpus extends CountedCorpus {
  readonly mode: "text" | "chat";
  readonly path: string;
  readonly totalBytes: number | undefined;
  readonly rereadable: boolean;
  readonly settings: Record<string, unknown>;
  readonly #options: CorpusOptions;
  readonly #notices: string[];

  constructor(
    readonly inputs: readonly string[],
    readonly files: InputFile[],
    notices: string[],
    options: CorpusOptions,
  ) {
    super();
    this.mode = options.chat ? "chat" : "text";
    this.path = inputs.join(", ");
    this.#options = options;
    this.#notices = notices;
    const { keepSystem = false, strict = false, format, document, field } = options;
    this.settings = { mode: this.mode, keepSystem, strict, format, document, field };
    this.rereadable = files.length > 0 && files.every(({ regular }) => regular);
    this.totalBytes = this.rereadable ? files.reduce((sum, { bytes }) => sum + bytes, 0) : undefined;
  }

  protected async *read<Block>(collector: Collector<Block>, signal?: AbortSignal): AsyncGenerator<Block> {
    const reading = this.begin(this.#options.strict === true, collector);
    const { tally, kinds, hashes } = reading;
    reading.notices.push(...this.#notices);
    const { chat = false, keepSystem = false, format, document, field } = this.#options;
    for (const file of this.files.length > 0 ? this.files : [undefined]) {
      signal?.throwIfAborted();
      const before = collector.count;
      const settings = { chat, keepSystem, format, document, field };
      const pieces = readFile(file, settings, tally, collector, signal);
      let summary: FileSummary | undefined;
      try {
        while (!summary) {
          const { done, value } = await pieces.next();
          if (done) summary = value;
          else yield* collector.take(reading.bytes + value, false);
        }
      } finally {
        // closes the file even when its reader leaves early
        await pieces.return(undefined as never);
      }
      reading.bytes += summary.bytes;
      hashes.push(summary.sha256);
      addKind(kinds, summary, collector.count - before, this.files.length > NAMED_FILES);
      if (summary.notice !== undefined && reading.notices.length < 20) reading.notices.push(summary.notice);
      yield* collector.take(reading.bytes, false);
    }
    if (document !== undefined && ![...kinds.values()].some(({ format }) => format === "text")) {
      reading.notices.push(
        "warning: `document` is ignored: it is about plain text, and none of the files is",
      );
    }
    this.checkSomeLeft(
      this.files.length > 1 ? this.path : this.files[0]?.path ?? "standard input",
      chat
        ? 'write one conversation a line: an array of {"role", "content"} messages'
        : "write one document a line; empty lines do not count",
    );
    reading.ended = true;
    yield* collector.take(reading.bytes, true);
  }
}

/** Counts a file; where there are many, together with those that were read alike. */
function addKind(
  kinds: Map<string, FileCount>,
  summary: FileSummary,
  documents: number,
  together: boolean,
): void {
  const { path, format, compression, encoding, detail } = summary;
  const key = JSON.stringify([format, compression, encoding, detail, together ? "" : path]);
  const kind = kinds.get(key) ?? {
    path,
    files: 0,
    documents: 0,
    format,
    ...(compression ? { compression } : {}),
    ...(encoding ? { encoding } : {}),
    detail,
  };
  kind.files++;
  kind.documents += documents;
  kinds.set(key, kind);
}

/** Data that a program hands over, of any length. */
export type Items<T> = Iterable<T> | AsyncIterable<T>;

/**
 * A corpus of data in memory, or from a generator. Texts are taken as they are: they may contain line ends, and
 * are not trimmed. Conversations are checked and cleaned like those in a file.
 * @param mode what `items` are
 * @param items an array may be read again, anything else once
 * @throws {MicrogptError} when `items` is nothing that can be iterated over
 */
export function corpusOf(
  mode: "text" | "chat",
  items: Items<string> | Items<Message[]>,
  options: Pick<CorpusOptions, "strict" | "keepSystem"> = {},
): Corpus {
  const name = mode === "chat" ? "conversations" : "documents";
  const value: unknown = items;
  const iterable = typeof value === "object" && value !== null &&
    (Symbol.iterator in value || Symbol.asyncIterator in value);
  if (!iterable) {
    const what = mode === "chat" ? "conversations" : "texts";
    throw new MicrogptError(`${name}: expected an array or an iterable of ${what}, got ${describe(value)}`, {
      usage: true,
    });
  }
  return new MemoryCorpus(mode, items, options);
}

class MemoryCorpus extends CountedCorpus {
  readonly path = IN_MEMORY;
  readonly inputs = [];
  readonly files = [];
  readonly totalBytes = undefined;
  readonly settings = {};
  readonly rereadable: boolean;
  readonly #items: Items<unknown>;
  readonly #options: Pick<CorpusOptions, "strict" | "keepSystem">;

  constructor(
    readonly mode: "text" | "chat",
    items: Items<unknown>,
    options: Pick<CorpusOptions, "strict" | "keepSystem">,
  ) {
    super();
    this.#items = items;
    this.#options = options;
    this.rereadable = Array.isArray(items);
  }

  protected async *read<Block>(collector: Collector<Block>, signal?: AbortSignal): AsyncGenerator<Block> {
    const reading = this.begin(this.#options.strict === true, collector);
    const { tally } = reading;
    const hash = sha256();
    const { keepSystem = false } = this.#options;
    let index = 0;
    for await (const item of this.#items) {
      signal?.throwIfAborted();
      const at = index++;
      const document = this.mode === "chat"
        ? readConversation(item, () => `conversations[${at}]`, { keepSystem, tally })
        : checkedText(item, at);
      if (document === undefined) continue;
      const json = JSON.stringify(document) + "\n";
      hash.update(json);
      reading.bytes += json.length;
      collector.add(document);
      yield* collector.take(reading.bytes, false);
    }
    if (this.mode === "chat") {
      this.checkSomeLeft("conversations", "each is an array of {role, content} messages");
    } else if (collector.count === 0) throw new MicrogptError("documents is empty", { usage: true });
    reading.hashes.push(hash.digest("hex"));
    reading.ended = true;
    yield* collector.take(reading.bytes, true);
  }
}

function checkedText(item: unknown, index: number): string {
  if (typeof item !== "string") {
    throw new MicrogptError(`documents[${index}]: expected text, got ${describe(item)}`, { usage: true });
  }
  if (item.isWellFormed()) return item;
  throw new MicrogptError(`documents[${index}]: expected well-formed Unicode, got a lone surrogate`, {
    usage: true,
  });
}
