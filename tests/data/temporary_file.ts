/**
 * Runs `use` with the path of a temporary file of this content, then removes it.
 * @param name the file's name, for tests of messages that show it
 */
export async function withFile<T>(
  content: string | Uint8Array,
  use: (path: string) => T | Promise<T>,
  name = "data.txt",
): Promise<T> {
  const directory = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  const path = `${directory}/${name}`;
  try {
    await Deno.writeFile(path, typeof content === "string" ? new TextEncoder().encode(content) : content);
    return await use(path);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}
