/**
 * Reads the front of a file piece by piece. Every length is compared with what the file still has before memory is
 * taken for it, and with a bound on the whole, so that a sparse file of terabytes cannot ask for terabytes.
 */
import { MicrogptError } from "../../../device/errors.ts";
import type { ByteSource } from "./types.ts";

/** Bytes before the tensors' data; a vocabulary of 262,144 tokens with its merges takes about 16 MB. */
export const MAX_HEADER_BYTES = 64 << 20;

/** Read at a time. */
const WINDOW_BYTES = 256 << 10;

/** A place in a file that moves forward. */
export class Cursor {
  /** What is being read, for errors: `tensor 3`. */
  place = "the header";
  readonly #source: ByteSource;
  readonly #path: string;
  readonly #limit: number;
  readonly #utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  #window = new Uint8Array(0);
  #view = new DataView(this.#window.buffer);
  /** of the window's first byte, from the start of the file */
  #windowStart = 0;
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

  /** An error at the present place. */
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
    if (length > WINDOW_BYTES) return this.#decode(await this.bytes(length));
    const at = await this.#take(length); // may replace the window
    return this.#decode(this.#window.subarray(at, at + length));
  }

  /**
   * Takes `count` strings. Most lie in the window, and a vocabulary has too many to wait for each.
   * @throws {MicrogptError} as {@link string}
   */
  async strings(count: number): Promise<string[]> {
    const strings: string[] = [];
    for (let i = 0; i < count; i++) strings.push(this.#stringInWindow() ?? await this.string());
    return strings;
  }

  #stringInWindow(): string | undefined {
    const at = this.#position - this.#windowStart + 8;
    if (at > this.#window.length) return undefined;
    const end = at + Number(this.#view.getBigUint64(at - 8, true));
    if (end > this.#window.length) return undefined;
    this.#position = this.#windowStart + end;
    return this.#decode(this.#window.subarray(at, end));
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
    const at = this.#position - this.#windowStart;
    const known = this.#window.subarray(at, at + length);
    bytes.set(known);
    await this.#read(this.#position + known.length, bytes.subarray(known.length));
    this.#position += length;
    return bytes;
  }

  /** Moves on by `length` ≤ WINDOW_BYTES bytes. @returns where they start in the window */
  async #take(length: number): Promise<number> {
    this.#check(length);
    let at = this.#position - this.#windowStart;
    if (at + length > this.#window.length) {
      const window = new Uint8Array(Math.min(WINDOW_BYTES, this.#limit - this.#position));
      await this.#read(this.#position, window);
      this.#window = window;
      this.#view = new DataView(window.buffer);
      this.#windowStart = this.#position;
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
