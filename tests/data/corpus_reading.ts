/** Reads a corpus to its end, for tests. */

import { dirname } from "node:path";
import type { Message } from "../../data/chat.ts";
import { type Corpus, type CorpusOptions, type CorpusReport, openCorpus } from "../../data/corpus.ts";
import { MicrogptError } from "../../device/errors.ts";

/** What a corpus held. */
export interface Read {
  documents: (string | Message[])[];
  report: CorpusReport;
}

/** Reads all blocks. */
export async function drain(corpus: Corpus): Promise<Read> {
  const documents: (string | Message[])[] = [];
  for await (const block of corpus.blocks()) documents.push(...block.documents);
  return { documents, report: corpus.report() };
}

/** Writes files into a new directory, by their names below it, and removes it after `use`. */
export async function withFiles<T>(
  files: Record<string, string | Uint8Array>,
  use: (directory: string) => T | Promise<T>,
): Promise<T> {
  const directory = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  try {
    for (const [name, content] of Object.entries(files)) {
      await Deno.mkdir(dirname(`${directory}/${name}`), { recursive: true });
      const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
      await Deno.writeFile(`${directory}/${name}`, bytes);
    }
    return await use(directory);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/** Reads one file of this content; the directory is cut off in the notices. */
export function readContent(
  content: string | Uint8Array,
  options: Omit<CorpusOptions, "input"> = {},
  name = "data.txt",
): Promise<Read> {
  return withFiles({ [name]: content }, async (directory) => {
    const read = await drain(await openCorpus({ input: `${directory}/${name}`, ...options }));
    read.report.notices = read.report.notices.map((notice) => notice.replaceAll(`${directory}/`, ""));
    return read;
  });
}

/** "message | hint" of the error that reading one file of this content must end with, the directory cut off. */
export function refusal(
  content: string | Uint8Array,
  options: Omit<CorpusOptions, "input"> = {},
  name = "data.txt",
): Promise<string> {
  return withFiles(
    { [name]: content },
    (directory) => refusalOf({ input: `${directory}/${name}`, ...options }, directory),
  );
}

/** The same of inputs that are there already. */
export async function refusalOf(options: CorpusOptions, directory: string): Promise<string> {
  try {
    await drain(await openCorpus(options));
  } catch (error) {
    if (!(error instanceof MicrogptError)) throw error;
    const said = error.message + (error.hint ? ` | ${error.hint}` : "");
    if (/[\p{Cc}\u2028\u2029]/u.test(said) || said.length > 800) throw new Error(`not fit to print: ${said}`);
    return said.replaceAll(`${directory}/`, "").replaceAll(directory, "DIR");
  }
  throw new Error("it was read without an error");
}
