/** What files turned out to be, in one line each. */

import type { Format } from "../corpus_options.ts";
import type { Encoding } from "./decoded_text.ts";
import type { Compression } from "./input_bytes.ts";
import { count } from "./input_files.ts";

/** Files that were read alike. */
export interface FileCount {
  /** the first of them */
  path: string;
  /** how many */
  files: number;
  /** what they gave */
  documents: number;
  /** what they were read as */
  format: Format;
  /** what they were packed with */
  compression?: Compression;
  /** how their text was written */
  encoding?: Encoding;
  /** what a document of them is, for people; may be empty */
  detail: string;
}

const NAMES: Record<Format, string> = {
  text: "plain text",
  jsonl: "JSONL",
  json: "JSON",
  csv: "CSV",
  tsv: "TSV",
  parquet: "Parquet",
};

/** Endings of names that say what a file is. */
const SAID: Record<Format, RegExp> = {
  text: /\.(txt|text|md|markdown)(\.(gz|zst|xz))?$/iu,
  jsonl: /\.(jsonl|ndjson)(\.(gz|zst|xz))?$/iu,
  json: /\.json(\.(gz|zst|xz))?$/iu,
  csv: /\.csv(\.(gz|zst|xz))?$/iu,
  tsv: /\.tsv(\.(gz|zst|xz))?$/iu,
  parquet: /\.parquet$/iu,
};

/**
 * Lines such as "conversations.jsonl: 2,437 conversations, field messages". The format is named where the file's name
 * does not say it.
 * @param units "documents" or "conversations"
 */
export function fileNotices(kinds: readonly FileCount[], units: string): string[] {
  return kinds.map(({ path, files, documents, format, compression, encoding, detail }) => {
    const parts = [
      count(documents, units.replace(/s$/u, ""), units),
      SAID[format].test(path) ? "" : NAMES[format],
      detail,
      encoding === undefined || encoding === "utf-8" ? "" : "UTF-16",
      compression === undefined || /\.(gz|zst|xz)$/iu.test(path) ? "" : compression,
    ];
    const name = files === 1 ? path : `${path} and ${count(files - 1, "file", "files")} more`;
    return `${name}: ${parts.filter((part) => part !== "").join(", ")}`;
  });
}
