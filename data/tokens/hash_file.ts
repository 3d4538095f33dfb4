/**
 * What each document of a corpus says, as a number (content_hash.ts): what decides which are held out, and tells copies.
 * Between the header and the index of all prepared files (indexed_file.ts) lie the hashes, f64 [documents]. They depend on
 * the seed, and not on the tokenizer.
 */

import { type FileHandle, files, SEEK_START } from "../../platform/files.ts";
import { sha256 } from "../../platform/hash.ts";
import { type HashSummary, MAX_VALIDATION_DOCUMENTS } from "../split.ts";
import {
  bytesOf,
  digestOf,
  HEADER_BYTES,
  headerOf,
  type Kind,
  PreparedFileError,
  readExactly,
  readIndex,
  writeAll,
  writeIndex,
} from "./indexed_file.ts";

const KIND: Kind = { magic: "MGHASHES", number: 0 };

/** More documents than this with the lowest hashes are not listed: nearly all are copies of one. */
const MAX_LISTED = 100_000;

/** The index of a file of hashes. */
interface Index extends Omit<HashSummary, "all" | "low"> {
  low: { hashes: number[]; documents: number[] };
  /** of the hashes, hexadecimal */
  sha256: string;
}

/** Writes hashes as they come. */
export class HashFileWriter implements Disposable {
  readonly #file: FileHandle;
  #documents = 0;

  constructor(path: string) {
    this.#file = files.openSync(path, { read: true, write: true, create: true, truncate: true });
    writeAll(this.#file, headerOf(KIND));
  }

  append(hashes: Float64Array<ArrayBuffer>): void {
    writeAll(this.#file, bytesOf(hashes));
    this.#documents += hashes.length;
  }

  /**
   * Looks at all of them, and makes the file whole.
   * @param most how many are sorted at a time
   */
  async finish(most = SORTED_AT_A_TIME): Promise<void> {
    const { low, documents, distinct, complete, digest } = summarize(this.#file, this.#documents, most);
    const listed = low.documents.length <= MAX_LISTED;
    const index: Index = {
      documents,
      distinct,
      complete: complete && listed,
      low: listed
        ? { hashes: [...low.hashes], documents: [...low.documents] }
        : { hashes: [], documents: [] },
      sha256: digest,
    };
    this.#file.seekSync(HEADER_BYTES + 8 * this.#documents, SEEK_START);
    await writeIndex(this.#file, KIND, index);
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

/** Hashes that are read at a time. */
const AT_A_TIME = 1 << 17;

function* parts(file: FileHandle, documents: number): Generator<Float64Array<ArrayBuffer>> {
  for (let first = 0; first < documents; first += AT_A_TIME) {
    const count = Math.min(AT_A_TIME, documents - first);
    yield new Float64Array(readExactly(file, HEADER_BYTES + 8 * first, 8 * count).buffer);
  }
}

/** Hashes that are sorted at a time: 32 MB. */
const SORTED_AT_A_TIME = 1 << 22;

/** The same as {@link summaryOf}, in bounded memory: the hashes are read several times, and each time some are sorted. */
function summarize(
  file: FileHandle,
  documents: number,
  most: number,
): Omit<HashSummary, "all"> & { digest: string } {
  const ranges = Math.ceil(documents / most);
  const width = Math.ceil(2 ** 53 / ranges);
  const sha = sha256();
  let distinct = 0;
  let bound = Infinity;
  for (let range = 0; range < ranges; range++) {
    const found = new DistinctHashes(2 * most);
    for (const hashes of parts(file, documents)) {
      if (range === 0) sha.update(bytesOf(hashes));
      found.add(hashes, range * width, (range + 1) * width);
    }
    const sorted = found.sorted();
    if (distinct <= MAX_VALIDATION_DOCUMENTS && distinct + sorted.length > MAX_VALIDATION_DOCUMENTS) {
      bound = sorted[MAX_VALIDATION_DOCUMENTS - distinct]!;
    }
    distinct += sorted.length;
  }
  const low: { hash: number; document: number }[] = [];
  let first = 0;
  for (const hashes of parts(file, documents)) {
    for (let i = 0; i < hashes.length; i++) {
      // more than that are not listed, but it must show that there are more
      if (hashes[i]! <= bound && low.length <= MAX_LISTED) {
        low.push({ hash: hashes[i]!, document: first + i });
      }
    }
    first += hashes.length;
  }
  low.sort((a, b) => a.hash - b.hash || a.document - b.document);
  return {
    documents,
    distinct,
    complete: bound === Infinity,
    low: {
      hashes: Float64Array.from(low, ({ hash }) => hash),
      documents: Uint32Array.from(low, ({ document }) => document),
    },
    digest: sha.digest("hex"),
  };
}

/** Collects different hashes. Copies are dropped when the array is full. */
class DistinctHashes {
  #values: Float64Array;
  #length = 0;

  constructor(room: number) {
    this.#values = new Float64Array(room);
  }

  /** Adds those from `from` up to `to`. */
  add(hashes: Float64Array, from: number, to: number): void {
    if (this.#length + hashes.length > this.#values.length) this.#drop(hashes.length);
    const values = this.#values;
    let length = this.#length;
    for (const hash of hashes) if (hash >= from && hash < to) values[length++] = hash;
    this.#length = length;
  }

  #drop(room: number): void {
    const kept = this.sorted();
    this.#length = kept.length;
    if (kept.length + room <= this.#values.length / 2) return;
    const larger = new Float64Array(2 * this.#values.length + room);
    larger.set(kept);
    this.#values = larger;
  }

  /** The different ones, ascending: a view that is good until more are added. */
  sorted(): Float64Array {
    const values = this.#values.subarray(0, this.#length).sort();
    let count = 0;
    for (let i = 0; i < values.length; i++) {
      if (i === 0 || values[i] !== values[i - 1]) values[count++] = values[i]!;
    }
    return values.subarray(0, count);
  }
}

/** Hashes of a corpus, in a file that stays open. */
export interface HashFile extends HashSummary {
  close(): void;
}

/**
 * Reads what a file of hashes says about a corpus; the hashes themselves only if they are asked for.
 * @throws {PreparedFileError} when it is not whole and undamaged
 */
export function readHashFile(path: string): HashFile {
  const file = files.openSync(path);
  try {
    const { index, at } = readIndex(file, KIND.magic);
    const { documents, distinct, complete, low, sha256: digest } = index as unknown as Index;
    if (at !== HEADER_BYTES + 8 * documents) throw new PreparedFileError("its size is wrong");
    let kept: Float64Array | undefined;
    const all = () => {
      if (kept) return kept;
      const hashes = new Float64Array(readExactly(file, HEADER_BYTES, 8 * documents).buffer);
      if (digestOf(bytesOf(hashes)) !== digest) throw new PreparedFileError(`${path} is damaged: remove it`);
      return kept = hashes;
    };
    return {
      documents,
      distinct,
      complete,
      low: { hashes: Float64Array.from(low.hashes), documents: Uint32Array.from(low.documents) },
      all,
      close: () => file.close(),
    };
  } catch (error) {
    file.close();
    throw error;
  }
}
