/**
 * A lock on a directory for writing: one process holds it at a time, and the others learn which one.
 *
 * DIR/.lock is locked by the operating system (flock, on Windows LockFileEx), which lets go of it when the process
 * ends, however it ends: what a killed process leaves is only a file, and the next one takes it over. The file's text
 * names the process. On a network file system the machines may not know of each other's locks, so there the text counts
 * too: a file that another machine wrote is respected until a person removes it.
 */
import { type FileHandle, type FileInfo, files, isFileError, SEEK_START } from "../../platform/files.ts";
import { os, thisProcess } from "../../platform/host.ts";
import { dirname, join, resolve } from "../../platform/paths.ts";
import { MicrogptError } from "../../device/errors.ts";
import { fileError, ifThere, isSameFile, isSystemError, printable } from "./directory.ts";
import { makeDirectory } from "./publish.ts";

/** The lock's name in the directory. */
export const LOCK_FILE = ".lock";

/** Who holds a lock, as the text of its file says. */
export interface LockHolder {
  pid: number;
  /** name of its machine, where the process may ask for it */
  host?: string;
  /** identifies one boot of one machine, where there is such a thing: containers have names of their own */
  boot?: string;
  /** ISO date and time */
  started: string;
  /** the command line after the program's name */
  command: string;
}

/**
 * Whether some process holds the lock on a directory, for who only wants to look. What a killed process left does not count,
 * unless it was of another machine.
 */
export async function isLocked(dir: string): Promise<boolean> {
  using file = await ifThere(files.open(join(dir, LOCK_FILE), { read: true }));
  if (!file) return false;
  // shared, so that those who look do not see each other; closing the file lets go of it
  const free = await tryLock(file, false);
  if (!free) return true; // held, or nobody can tell
  const holder = parseHolder(await readAll(file));
  return holder !== undefined && isOfAnotherMachine(holder);
}

/** Whoever only looks whether a file is locked has it for less than that. */
const LOOK_MS = 20;
const LOOKS = 5;

/** A process that has just locked the file may not have written its name yet. */
const NAME_PATIENCE_MS = 500;

/** The directory is no longer the one that was locked, and what has its name now is not ours to write to. */
export class LostDirectoryError extends MicrogptError {}

/** A lock that is held; `release` it. */
export class RunLock {
  /** what a person should know: this file system offers no locks */
  readonly warning: string | undefined;
  readonly #dir: string;
  readonly #path: string;
  #directory: FileInfo;
  #file: FileHandle | undefined;
  /** directories that were made for the lock, the innermost first */
  readonly #made: string[];

  private constructor(
    dir: string,
    directory: FileInfo,
    file: FileHandle,
    made: string[],
    warning: string | undefined,
  ) {
    this.#dir = dir;
    this.#path = join(dir, LOCK_FILE);
    this.#directory = directory;
    this.#file = file;
    this.#made = made;
    this.warning = warning;
  }

  /**
   * Locks a directory, creating it.
   * @returns the lock
   * @throws {MicrogptError} when another process holds it, or the directory cannot be written
   */
  static async take(dir: string): Promise<RunLock> {
    const made: string[] = [];
    try {
      for (;;) {
        made.push(...await missingDirectories(dir));
        await makeDirectory(dir);
        const lock = await RunLock.#tryToTake(dir, made);
        if (lock) return lock;
      }
    } catch (error) {
      removeEmpty(made);
      throw fileError(`cannot write to ${dir}`, error, "choose another directory with `output`");
    }
  }

