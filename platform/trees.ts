/** Whole directories as files by name: how they come into a page and leave it. The same calls work in Deno. */
import { MicrogptError } from "../device/errors.ts";
import { files, isFileError } from "./files.ts";
import { dirname, join } from "./paths.ts";

/** Files by their paths below a directory, with slashes: `meta.json`, `checkpoints/best/meta.json`. */
export type FileTree = Record<string, Blob>;

/** A path that stays below its directory. */
function checkName(name: string): void {
  const parts = name.split("/");
  if (!name.includes("\\") && parts.every((part) => part !== "" && part !== "." && part !== "..")) return;
  throw new MicrogptError(`"${name}" is no path of a file below a directory`, { usage: true });
}

/**
 * Reads all files of a directory. What a run keeps to itself, names that begin with a dot, is left out.
 * @throws {MicrogptError} when it is not there
 */
export async function readDirectory(dir: string): Promise<FileTree> {
  const tree: FileTree = {};
  const walk = async (path: string, prefix: string): Promise<void> => {
    const entries = await Array.fromAsync(files.readDir(path));
    for (const { name, isDirectory } of entries.sort((a, b) => a.name < b.name ? -1 : 1)) {
      if (name.startsWith(".")) continue;
      const from = join(path, name);
      if (isDirectory) await walk(from, `${prefix}${name}/`);
      else tree[prefix + name] = new Blob([await files.readFile(from)]);
    }
  };
  try {
    await walk(dir, "");
  } catch (error) {
    if (!isFileError(error, "NotFound")) throw error;
    throw new MicrogptError(`directory ${dir} does not exist`, { cause: error });
  }
  return tree;
}

/**
 * Writes files to a directory, creating it. Others that it holds stay.
 * @throws {MicrogptError} for names that lead out of it
 */
export async function writeDirectory(dir: string, tree: Record<string, Blob | string>): Promise<void> {
  for (const name of Object.keys(tree)) checkName(name);
  await files.mkdir(dir, { recursive: true });
  for (const [name, contents] of Object.entries(tree)) {
    const path = join(dir, name);
    await files.mkdir(dirname(path), { recursive: true });
    await files.writeFile(path, new Uint8Array(await new Blob([contents]).arrayBuffer()));
  }
}

/** Removes a directory with all that is in it; one that is not there is no error. */
export async function removeDirectory(dir: string): Promise<void> {
  await files.remove(dir, { recursive: true }).catch((error) => {
    if (!isFileError(error, "NotFound")) throw error;
  });
}

/**
 * Fetches files of one folder of a server.
 * @param url of the folder
 * @param names of the files
 * @throws {MicrogptError} when one is not there
 */
export async function fetchDirectory(url: string | URL, names: readonly string[]): Promise<FileTree> {
  const base = new URL(url, globalThis.location?.href);
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  const fetched = await Promise.all(names.map(async (name): Promise<[string, Blob]> => {
    checkName(name);
    const address = new URL(name, base);
    const response = await fetch(address).catch((cause) => {
      throw new MicrogptError(`cannot fetch ${address}: ${(cause as Error).message}`, { cause });
    });
    if (!response.ok) {
      await response.body?.cancel();
      throw new MicrogptError(`cannot fetch ${address}: the server answers ${response.status}`);
    }
    return [name, await response.blob()];
  }));
  return Object.fromEntries(fetched);
}
