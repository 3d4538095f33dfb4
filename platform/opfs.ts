/**
 * Directories that outlive a page, in the browser's own file system for it (OPFS). A directory is replaced whole or not at
 * all: its files go to a new folder first, then one small file names that folder. What was cut off, by a closed tab or
 * a full disk, is removed at the next write.
 *
 *     microgpt/NAME/current            the name of the folder that counts
 *     microgpt/NAME/7/meta.json …      the files, as on any disk
 */
import { MicrogptError } from "../device/errors.ts";
import type { FileTree } from "./trees.ts";

/** The part of the browser's interfaces that is used; see https://fs.spec.whatwg.org. */
export interface FolderHandle {
  /** a folder in it */
  getDirectoryHandle(name: string, options?: { create?: boolean }): Promise<FolderHandle>;
  /** a file in it */
  getFileHandle(name: string, options?: { create?: boolean }): Promise<BrowserFileHandle>;
  /** removes a file or folder in it */
  removeEntry(name: string, options?: { recursive?: boolean }): Promise<void>;
  /** all in it, by their names */
  entries(): AsyncIterable<[string, FolderHandle | BrowserFileHandle]>;
  /** tells it from a file */
  readonly kind: "directory";
}

/** A file of the browser. */
export interface BrowserFileHandle {
  /** what it holds */
  getFile(): Promise<Blob>;
  /** writes it anew; takes effect when closed. Safari has it from 26 on */
  createWritable?(): Promise<{ write(data: Blob | string): Promise<void>; close(): Promise<void> }>;
  /** writes in place; in workers alone */
  createSyncAccessHandle?(): Promise<{
    write(bytes: Uint8Array<ArrayBuffer>, options: { at: number }): number;
    truncate(bytes: number): void;
    flush(): void;
    close(): void;
  }>;
  /** tells it from a folder */
  readonly kind: "file";
}

const CURRENT = "current";

/** Bytes that are written at once where a file is written in place. */
const PIECE = 1 << 20;

function isNotFound(error: unknown): boolean {
  return error instanceof Error && error.name === "NotFoundError";
}

async function rootFolder(): Promise<FolderHandle> {
  const { storage } = navigator as { storage?: { getDirectory?(): Promise<FolderHandle> } };
  if (!storage?.getDirectory) throw new MicrogptError("this browser keeps no files for pages");
  const root = await storage.getDirectory();
  return await root.getDirectoryHandle("microgpt", { create: true });
}

/** What is stored could not be: the words of the browser, for a person. */
function storageError(name: string, error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  if (error.name === "QuotaExceededError") {
    return new MicrogptError(`the browser gives no more room to keep "${name}"`, {
      hint:
        "download the model, remove others that are kept, or free space on the disk; what was kept before stays",
      cause: error,
    });
  }
  return error;
}

async function writeFile(folder: FolderHandle, name: string, contents: Blob | string): Promise<void> {
  const file = await folder.getFileHandle(name, { create: true });
  if (!file.createWritable) return await writeInPlace(file, new Blob([contents]));
  const writable = await file.createWritable();
  await writable.write(contents);
  await writable.close();
}

/** A few bytes, as of `current`, are there at once: the write is one, and shortens nothing before. */
async function writeInPlace(file: BrowserFileHandle, contents: Blob): Promise<void> {
  if (!file.createSyncAccessHandle) {
    throw new MicrogptError("this browser has no way to write files that it keeps");
  }
  const access = await file.createSyncAccessHandle();
  try {
    for (let at = 0; at < contents.size; at += PIECE) {
      const bytes = new Uint8Array(await contents.slice(at, at + PIECE).arrayBuffer());
      if (access.write(bytes, { at }) < bytes.length) {
        throw new DOMException("a file was not written whole", "QuotaExceededError");
      }
    }
    access.truncate(contents.size);
    access.flush();
  } finally {
    access.close();
  }
}

async function textOf(folder: FolderHandle, name: string): Promise<string | undefined> {
  try {
    return await (await (await folder.getFileHandle(name)).getFile()).text();
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

/** Writes files into a folder of the browser, one that a person picked or one of OPFS. */
export async function writeFolder(folder: FolderHandle, tree: FileTree): Promise<void> {
  for (const [path, contents] of Object.entries(tree)) {
    const parts = path.split("/");
    let at = folder;
    for (const part of parts.slice(0, -1)) at = await at.getDirectoryHandle(part, { create: true });
    await writeFile(at, parts.at(-1)!, contents);
  }
}

/** Reads all files of a folder of the browser: one that a person picked or dropped, or one of OPFS. */
export async function readFolder(folder: FolderHandle, prefix = ""): Promise<FileTree> {
  const tree: FileTree = {};
  for await (const [name, handle] of folder.entries()) {
    if (name.startsWith(".")) continue;
    if (handle.kind === "file") tree[prefix + name] = await handle.getFile();
    else Object.assign(tree, await readFolder(handle, `${prefix}${name}/`));
  }
  return tree;
}

/**
 * Keeps a directory under a name, in place of what had the name.
 * @throws {MicrogptError} when the browser has no room; what was kept before stays
 */
export async function keep(name: string, tree: FileTree): Promise<void> {
  try {
    const folder = await (await rootFolder()).getDirectoryHandle(encodeURIComponent(name), { create: true });
    const current = await textOf(folder, CURRENT);
    const removeOthers = async (except: string | undefined) => {
      const entries = await Array.fromAsync(folder.entries());
      for (const [entry, { kind }] of entries) {
        if (kind === "directory" && entry !== except) await folder.removeEntry(entry, { recursive: true });
      }
    };
    await removeOthers(current);
    const next = String(Number(current ?? 0) + 1);
    await writeFolder(await folder.getDirectoryHandle(next, { create: true }), tree);
    await writeFile(folder, CURRENT, next); // takes effect when it is closed, whole
    await removeOthers(next);
  } catch (error) {
    throw storageError(name, error);
  }
}

/** What is kept under a name; undefined where there is nothing. */
export async function kept(name: string): Promise<FileTree | undefined> {
  try {
    const folder = await (await rootFolder()).getDirectoryHandle(encodeURIComponent(name));
    const current = await textOf(folder, CURRENT);
    return current === undefined ? undefined : await readFolder(await folder.getDirectoryHandle(current));
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

/** Names of what is kept. */
export async function keptNames(): Promise<string[]> {
  const entries = await Array.fromAsync((await rootFolder()).entries());
  return entries.filter(([, { kind }]) => kind === "directory").map(([name]) => decodeURIComponent(name))
    .sort();
}

/** Removes what is kept under a name. */
export async function removeKept(name: string): Promise<void> {
  await (await rootFolder()).removeEntry(encodeURIComponent(name), { recursive: true }).catch((error) => {
    if (!isNotFound(error)) throw error;
  });
}
