/** Text mode: a UTF-8 file, one document a line. */

import { MicrogptError } from "../model/errors.ts";
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
