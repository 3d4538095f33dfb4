/** The tokenizer of the native library. */

import { type AddedToken, AddedTokens } from "../data/added_tokens.ts";
import { tokenTable } from "../data/byte_level.ts";
import { packed, type Texts, unpacked } from "../data/packed_texts.ts";
import { SPLITS } from "../data/splits.ts";
import {
  checkVocabSize,
  type EncodedDocuments,
  type Tokenizer,
  type TokenTable,
  type WordCounter,
} from "../data/tokenizer.ts";
import {
  normalized,
  ordinaryTokens,
  parseTokenizerJson,
  type TokenizerFile,
} from "../data/tokenizer_json.ts";
import { check, openLibrary, openWaiting } from "./library.ts";
import { TOKENIZER } from "./symbols.ts";

let symbols: ReturnType<typeof openSymbols> | undefined;
const openSymbols = () => openLibrary(TOKENIZER);
const native = () => symbols ??= openSymbols();

let waiting: ReturnType<typeof openWaits> | undefined;
const openWaits = () => openWaiting({ mg_job_wait: TOKENIZER.mg_job_wait });
/** Returns when a job is done, and lets other things happen meanwhile. */
const jobDone = async (job: number) => check(await (waiting ??= openWaits()).mg_job_wait(job));

/** Frees what was dropped without `close`. */
const forgotten = new FinalizationRegistry<number>((handle) => check(native().mg_tokenizer_free(handle)));

/** What a new tokenizer should be. */
export interface TokenizerTraining {
  /** Tokens at most; fewer when the text has no more pairs to merge. */
  vocabSize: number;
  /** Adds `<user>`, `<assistant>` and `<end_turn>`. */
  chat?: boolean;
}

/**
 * Sets the number of threads that train and encode use.
 * @param threads 0: one for each core
 * @throws {MicrogptError} when the native library cannot be opened, or the number is out of range
 */
export function setTokenizerThreads(threads: number): void {
  check(native().mg_set_threads(threads));
}

/** A tokenizer held by the native library: freed by `close`, at the end of a `using` block, or when collected. */
export class NativeTokenizer implements Tokenizer, Disposable {
  readonly #file: TokenizerFile;
  readonly #table: TokenTable;
  readonly #added: AddedTokens;
  #handle: number | undefined;

  private constructor(file: TokenizerFile) {
    this.#file = file;
    this.#table = tokenTable(file);
    this.#added = new AddedTokens(file.added);
    this.#handle = load(file);
    forgotten.register(this, this.#handle, this);
  }

  /**
   * Trains a new tokenizer. The same documents and options give the same `tokenizer.json`, byte for byte, with
   * any number of threads.
   * @param documents the corpus; it is trained on as if joined with newlines
   * @throws {MicrogptError} when the vocabulary is smaller than the alphabet, or there is no native library
   */
  static train(documents: readonly string[], training: TokenizerTraining): NativeTokenizer {
    const { vocabSize, chat = false } = training;
    checkVocabSize(vocabSize, chat);
    using words = new NativeWordCounter(training);
    words.addAtOnce(documents);
    return words.trainAtOnce();
  }

  /**
   * Loads a tokenizer.
   * @param json the text of a `tokenizer.json`; hostile ones are refused
   * @throws {MicrogptError} when it is not a byte-level BPE tokenizer of a known kind, or there is no native library
   */
  static fromJson(json: string): NativeTokenizer {
    return new NativeTokenizer(parseTokenizerJson(json));
  }

  /** Loads a tokenizer that was checked. @throws {MicrogptError} when there is no native library */
  static fromFile(file: TokenizerFile): NativeTokenizer {
    return new NativeTokenizer(file);
  }

  get vocabSize(): number {
    return this.#table.size;
  }

  encode(documents: readonly string[]): EncodedDocuments {
    return this.#added.encode(normalized(documents, this.#file), (texts) => this.#encode(texts));
  }

  async encodeInBackground(documents: Texts): Promise<EncodedDocuments> {
    if (this.#file.added.length > 0) return this.encode(unpacked(documents));
    const { job, offsets } = this.#begin(
      this.#file.nfc ? normalized(unpacked(documents), this.#file) : documents,
    );
    await jobDone(job);
    return encodingOf(job, offsets);
  }

  #encode(documents: readonly string[]): EncodedDocuments {
    const { job, offsets } = this.#begin(documents);
    return encodingOf(job, offsets);
  }

  /** @returns the job that encodes, and an array for its offsets */
  #begin(documents: Texts) {
    const { bytes: text, offsets } = packed(documents);
    const job = new Uint32Array(1);
    check(
      native().mg_tokenizer_encode(
        this.#open(),
        text,
        text.length,
        offsets,
        offsets.length,
        job,
        job.length,
      ),
    );
    return { job: job[0]!, offsets: new Uint32Array(offsets.length) };
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

