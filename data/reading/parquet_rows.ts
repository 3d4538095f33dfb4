/** Rows of a Parquet file, some megabytes at a time. */

import { type FileHandle, files, SEEK_START } from "../../platform/files.ts";
import type { AsyncBuffer, FileMetaData, RowGroup } from "npm:hyparquet@1.33.0";
import { unpackGzip, unpackZstd } from "../../platform/decompression.ts";
import { MicrogptError } from "../../device/errors.ts";
import { cannotRead } from "./limits.ts";
import { changed } from "./input_bytes.ts";
import type { InputFile } from "./input_files.ts";

const MB = 1024 * 1024;
/** Text that is unpacked at a time. */
const SLICE_BYTES = 8 * MB;
/** Most bytes that a column of one row group may take on disk, and a page or a nested column when unpacked. */
const MAX_CHUNK_BYTES = 512 * MB;
const MAX_UNPACKED_BYTES = 256 * MB;
/** Longest description of the file at its end. */
const MAX_FOOTER_BYTES = 64 * MB;

/** Rows one after the other, as objects of the chosen columns. */
export interface Rows {
  rows: Record<string, unknown>[];
  /** number of the first of them, from 1 */
  first: number;
}

/** A column: its name, and whether it is a plain column of texts. */
export interface ParquetColumn {
  name: string;
  isText: boolean;
}

type Hyparquet = typeof import("npm:hyparquet@1.33.0");
type Compressors = typeof import("npm:hyparquet-compressors@1.1.2").compressors;

/** An open Parquet file. Whatever its bytes are, what goes wrong becomes a one-line error. */
export class ParquetFile {
  readonly columns: ParquetColumn[];
  readonly rowCount: number;
  readonly #source: RandomAccess;
  readonly #metadata: FileMetaData;
  readonly #hyparquet: Hyparquet;
  readonly #compressors: Compressors;

  private constructor(
    source: RandomAccess,
    metadata: FileMetaData,
    hyparquet: Hyparquet,
    compressors: Compressors,
  ) {
    this.#source = source;
    this.#metadata = metadata;
    this.#hyparquet = hyparquet;
    this.#compressors = compressors;
    this.columns = hyparquet.parquetSchema(metadata).children.map(({ element, children }) => ({
      name: element.name,
      isText: children.length === 0 && element.type === "BYTE_ARRAY" &&
        (element.converted_type === "UTF8" || element.logical_type?.type === "STRING"),
    }));
    this.rowCount = Number(metadata.num_rows);
  }

  /** @throws {MicrogptError} when the file cannot be read or its description is unsound */
  static async open(file: InputFile): Promise<ParquetFile> {
    const [hyparquet, { compressors }] = await Promise.all([
      import("npm:hyparquet@1.33.0"),
      import("npm:hyparquet-compressors@1.1.2"),
    ]);
    const source = new RandomAccess(file);
    try {
      source.checkFooter();
      const metadata = await hyparquet.parquetMetadataAsync(source, { geoparquet: false });
      checkMetadata(metadata, file.bytes);
      return new ParquetFile(source, metadata, hyparquet, compressors);
    } catch (error) {
      source.close();
      throw unreadable(file, error);
    }
  }

  /**
   * All rows in their order.
   * @param columns names of those to read
   */
  async *read(columns: string[]): AsyncGenerator<Rows> {
    let start = 0;
    for (const group of this.#metadata.row_groups) {
      const rows = Number(group.num_rows);
      const step = this.#rowsAtATime(group, rows, columns);
      for (let at = 0; at < rows; at += step) {
        const end = Math.min(at + step, rows);
        yield { rows: await this.#slice(start + at, start + end, columns), first: start + at + 1 };
      }
      this.#source.forget();
      start += rows;
    }
    this.#source.checkUnchanged();
  }

  close(): void {
    this.#source.close();
  }

  /** Rows that make some megabytes; for nested columns, which are unpacked whole, all rows of the group. */
  #rowsAtATime(group: RowGroup, rows: number, columns: string[]): number {
    const wanted = group.columns.map(({ meta_data }) => meta_data!)
      .filter(({ path_in_schema }) => columns.includes(path_in_schema[0]!));
    const unpacked = wanted.reduce((sum, { total_uncompressed_size: size }) => sum + Number(size), 0);
    const packed = Math.max(0, ...wanted.map(({ total_compressed_size: size }) => Number(size)));
    const nested = wanted.some(({ path_in_schema }) => path_in_schema.length > 1);
    if (packed > MAX_CHUNK_BYTES || nested && unpacked > MAX_UNPACKED_BYTES) {
      throw new MicrogptError(
        `${this.#source.file.path} has a row group of ${
          Math.round(Math.max(packed, unpacked) / MB)
        } MB, too large to read`,
        { hint: "write it with smaller row groups, for example row_group_size=10000 in pyarrow" },
      );
    }
    return nested
      ? Math.max(rows, 1)
      : Math.max(1, Math.ceil(rows * SLICE_BYTES / Math.max(unpacked, SLICE_BYTES)));
  }

