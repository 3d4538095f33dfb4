/** The options that say what is read and how, declared once: flags and checks follow from the table. */
import type { Options, OptionValues } from "../device/options.ts";

/** Formats that a file can have inside whatever it is compressed with. */
export const FORMATS = ["text", "jsonl", "json", "csv", "tsv", "parquet"] as const;

/** One of them. */
export type Format = (typeof FORMATS)[number];

/** What is read and how. */
export const CORPUS_OPTIONS = {
  input: {
    type: "text",
    repeatable: true,
    value: "file",
    help: "file, directory or quoted pattern to read, given again for more; - is standard input",
  },
  format: {
    type: "choice",
    choices: FORMATS,
    help: "what the input is; without it each file's content tells",
  },
  document: {
    type: "text",
    value: "what",
    help:
      "a document of plain text is a line, a paragraph, a file, or what stands between copies of another " +
      "text, such as <|endoftext|>; without it a line, of Markdown the file",
  },
  field: {
    type: "text",
    value: "name",
    help:
      "field or column with the text, or with `chat` the messages; without it the one with a usual name is taken",
  },
  strict: {
    type: "switch",
    default: false,
    help: "stop at what would be skipped and counted",
  },
} as const satisfies Options;

/** Values of all of these options. */
export type CorpusSettings = OptionValues<typeof CORPUS_OPTIONS>;
