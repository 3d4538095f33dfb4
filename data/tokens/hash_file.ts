/**
 * What each document of a corpus says, as a number (content_hash.ts): what decides which are held out, and tells copies.
 * Between the header and the index of all prepared files (indexed_file.ts) lie the hashes, f64 [documents]. They depend on
 * the seed, and not on the tokenizer.
 */

import { type FileHandle, files, SEEK_START } from "../../platform/files.ts";
import { type HashSummary, summaryOf } from "../split.ts";
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

  /** Looks at all of them, and makes the file whole. */
  async finish(): Promise<void> {
    const hashes = readHashes(this.#file, this.#documents);
    const digest = digestOf(bytesOf(hashes));
    const { low, documents, distinct, complete } = summaryOf(hashes);
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

function readHashes(file: FileHandle, documents: number): Float64Array<ArrayBuffer> {
  return new Float64Array(readExactly(file, HEADER_BYTES, 8 * documents).buffer);
}

/**
 * Reads what a file of hashes says about a corpus; the hashes themselves only if they are asked for.
 * @throws {PreparedFileError} when it is not whole and undamaged
 */
export function readHashFile(path: string): HashSummary {
  using file = files.openSync(path);
  const { index, at } = readIndex(file, KIND.magic);
  const { documents, distinct, complete, low, sha256: digest } = index as unknown as Index;
  if (at !== HEADER_BYTES + 8 * documents) throw new PreparedFileError("its size is wrong");
  let kept: Float64Array | undefined;
  const all = () => {
    if (kept) return kept;
    using again = files.openSync(path);
    const hashes = readHashes(again, documents);
    if (digestOf(bytesOf(hashes)) !== digest) throw new PreparedFileError(`${path} is damaged: remove it`);
    return kept = hashes;
  };
  return {
    documents,
    distinct,
    complete,
    low: { hashes: Float64Array.from(low.hashes), documents: Uint32Array.from(low.documents) },
    all,
  };
}
