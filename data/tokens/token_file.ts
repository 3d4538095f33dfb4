/**
 * The token file: a corpus as tokens, written once and read at random. Between the header and the index of all prepared
 * files (indexed_file.ts):
 *
 *     blocks   each: mark u32, documents u32, spans u32, tokens u32; SHA-256 of what the block was made of, and of what
 *              follows: offsets u32 [documents + 1]; where there are spans, their offsets u32 [documents + 1] and
 *              themselves u32 [spans]; ids u16 or u32 [tokens], 0 to 3 zeros
 *
 * The header's number is the bits of an id, 16 or 32. A file without an index is one whose writing was interrupted; the
 * blocks that are whole are used when the same is written again.
 */

import { type FileHandle, files, SEEK_START } from "../../platform/files.ts";
import { LengthCounts } from "../lengths.ts";
import { FilePages } from "./file_pages.ts";
import {
  bytesOf,
  digestOf,
  fromHex,
  HEADER_BYTES,
  headerOf,
  type Kind,
  PreparedFileError,
  readExactly,
  readIndex,
  toHex,
  writeAll,
  writeIndex,
} from "./indexed_file.ts";
import type { TokenBlock } from "./token_block.ts";
import {
  type BlockPart,
  type BlockSize,
  sizeOf,
  spanOffsets,
  type TokenSource,
  TokenStore,
} from "./token_store.ts";

const MAGIC = "MGTOKENS";
const BLOCK_MARK = 0x4b434c42;
const BLOCK_HEADER_BYTES = 16 + 2 * 32;

/** No block is larger. */
const MAX_BLOCK_BYTES = 1 << 30;

/** Files up to this size are compared with all their digests when they are opened; of larger ones some blocks. */
const CHECK_ALL_BYTES = 64 << 20;
const CHECKED_BLOCKS = 4;

/** A block as the index lists it. */
interface BlockEntry extends BlockSize {
  /** first byte of its header */
  at: number;
  /** hexadecimal SHA-256 of what it was made of */
  source: string;
  /** of what follows the header */
  data: string;
}

/** Bytes of a block's offsets and spans. */
function indexBytes({ documents, spans }: BlockSize): number {
  return 4 * (documents + 1) + (spans > 0 ? 4 * (documents + 1 + spans) : 0);
}

/** Bytes of a block behind its header. */
function dataBytes(block: BlockSize, bits: number): number {
  return indexBytes(block) + Math.ceil(block.tokens * bits / 32) * 4;
}

/** The byte that a block ends at. */
function endOf(block: BlockEntry, bits: number): number {
  return block.at + BLOCK_HEADER_BYTES + dataBytes(block, bits);
}

/** Writes a token file block by block, and keeps what of it was written before. */
export class TokenFileWriter implements Disposable {
  readonly #file: FileHandle;
  readonly #bits: 16 | 32;
  readonly #kind: Kind;
  readonly #blocks: BlockEntry[] = [];
  readonly #counts = new LengthCounts();
  #end = HEADER_BYTES;
  /** whether blocks may follow that were written before */
  #continues: boolean;

