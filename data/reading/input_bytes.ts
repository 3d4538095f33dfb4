/** The bytes of an input: read once from end to end, hashed as they lie on disk, unpacked where they are compressed. */

import { type FileHandle, files } from "../../platform/files.ts";
import { sha256 } from "../../platform/hash.ts";
import { standardInput } from "../../platform/host.ts";
import { decompressed, UnknownXzError } from "../../platform/decompression.ts";
import { MicrogptError } from "../../device/errors.ts";
import { cannotRead } from "./limits.ts";
import type { InputFile } from "./input_files.ts";
import { wholeFrames } from "./zstd_frames.ts";

/** Bytes a read asks for. */
const READ_BYTES = 1024 * 1024;

/** What a file may unpack to before its ratio counts, and then the most it may unpack to per byte. */
const BOMB = { bytes: 256 * 1024 * 1024, ratio: 500 };

/** How a file is compressed. */
export type Compression = "gzip" | "zstd" | "xz";

/** The programs that unpack it. */
const UNPACKERS: Record<Compression, string> = { gzip: "gunzip", zstd: "unzstd", xz: "unxz" };

/** An input that is being read. */
export interface ByteSource {
  /** for messages: the path, or "standard input" */
  name: string;
  /** the bytes as they lie on disk */
  chunks: AsyncGenerator<Uint8Array>;
  /** bytes handed out so far */
  bytesRead(): number;
  /** SHA-256 of the bytes handed out, in hexadecimal; call once, at the end */
  digest(): string;
}

/**
 * Opens an input. Its bytes must be those that `file` was found with: if they change meanwhile, it is refused when its
 * end is reached.
 * @param file undefined for standard input
 * @param signal ends reading with its reason
 */
export function openBytes(file: InputFile | undefined, signal?: AbortSignal): ByteSource {
  const name = file?.path ?? "standard input";
  const hash = sha256();
  let read = 0;
  async function* chunks(): AsyncGenerator<Uint8Array> {
    for await (const chunk of file ? fileChunks(file) : stdinChunks()) {
      signal?.throwIfAborted();
      hash.update(chunk);
      read += chunk.length;
      yield chunk;
    }
  }
  return { name, chunks: chunks(), bytesRead: () => read, digest: () => hash.digest("hex") };
}

async function* fileChunks(file: InputFile): AsyncGenerator<Uint8Array> {
  let handle: FileHandle;
  try {
    handle = await files.open(file.path);
  } catch (error) {
    throw cannotRead(file.path, error);
  }
  try {
    let read = 0;
    while (true) {
      // A new array each time, because the receiver may keep it. Small files come by the thousand, so theirs are small.
      const left = file.regular ? Math.max(file.bytes - read, 0) + 1 : READ_BYTES;
      const buffer = new Uint8Array(Math.min(READ_BYTES, left));
      const n = await handle.read(buffer).catch((error) => {
        throw cannotRead(file.path, error);
      });
      if (n === null) break;
      read += n;
      if (file.regular && read > file.bytes) throw changed(file, "has grown");
      yield buffer.subarray(0, n);
    }
    if (!file.regular) return;
    if (read < file.bytes) throw changed(file, `ended after ${read} of its ${file.bytes} bytes`);
    if ((handle.statSync().mtime?.getTime() ?? 0) !== file.modified) {
      throw changed(file, "was written to");
    }
  } finally {
    handle.close();
  }
}

/** What is read from a changing file would be neither its old nor its new content. */
export function changed({ path }: InputFile, how: string): MicrogptError {
  return new MicrogptError(`${path} ${how} while it was read`, {
    hint: "start again when nothing writes to it, or read a copy",
  });
}

async function* stdinChunks(): AsyncGenerator<Uint8Array> {
  const reader = standardInput().getReader();
  try {
    while (true) {
      const { done, value } = await reader.read().catch((error) => {
        throw cannotRead("standard input", error);
      });
      if (done) return;
      yield value;
    }
  } finally {
    // A failure to close no longer matters then.
    await reader.cancel().catch(() => {});
  }
}

