/** Which files are read: paths, directories and patterns as a list in a fixed order. */

import { type DirEntry, type FileInfo, files, isFileError } from "../../platform/files.ts";
import { builtin } from "../../platform/host.ts";
import { resolve } from "../../platform/paths.ts";
import { MicrogptError } from "../../device/errors.ts";
import { cannotRead } from "./limits.ts";

/** A file as it was found, before any of it was read. */
export interface InputFile {
  /** as the person gave it, or below what the person gave */
  path: string;
  /** its size; of a pipe 0 */
  bytes: number;
  /** when it was last changed, in milliseconds since 1970 */
  modified: number;
  /** false for a pipe or a device, which has no size and can be read once */
  regular: boolean;
}

/** The files to read, and what a person should know about how they were chosen. */
export interface InputFiles {
  files: InputFile[];
  notices: string[];
}

/** Names of files that are taken from a directory; others in it are hardly data. */
const DATA_FILE = /\.(txt|text|md|markdown|jsonl|ndjson|json|csv|tsv|parquet)(\.(gz|zst|xz))?$/iu;

/** Nobody means more files than this, and their names alone would fill the memory. */
const MAX_FILES = 5_000_000;

const encoder = new TextEncoder();

/**
 * Finds the files. Those of a directory (at any depth, hidden ones left out) and of a pattern (`**`, `*`, `?`, `[]`,
 * `{}`) come sorted by the bytes of their paths; a path that exists is never taken for a pattern. A file that several
 * inputs name is read once, at its first place.
 * @param inputs paths, directories and patterns in the order to read them in
 * @throws {MicrogptError} when one cannot be read, or names no file
 */
export async function findInputFiles(inputs: readonly string[]): Promise<InputFiles> {
  const files = new Map<string, InputFile>();
  const notices: string[] = [];
  let repeated = 0;
  for (const input of inputs) {
    for (const file of await filesOf(input, notices)) {
      const place = resolve(file.path);
      if (files.has(place)) repeated++;
      else files.set(place, file);
      if (files.size > MAX_FILES) {
        throw new MicrogptError(`${input}: more than ${MAX_FILES / 1e6} million files`);
      }
    }
  }
  if (repeated > 0) {
    notices.push(`${count(repeated, "file is", "files are")} named more than once, and read once`);
  }
  return { files: [...files.values()], notices };
}

async function filesOf(input: string, notices: string[]): Promise<InputFile[]> {
  let info: FileInfo;
  try {
    info = files.statSync(input);
  } catch (error) {
    if (isFileError(error, "NotFound") && /[*?[{]/u.test(input)) return await filesOfPattern(input);
    throw cannotRead(input, error);
  }
  if (!info.isDirectory) return [inputFile(input, info)];
  const found: InputFile[] = [];
  const others = walk(input.replace(/(?<=.)[/\\]+$/u, ""), found);
  if (found.length === 0) {
    throw new MicrogptError(`${input} is a directory without data files`, {
      hint:
        "files are taken that end in .txt .md .jsonl .json .csv .tsv .parquet, also with .gz, .zst or .xz; " +
        `for others quote a pattern: "${input.replace(/\/+$/u, "")}/**"`,
    });
  }
  if (others > 0) {
    notices.push(`${input}: ${count(others, "file", "files")} with other endings left out`);
  }
  return sorted(found);
}

async function filesOfPattern(pattern: string): Promise<InputFile[]> {
  const found: InputFile[] = [];
  const node = builtin<{ glob(pattern: string): AsyncIterable<string> }>("fs/promises");
  if (!node) throw new MicrogptError(`${pattern}: no patterns in a browser`, { hint: "name each file" });
  for await (const path of node.glob(pattern)) {
    const info = stat(path);
    if (info && !info.isDirectory) found.push(inputFile(path, info));
  }
  if (found.length === 0) {
    throw new MicrogptError(`no file matches ${pattern}`, {
      hint: "** stands for directories of any depth, * and ? for characters within a name",
    });
  }
  return sorted(found);
}

/**
 * Adds the data files below a directory. Links to files are followed, links to directories are not: they may form a
 * loop.
 */
function walk(directory: string, found: InputFile[]): number {
  let others = 0;
  let entries: DirEntry[];
  try {
    entries = [...files.readDirSync(directory)];
  } catch (error) {
    throw cannotRead(directory, error);
  }
  for (const { name, isDirectory } of entries) {
    if (name.startsWith(".")) continue;
    const path = `${directory === "/" ? "" : directory}/${name}`;
    if (isDirectory) {
      others += walk(path, found);
      continue;
    }
    const info = DATA_FILE.test(name) ? stat(path) : undefined;
    if (info?.isFile) found.push(inputFile(path, info));
    else others++;
  }
  return others;
}

/** @returns undefined for what has vanished since it was listed, or is a link to nothing */
function stat(path: string): FileInfo | undefined {
  try {
    return files.statSync(path);
  } catch (error) {
    if (isFileError(error, "NotFound")) return undefined;
    throw cannotRead(path, error);
  }
}

function inputFile(path: string, info: FileInfo): InputFile {
  return {
    path,
    bytes: info.isFile ? info.size : 0,
    modified: info.mtime?.getTime() ?? 0,
    regular: info.isFile,
  };
}

/** By the bytes of the paths, which is the same order on every system. */
function sorted(files: InputFile[]): InputFile[] {
  return files.map((file) => ({ file, name: encoder.encode(file.path) }))
    .sort((a, b) => compare(a.name, b.name))
    .map(({ file }) => file);
}

function compare(a: Uint8Array, b: Uint8Array): number {
  const shorter = Math.min(a.length, b.length);
  for (let i = 0; i < shorter; i++) if (a[i] !== b[i]) return a[i]! - b[i]!;
  return a.length - b.length;
}

/** "1 file", "1,024 files" */
export function count(n: number, one: string, many: string): string {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}
