/**
 * Prepared data in the user's cache: a directory for each corpus, locked while one process works in it. Those that were not
 * used for the longest time go when all together are larger than the limit.
 */

import { MicrogptError } from "../../device/errors.ts";
import { cacheDirectory } from "../../platform/cache_directory.ts";
import { type FileHandle, files, isFileError } from "../../platform/files.ts";
import { join } from "../../platform/paths.ts";

const LOCK = ".lock";

/** How directories of prepared data are called, and what lies in them: nothing else is counted, nothing else removed. */
const CORPUS = /^[0-9a-f]{32}$/u;
const PREPARED = /^(?:tokens-[0-9a-f]{16}|tokenizer-[0-9a-f]{16}|hashes-\d+)(?:\.part)?$/u;

/** How often a directory that another process has locked is asked for again. */
const RETRY_MS = 100;

/** Where prepared data lies when nobody says; undefined where the user has no cache. */
export function defaultCacheDir(): string | undefined {
  const cache = cacheDirectory();
  return cache === undefined ? undefined : join(cache, "data");
}

/** A corpus' directory, locked. */
export class CacheEntry implements Disposable {
  readonly dir: string;
  readonly #lock: FileHandle;

  private constructor(dir: string, lock: FileHandle) {
    this.dir = dir;
    this.#lock = lock;
  }

  /**
   * Makes and locks a directory, and notes that it was used. Waits while another process has it.
   * @param waiting called when that is so
   */
  static async open(
    root: string,
    key: string,
    { signal, waiting }: { signal?: AbortSignal; waiting?: () => void } = {},
  ): Promise<CacheEntry> {
    const dir = join(root, key);
    for (let tries = 0;; tries++) {
      signal?.throwIfAborted();
      await files.mkdir(dir, { recursive: true });
      const lock = await lockFile(dir);
      if (lock) {
        lock.writeSync(new Uint8Array(1));
        return new CacheEntry(dir, lock);
      }
      if (tries === 0) waiting?.();
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  path(name: string): string {
    return join(this.dir, name);
  }

  /** Lets others at it. A second call does nothing. */
  [Symbol.dispose](): void {
    this.#lock.close();
  }
}

/** @returns undefined where another process has it, or has just removed the directory */
async function lockFile(dir: string): Promise<FileHandle | undefined> {
  const path = join(dir, LOCK);
  const file = await ifThere(files.open(path, { read: true, write: true, create: true }));
  if (!file) return undefined;
  let ours = false;
  try {
    if (!await file.tryLock(true)) return undefined;
    const [opened, there] = [await file.stat(), await ifThere(files.stat(path))];
    ours = there !== undefined && there.ino === opened.ino;
    return ours ? file : undefined;
  } finally {
    if (!ours) file.close();
  }
}

async function ifThere<T>(looked: Promise<T>): Promise<T | undefined> {
  try {
    return await looked;
  } catch (error) {
    if (isFileError(error, "NotFound")) return undefined;
    throw error;
  }
}

/** A directory of prepared data. */
interface Usage {
  dir: string;
  files: number;
  bytes: number;
  used: number;
}

/** The prepared files of a directory. */
async function preparedIn(dir: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { name } of files.readDir(dir)) if (PREPARED.test(name)) found.push(join(dir, name));
  return found;
}

/** How much prepared data there is, by corpus. */
async function usages(root: string): Promise<Usage[]> {
  const found: Usage[] = [];
  try {
    for await (const { name, isDirectory } of files.readDir(root)) {
      if (!isDirectory || !CORPUS.test(name)) continue;
      const dir = join(root, name);
      let [count, bytes] = [0, 0];
      for (const path of await preparedIn(dir)) {
        count++;
        bytes += (await ifThere(files.stat(path)))?.size ?? 0;
      }
      const used = (await ifThere(files.stat(join(dir, LOCK))))?.mtime?.getTime() ?? 0;
      found.push({ dir, files: count, bytes, used });
    }
  } catch (error) {
    if (!isFileError(error, "NotFound")) throw error;
  }
  return found;
}

/** What the cache holds. */
export async function cacheUsage(root: string): Promise<{ corpora: number; files: number; bytes: number }> {
  const all = await usages(root);
  const sum = (name: "files" | "bytes") => all.reduce((total, usage) => total + usage[name], 0);
  return { corpora: all.length, files: sum("files"), bytes: sum("bytes") };
}

/**
 * Removes what was not used for the longest time until the rest is within the limit. What another process has locked stays.
 * @param kept the directory that is used now
 */
export async function trimCache(root: string, limit: number, kept: string): Promise<void> {
  const all = (await usages(root)).sort((a, b) => a.used - b.used);
  let total = all.reduce((sum, { bytes }) => sum + bytes, 0);
  for (const { dir, bytes } of all) {
    if (total <= limit) return;
    if (dir === kept) continue;
    const lock = await lockFile(dir);
    if (!lock) continue;
    try {
      for (const path of await preparedIn(dir)) await files.remove(path);
      total -= bytes;
      await files.remove(join(dir, LOCK));
      let rest = 0;
      for await (const _ of files.readDir(dir)) rest++;
      if (rest === 0) await files.remove(dir);
    } finally {
      lock.close();
    }
  }
}

/** What a person is told when prepared data cannot be written. */
export function cannotPrepare(dir: string, error: unknown): unknown {
  // a signal's reason is a DOMException
  const known = error instanceof MicrogptError || error instanceof DOMException;
  if (known || !(error instanceof Error)) return error;
  const system = "code" in error || isFileError(error, "PermissionDenied", "NotCapable", "NotADirectory");
  if (!system) return error;
  const full = /no space left|disk quota/iu.test(error.message);
  const why = full ? "no space is left on the disk" : error.message.split("\n")[0];
  return new MicrogptError(`cannot write prepared data to ${dir}: ${why}`, {
    hint: "`cacheDir` names another place" + (full ? "; what is there already is used again" : ""),
    cause: error,
  });
}
