import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { openCorpus } from "../../data/corpus.ts";
import { MAX_LINE_BYTES } from "../../data/reading/limits.ts";
import { MicrogptError } from "../../device/errors.ts";
import { drain, readContent, refusal as refusalAndHint } from "./corpus_reading.ts";
import { withFile } from "./temporary_file.ts";

/** The message of the error that reading this content must end with, without the hint. */
async function refusal(content: string | Uint8Array): Promise<string> {
  return (await refusalAndHint(content)).split(" | ")[0]!;
}

/** Reads a file, or what else `openCorpus` takes. */
const read = async (input: string) => await drain(await openCorpus({ input }));

Deno.test("text: one document a line, trimmed, empty lines dropped", async () => {
  const content = "\ufeffanna\r\n\r\n  bob \t\n\n\u00e9lodie 👋";
  const data = await readContent(content);
  assert.deepEqual(data.documents, ["anna", "bob", "élodie 👋"]);
  assert.equal(data.report.sha256, createHash("sha256").update(content).digest("hex"));
});

Deno.test("text: lines end with \\n, \\r\\n or \\r, mixed as they come, and with nothing else", async () => {
  const load = async (content: string) => (await readContent(content)).documents;
  assert.deepEqual(await load("anna\rbob\rcarla"), ["anna", "bob", "carla"]);
  assert.deepEqual(await load("anna\r\nbob\ncarla\rdora\r\r\nemma\n\r"), [
    "anna",
    "bob",
    "carla",
    "dora",
    "emma",
  ]);
  assert.deepEqual(await load("a\u2028b\u0085c\fd\ve\u2029f\n"), ["a\u2028b\u0085c\fd\ve\u2029f"]);
});

Deno.test("text: lines and characters that straddle the chunks of a read", async () => {
  const documents = Array.from({ length: 3000 }, (_, i) => "é👋".repeat(i % 97 + 1) + i);
  documents.push("ü".repeat(500_000), "end");
  const data = await readContent(documents.join("\n") + "\n");
  assert.deepEqual(data.documents, documents);
});

Deno.test("text: the sample data is complete", async () => {
  const { documents } = await read(
    fileURLToPath(new URL("../../data/samples/names.txt", import.meta.url)),
  );
  assert.equal(documents.length, 32033);
  assert.deepEqual([documents[0], documents[32032]], ["emma", "zzyzx"]);
});

Deno.test("text: a file with no document is an error", async () => {
  assert.equal(await refusal(""), "data.txt holds no document");
  assert.equal(await refusal(" \n\r\n\t\n"), "data.txt holds no document");
});

Deno.test("text: bytes that are not UTF-8 are refused with their place", async () => {
  const latin1 = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));
  assert.equal(
    await refusal(latin1("anna\nren\xe9e\n")),
    "data.txt line 2 is not valid UTF-8: bad byte at offset 8",
  );
  // A character cut short by the end of the file.
  assert.equal(
    await refusal(latin1("anna\nx\xe2\x82")),
    "data.txt line 2 is not valid UTF-8: bad byte at offset 6",
  );
  // Far behind the first chunk.
  assert.equal(
    await refusal(latin1("ok\n".repeat(100_000) + "\xff\n")),
    "data.txt line 100001 is not valid UTF-8: bad byte at offset 300000",
  );
});

Deno.test("text: binary files are refused", async () => {
  assert.match(
    await refusal(new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13])),
    /^data.txt is not a text file: it has a zero byte at offset 8$/u,
  );
  assert.match(await refusal(new Uint8Array(10_000_000)), /zero byte at offset 0$/u);
});

Deno.test("text: files of well-known formats are named", async () => {
  const bytes = (...list: number[]) => Uint8Array.from([...list, ...new TextEncoder().encode("漢字")]);
  assert.match(await refusal(bytes(0x50, 0x4b, 3, 4)), /^data.txt is a zip archive/u);
  assert.equal(await refusal("%PDF-1.7\n"), "data.txt is a PDF, not UTF-8 text");
  assert.deepEqual((await readContent("PK\nBZh\n")).documents, ["PK", "BZh"]);
});

Deno.test("text: a line may be long, but not endless", async () => {
  const longest = "x".repeat(MAX_LINE_BYTES);
  assert.equal((await readContent(`a\n${longest}\nb`)).documents[1]!.length, MAX_LINE_BYTES);
  assert.equal(await refusal(`a\n\n${longest}x\nb`), "data.txt line 3 is longer than 4 MB");
});

Deno.test("text: what cannot be opened is said", async () => {
  await assert.rejects(read("/nowhere/names.txt"), {
    name: "MicrogptError",
    message: "cannot read /nowhere/names.txt: no such file",
  });
  await withFile("anna", async (path) => await assert.rejects(read(`${path}/below`), MicrogptError));
});

Deno.test({
  name: "text: a link to itself is said",
  ignore: Deno.build.os === "windows",
  fn: () =>
    withFile("", async (path) => {
      const loop = path.replace(/data\.txt$/u, "loop");
      await Deno.symlink("loop", loop);
      await assert.rejects(read(loop), { message: `cannot read ${loop}: symbolic links in a loop` });
    }),
});

Deno.test({
  name: "text: an unreadable file is said",
  ignore: Deno.build.os === "windows" || Deno.uid() === 0, // root reads everything
  fn: () =>
    withFile("anna", async (path) => {
      await Deno.chmod(path, 0o000);
      await assert.rejects(read(path), { message: `cannot read ${path}: permission denied` });
    }),
});

Deno.test("text: - is standard input", async () => {
  const source = `import { openCorpus } from ${JSON.stringify(import.meta.resolve("../../data/corpus.ts"))};
    const documents = [];
    for await (const block of (await openCorpus({ input: "-" })).blocks()) documents.push(...block.documents);
    console.log(JSON.stringify(documents));`;
  await withFile(source, async (path) => {
    const args = ["run", "-A", path];
    const child = new Deno.Command(Deno.execPath(), {
      args,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    })
      .spawn();
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode("anna\nbob"));
    await writer.close();
    const { stdout, stderr } = await child.output();
    const said = JSON.parse(new TextDecoder().decode(stdout) || "null");
    assert.deepEqual(said, ["anna", "bob"], new TextDecoder().decode(stderr));
  }, "read.ts");
});
