/** Reads one file of any kind into documents or conversations. */

import { refuseSignatures } from "../file_signatures.ts";
import { EXPECTED, invalidJsonHint, jsonReason, type Message } from "../chat.ts";
import type { Format } from "../corpus_options.ts";
import { MAX_LINE_BYTES } from "./limits.ts";
import { MicrogptError } from "../../device/errors.ts";
import { CONVERSATION_FIELDS, readConversation, shapeOf } from "./conversation.ts";
import { CsvCutter, separatorOf } from "./csv_cutter.ts";
import { type Cutter, type Emit, LineCutter, LinesCutter, MAX_DOCUMENT, SeparatorCutter } from "./cutter.ts";
import { decodeText, type Encoding, encodingOf, sampleText } from "./decoded_text.ts";
import {
  type ByteSource,
  type Compression,
  compressionOf,
  openBytes,
  PeekedBytes,
  unpack,
} from "./input_bytes.ts";
import type { InputFile } from "./input_files.ts";
import { JsonCutter } from "./json_cutter.ts";
import { type EmitBytes, LineBytes } from "./line_bytes.ts";
import {
  isTable,
  looksLikeConversations,
  type RecognisedText,
  recogniseText,
  SAMPLE_BYTES,
} from "./recognise.ts";
import type { Tally } from "./tally.ts";
import { chooseField, shown, TextField } from "./text_field.ts";

/** How files are read. */
export interface ReadSettings {
  chat: boolean;
  keepSystem: boolean | "first";
  format?: Format | undefined;
  document?: string | undefined;
  field?: string | undefined;
}

/** What a file turned out to be. */
export interface FileSummary {
  path: string;
  format: Format;
  compression?: Compression;
  encoding?: Encoding;
  /** what a document of it is, for people: "one a line", "field text" */
  detail: string;
  /** what a person should know about it */
  notice?: string;
  sha256: string;
  bytes: number;
}

/** Takes what a file holds. */
export interface Sink {
  /** takes a document */
  add(document: string | Message[]): void;
  /** takes texts as bytes where they need no look at; without it all are strings */
  addBytes?: EmitBytes;
}

/** Rows of a table between two checks of whether a block is full. */
const ROWS_AT_A_TIME = 64;

/** Most brackets in a long line: parsed, they take some fifty times their size. */
const MAX_BRACKETS = 1_000_000;

/**
 * Reads a file from end to end.
 * @param file undefined for standard input
 * @param sink gets the documents, in their order
 * @returns yields the bytes read so far, often enough that at most a few megabytes are sunk in between
 * @throws {MicrogptError} when it cannot be read or understood
 */
export async function* readFile(
  file: InputFile | undefined,
  settings: ReadSettings,
  tally: Tally,
  sink: Sink,
  signal?: AbortSignal,
): AsyncGenerator<number, FileSummary> {
  const source = openBytes(file, signal);
  const raw = new PeekedBytes(source.chunks);
  try {
    const start = await raw.peek(16);
    if (settings.format === "parquet" || isParquet(start) && settings.format === undefined) {
      if (!file?.regular) {
        throw new MicrogptError(`${source.name}: Parquet is read from its end, so it must be a file`, {
          hint: "write it to a file first",
        });
      }
      for await (const _ of raw) signal?.throwIfAborted(); // hashes it
      const detail = yield* readParquet(file, settings, tally, sink, signal);
      return {
        path: file.path,
        format: "parquet",
        detail,
        sha256: source.digest(),
        bytes: source.bytesRead(),
      };
    }
    const compression = compressionOf(start);
    const bytes = compression ? new PeekedBytes(unpack(source, raw, compression, signal)) : raw;
    try {
      const sample = await bytes.peek(SAMPLE_BYTES);
      const reader = new TextFileReader(source.name, sample, settings, tally, sink);
      const { addBytes } = sink;
      const left = addBytes && reader.isLines && encodingOf(sample) === "utf-8"
        ? yield* readLines(source, sample, bytes, addBytes, tally)
        : { bytes, offset: 0, line: 1 };
      if (left) {
        reader.begin(left.line);
        for await (
          const piece of decodeText(source.name, sample, left.bytes, () => reader.line, left.offset)
        ) {
          signal?.throwIfAborted();
          reader.push(piece);
          yield source.bytesRead();
        }
        reader.end();
      }
      return {
        path: source.name,
        ...reader.summary(),
        ...(compression ? { compression } : {}),
        encoding: encodingOf(sample),
        sha256: source.digest(),
        bytes: source.bytesRead(),
      };
    } finally {
      await bytes.close();
    }
  } finally {
    await raw.close();
  }
}

/** What of a file is left to read, from this line and byte on. */
interface Left {
  bytes: AsyncIterable<Uint8Array>;
  offset: number;
  line: number;
}

