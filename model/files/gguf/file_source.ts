/** A file on disk as what the GGUF reader reads. */
import { type FileHandle, SEEK_START } from "../../../platform/files.ts";
import { MicrogptError } from "../../../device/errors.ts";
import type { ByteSource } from "./types.ts";

/** Read at a time. */
const CHUNK_BYTES = 2 << 20;

/**
 * Wraps an open file; who opened it closes it. Several reads may be under way at once: each seeks and reads in one
 * step.
 * @param path what error messages call the file
 * @throws {MicrogptError} when it is no regular file, which has no size and no places
 */
export async function fileSource(file: FileHandle, path: string): Promise<ByteSource> {
  const { size, isFile } = await file.stat();
  if (!isFile) throw new MicrogptError(`${path}: not a file`);
  return {
    size,
    readAt: (offset, into) => {
      for (let done = 0; done < into.length;) {
        file.seekSync(offset + done, SEEK_START);
        const read = file.readSync(into.subarray(done, done + CHUNK_BYTES));
        if (read === null) return Promise.resolve(false);
        done += read;
      }
      return Promise.resolve(true);
    },
  };
}
