/**
 * Reads the front of a file piece by piece. Every length is compared with what the file still has before memory is
 * taken for it, and with a bound on the whole, so that a sparse file of terabytes cannot ask for terabytes.
 */
import { MicrogptError } from "../../../device/errors.ts";
import type { ByteSource } from "./types.ts";

/** Bytes before the tensors' data; a vocabulary of 262,144 tokens with its merges takes about 16 MB. */
export const MAX_HEADER_BYTES = 64 << 20;

/** Read at a time. */
const CHUNK_BYTES = 256 << 10;

/** A place in a file that moves forward. */
export class Cursor {
  /** What is being read, for errors: `tensor 3`. */
  place = "the header";
  readonly #source: ByteSource;
  readonly #path: string;
  readonly #limit: number;
  readonly #utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  #chunk = new Uint8Array(0);
  #view = new DataView(this.#chunk.buffer);
  /** of the chunk's first byte, from the start of the file */
  #chunkStart = 0;
  #position = 0;

  /**
   * Starts at the file's first byte.
   * @param path what error messages call the file
   */
  constructor(source: ByteSource, path: string) {
    this.#source = source;
    this.#path = path;
    this.#limit = Math.min(source.size, MAX_HEADER_BYTES);
  }

  /** Bytes read so far. */
  get position(): number {
    return this.#position;
  }

  /** An error at the current place. */
  error(what: string, hint?: string): MicrogptError {
    return new MicrogptError(`${this.#path}: ${this.place} ${what}`, hint === undefined ? {} : { hint });
  }

  /** Takes one byte. */
  async u8(): Promise<number> {
    const at = await this.#take(1); // may replace the view
    return this.#view.getUint8(at);
  }

  /** Takes four bytes. */
  async u32(): Promise<number> {
    const at = await this.#take(4); // may replace the view
    return this.#view.getUint32(at, true);
  }

  /** Takes eight bytes. */
  async u64(): Promise<bigint> {
    const at = await this.#take(8); // may replace the view
    return this.#view.getBigUint64(at, true);
  }

  /**
   * Takes eight bytes that say how many things follow.
   * @param what the things, for the error
   * @param each the fewest bytes that one of them takes
   * @throws {MicrogptError} when the file is too short for that many
   */
  async count(what: string, each: number): Promise<number> {
    const n = await this.u64();
    if (n * BigInt(each) > BigInt(this.#source.size - this.#position)) {
      throw this.error(
        `claims ${n} ${what}, the file has ${this.#source.size - this.#position} bytes left`,
        CUT_OFF,
      );
    }
    this.#checkLimit(Number(n) * each);
    return Number(n);
  }

  /**
   * Takes a string: its length in bytes, then UTF-8.
   * @throws {MicrogptError} when it is longer than the file, or not UTF-8
   */
  async string(): Promise<string> {
    const length = await this.count("bytes of text", 1);
    if (length > CHUNK_BYTES) return this.#decode(await this.bytes(length));
    const at = await this.#take(length); // may replace the chunk
    return this.#decode(this.#chunk.subarray(at, at + length));
  }

  /**
   * Takes `count` strings. Most lie in the chunk, and a vocabulary has too many to await each.
   * @throws {MicrogptError} as {@link string}
   */
  async strings(count: number): Promise<string[]> {
    const strings: string[] = [];
    for (let i = 0; i < count; i++) strings.push(this.#stringInChunk() ?? await this.string());
    return strings;
  }

  #stringInChunk(): string | undefined {
    const at = this.#position - this.#chunkStart + 8;
    if (at > this.#chunk.length) return undefined;
    const end = at + Number(this.#view.getBigUint64(at - 8, true));
    if (end > this.#chunk.length) return undefined;
    this.#position = this.#chunkStart + end;
    return this.#decode(this.#chunk.subarray(at, end));
  }

  #decode(bytes: Uint8Array): string {
    try {
      return this.#utf8.decode(bytes);
    } catch {
      throw this.error("is not valid UTF-8");
    }
  }

  /** Takes `length` bytes, as a copy that starts its own buffer. */
  async bytes(length: number): Promise<Uint8Array<ArrayBuffer>> {
    this.#check(length);
    const bytes = new Uint8Array(length);
    const at = this.#position - this.#chunkStart;
    const known = this.#chunk.subarray(at, at + length);
    bytes.set(known);
    await this.#read(this.#position + known.length, bytes.subarray(known.length));
    this.#position += length;
    return bytes;
  }

  /** Moves on by `length` ≤ CHUNK_BYTES bytes. @returns where they start in the chunk */
  async #take(length: number): Promise<number> {
    this.#check(length);
    let at = this.#position - this.#chunkStart;
    if (at + length > this.#chunk.length) {
      const chunk = new Uint8Array(Math.min(CHUNK_BYTES, this.#limit - this.#position));
      await this.#read(this.#position, chunk);
      this.#chunk = chunk;
      this.#view = new DataView(chunk.buffer);
      this.#chunkStart = this.#position;
      at = 0;
    }
    this.#position += length;
    return at;
  }

  #check(length: number): void {
    const left = this.#source.size - this.#position;
    if (length > left) {
      throw this.error(`takes ${length} bytes from byte ${this.#position} on, the file has ${left}`, CUT_OFF);
    }
    this.#checkLimit(length);
  }

  #checkLimit(length: number): void {
    if (this.#position + length > MAX_HEADER_BYTES) {
      throw this.error(`ends beyond byte ${MAX_HEADER_BYTES}; no longer metadata is read`);
    }
  }

  async #read(offset: number, into: Uint8Array<ArrayBuffer>): Promise<void> {
    if (into.length > 0 && !await this.#source.readAt(offset, into)) {
      throw new MicrogptError(`${this.#path}: the file shrank while it was read`);
    }
  }
}

/** The hint for a file that is shorter than it says. */
export const CUT_OFF = "the file is cut off or damaged; download it again";