/** Reads plain text, a document a line. @returns what must be read in another way; undefined where all is read */
async function* readLines(
  { name, bytesRead }: Pick<ByteSource, "name" | "bytesRead">,
  sample: Uint8Array,
  bytes: AsyncIterable<Uint8Array>,
  addBytes: EmitBytes,
  tally: Tally,
): AsyncGenerator<number, Left | undefined> {
  refuseSignatures(name, sample);
  const lines = new LineBytes(addBytes);
  const pieces = bytes[Symbol.asyncIterator]();
  let handedOn = false;
  const rest = async function* (first: Uint8Array) {
    yield first;
    yield* { [Symbol.asyncIterator]: () => pieces };
  };
  try {
    while (true) {
      const { done, value } = await pieces.next();
      const left = done ? lines.end() : lines.push(value);
      handedOn = left !== undefined;
      if (left) return { bytes: rest(left), offset: lines.offset, line: lines.line };
      if (done) return undefined;
      yield bytesRead();
    }
  } finally {
    tally.leaveOutEmpty(lines.empty);
    tally.clean("white space at its ends removed", lines.trimmed);
    if (!handedOn) await pieces.return?.();
  }
}

function isParquet(start: Uint8Array): boolean {
  return [0x50, 0x41, 0x52, 0x31].every((byte, i) => start[i] === byte);
}

/** The text of a file as the records and documents that it holds. */
class TextFileReader {
  readonly #name: string;
  readonly #settings: ReadSettings;
  readonly #tally: Tally;
  readonly #sink: Sink;
  readonly #recognised: RecognisedText;
  readonly #sample: string;
  #cutter: Cutter | undefined;
  readonly #texts: TextField;
  #notice: string | undefined;
  readonly #shapes = new Shapes();
  #header: string[] | undefined;

