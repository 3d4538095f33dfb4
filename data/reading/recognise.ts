/** What format a file has, by its content; its name decides only where content cannot. */

import type { Format } from "../corpus_options.ts";
import { JsonCutter } from "./json_cutter.ts";

/** How a text file is read. */
export interface RecognisedText {
  format: Exclude<Format, "parquet">;
  /** of JSON: the records are the elements of one array, rather than values that follow each other */
  elements?: boolean;
}

/** Bytes that are looked at. */
export const SAMPLE_BYTES = 256 * 1024;

/** Lines that are looked at. */
const SAMPLE_LINES = 3;

/**
 * Recognises a text file.
 * @param sample its start
 * @param whole whether that is all of it
 * @param path whose ending counts where the content could be several things
 * @param chat whether conversations are wanted, which plain text has none of
 * @param given the format that was asked for
 */
export function recogniseText(
  sample: string,
  whole: boolean,
  path: string,
  chat: boolean,
  given?: Format,
): RecognisedText {
  const format = given ?? recognise(sample, whole, path, chat);
  if (format !== "json") return { format: format as RecognisedText["format"] };
  return { format, elements: isArrayOfRecords(sample) };
}

function recognise(sample: string, whole: boolean, path: string, chat: boolean): Format {
  const json = recogniseJson(sample, whole, chat);
  if (json) return json;
  const ending = /\.([a-z0-9]+)(\.(gz|zst|xz))?$/iu.exec(path)?.[1]?.toLowerCase();
  if (ending === "csv" || ending === "tsv") return ending;
  if (ending === "jsonl" || ending === "ndjson") return "jsonl";
  if (ending === "json") return "json";
  if (chat) return isTable(sample) ? "csv" : "jsonl";
  return "text";
}

/**
 * JSON, where the start of the file can be nothing else; or text, where it looks like JSON but is not to be read as
 * such.
 */
function recogniseJson(sample: string, whole: boolean, chat: boolean): Format | undefined {
  const start = sample.trimStart()[0];
  if (start !== "{" && start !== "[") return undefined;
  const lines = sample.split(/[\r\n]+/u).filter((line) => line.trim() !== "");
  // the last line of an incomplete sample is cut off
  const complete = (whole ? lines : lines.slice(0, -1)).slice(0, SAMPLE_LINES);
  const values = complete.map(parsed);
  if (start === "{") {
    if (values.length > 0 && values.every(isObject)) return "jsonl";
    return isObject(firstValue(sample, false)) ? "json" : undefined;
  }
  const element = firstValue(sample, true);
  const conversation = isMessage(element);
  if (conversation) {
    // plain text whose lines are conversations stays plain text, as it has always been
    if (!chat) return "text";
    return complete.length > 0 && values[0] === undefined ? "json" : "jsonl";
  }
  if (Array.isArray(element) && isMessage(element[0])) {
    return chat || values.length === 1 ? "json" : undefined;
  }
  const records = typeof element === "string" || isObject(element);
  // "[1] a footnote" and a line of JSON among others are text
  return records && (lines.length === 1 || values[0] === undefined) ? "json" : undefined;
}

/** Whether each of the first lines is a conversation, whatever the file is read as. */
export function looksLikeConversations(sample: string): boolean {
  const lines = sample.split(/[\r\n]+/u).filter((line) => line.trim() !== "").slice(0, SAMPLE_LINES);
  const values = lines.map(parsed);
  return values.length > 0 && values.every((value) => Array.isArray(value) && isMessage(value[0]));
}

/** Whether JSON is one array of records rather than one conversation after the other. */
function isArrayOfRecords(sample: string): boolean {
  return sample.trimStart().startsWith("[") && !isMessage(firstValue(sample, true));
}

/** The first value, or the first of an array; undefined where there is none, or it is not all in the sample. */
function firstValue(sample: string, elements: boolean): unknown {
  class Found {
    constructor(readonly value: unknown) {}
  }
  const cutter = new JsonCutter(
    "",
    (text) => {
      throw new Found(parsed(text));
    },
    elements,
    Infinity,
  );
  try {
    cutter.push(sample);
  } catch (found) {
    return found instanceof Found ? found.value : undefined;
  }
  return undefined;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // not JSON, which was the question
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isMessage(value: unknown): boolean {
  return isObject(value) && ("role" in value && "content" in value || "from" in value && "value" in value);
}

/** Names of columns that hold text or stand beside it: a first line with one of them is a header. */
const COLUMNS = new Set(
  ("answer answers article author body category class comment completion content date description id input " +
    "instruction label labels language message messages name output prompt question response review role sentence " +
    "sentiment source summary target text timestamp title url").split(" "),
);

/** A header of names, one of them usual, and at least as many columns in most lines below it. */
export function isTable(sample: string): boolean {
  const [header = "", ...rows] = sample.split(/\r\n|\r|\n/u, 11);
  const filled = rows.filter((row) => row.trim() !== "");
  if (filled.length === 0) return false;
  return [",", ";", "\t"].some((separator) => {
    const names = header.split(separator).map((name) => name.trim().replace(/^"(.*)"$/u, "$1"));
    if (names.length < 2 || !names.every((name) => /^[\p{L}_][\p{L}\d_. -]{0,40}$/u.test(name))) return false;
    if (!names.some((name) => COLUMNS.has(name.toLowerCase()))) return false;
    const full = filled.filter((row) => row.split(separator).length >= names.length);
    return full.length > filled.length / 2;
  });
}
