/** Decompression: Node's zlib in Deno, which knows zstd; gzip alone in a browser, which knows no more. */
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
 * @param members of gzip all bytes, of zstd one frame or more at a time
 * @param chunkBytes of the pieces that come out, at most
 * @throws what reading `members` throws; an Error when they are damaged or cut off
 */
export async function* decompressed(
  members: AsyncIterable<Uint8Array>,
  compression: "gzip" | "zstd",
  chunkBytes: number,
): AsyncGenerator<Uint8Array> {
  if (compression === "gzip" && !builtin("zlib")) return yield* gunzipInBrowser(members);
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

async function* gunzipInBrowser(members: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
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
  const reader = source.pipeThrough(new DecompressionStream("gzip")).getReader();
  try {
    for (let step = await reader.read(); !step.done; step = await reader.read()) yield step.value;
  } catch (error) {
    throw failure ?? error;
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
