/** Numbers of a large file at any place, read a page at a time; pages are kept, up to 64 MB. */

import { type FileHandle, files } from "../../platform/files.ts";
import { readAt } from "./indexed_file.ts";

const PAGE_BYTES = 8 << 10;
const MAX_PAGES = 8 << 10;

/** A file that is read at random. It must not change meanwhile. */
export class FilePages implements Disposable {
  readonly #file: FileHandle;
  /** kept pages end to end, as numbers of both widths */
  readonly #u32: Uint32Array;
  readonly #u16: Uint16Array;
  readonly #bytes: Uint8Array;
  /** the place of each kept page */
  readonly #places = new Map<number, number>();
  /** the page in each place */
  readonly #pages: number[] = [];
  #oldest = 0;
  /** the page that was asked for last, and its place */
  #page = -1;
  #place = 0;
  #closed = false;

  constructor(path: string) {
    this.#file = files.openSync(path);
    const size = Math.ceil(this.#file.statSync().size / PAGE_BYTES);
    const buffer = new ArrayBuffer(PAGE_BYTES * Math.min(size, MAX_PAGES));
    this.#u32 = new Uint32Array(buffer);
    this.#u16 = new Uint16Array(buffer);
    this.#bytes = new Uint8Array(buffer);
  }

  /** The number at a byte that is a multiple of 4. What is behind the file's end is anything. */
  u32(byte: number): number {
    const page = Math.floor(byte / PAGE_BYTES);
    if (page !== this.#page) this.#find(page);
    return this.#u32[(this.#place * PAGE_BYTES + byte - page * PAGE_BYTES) >>> 2]!;
  }

  /**
   * Copies numbers into all of `into`.
   * @param width of each in the file, 2 or 4 bytes, of which `byte` is a multiple
   */
  read(byte: number, width: 2 | 4, into: Uint32Array): void {
    const kept = width === 2 ? this.#u16 : this.#u32;
    let page = Math.floor(byte / PAGE_BYTES);
    let at = (byte - page * PAGE_BYTES) / width;
    for (let done = 0; done < into.length; page++, at = 0) {
      if (page !== this.#page) this.#find(page);
      const first = this.#place * PAGE_BYTES / width + at;
      const n = Math.min(PAGE_BYTES / width - at, into.length - done);
      for (let i = 0; i < n; i++) into[done + i] = kept[first + i]!;
      done += n;
    }
  }

  #find(page: number): void {
    this.#page = page;
    const kept = this.#places.get(page);
    if (kept !== undefined) {
      this.#place = kept;
      return;
    }
    let place = this.#pages.length;
    if (place * PAGE_BYTES === this.#bytes.length) {
      // the oldest goes: pages are asked for at random, so none is more likely to come again
      place = this.#oldest;
      this.#oldest = (place + 1) % this.#pages.length;
      this.#places.delete(this.#pages[place]!);
    }
    const start = place * PAGE_BYTES;
    readAt(this.#file, page * PAGE_BYTES, this.#bytes.subarray(start, start + PAGE_BYTES));
    this.#pages[place] = page;
    this.#places.set(page, place);
    this.#place = place;
  }

  /** All bytes of a part of the file, which are not kept. */
  bytes(byte: number, length: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(length);
    readAt(this.#file, byte, bytes);
    return bytes;
  }

  /** A second call does nothing. */
  close(): void {
    if (!this.#closed) this.#file.close();
    this.#closed = true;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
