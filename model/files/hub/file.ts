/** Fetches one file: goes on where an earlier transfer was cut off, and compares size and digest before it counts. */
import { type FileHandle, files, SEEK_START } from "../../../platform/files.ts";
import { type Hash, sha1, sha256 } from "../../../platform/hash.ts";
import { join } from "../../../platform/paths.ts";
import { MicrogptError } from "../../../device/errors.ts";
import { forEachChunk } from "../digest.ts";
import { fileError, ifThere } from "../directory.ts";
import {
  type Hub,
  type HubFile,
  type HubLimits,
  NoRangesError,
  NotAllowedError,
  UnreachableError,
} from "./connection.ts";
import type { HubName } from "./name.ts";

/** Ends the name of a file that is not whole yet. */
export const PART = ".part";

/**
 * Fetches a file into `dir`, unless it is there already.
 * @param received called with the bytes that are there so far
 * @throws {UnreachableError} when it was cut off again and again; what came is kept, and the next call goes on
 * @throws {MicrogptError} when it is not what the hub lists (nothing is kept), or cannot be written
 */
export async function fetchFile(
  hub: Hub,
  model: HubName,
  commit: string,
  file: HubFile,
  dir: string,
  limits: HubLimits,
  received: (bytes: number) => void,
): Promise<void> {
  const path = join(dir, file.name);
  if ((await ifThere(files.stat(path)))?.size === file.bytes) return received(file.bytes);
  let failures = 0;
  while (failures < limits.tries) {
    using part = await Part.open(path + PART, file);
    const before = part.bytes;
    try {
      received(part.bytes);
      for await (const chunk of part.bytes < file.bytes ? hub.bytes(model, commit, file, part.bytes) : []) {
        await part.write(chunk);
        received(part.bytes);
      }
      if (part.bytes < file.bytes) throw cutOff(model, file, part.bytes);
      await part.finish(model, path);
      return;
    } catch (error) {
      if (error instanceof NoRangesError) await part.restart();
      else if (!(error instanceof UnreachableError)) throw error;
      failures = part.bytes > before ? 0 : failures + 1;
      if (failures >= limits.tries || error instanceof NotAllowedError) throw error;
      await new Promise((resolve) => setTimeout(resolve, limits.pause * 2 ** failures));
    }
  }
}

function cutOff({ text }: HubName, { name, bytes }: HubFile, received: number): UnreachableError {
  return new UnreachableError(`${text}: ${name} was cut off after ${received} of ${bytes} bytes`);
}

/** The beginning of a file, hashed. */
class Part implements Disposable {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #expected: HubFile;
  #hash: Hash;
  #closed = false;
  bytes = 0;

  private constructor(path: string, file: FileHandle, expected: HubFile) {
    this.#path = path;
    this.#file = file;
    this.#expected = expected;
    this.#hash = this.#newHash();
  }

  /** Opens or creates it; what is there already is read for the hash. */
  static async open(path: string, expected: HubFile): Promise<Part> {
    try {
      const file = await files.open(path, { read: true, write: true, create: true });
      const part = new Part(path, file, expected);
      if ((await file.stat()).size > expected.bytes) await file.truncate();
      await forEachChunk(file, (chunk) => part.#add(chunk));
      return part;
    } catch (error) {
      throw fileError(`cannot write ${path}`, error);
    }
  }

  #newHash(): Hash {
    const { digest, bytes } = this.#expected;
    return digest.kind === "sha256" ? sha256() : sha1().update(`blob ${bytes}\0`);
  }

  #add(chunk: Uint8Array): void {
    this.#hash.update(chunk);
    this.bytes += chunk.length;
  }

  /** Appends. @throws {MicrogptError} when it gets longer than the file is, or cannot be written */
  async write(chunk: Uint8Array): Promise<void> {
    const { name, bytes } = this.#expected;
    if (this.bytes + chunk.length > bytes) await this.#refuse(`${name} has more than the ${bytes} bytes`);
    try {
      for (let done = 0; done < chunk.length;) done += await this.#file.write(chunk.subarray(done));
    } catch (error) {
      throw fileError(
        `cannot write ${this.#path}`,
        error,
        "what came so far is kept; make room and run again",
      );
    }
    this.#add(chunk);
  }

  /** Forgets what is there. */
  async restart(): Promise<void> {
    await this.#file.truncate();
    await this.#file.seek(0, SEEK_START);
    this.#hash = this.#newHash();
    this.bytes = 0;
  }

  /** Compares the digest and gives the file its name. */
  async finish({ text }: HubName, path: string): Promise<void> {
    const { name, digest: { kind, value } } = this.#expected;
    const found = this.#hash.digest("hex");
    if (found !== value) {
      const what = kind === "sha256" ? "SHA-256" : "git digest";
      await this.#refuse(`${text}: ${name} has the ${what} ${found}, not the ${value}`);
    }
    try {
      await this.#file.sync();
      this.#file.close();
      this.#closed = true;
      await files.rename(this.#path, path);
    } catch (error) {
      throw fileError(`cannot write ${path}`, error);
    }
  }

  async #refuse(what: string): Promise<never> {
    await this.restart();
    throw new MicrogptError(`${what} that the hub lists`, {
      hint: "nothing of it was kept; try again. The server, or someone on the way, changed the file",
    });
  }

  [Symbol.dispose](): void {
    if (!this.#closed) this.#file.close();
  }
}
