/** Text mode: a UTF-8 file, one document a line; or documents in memory. */

import { MicrogptError } from "../device/errors.ts";
import { describe } from "./chat.ts";
import { openInput, readLines } from "./lines.ts";

/** The documents of a text file. */
export interface TextData {
  mode: "text";
  /** the path as given; "-" is standard input */
  path: string;
  /** SHA-256 of the file's bytes: a resumed run compares it */
  hash?: string;
  /** one a line, trimmed, none empty */
  documents: string[];
}

/**
 * Loads a text file.
 * @param path a UTF-8 file, or "-" for standard input
 * @throws {MicrogptError} when it cannot be read, is not UTF-8 text, or holds no document
 */
export async function loadText(path: string): Promise<TextData> {
  const input = await openInput(path);
  const documents: string[] = [];
  const hash = await readLines(input, (line) => documents.push(line));
  if (documents.length === 0) {
    throw new MicrogptError(`${input.name} holds no document`, {
      hint: "write one document a line; empty lines do not count",
    });
  }
  return { mode: "text", path, hash, documents };
}

/**
 * The same for documents in memory. They are taken as they are: they may contain line ends, and are not trimmed.
 * @param path what stands for a path
 * @throws {MicrogptError} when there is none, or one is not text
 */
export function textInMemory(path: string, documents: readonly string[]): TextData {
  if (!Array.isArray(documents)) {
    throw new MicrogptError(`documents: expected an array of texts, got ${describe(documents)}`, {
      usage: true,
    });
  }
  if (documents.length === 0) throw new MicrogptError("documents is empty", { usage: true });
  for (let d = 0; d < documents.length; d++) {
    const document: unknown = documents[d];
    if (typeof document !== "string") {
      throw new MicrogptError(`documents[${d}]: expected text, got ${describe(document)}`, { usage: true });
    }
    if (!document.isWellFormed()) {
      throw new MicrogptError(`documents[${d}]: expected well-formed Unicode, got a lone surrogate`, {
        usage: true,
      });
    }
  }
  return { mode: "text", path, documents: [...documents] };
}