  /** Frees the native tokenizer; decoding still works, encoding does not. A second call does nothing. */
  close(): void {
    if (this.#handle === undefined) return;
    forgotten.unregister(this);
    check(native().mg_tokenizer_free(this.#handle));
    this.#handle = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #open(): number {
    if (this.#handle === undefined) throw new Error("the tokenizer is closed");
    return this.#handle;
  }
}

/** Takes an encoding that a job has made. */
function encodingOf(job: number, offsets: Uint32Array<ArrayBuffer>): EncodedDocuments {
  const lib = native();
  const result = new Uint32Array(2);
  check(lib.mg_job_end(job, result, result.length));
  const [encoding, count] = [result[0]!, result[1]!];
  try {
    const ids = new Uint32Array(count);
    check(lib.mg_tokenizer_encoding(encoding, ids, ids.length, offsets, offsets.length));
    return { ids, offsets };
  } finally {
    check(lib.mg_tokenizer_free(encoding));
  }
}

/** Counts the words of a corpus of any size, and trains a tokenizer on them. */
export class NativeWordCounter implements WordCounter, Disposable {
  readonly #training: TokenizerTraining;
  #handle: number | undefined;

  /** @throws {MicrogptError} when the vocabulary is smaller than the alphabet, or there is no native library */
  constructor(training: TokenizerTraining) {
    checkVocabSize(training.vocabSize, training.chat === true);
    this.#training = training;
    const handle = new Uint32Array(1);
    check(native().mg_words_open(handle, handle.length));
    this.#handle = handle[0]!;
  }

  async add(documents: Texts): Promise<void> {
    const job = this.#begin(documents);
    await jobDone(job);
    check(native().mg_job_end(job, new Uint32Array(2), 2));
  }

  /** The same, and nothing else happens meanwhile. */
  addAtOnce(documents: readonly string[]): void {
    check(native().mg_job_end(this.#begin(documents), new Uint32Array(2), 2));
  }

  #begin(documents: Texts): number {
    const { bytes: text, offsets } = packed(documents);
    const job = new Uint32Array(1);
    check(
      native().mg_words_count(this.#open(), text, text.length, offsets, offsets.length, job, job.length),
    );
    return job[0]!;
  }

  async train(): Promise<NativeTokenizer> {
    const job = this.#beginTraining();
    await jobDone(job);
    return trainedBy(job);
  }

  /** The same, and nothing else happens meanwhile. */
  trainAtOnce(): NativeTokenizer {
    return trainedBy(this.#beginTraining());
  }

  #beginTraining(): number {
    const { vocabSize, chat = false } = this.#training;
    const job = new Uint32Array(1);
    check(native().mg_words_train(this.#open(), vocabSize, Number(chat), job, job.length));
    return job[0]!;
  }

  /** Frees the counts. A second call does nothing. */
  close(): void {
    if (this.#handle !== undefined) check(native().mg_tokenizer_free(this.#handle));
    this.#handle = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #open(): number {
    if (this.#handle === undefined) throw new Error("the word counter is closed");
    return this.#handle;
  }
}

/** Takes a tokenizer that a job has trained. */
function trainedBy(job: number): NativeTokenizer {
  const lib = native();
  const result = new Uint32Array(2);
  check(lib.mg_job_end(job, result, result.length));
  const [file, bytes] = [result[0]!, result[1]!];
  try {
    const json = new Uint8Array(bytes);
    check(lib.mg_tokenizer_json(file, json, json.length));
    return NativeTokenizer.fromJson(new TextDecoder().decode(json));
  } finally {
    check(lib.mg_tokenizer_free(file));
  }
}

/** Hands a checked tokenizer to the library. @returns its handle */
function load(file: TokenizerFile): number {
  const handle = new Uint32Array(1);
  if (file.whole) {
    const json = new TextEncoder().encode(file.whole.json);
    check(native().mg_tokenizer_load_whole(json, json.length, handle, handle.length));
    return handle[0]!;
  }
  const { merges, split, ignoreMerges } = file;
  const ordinary = ordinaryTokens(file);
  const { bytes: text, offsets } = packed(ordinary.map(([name]) => name));
  const ids = Uint32Array.from(ordinary, ([, id]) => id);
  // deno-fmt-ignore
  check(native().mg_tokenizer_load(
    text, text.length, offsets, offsets.length, ids, ids.length, merges, merges.length,
    SPLITS[split!].id, Number(ignoreMerges), handle, handle.length,
  ));
  return handle[0]!;
}
