/**
 * The token file: a corpus as tokens, written once and read at random. Between the header and the index of all prepared
 * files (indexed_file.ts):
 *
 *     blocks   each: mark u32, documents u32, spans u32, tokens u32; SHA-256 of lengths and spans, and of the ids; then
 *              lengths u32 [documents], spans u32 [spans], ids u16 or u32 [tokens], 0 to 3 zeros
 *
 * The header's number is the bits of an id, 16 or 32. A file without an index is one whose writing was interrupted.
 */

import { type FileHandle, files, SEEK_START } from "../../platform/files.ts";
import {
  bytesOf,
  digestOf,
  fromHex,
  HEADER_BYTES,
  headerOf,
  type Kind,
  PreparedFileError,
  readAt,
  readExactly,
  readIndex,
  writeAll,
  writeIndex,
} from "./indexed_file.ts";
import type { TokenBlock, TokenIds } from "./token_block.ts";
import { joined, Places, type TokenSource, TokenStore } from "./token_store.ts";

const MAGIC = "MGTOKENS";
const BLOCK_MARK = 0x4b434c42;
const BLOCK_HEADER_BYTES = 16 + 2 * 32;

/** Files up to this size are compared with all their digests when they are opened; of larger ones the ids of some blocks. */
const CHECK_ALL_BYTES = 256 << 20;
const CHECKED_BLOCKS = 4;

/** A block as the index lists it. */
interface BlockEntry {
  /** first byte of its header */
  at: number;
  documents: number;
  spans: number;
  tokens: number;
  /** hexadecimal SHA-256 of lengths and spans */
  index: string;
  /** of the ids */
  ids: string;
}

/** Writes a token file block by block. */
export class TokenFileWriter implements Disposable {
  readonly #file: FileHandle;
  readonly #bits: 16 | 32;
  readonly #kind: Kind;
  readonly #blocks: BlockEntry[] = [];
  #end = HEADER_BYTES;

  /**
   * Begins a file, in place of one that is there.
   * @param bits of an id
   */
  constructor(path: string, bits: 16 | 32) {
    this.#file = files.openSync(path, { read: true, write: true, create: true, truncate: true });
    this.#bits = bits;
    this.#kind = { magic: MAGIC, number: bits };
    try {
      writeAll(this.#file, headerOf(this.#kind));
    } catch (error) {
      this.#file.close();
      throw error;
    }
  }

  /** Lists a block and moves behind it. */
  #note(documents: number, spans: number, tokens: number, index: string, ids: string): void {
    this.#blocks.push({ at: this.#end, documents, spans, tokens, index, ids });
    this.#end = endOf(this.#blocks.at(-1)!, this.#bits);
  }