  async #slice(rowStart: number, rowEnd: number, columns: string[]): Promise<Record<string, unknown>[]> {
    try {
      return await this.#hyparquet.parquetReadObjects({
        file: this.#source,
        metadata: this.#metadata,
        columns,
        rowStart,
        rowEnd,
        compressors: bounded(this.#compressors),
      });
    } catch (error) {
      throw unreadable(this.#source.file, error);
    }
  }
}

/** The bytes of a file at any place. */
class RandomAccess implements AsyncBuffer {
  readonly byteLength: number;
  readonly #handle: FileHandle;
  /** What was read of the current row group: it is asked for again with each slice of rows. */
  readonly #kept = new Map<string, ArrayBuffer>();

  constructor(readonly file: InputFile) {
    this.byteLength = file.bytes;
    try {
      this.#handle = files.openSync(file.path);
    } catch (error) {
      throw cannotRead(file.path, error);
    }
  }

  slice(start: number, end: number = this.byteLength): ArrayBuffer {
    if (
      !(start >= 0 && start <= end && end <= this.byteLength) ||
      end - start > MAX_CHUNK_BYTES + MAX_FOOTER_BYTES
    ) {
      throw new Error(`bytes ${start} to ${end} of ${this.byteLength} are asked for`);
    }
    const key = `${start} ${end}`;
    const kept = this.#kept.get(key) ?? this.#read(start, end);
    this.#kept.set(key, kept);
    return kept;
  }

  forget(): void {
    this.#kept.clear();
  }

  close(): void {
    this.#handle.close();
  }

  /** The file ends with its description, the description's length in 4 bytes, and PAR1. */
  checkFooter(): void {
    if (this.byteLength < 12) throw new Error("it is cut off");
    const end = new DataView(this.#read(this.byteLength - 8, this.byteLength));
    const length = end.getUint32(0, true);
    if (end.getUint32(4, true) !== 0x31524150) {
      throw new Error("it does not end as Parquet does: it is cut off");
    }
    if (length > this.byteLength - 12 || length > MAX_FOOTER_BYTES) {
      throw new Error(`it says that its description takes ${length} of ${this.byteLength} bytes`);
    }
  }

  checkUnchanged(): void {
    const { size, mtime } = this.#handle.statSync();
    if (size !== this.file.bytes || (mtime?.getTime() ?? 0) !== this.file.modified) {
      throw changed(this.file, "was written to");
    }
  }

  /** In one go, without awaiting anything: several columns are asked for at once, and a file has one position. */
  #read(start: number, end: number): ArrayBuffer {
    const bytes = new Uint8Array(end - start);
    this.#handle.seekSync(start, SEEK_START);
    for (let at = 0; at < bytes.length;) {
      const n = this.#handle.readSync(bytes.subarray(at));
      if (n === null) throw changed(this.file, "has shrunk");
      at += n;
    }
    return bytes.buffer;
  }
}

/** @throws {Error} when the description of a file asks for what is not there or can only be hostile */
function checkMetadata({ num_rows, row_groups }: FileMetaData, fileBytes: number): void {
  let rows = 0n;
  for (const group of row_groups) {
    if (group.num_rows < 0n) throw new Error("a row group has a negative number of rows");
    rows += BigInt(group.num_rows);
    for (const { meta_data } of group.columns) {
      if (!meta_data) throw new Error("a column has no description");
      const { total_compressed_size: packed, total_uncompressed_size: unpacked, data_page_offset: offset } =
        meta_data;
      if (packed < 0n || unpacked < 0n || offset < 0n || offset + packed > BigInt(fileBytes)) {
        throw new Error("a column lies outside the file");
      }
      if (meta_data.num_values < 0n) throw new Error("a column has a negative number of values");
    }
  }
  if (rows !== BigInt(num_rows)) throw new Error(`its row groups hold ${rows} rows, not ${num_rows}`);
}

/**
 * Decompressors that refuse a page of absurd size before they allocate it. That a page has the length that its header
 * says is checked by the reader.
 */
function bounded(compressors: Compressors): Compressors {
  // the runtime's own are several times as fast
  const all: Compressors = {
    ...compressors,
    ZSTD: (input, length) => unpackZstd(input, Math.max(length, 1)),
    GZIP: (input, length) => unpackGzip(input, Math.max(length, 1)),
  };
  return Object.fromEntries(
    Object.entries(all).map(([codec, unpack]) => [codec, (input: Uint8Array, length: number) => {
      if (length > MAX_UNPACKED_BYTES) throw new Error(`a page unpacks to ${length} bytes`);
      return unpack(input, length);
    }]),
  );
}

function unreadable(file: InputFile, error: unknown): MicrogptError {
  if (error instanceof MicrogptError) return error;
  // what a reader trips over says nothing to people
  const tripped = error instanceof TypeError || error instanceof RangeError;
  const message = error instanceof Error ? error.message.split("\n")[0]!.slice(0, 200) : String(error);
  const why = tripped ? "its footer or a page contradicts itself" : message;
  // deno-lint-ignore no-control-regex
  const printable = why.replace(/^parquet /u, "").replace(/[\x00-\x1f\x7f-\x9f]/gu, "?");
  return new MicrogptError(`${file.path} cannot be read as Parquet: ${printable}`, {
    hint: "it is damaged or cut off; get it again",
    cause: error,
  });
}
