/**
 * Files and directories: those of the operating system in Deno, in a browser a tree in memory (memory_files.ts) that the
 * page fills, and saves where it likes. Calls are Deno's own, as far as they are used.
 */
import { deno } from "./host.ts";
import { MemoryFiles } from "./memory_files.ts";

/** What is known of a file or directory. */
export interface FileInfo {
  isFile: boolean;
  isDirectory: boolean;
  isSymlink: boolean;
  /** bytes */
  size: number;
  mtime: Date | null;
  /** number of the disk, and of the file on it */
  dev: number;
  ino: number | null;
  /** permissions; null where there are none */
  mode: number | null;
}

/** An entry of a directory. */
export interface DirEntry {
  name: string;
  isFile: boolean;
  isDirectory: boolean;
  isSymlink: boolean;
}

/** How a file is opened; without options for reading. */
export interface OpenOptions {
  read?: boolean;
  write?: boolean;
  append?: boolean;
  create?: boolean;
  createNew?: boolean;
  truncate?: boolean;
}

/** Places are counted from the start, the only way used. */
export const SEEK_START = 0;

/** An open file, with a position. */
export interface FileHandle {
  read(into: Uint8Array): Promise<number | null>;
  readSync(into: Uint8Array): number | null;
  write(bytes: Uint8Array): Promise<number>;
  writeSync(bytes: Uint8Array): number;
  seek(offset: number, whence: typeof SEEK_START): Promise<number>;
  seekSync(offset: number, whence: typeof SEEK_START): number;
  stat(): Promise<FileInfo>;
  statSync(): FileInfo;
  truncate(length?: number): Promise<void>;
  sync(): Promise<void>;
  tryLock(exclusive?: boolean): Promise<boolean>;
  readonly readable: ReadableStream<Uint8Array<ArrayBuffer>>;
  close(): void;
  [Symbol.dispose](): void;
}

/** A file system. */
export interface FileSystem {
  open(path: string, options?: OpenOptions): Promise<FileHandle>;
  openSync(path: string, options?: OpenOptions): FileHandle;
  stat(path: string): Promise<FileInfo>;
  statSync(path: string): FileInfo;
  lstat(path: string): Promise<FileInfo>;
  readDir(path: string): AsyncIterable<DirEntry>;
  readDirSync(path: string): Iterable<DirEntry>;
  readFile(path: string): Promise<Uint8Array<ArrayBuffer>>;
  readTextFile(path: string): Promise<string>;
  readTextFileSync(path: string): string;
  writeFile(path: string, data: Uint8Array): Promise<void>;
  writeTextFile(path: string, text: string): Promise<void>;
  mkdir(path: string, options?: { recursive?: boolean }): Promise<void>;
  makeTempDir(options?: { dir?: string; prefix?: string }): Promise<string>;
  rename(from: string, to: string): Promise<void>;
  remove(path: string, options?: { recursive?: boolean }): Promise<void>;
  removeSync(path: string): void;
  link(from: string, to: string): Promise<void>;
  copyFile(from: string, to: string): Promise<void>;
  chmod(path: string, mode: number): Promise<void>;
  realPath(path: string): Promise<string>;
}

/** Where files are read and written. */
export const files: FileSystem = deno ?? new MemoryFiles();

/** Kinds of failure that are told apart. */
export type FileErrorName =
  | "NotFound"
  | "AlreadyExists"
  | "PermissionDenied"
  | "NotCapable"
  | "NotADirectory"
  | "FilesystemLoop";

/** Whether a file system failed in one of these ways. */
export function isFileError(error: unknown, ...names: FileErrorName[]): boolean {
  return error instanceof Error && (names as string[]).includes(error.name);
}