  constructor(name: string, start: Uint8Array, settings: ReadSettings, tally: Tally, sink: Sink) {
    this.#name = name;
    this.#settings = settings;
    this.#tally = tally;
    this.#sink = sink;
    this.#sample = sampleText(start);
    const whole = start.length < SAMPLE_BYTES;
    this.#recognised = recogniseText(this.#sample, whole, name, settings.chat, settings.format);
    this.#texts = new TextField(name, (text) => sink.add(text), tally, settings.field);
    if (this.#recognised.format === "text") this.#checkPlainText();
  }

  /** Whether it is plain text, and each line a document. */
  get isLines(): boolean {
    return this.#recognised.format === "text" && this.#document() === "line";
  }

  /** Before the first text. @param line that it begins in */
  begin(line: number): void {
    this.#cutter = this.#makeCutter(this.#sample, line);
  }

  get line(): number {
    return this.#cutter!.line;
  }

  push(piece: string): void {
    this.#cutter!.push(piece);
  }

  end(): void {
    this.#cutter!.end();
    this.#texts.end();
  }

  summary(): Pick<FileSummary, "format" | "detail" | "notice"> {
    const { format } = this.#recognised;
    const detail = format === "text"
      ? textDetail(this.#document())
      : this.#settings.chat
      ? this.#shapes.said
      : this.#texts.field === undefined
      ? ""
      : `field ${this.#texts.field}`;
    return { format, detail, ...(this.#notice === undefined ? {} : { notice: this.#notice }) };
  }

  #document(): string {
    return this.#settings.document ??
      (/\.(md|markdown)(\.(gz|zst|xz))?$/iu.test(this.#name) ? "file" : "line");
  }

  #makeCutter(sample: string, line: number): Cutter {
    const { format, elements } = this.#recognised;
    const { chat } = this.#settings;
    const longest = chat ? MAX_LINE_BYTES : MAX_DOCUMENT;
    switch (format) {
      case "text":
        return this.#textCutter(line);
      case "jsonl":
        return new LineCutter(this.#name, (line, number) => {
          const text = line.trim();
          if (text !== "") this.#record(this.#parse(text, number), number);
        }, longest);
      case "json": {
        const emit: Emit<string> = (text, line) => this.#record(this.#parse(text, line), line);
        return new JsonCutter(this.#name, emit, elements === true, longest);
      }
      case "csv":
      case "tsv": {
        const separator = format === "tsv" ? "\t" : separatorOf(sample);
        return new CsvCutter(this.#name, (row, line) => this.#row(row, line), separator);
      }
    }
  }

  /** What is wrong with reading plain text, and what a person should know about it. */
  #checkPlainText(): void {
    if (this.#settings.format === undefined) this.#notice = syntaxNotice(this.#name, this.#sample);
    if (this.#settings.chat) {
      throw new MicrogptError(`${this.#name}: conversations are not read from plain text`, {
        hint: "write them as JSONL, or drop `chat`",
        usage: true,
      });
    }
  }

  #textCutter(line: number): Cutter {
    const emit: Emit<string> = (text) => {
      const document = text.trim();
      if (document === "") return this.#tally.leaveOutEmpty();
      if (document.length < text.length) this.#tally.clean("white space at its ends removed");
      this.#sink.add(document);
    };
    const document = this.#document();
    if (document === "line") return new LineCutter(this.#name, emit, MAX_LINE_BYTES, line);
    if (document === "file" || document === "paragraph") {
      return new LinesCutter(this.#name, emit, document === "paragraph");
    }
    return new SeparatorCutter(this.#name, emit, document);
  }

  #parse(text: string, line: number): unknown {
    if (text.length > MAX_LINE_BYTES && (text.match(/[[{]/gu)?.length ?? 0) > MAX_BRACKETS) {
      throw new MicrogptError(
        `${this.#name} line ${line} is longer than ${MAX_LINE_BYTES / 1024 / 1024} MB`,
        {
          hint: "long records may hold text, but not so many lists and objects",
        },
      );
    }
    try {
      return JSON.parse(text);
    } catch (error) {
      const expected = this.#settings.chat ? EXPECTED : "a record";
      const hint = this.#settings.chat
        ? invalidJsonHint(text)
        : { hint: "mend or remove the line; `format` text reads the file as plain text" };
      throw new MicrogptError(
        `${this.#name} line ${line}: expected ${expected}, got invalid JSON (${jsonReason(error)})`,
        { ...hint, cause: error },
      );
    }
  }

  #record(value: unknown, line: number): void {
    const { chat, field, keepSystem } = this.#settings;
    if (!chat) return this.#texts.push(value, line);
    this.#shapes.add(value, field);
    const where = () => `${this.#name} line ${line}`;
    const messages = readConversation(value, where, { field, keepSystem, tally: this.#tally });
    if (messages) this.#sink.add(messages);
  }

  /** The first row of a table names the columns. */
  #row(row: string[], line: number): void {
    if (!this.#header) {
      this.#header = row.map((name) => name.trim());
      return;
    }
    if (row.length !== this.#header.length) {
      const where = () => `${this.#name} line ${line}`;
      return this.#tally.skip("another number of columns than the header", where);
    }
    this.#record(Object.fromEntries(this.#header.map((name, column) => [name, row[column]])), line);
  }
}

/** The shapes that the conversations of a file have; usually one. */
class Shapes {
  readonly #found = new Set<string>();

  add(value: unknown, field?: string): void {
    if (this.#found.size < 2) this.#found.add(shapeOf(value, field) ?? "");
  }

  /** for people */
  get said(): string {
    return this.#found.size > 1 ? "in several shapes" : [...this.#found][0] ?? "";
  }
}

function textDetail(document: string): string {
  switch (document) {
    case "line":
      return "one a line";
    case "paragraph":
      return "one a paragraph";
    case "file":
      return "one a file";
    default:
      return `separated by ${JSON.stringify(document.slice(0, 40))}`;
  }
}

/** The notice about plain text whose lines look like another format, whose syntax a model would learn too. */
function syntaxNotice(name: string, sample: string): string | undefined {
  if (looksLikeConversations(sample)) {
    return `warning: the lines of ${name} look like conversations; without \`chat\` they are plain text`;
  }
  if (!isTable(sample)) return undefined;
  return `warning: ${name} looks like a CSV table and would be learned with all of that syntax: ` +
    "\`format\` csv reads the text of one column";
}

async function* readParquet(
  file: InputFile,
  { chat, field, keepSystem }: ReadSettings,
  tally: Tally,
  sink: Sink,
  signal?: AbortSignal,
): AsyncGenerator<number, string> {
  const { ParquetFile } = await import("./parquet_rows.ts");
  const parquet = await ParquetFile.open(file);
  try {
    const names = parquet.columns.map(({ name }) => name);
    const texts = parquet.columns.filter(({ isText }) => isText).map(({ name }) => name);
    const columns = chat
      ? field === undefined
        ? names.filter((name) => CONVERSATION_FIELDS.includes(name))
        : [chooseField(file.path, names, [], field)]
      : [chooseField(file.path, names, texts, field)];
    if (columns.length === 0) {
      throw new MicrogptError(
        `${file.path} has no column of conversations: its columns are ${shown(names)}`,
        {
          hint: "name one with `field`, or read texts without `chat`",
        },
      );
    }
    const reader = new TextField(file.path, (text) => sink.add(text), tally, chat ? undefined : columns[0]);
    const shapes = new Shapes();
    for await (const { rows, first } of parquet.read(columns)) {
      signal?.throwIfAborted();
      for (let r = 0; r < rows.length; r++) {
        const [row, number] = [rows[r]!, first + r];
        if (chat) {
          shapes.add(row, field);
          const where = () => `${file.path} row ${number}`;
          const messages = readConversation(row, where, { field, keepSystem, tally });
          if (messages) sink.add(messages);
        } else reader.push(row, number);
        if (r % ROWS_AT_A_TIME === 0) yield Math.round(file.bytes * number / parquet.rowCount);
      }
    }
    reader.end();
    return chat ? shapes.said : `field ${columns[0]}`;
  } finally {
    parquet.close();
  }
}