/** How bytes that begin like this are compressed; undefined if they are not, or not in a way that can be read. */
export function compressionOf(start: Uint8Array): Compression | undefined {
  const begins = (...bytes: number[]) => bytes.every((byte, i) => start[i] === byte);
  if (begins(0x1f, 0x8b, 0x08)) return "gzip";
  if (begins(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00)) return "xz";
  return begins(0x28, 0xb5, 0x2f, 0xfd) || isSkippableFrame(start) ? "zstd" : undefined;
}

/** zstd files may begin with a frame of other data, as those of pzstd do: 0x184D2A50 … 0x184D2A5F, little-endian. */
function isSkippableFrame(start: Uint8Array): boolean {
  return (start[0]! & 0xf0) === 0x50 && start[1] === 0x2a && start[2] === 0x4d && start[3] === 0x18;
}

/**
 * Unpacks, member after member.
 * @param source its bytes, from their start
 * @throws {MicrogptError} when they are damaged, cut off or unpack to an absurd size
 */
export async function* unpack(
  { name, bytesRead }: Pick<ByteSource, "name" | "bytesRead">,
  source: AsyncIterable<Uint8Array>,
  compression: Compression,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const members = compression === "zstd" ? wholeFrames(source) : source;
  let unpacked = 0;
  try {
    for await (const piece of decompressed(members, compression, READ_BYTES)) {
      unpacked += piece.length;
      if (unpacked > BOMB.bytes && unpacked > BOMB.ratio * bytesRead()) {
        throw new MicrogptError(`${name} unpacks to more than ${BOMB.ratio} times its size`, {
          hint: `it is hardly text; if it is, unpack it first: ${UNPACKERS[compression]}`,
        });
      }
      yield piece;
    }
  } catch (cause) {
    signal?.throwIfAborted();
    if (cause instanceof MicrogptError) throw cause;
    throw new MicrogptError(`${name} cannot be unpacked (${compression}): ${reason(cause)}`, {
      hint: hintOf(cause, compression),
      cause,
    });
  }
}

function hintOf(cause: unknown, compression: Compression): string {
  if (!(cause instanceof UnknownXzError)) return "it is damaged or cut off; get it again";
  return `unpack it first: ${UNPACKERS[compression]}`;
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message.split("\n")[0]! : String(error);
}

/** Bytes whose start can be looked at before they are read. */
export class PeekedBytes implements AsyncIterable<Uint8Array> {
  readonly #source: AsyncIterator<Uint8Array>;
  readonly #seen: Uint8Array[] = [];
  #ended = false;

  constructor(source: AsyncGenerator<Uint8Array>) {
    this.#source = source;
  }

  /** @returns the first `n` bytes, or fewer where there are fewer */
  async peek(n: number): Promise<Uint8Array> {
    let length = this.#seen.reduce((sum, chunk) => sum + chunk.length, 0);
    while (length < n && !this.#ended) {
      const { done, value } = await this.#source.next();
      if (done) this.#ended = true;
      else {
        this.#seen.push(value);
        length += value.length;
      }
    }
    const start = new Uint8Array(Math.min(n, length));
    let at = 0;
    for (const chunk of this.#seen) {
      if (at === start.length) break;
      const part = chunk.subarray(0, start.length - at);
      start.set(part, at);
      at += part.length;
    }
    return start;
  }

  /** All bytes, once. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    try {
      while (this.#seen.length > 0) yield this.#seen.shift()!;
      while (!this.#ended) {
        const { done, value } = await this.#source.next();
        if (done) this.#ended = true;
        else yield value;
      }
    } finally {
      await this.#source.return?.();
    }
  }

  /** Closes a source that was not read to its end. */
  async close(): Promise<void> {
    await this.#source.return?.();
  }
}