  /**
   * Begins a file, or goes on with one whose writing was interrupted.
   * @param bits of an id
   */
  constructor(path: string, bits: 16 | 32) {
    this.#file = files.openSync(path, { read: true, write: true, create: true });
    this.#bits = bits;
    this.#kind = { magic: MAGIC, number: bits };
    try {
      const header = headerOf(this.#kind);
      const size = this.#file.statSync().size;
      this.#continues = size > HEADER_BYTES &&
        digestOf(readExactly(this.#file, 0, HEADER_BYTES)) === digestOf(header);
      if (this.#continues) return;
      this.#file.seekSync(0, SEEK_START);
      writeAll(this.#file, header);
    } catch (error) {
      this.#file.close();
      throw error;
    }
  }

  /**
   * Moves behind the next block if it was written before.
   * @param source SHA-256 of what it is made of
   */
  keep(source: string): boolean {
    const kept = this.#continues ? this.#written(source) : undefined;
    this.#continues = kept !== undefined;
    if (!kept) return false;
    this.#note(kept.entry, kept.offsets);
    return true;
  }

  /** The block at the end of what is kept, if it is whole and made of this. */
  #written(source: string): { entry: BlockEntry; offsets: Uint32Array } | undefined {
    const at = this.#end;
    const { size } = this.#file.statSync();
    if (at + BLOCK_HEADER_BYTES > size) return undefined;
    const head = readExactly(this.#file, at, BLOCK_HEADER_BYTES);
    const [mark, documents, spans, tokens] = new Uint32Array(head.buffer, 0, 4);
    const data = toHex(head.subarray(48));
    const entry: BlockEntry = { at, documents: documents!, spans: spans!, tokens: tokens!, source, data };
    const length = dataBytes(entry, this.#bits);
    if (mark !== BLOCK_MARK || toHex(head.subarray(16, 48)) !== source) return undefined;
    if (length > MAX_BLOCK_BYTES || at + BLOCK_HEADER_BYTES + length > size) return undefined;
    const bytes = readExactly(this.#file, at + BLOCK_HEADER_BYTES, length);
    if (digestOf(bytes) !== data) return undefined;
    return { entry, offsets: new Uint32Array(bytes.buffer, 0, entry.documents + 1) };
  }

  /** Lists a block and moves behind it. */
  #note(entry: BlockEntry, offsets: Uint32Array): void {
    this.#blocks.push(entry);
    this.#counts.addOffsets(offsets);
    this.#end = endOf(entry, this.#bits);
  }

  /** Appends a block. @param source SHA-256 of what it is made of */
  append(block: TokenBlock, source: string): void {
    const { offsets, spans, ids } = block;
    const padding = new Uint8Array((4 - ids.byteLength % 4) % 4);
    const parts = [bytesOf(offsets), bytesOf(spanOffsets(block)), bytesOf(spans), bytesOf(ids), padding];
    const data = digestOf(...parts);
    const size = sizeOf(block);
    const head = new Uint8Array(BLOCK_HEADER_BYTES);
    new Uint32Array(head.buffer, 0, 4).set([BLOCK_MARK, size.documents, size.spans, size.tokens]);
    head.set(fromHex(source), 16);
    head.set(fromHex(data), 48);
    this.#continues = false;
    this.#file.seekSync(this.#end, SEEK_START);
    for (const part of [head, ...parts]) writeAll(this.#file, part);
    this.#note({ at: this.#end, ...size, source, data }, offsets);
  }

  /**
   * Writes the index, so that the file is whole, and waits until it is on the disk.
   * @param known what is known of the corpus
   */
  async finish(known: unknown): Promise<void> {
    await this.#file.truncate(this.#end);
    this.#file.seekSync(this.#end, SEEK_START);
    const lengths = [...this.#counts.entries()];
    await writeIndex(this.#file, this.#kind, { known, lengths, blocks: this.#blocks });
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

/**
 * Opens a whole token file.
 * @param vocabSize that its ids must be below
 * @returns its tokens, and what is known of the corpus
 * @throws {PreparedFileError} when it is not whole and undamaged
 */
export function openTokenFile(path: string, vocabSize: number): { store: TokenStore; known: unknown } {
  using file = files.openSync(path);
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
  for (const b of checked) {
    const block = blocks[b]!;
    const data = readExactly(file, block.at + BLOCK_HEADER_BYTES, dataBytes(block, bits));
    if (digestOf(data) !== block.data) throw new PreparedFileError("its tokens are damaged");
  }
  const counts = new LengthCounts(index.lengths as [number, number][]);
  const source = new FileTokens(path, bits, blocks, vocabSize);
  return { store: new TokenStore(blocks, counts, source), known: index.known };
}

/** Tokens of a file. */
class FileTokens implements TokenSource {
  readonly #path: string;
  readonly #pages: FilePages;
  readonly #width: 2 | 4;
  readonly #blocks: readonly BlockEntry[];
  readonly #vocabSize: number;
  /** first byte of each part of each block */
  readonly #starts: Record<BlockPart | "ids", Float64Array>;

  constructor(path: string, bits: 16 | 32, blocks: readonly BlockEntry[], vocabSize: number) {
    this.#path = path;
    this.#pages = new FilePages(path);
    this.#width = bits === 16 ? 2 : 4;
    this.#blocks = blocks;
    this.#vocabSize = vocabSize;
    const starts = (behind: (block: BlockEntry) => number) =>
      Float64Array.from(blocks, (block) => block.at + BLOCK_HEADER_BYTES + behind(block));
    this.#starts = {
      offsets: starts(() => 0),
      spanOffsets: starts(({ documents }) => 4 * (documents + 1)),
      spans: starts(({ documents }) => 8 * (documents + 1)),
      ids: starts(indexBytes),
    };
  }

  number(block: number, part: BlockPart, place: number): number {
    return this.#pages.u32(this.#starts[part][block]! + 4 * place);
  }

  offsets(block: number): Uint32Array {
    const length = 4 * (this.#blocks[block]!.documents + 1);
    return new Uint32Array(this.#pages.bytes(this.#starts.offsets[block]!, length).buffer);
  }

  read(block: number, first: number, into: Uint32Array): void {
    if (first + into.length > this.#blocks[block]!.tokens) throw this.#damaged();
    this.#pages.read(this.#starts.ids[block]! + first * this.#width, this.#width, into);
    for (let i = 0; i < into.length; i++) if (into[i]! >= this.#vocabSize) throw this.#damaged();
  }

  #damaged(): PreparedFileError {
    return new PreparedFileError(`${this.#path} was damaged while it was read`, {
      hint: "remove it and start again: it is made anew",
    });
  }

  close(): void {
    this.#pages.close();
  }
}
