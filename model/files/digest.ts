/** Files written whole: in chunks, hashed on the way, flushed to disk. Nothing here holds a second copy of a file. */
import { type FileHandle, type FileInfo, files } from "../../platform/files.ts";
import { sha256 } from "../../platform/hash.ts";

/** What identifies the contents of a file. */
export interface FileDigest {
  bytes: number;
  /** SHA-256, lower-case hexadecimal */
  sha256: string;
}

/** Bytes moved at a time: copying and hashing them takes a few milliseconds, so training goes on in between. */
export const CHUNK_BYTES = 2 << 20;

/** A new file that is hashed while it is written. */
export class HashedFile {
  readonly #file: FileHandle;
  readonly #hash = sha256();
  #bytes = 0;

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /** Opens a file that must not exist yet. */
  static async create(path: string): Promise<HashedFile> {
    return new HashedFile(await files.open(path, { write: true, createNew: true }));
  }

  /** Appends all of `bytes`; they must not change until the promise resolves. */
  async write(bytes: Uint8Array): Promise<void> {
    this.#hash.update(bytes);
    this.#bytes += bytes.length;
    for (let done = 0; done < bytes.length;) done += await this.#file.write(bytes.subarray(done));
  }

  /** Flushes the file to disk. */
  async finish(): Promise<FileDigest> {
    await this.#file.sync();
    return { bytes: this.#bytes, sha256: this.#hash.digest("hex") };
  }

  /** Closes the file, finished or not. */
  [Symbol.dispose](): void {
    this.#file.close();
  }
}

/** Creates `path` with what `fill` writes, flushed to disk. */
export async function writeHashed(
  path: string,
  fill: (file: HashedFile) => Promise<void>,
): Promise<FileDigest> {
  using file = await HashedFile.create(path);
  await fill(file);
  return await file.finish();
}

/** The part of an open file's interface that reads on from its position. */
export type ReadableFile = Pick<FileHandle, "read" | "stat">;

/** An open file that is hashed while it is read, so that what was checked is what was used. */
export class HashedReader implements ReadableFile {
  readonly #file: ReadableFile;
  readonly #hash = sha256();
  #bytes = 0;

  /** @param file at its start */
  constructor(file: ReadableFile) {
    this.#file = file;
  }

  async read(into: Uint8Array): Promise<number | null> {
    const read = await this.#file.read(into);
    if (read === null) return null;
    this.#hash.update(into.subarray(0, read));
    this.#bytes += read;
    return read;
  }

  stat(): Promise<FileInfo> {
    return this.#file.stat();
  }

  /** The digest of everything that was read; call once. */
  digest(): FileDigest {
    return { bytes: this.#bytes, sha256: this.#hash.digest("hex") };
  }
}

/** Reads on from the file's position until `into` is full. @returns false when the file ends first */
export async function readFull(file: ReadableFile, into: Uint8Array): Promise<boolean> {
  for (let done = 0; done < into.length;) {
    const read = await file.read(into.subarray(done, done + CHUNK_BYTES));
    if (read === null) return false;
    done += read;
  }
  return true;
}

/** Calls `visit` with the file's bytes from its position on, chunk by chunk, at most `limit` of them. */
export async function forEachChunk(
  file: ReadableFile,
  visit: (chunk: Uint8Array) => void | Promise<void>,
  limit = Infinity,
): Promise<void> {
  const chunk = new Uint8Array(CHUNK_BYTES);
  for (let left = limit; left > 0;) {
    const read = await file.read(chunk.subarray(0, Math.min(left, CHUNK_BYTES)));
    if (read === null) return;
    await visit(chunk.subarray(0, read));
    left -= read;
  }
}

/** The digest of an open file, from its position on. */
export async function digestOf(file: ReadableFile): Promise<FileDigest> {
  const reader = new HashedReader(file);
  await forEachChunk(reader, () => {});
  return reader.digest();
}
