/** Lines that neither a tokenizer nor training sees, to measure models on. */

/** @returns two files in a temporary folder: of all lines of `path` but every nth, and of these */
export async function splitLines(path: string, nth: number): Promise<{ input: string; test: string }> {
  const folder = await Deno.makeTempDir({ prefix: "microgpt-recipe-" });
  const extension = path.endsWith(".jsonl") ? "jsonl" : "txt";
  const [input, test] = [`${folder}/input.${extension}`, `${folder}/test.${extension}`];
  const lines = (await Deno.readTextFile(path)).trimEnd().split("\n");
  const write = async (path: string, wanted: (i: number) => boolean) =>
    await Deno.writeTextFile(path, lines.filter((_, i) => wanted(i)).join("\n") + "\n");
  await write(input, (i) => (i + 1) % nth !== 0);
  await write(test, (i) => (i + 1) % nth === 0);
  return { input, test };
}
