// deno-lint-ignore-file require-await -- as Deno's, these calls reject where their synchronous forms throw
/** A file system in memory: the one of a page. Errors have the names and codes of Deno's. */
import type { DirEntry, FileErrorName, FileHandle, FileInfo, FileSystem, OpenOptions } from "./files.ts";
import { SLASH_PATHS } from "./paths.ts";

const CODES: Partial<Record<FileErrorName | "IsADirectory" | "DirectoryNotEmpty", string>> = {
  NotFound: "ENOENT",
  AlreadyExists: "EEXIST",
  NotADirectory: "ENOTDIR",
  IsADirectory: "EISDIR",
  DirectoryNotEmpty: "ENOTEMPTY",
};

const WORDS: Record<string, string> = {
  NotFound: "no such file or directory",
  AlreadyExists: "file exists",
  NotADirectory: "not a directory",
  IsADirectory: "is a directory",
  DirectoryNotEmpty: "directory not empty",
};

function failure(name: keyof typeof CODES, path: string): Error {
  const named = name === "DirectoryNotEmpty" ? {} : { name }; // Deno has no class for it
  return Object.assign(new Error(`${WORDS[name]}: ${path}`), { ...named, code: CODES[name] });
}

/** What a file holds; several names may lead to it. */
class FileNode {
  bytes = new Uint8Array(0);
  size = 0;
  modified = new Date();
  locked = false;
  constructor(readonly ino: number) {}

  contents(): Uint8Array<ArrayBuffer> {
    return this.bytes.subarray(0, this.size);
  }

  /** Changes the size; what is added is zeros. */
  resize(size: number): void {
    if (size > this.bytes.length) {
      const grown = new Uint8Array(
        Math.max(size, Math.min(2 * this.bytes.length, this.bytes.length + (16 << 20))),
      );
      grown.set(this.contents());
      this.bytes = grown;
    } else this.bytes.fill(0, size, Math.max(size, this.size));
    this.size = size;
    this.modified = new Date();
  }
}

class DirectoryNode {
  readonly entries = new Map<string, FileNode | DirectoryNode>();
  modified = new Date();
  constructor(readonly ino: number) {}
}

type Node = FileNode | DirectoryNode;

function infoOf(node: Node): FileInfo {
  const isFile = node instanceof FileNode;
  return {
    isFile,
    isDirectory: !isFile,
    isSymlink: false,
    size: isFile ? node.size : 0,
    mtime: node.modified,
    dev: 1,
    ino: node.ino,
    mode: null,
  };
}

class MemoryHandle implements FileHandle {
  #position = 0;
  #locks = false;
  constructor(readonly node: Node, readonly path: string, readonly append: boolean) {}

