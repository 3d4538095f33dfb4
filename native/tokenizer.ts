/** The tokenizer of the native library. */

import { checkVocabSize, type EncodedDocuments, type Tokenizer, TokenTable } from "../data/tokenizer.ts";
import { MicrogptError } from "../model/errors.ts";
import { check, openLibrary } from "./library.ts";

const open = () =>
  openLibrary({
    mg_set_threads: { parameters: ["u32"], result: "i32" },
    mg_tokenizer_train: {
      parameters: ["buffer", "usize", "buffer", "usize", "u32", "u32", "buffer"],
      result: "i32",
    },
    mg_tokenizer_take_json: { parameters: ["u32", "buffer", "usize"], result: "i32" },
    mg_tokenizer_load: { parameters: ["buffer", "usize", "buffer"], result: "i32" },
    mg_tokenizer_free: { parameters: ["u32"], result: "i32" },
    mg_tokenizer_id: { parameters: ["u32", "buffer", "usize", "buffer"], result: "i32" },
    mg_tokenizer_token_bytes: { parameters: ["u32", "buffer", "usize", "buffer", "usize"], result: "i32" },
    mg_tokenizer_encode: {
      parameters: ["u32", "buffer", "usize", "buffer", "usize", "buffer"],
      result: "i32",
    },
    mg_encoding_take: { parameters: ["u32", "buffer", "usize", "buffer", "usize"], result: "i32" },
  });

let symbols: ReturnType<typeof open> | undefined;
const native = () => symbols ??= open();

/** Frees what was forgotten without `close`. */
const forgotten = new FinalizationRegistry<number>((handle) => void native().mg_tokenizer_free(handle));

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
  readonly #json: string;
  readonly #table: TokenTable;
  #handle: number | undefined;

  private constructor(json: string, handle: number, table: TokenTable) {
    this.#json = json;
    this.#handle = handle;
    this.#table = table;
    forgotten.register(this, handle, this);
  }

  /**
   * Trains a new tokenizer. The same documents and options give the same `tokenizer.json`, byte for byte, with
   * any number of threads.
   * @param documents the corpus; it is trained on as if joined with newlines
   * @throws {MicrogptError} when the vocabulary is smaller than the alphabet, or there is no native library
   */
  static train(
    documents: readonly string[],
    { vocabSize, chat = false }: TokenizerTraining,
  ): NativeTokenizer {
    checkVocabSize(vocabSize, chat);
    const { text, offsets } = pack(documents);
    const result = new BigUint64Array(2);
    const lib = native();
    check(
      lib.mg_tokenizer_train(text, size(text), offsets, size(offsets), vocabSize, Number(chat), result),
    );
    const json = new Uint8Array(Number(result[1]));
    check(lib.mg_tokenizer_take_json(Number(result[0]), json, size(json)));
    return NativeTokenizer.fromJson(new TextDecoder().decode(json));
  }

  /**
   * Loads a tokenizer.
   * @param json the text of a `tokenizer.json`; hostile ones are refused
   * @throws {MicrogptError} when it is not a byte-level BPE tokenizer with `<bos>`, or there is no native library
   */
  static fromJson(json: string): NativeTokenizer {
    const lib = native();
    const bytes = new TextEncoder().encode(json);
    const result = new BigUint64Array(3);
    check(lib.mg_tokenizer_load(bytes, size(bytes), result));
    const [handle, vocabSize, tokenBytes] = [...result].map(Number) as [number, number, number];
    const table = new Uint8Array(tokenBytes);
    const offsets = new Uint32Array(vocabSize + 1);
    check(lib.mg_tokenizer_token_bytes(handle, table, size(table), offsets, size(offsets)));
    return new NativeTokenizer(json, handle, new TokenTable(table, offsets));
  }

  get vocabSize(): number {
    return this.#table.size;
  }

  encode(documents: readonly string[]): EncodedDocuments {
    const { text, offsets } = pack(documents);
    const result = new BigUint64Array(2);
    const lib = native();
    check(
      lib.mg_tokenizer_encode(this.#open(), text, size(text), offsets, size(offsets), result),
    );
    const ids = new Uint32Array(Number(result[1]));
    check(lib.mg_encoding_take(Number(result[0]), ids, size(ids), offsets, size(offsets)));
    return { ids, offsets };
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
    const name = new TextEncoder().encode(token);
    const id = new BigInt64Array(1);
    check(native().mg_tokenizer_id(this.#open(), name, size(name), id));
    return id[0]! < 0n ? undefined : Number(id[0]);
  }

  toJSON(): string {
    return this.#json;
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

/** A buffer's length, as FFI takes a `usize`. */
const size = (buffer: ArrayLike<number>) => BigInt(buffer.length);

/** Documents as one UTF-8 buffer, and the start of each, [documents + 1]. */
function pack(documents: readonly string[]) {
  const encoder = new TextEncoder();
  const offsets = new Uint32Array(documents.length + 1);
  // UTF-16 units: a unit becomes at most 3 bytes, and mostly 1.
  const units = documents.reduce((sum, document) => sum + document.length, 0);
  let text = new Uint8Array(units + 64);
  let at = 0;
  for (let d = 0; d < documents.length; d++) {
    const document = documents[d]!;
    let { read, written } = encoder.encodeInto(document, text.subarray(at));
    while (read < document.length) {
      text = grown(text, at + written + 3 * (document.length - read));
      const more = encoder.encodeInto(document.slice(read), text.subarray(at + written));
      read += more.read;
      written += more.written;
    }
    at += written;
    offsets[d + 1] = at;
  }
  return { text: text.subarray(0, at), offsets };
}

/** A copy with room for at least `needed` bytes, and for more to come. */
function grown(bytes: Uint8Array<ArrayBuffer>, needed: number): Uint8Array<ArrayBuffer> {
  if (needed > 0xffff_ffff) throw new MicrogptError("more than 4 GB of text cannot be tokenized at once");
  const larger = new Uint8Array(Math.min(Math.max(needed, Math.ceil(bytes.length * 1.5)), 0xffff_ffff));
  larger.set(bytes);
  return larger;
}