  /** @returns undefined when the holder before us removed the file, or the directory, in between */
  static async #tryToTake(dir: string, made: string[]): Promise<RunLock | undefined> {
    const path = join(dir, LOCK_FILE);
    const file = await ifThere(files.open(path, { read: true, write: true, create: true }));
    if (!file) return undefined;
    let ours = false;
    try {
      let locked = await tryLock(file);
      for (let tries = 1; locked === false && tries < LOOKS; tries++) {
        await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
        locked = await tryLock(file);
      }
      if (locked === false) throw heldBy(dir, await holderOf(path));
      if (!isAt(await file.stat(), await ifThere(files.stat(path)))) return undefined;
      const directory = await ifThere(files.stat(dir));
      if (!directory) return undefined;
      const before = parseHolder(await readAll(file));
      if (before && (locked === undefined || isOfAnotherMachine(before))) throw mayBeHeldBy(dir, before);
      await file.truncate(0);
      await file.seek(0, SEEK_START);
      await file.write(new TextEncoder().encode(JSON.stringify(thisHolder()) + "\n"));
      ours = true;
      return new RunLock(dir, directory, file, made, locked === undefined ? noLocks(dir) : undefined);
    } finally {
      if (!ours) file.close();
    }
  }

  /**
   * Looks whether the directory is still the one that was locked, before something is written there: a person may have moved or
   * removed it, and begun another run under its name. One that is gone is made and locked again.
   * @returns whether it was made again, so that nothing of ours is in it
   * @throws {LostDirectoryError} when another process has locked it since, or something else has its name
   */
  async renew(): Promise<boolean> {
    const file = this.#file;
    if (!file || isAt(await file.stat(), await ifThere(files.stat(this.#path)))) return false;
    const there = await ifThere(files.stat(this.#dir));
    const same = there !== undefined && isSameFile(there, this.#directory);
    if (there && !same && !(await isEmpty(this.#dir))) throw lost(this.#dir);
    let next: RunLock;
    try {
      next = await RunLock.take(this.#dir);
    } catch (error) {
      throw error instanceof MicrogptError && error.cause === undefined ? lost(this.#dir, error) : error;
    }
    file.close();
    this.#file = next.#file;
    this.#directory = next.#directory;
    return !same;
  }

  /** Removes the lock, and the directory if it was made for the lock and is otherwise empty. Harmless when repeated. */
  release(): void {
    const file = this.#file;
    if (!file) return;
    this.#file = undefined;
    try {
      const there = statIfThere(this.#path);
      if (isAt(file.statSync(), there)) files.removeSync(this.#path);
    } catch (error) {
      // A file left behind is like a dead process's lock, which the next process takes over: no reason to fail finished work.
      if (!isSystemError(error)) throw error;
    } finally {
      file.close();
    }
    removeEmpty(this.#made);
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/** @returns true when we have it, false when another process does, undefined where there are no locks */
async function tryLock(file: FileHandle, exclusive = true): Promise<boolean | undefined> {
  try {
    return await file.tryLock(exclusive);
  } catch (error) {
    if (isSystemError(error)) return undefined;
    throw error;
  }
}

function noLocks(dir: string): string {
  return `warning: the file system of ${dir} offers no locks: make sure that no other run writes there`;
}

/** @param reason why it cannot be locked again */
function lost(dir: string, reason?: MicrogptError): LostDirectoryError {
  const message = `${dir} is not the directory that this run began in, which was moved or removed`;
  return new LostDirectoryError(reason?.message ?? message, {
    hint: `move what is there now to another place, and the run saves to ${dir}`,
  });
}

async function isEmpty(dir: string): Promise<boolean> {
  for await (const _ of files.readDir(dir)) return false;
  return true;
}

function isAt(file: FileInfo, path: FileInfo | undefined): boolean {
  return path !== undefined && isSameFile(file, path);
}

function statIfThere(path: string): FileInfo | undefined {
  try {
    return files.statSync(path);
  } catch (error) {
    if (isFileError(error, "NotFound")) return undefined;
    throw error;
  }
}

/** Directories that `makeDirectory` would create, the innermost first. */
async function missingDirectories(dir: string): Promise<string[]> {
  const missing: string[] = [];
  for (let at = resolve(dir); !(await ifThere(files.stat(at))); at = dirname(at)) missing.push(at);
  return missing;
}

/** Removes directories that hold nothing, up to the first that does. */
function removeEmpty(directories: string[]): void {
  try {
    for (const dir of directories) files.removeSync(dir);
  } catch (error) {
    // it holds something, or is gone already
    if (!isSystemError(error)) throw error;
  }
}

async function readAll(file: FileHandle): Promise<string> {
  const bytes = new Uint8Array(64 << 10);
  let length = 0;
  for (let read; (read = await file.read(bytes.subarray(length))); length += read);
  return new TextDecoder().decode(bytes.subarray(0, length));
}

/** Who holds a lock that we do not; undefined where the file cannot be read while it is locked (Windows). */
async function holderOf(path: string): Promise<LockHolder | undefined> {
  const deadline = performance.now() + NAME_PATIENCE_MS;
  for (;;) {
    let text: string | undefined;
    try {
      text = await ifThere(files.readTextFile(path));
    } catch (error) {
      if (isSystemError(error)) return undefined;
      throw error;
    }
    const holder = text === undefined ? undefined : parseHolder(text);
    if (holder || performance.now() > deadline) return holder;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Undefined for a text that no process of ours finished writing. */
function parseHolder(text: string): LockHolder | undefined {
  let holder: Partial<LockHolder> | null;
  try {
    holder = JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
  return typeof holder?.pid === "number" ? holder as LockHolder : undefined;
}

function thisHolder(): LockHolder {
  const { pid, command, host: askHost } = thisProcess();
  const host = unlessRefused(askHost);
  const boot = os === "linux"
    ? unlessRefused(() => files.readTextFileSync("/proc/sys/kernel/random/boot_id").trim())
    : undefined;
  return {
    pid,
    ...(host === undefined ? {} : { host }),
    ...(boot === undefined ? {} : { boot }),
    started: new Date().toISOString(),
    command,
  };
}

/** What the system says about itself, if anything; the program's permissions may not extend to it. */
function unlessRefused(ask: () => string | undefined): string | undefined {
  try {
    return ask();
  } catch (error) {
    if (isSystemError(error)) return undefined;
    throw error;
  }
}

/** Another machine's locks may be unknown to this one. Where we cannot tell, the operating system's word counts. */
function isOfAnotherMachine(holder: LockHolder): boolean {
  const { host, boot } = thisHolder();
  if (boot !== undefined && boot === holder.boot) return false;
  return host !== undefined && holder.host !== undefined && host !== holder.host;
}

function describe(holder: LockHolder | undefined): string {
  if (!holder) return "another process"; // Windows lets nobody read a file that is locked
  const { pid, host, started, command } = holder;
  const where = host === undefined ? "" : ` on ${printable(host)}`;
  return `process ${pid}${where} (since ${printable(started)}: ${printable(command)})`;
}

function heldBy(dir: string, holder: LockHolder | undefined): MicrogptError {
  return new MicrogptError(`${dir} is in use by ${describe(holder)}`, {
    hint: "wait until it ends, or choose another directory with `output`",
  });
}

function mayBeHeldBy(dir: string, holder: LockHolder): MicrogptError {
  return new MicrogptError(`${dir} is locked by ${describe(holder)}`, {
    hint: `whether it still runs cannot be seen from here; if not, remove ${join(dir, LOCK_FILE)}`,
  });
}