  get #file(): FileNode {
    if (this.node instanceof DirectoryNode) throw failure("IsADirectory", this.path);
    return this.node;
  }

  readSync(into: Uint8Array): number | null {
    const part = this.#file.contents().subarray(this.#position, this.#position + into.length);
    if (part.length === 0 && into.length > 0) return null;
    into.set(part);
    this.#position += part.length;
    return part.length;
  }

  writeSync(bytes: Uint8Array): number {
    const file = this.#file;
    if (this.append) this.#position = file.size;
    const end = this.#position + bytes.length;
    if (end > file.size) file.resize(end);
    file.bytes.set(bytes, this.#position);
    file.modified = new Date();
    this.#position = end;
    return bytes.length;
  }

  seekSync(offset: number): number {
    return this.#position = offset;
  }

  statSync(): FileInfo {
    return infoOf(this.node);
  }

  async read(into: Uint8Array): Promise<number | null> {
    return this.readSync(into);
  }

  async write(bytes: Uint8Array): Promise<number> {
    return this.writeSync(bytes);
  }

  async seek(offset: number): Promise<number> {
    return this.seekSync(offset);
  }

  async stat(): Promise<FileInfo> {
    return this.statSync();
  }

  async truncate(length = 0): Promise<void> {
    this.#file.resize(length);
  }

  sync(): Promise<void> {
    return Promise.resolve();
  }

  async tryLock(): Promise<boolean> {
    const file = this.#file;
    if (file.locked && !this.#locks) return false;
    return file.locked = this.#locks = true;
  }

  get readable(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return new ReadableStream({
      pull: (controller) => {
        const chunk = new Uint8Array(64 << 10);
        const read = this.readSync(chunk);
        if (read === null) controller.close();
        else controller.enqueue(chunk.subarray(0, read));
      },
    });
  }

  close(): void {
    if (this.#locks) this.#file.locked = this.#locks = false;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A tree of files in memory. Relative paths count from its root. */
export class MemoryFiles implements FileSystem {
  #inos = 1;
  readonly #root = new DirectoryNode(this.#inos++);

  #find(path: string): Node {
    let node: Node = this.#root;
    for (const name of SLASH_PATHS.resolve(path).split("/").filter((part) => part !== "")) {
      if (node instanceof FileNode) throw failure("NotADirectory", path);
      const next: Node | undefined = node.entries.get(name);
      if (!next) throw failure("NotFound", path);
      node = next;
    }
    return node;
  }

  #directory(path: string): DirectoryNode {
    const node = this.#find(path);
    if (node instanceof FileNode) throw failure("NotADirectory", path);
    return node;
  }

  /** The directory that holds a path, its name there, and what has the name. */
  #place(path: string): { directory: DirectoryNode; name: string; node: Node | undefined } {
    const absolute = SLASH_PATHS.resolve(path);
    const directory = this.#directory(SLASH_PATHS.dirname(absolute));
    const name = SLASH_PATHS.basename(absolute);
    return { directory, name, node: directory.entries.get(name) };
  }

  #set(directory: DirectoryNode, name: string, node: Node | undefined): void {
    if (node) directory.entries.set(name, node);
    else directory.entries.delete(name);
    directory.modified = new Date();
  }

  openSync(path: string, options: OpenOptions = { read: true }): FileHandle {
    if (!options.create && !options.createNew) {
      const node = this.#find(path);
      if (options.write && node instanceof DirectoryNode) throw failure("IsADirectory", path);
      if (options.truncate && node instanceof FileNode) node.resize(0);
      return new MemoryHandle(node, path, options.append ?? false);
    }
    const { directory, name, node: before } = this.#place(path);
    if (before && options.createNew) throw failure("AlreadyExists", path);
    if (before instanceof DirectoryNode || name === "") throw failure("IsADirectory", path);
    const node = before ?? new FileNode(this.#inos++);
    if (!before) this.#set(directory, name, node);
    if (options.truncate) node.resize(0);
    return new MemoryHandle(node, path, options.append ?? false);
  }

  async open(path: string, options?: OpenOptions): Promise<FileHandle> {
    return this.openSync(path, options);
  }

  statSync(path: string): FileInfo {
    return infoOf(this.#find(path));
  }

  async stat(path: string): Promise<FileInfo> {
    return this.statSync(path);
  }

  async lstat(path: string): Promise<FileInfo> {
    return this.statSync(path);
  }

  *readDirSync(path: string): Iterable<DirEntry> {
    for (const [name, node] of [...this.#directory(path).entries]) {
      const { isFile, isDirectory, isSymlink } = infoOf(node);
      yield { name, isFile, isDirectory, isSymlink };
    }
  }

  async *readDir(path: string): AsyncIterable<DirEntry> {
    yield* this.readDirSync(path);
  }

  #contents(path: string): Uint8Array<ArrayBuffer> {
    const node = this.#find(path);
    if (node instanceof DirectoryNode) throw failure("IsADirectory", path);
    return node.contents();
  }

  async readFile(path: string): Promise<Uint8Array<ArrayBuffer>> {
    return this.#contents(path).slice();
  }

  readTextFileSync(path: string): string {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.#contents(path));
  }

  async readTextFile(path: string): Promise<string> {
    return this.readTextFileSync(path);
  }

  async writeFile(path: string, data: Uint8Array): Promise<void> {
    this.openSync(path, { write: true, create: true, truncate: true }).writeSync(data);
  }

  async writeTextFile(path: string, text: string): Promise<void> {
    await this.writeFile(path, new TextEncoder().encode(text));
  }

  async mkdir(path: string, { recursive = false } = {}): Promise<void> {
    const absolute = SLASH_PATHS.resolve(path);
    if (recursive) {
      let node = this.#root;
      for (const name of absolute.split("/").filter((part) => part !== "")) {
        const next = node.entries.get(name) ?? new DirectoryNode(this.#inos++);
        if (next instanceof FileNode) throw failure("NotADirectory", path);
        this.#set(node, name, next);
        node = next;
      }
      return;
    }
    const { directory, name, node } = this.#place(path);
    if (node || name === "") throw failure("AlreadyExists", path);
    this.#set(directory, name, new DirectoryNode(this.#inos++));
  }

  async makeTempDir({ dir = "/", prefix = "" } = {}): Promise<string> {
    const path = SLASH_PATHS.join(dir, `${prefix}${this.#inos++}`);
    await this.mkdir(path);
    return path;
  }

  async rename(from: string, to: string): Promise<void> {
    const source = this.#place(from);
    const target = this.#place(to);
    const { node } = source;
    if (!node) throw failure("NotFound", from);
    if (target.node === node) return;
    if (target.node instanceof DirectoryNode) {
      if (node instanceof FileNode) throw failure("IsADirectory", to);
      if (target.node.entries.size > 0) throw failure("DirectoryNotEmpty", to);
    } else if (target.node && node instanceof DirectoryNode) throw failure("NotADirectory", to);
    this.#set(source.directory, source.name, undefined);
    this.#set(target.directory, target.name, node);
  }

  removeSync(path: string, recursive = false): void {
    const { directory, name, node } = this.#place(path);
    if (!node) throw failure("NotFound", path);
    if (!recursive && node instanceof DirectoryNode && node.entries.size > 0) {
      throw failure("DirectoryNotEmpty", path);
    }
    this.#set(directory, name, undefined);
  }

  async remove(path: string, { recursive = false } = {}): Promise<void> {
    this.removeSync(path, recursive);
  }

  async link(from: string, to: string): Promise<void> {
    const node = this.#find(from);
    const target = this.#place(to);
    if (target.node) throw failure("AlreadyExists", to);
    if (node instanceof DirectoryNode) throw failure("IsADirectory", from);
    this.#set(target.directory, target.name, node);
  }

  async copyFile(from: string, to: string): Promise<void> {
    await this.writeFile(to, this.#contents(from));
  }

  chmod(): Promise<void> {
    return Promise.resolve();
  }

  async realPath(path: string): Promise<string> {
    this.#find(path);
    return SLASH_PATHS.resolve(path);
  }
}
