/**
 * Decompression: Node's zlib in Deno, which knows zstd; gzip alone in a browser, which knows no more. xz is WebAssembly,
 * which both run.
 */
import { MicrogptError } from "../device/errors.ts";
import { builtin } from "./host.ts";

/** The functions of `node:zlib` that are used. */
interface Zlib {
  createGunzip(options: { chunkSize: number }): Unpacker;
  createZstdDecompress(options: { chunkSize: number }): Unpacker;
  gunzipSync(input: Uint8Array, options: { maxOutputLength: number }): Uint8Array;
  zstdDecompressSync(input: Uint8Array, options: { maxOutputLength: number }): Uint8Array;
}

/** A stream of Node's that bytes go through. */
interface Unpacker extends AsyncIterable<Uint8Array> {
  destroy(): void;
}

interface Streams {
  Readable: { from(source: AsyncIterable<Uint8Array>, options: Record<string, unknown>): unknown };
}

function zlib(): Zlib {
  const node = builtin<Zlib>("zlib");
  if (node) return node;
  throw new MicrogptError("a browser cannot unpack this kind of compression", {
    hint: "unpack the file first",
  });
}

/**
 * Unpacks bytes that come in pieces.
 * @param members of gzip and xz all bytes, of zstd one frame or more at a time
 * @param chunkBytes of the pieces that come out, at most
 * @throws what reading `members` throws; an Error when they are damaged or cut off
 */
export async function* decompressed(
  members: AsyncIterable<Uint8Array>,
  compression: "gzip" | "zstd" | "xz",
  chunkBytes: number,
): AsyncGenerator<Uint8Array> {
  if (compression === "xz") {
    const { default: { XzReadableStream } } = await import("npm:xz-decompress@0.2.3");
    return yield* through(members, (packed) => new XzReadableStream(packed), xzError);
  }
  if (compression === "gzip" && !builtin("zlib")) {
    return yield* through(members, (packed) => packed.pipeThrough(new DecompressionStream("gzip")));
  }
  const { Readable } = builtin<Streams>("stream")!;
  const { pipeline } = builtin<{ pipeline(...streams: unknown[]): Promise<void> }>("stream/promises")!;
  const options = { chunkSize: chunkBytes };
  const unpacker = compression === "gzip"
    ? zlib().createGunzip(options)
    : zlib().createZstdDecompress(options);
  let failure: unknown;
  const feeding = pipeline(Readable.from(members, { objectMode: true, highWaterMark: 1 }), unpacker)
    .catch((error) => failure = error);
  try {
    yield* unpacker;
  } catch (error) {
    await feeding;
    // what went wrong in reading comes first; the stream that ended early only follows from it
    throw failure ?? error;
  } finally {
    unpacker.destroy();
  }
}

/** xz data that is whole and not read here. */
export class UnknownXzError extends Error {}

/** What the codes of the library mean (xz_ret of XZ Embedded). */
function xzError(error: unknown): unknown {
  const code = /failed with error code (\d+)$/u.exec(error instanceof Error ? error.message : "")?.[1];
  switch (code) {
    case undefined:
      return error;
    case "3":
    case "4":
      return new UnknownXzError("it was packed with a dictionary of more memory than is given to it");
    case "2":
    case "6":
      return new UnknownXzError("it was packed in a way that is not read, such as with a check by SHA-256");
    case "8":
      return new Error("unexpected end of file");
    default:
      return new Error("its data is wrong");
  }
}

/** Sends bytes through a stream of the web. */
async function* through(
  members: AsyncIterable<Uint8Array>,
  unpack: (packed: ReadableStream<Uint8Array<ArrayBuffer>>) => ReadableStream<Uint8Array>,
  errorOf: (error: unknown) => unknown = (error) => error,
): AsyncGenerator<Uint8Array> {
  const iterator = members[Symbol.asyncIterator]();
  let failure: unknown;
  const source = new ReadableStream<Uint8Array<ArrayBuffer>>({
    async pull(controller) {
      try {
        const { done, value } = await iterator.next();
        if (done) controller.close();
        else controller.enqueue(value as Uint8Array<ArrayBuffer>);
      } catch (error) {
        controller.error(failure = error);
      }
    },
    cancel: async () => void await iterator.return?.(),
  });
  const reader = unpack(source).getReader();
  try {
    for (let step = await reader.read(); !step.done; step = await reader.read()) yield step.value;
  } catch (error) {
    throw failure ?? errorOf(error);
  } finally {
    await reader.cancel().catch(() => {}); // it failed, or is at its end
  }
}

/** @param most bytes that may come out */
export function unpackGzip(input: Uint8Array, most: number): Uint8Array {
  return zlib().gunzipSync(input, { maxOutputLength: most });
}

/** @param most bytes that may come out */
export function unpackZstd(input: Uint8Array, most: number): Uint8Array {
  return zlib().zstdDecompressSync(input, { maxOutputLength: most });
}
