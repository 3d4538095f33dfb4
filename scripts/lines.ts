/**
 * The lines of a stream of text, each as soon as it is whole; only "\n" ends a line, as JSON needs it.
 * @throws {TypeError} for bytes that are not UTF-8
 */
export async function* lines(stream: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string, void> {
  let rest = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream("utf-8", { fatal: true }))) {
    const parts = (rest + text).split("\n");
    rest = parts.pop()!;
    yield* parts;
  }
  if (rest !== "") yield rest;
}