  /** Appends a block. */
  append(block: TokenBlock): void {
    const { lengths, spans, ids } = block;
    const head = new Uint8Array(BLOCK_HEADER_BYTES);
    const view = new DataView(head.buffer);
    [BLOCK_MARK, lengths.length, spans.length, ids.length].forEach((value, i) =>
      view.setUint32(4 * i, value, true)
    );
    const index = digestOf(bytesOf(lengths), bytesOf(spans));
    const idDigest = digestOf(bytesOf(ids));
    [index, idDigest].forEach((text, i) => head.set(fromHex(text), 16 + 32 * i));
    const padding = new Uint8Array((4 - ids.byteLength % 4) % 4);
    for (const part of [head, bytesOf(lengths), bytesOf(spans), bytesOf(ids), padding]) {
      writeAll(this.#file, part);
    }
    this.#note(lengths.length, spans.length, ids.length, index, idDigest);
  }

  /**
   * Writes the index, so that the file is whole, and waits until it is on the disk.
   * @param known what is known of the corpus
   */
  async finish(known: unknown): Promise<void> {
    await this.#file.truncate(this.#end);
    this.#file.seekSync(this.#end, SEEK_START);
    await writeIndex(this.#file, this.#kind, { known, blocks: this.#blocks });
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

/** The byte that a block ends at. */
function endOf({ at, documents, spans, tokens }: BlockEntry, bits: number): number {
  return at + BLOCK_HEADER_BYTES + 4 * (documents + spans) + Math.ceil(tokens * bits / 32) * 4;
}

/**
 * Opens a whole token file.
 * @param vocabSize that its ids must be below
 * @returns its tokens, and what is known of the corpus
 * @throws {PreparedFileError} when it is not whole and undamaged
 */
export function openTokenFile(path: string, vocabSize: number): { store: TokenStore; known: unknown } {
  const file = files.openSync(path);
  try {
    const { number: bits, index, at: end } = readIndex(file, MAGIC);
    if (bits !== 16 && bits !== 32) throw new PreparedFileError("it is damaged");
    const blocks = index.blocks as BlockEntry[];
    const last = blocks.at(-1);
    if (!last || endOf(last, bits) !== end) throw new PreparedFileError("its size is wrong");
    const checked = new Set(blocks.keys());
    if (end > CHECK_ALL_BYTES) {
      checked.clear();
      for (let i = 0; i < CHECKED_BLOCKS; i++) {
        checked.add(Math.floor((blocks.length - 1) * i / (CHECKED_BLOCKS - 1)));
      }
    }
    const lengths: Uint32Array[] = [];
    const spans: Uint32Array[] = [];
    blocks.forEach((block, b) => {
      const at = block.at + BLOCK_HEADER_BYTES;
      const index = readExactly(file, at, 4 * (block.documents + block.spans));
      if (digestOf(index) !== block.index) throw new PreparedFileError("its lengths are damaged");
      lengths.push(new Uint32Array(index.buffer, 0, block.documents));
      spans.push(new Uint32Array(index.buffer, 4 * block.documents, block.spans));
      if (!checked.has(b)) return;
      const ids = readExactly(file, at + index.length, block.tokens * bits / 8);
      if (digestOf(ids) !== block.ids) throw new PreparedFileError("its tokens are damaged");
    });
    const source = new FileTokens(file, path, bits, blocks, vocabSize);
    return { store: new TokenStore(joined(lengths), joined(spans), source), known: index.known };
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Bytes that are read at a time, and most of them that are kept. */
const PAGE_BYTES = 32 << 10;
const MAX_PAGES = 4096;

/** Tokens of a file, read a page at a time; pages are kept up to 128 MB. */
class FileTokens implements TokenSource {
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #width: number;
  readonly #places: Places;
  /** first byte of the ids of each block */
  readonly #starts: number[];
  readonly #vocabSize: number;
  readonly #pages = new Map<number, TokenIds>();
  #closed = false;

  constructor(
    file: FileHandle,
    path: string,
    bits: 16 | 32,
    blocks: readonly BlockEntry[],
    vocabSize: number,
  ) {
    this.#file = file;
    this.#path = path;
    this.#width = bits / 8;
    this.#places = new Places(blocks.map(({ tokens }) => tokens));
    this.#starts = blocks.map(({ at, documents, spans }) =>
      at + BLOCK_HEADER_BYTES + 4 * (documents + spans)
    );
    this.#vocabSize = vocabSize;
  }

  read(first: number, into: Uint32Array): void {
    const block = this.#places.find(first);
    // blocks begin at multiples of 4, so that no id lies across two pages
    const byte = this.#starts[block]! + (first - this.#places.starts[block]!) * this.#width;
    let page = Math.floor(byte / PAGE_BYTES);
    let at = (byte - page * PAGE_BYTES) / this.#width;
    for (let done = 0; done < into.length; page++, at = 0) {
      const ids = this.#page(page);
      const n = Math.min(ids.length - at, into.length - done);
      if (n <= 0) throw this.#damaged();
      for (let i = 0; i < n; i++) {
        const id = ids[at + i]!;
        if (id >= this.#vocabSize) throw this.#damaged();
        into[done + i] = id;
      }
      done += n;
    }
  }

  #page(number: number): TokenIds {
    const kept = this.#pages.get(number);
    if (kept) return kept;
    const bytes = new Uint8Array(PAGE_BYTES);
    const length = readAt(this.#file, number * PAGE_BYTES, bytes);
    const ids = this.#width === 2
      ? new Uint16Array(bytes.buffer, 0, length >> 1)
      : new Uint32Array(bytes.buffer, 0, length >> 2);
    // the oldest goes: pages are asked for at random, so none is more likely to come again
    if (this.#pages.size === MAX_PAGES) this.#pages.delete(this.#pages.keys().next().value!);
    this.#pages.set(number, ids);
    return ids;
  }

  #damaged(): PreparedFileError {
    return new PreparedFileError(`${this.#path} was damaged while it was read`, {
      hint: "remove it and start again: it is made anew",
    });
  }

  close(): void {
    if (!this.#closed) this.#file.close();
    this.#closed = true;
  }
}
