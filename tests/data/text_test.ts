import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { MAX_LINE_BYTES, readLines } from "../../data/lines.ts";
import { loadText, textInMemory } from "../../data/text.ts";
import { MicrogptError } from "../../device/errors.ts";
import { withFile } from "./temporary_file.ts";

/** The message of the error that loading this content must end with, the directory cut off. */
function refusal(content: string | Uint8Array): Promise<string> {
  return withFile(content, async (path) => {
    const error = await loadText(path).then(() => undefined, (error) => error);
    assert(error instanceof MicrogptError, `not refused as it should be: ${error}`);
    assert(!error.message.includes("\n") && !error.hint?.includes("\n"));
    return error.message.replaceAll(path.replace(/data\.txt$/u, ""), "");
  });
}

Deno.test("text: one document a line, trimmed, empty lines dropped", async () => {
  const content = "\ufeffanna\r\n\r\n  bob \t\n\n\u00e9lodie 👋";
  const data = await withFile(content, loadText);
  assert.deepEqual(data.documents, ["anna", "bob", "élodie 👋"]);
  assert.equal(data.hash, createHash("sha256").update(content).digest("hex"));
});

Deno.test("text: lines end with \\n, \\r\\n or \\r, mixed as they come, and with nothing else", async () => {
  const load = async (content: string) => (await withFile(content, loadText)).documents;
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

Deno.test("text: \\r at the end of a read ends one line, whether \\n comes next or not", async () => {
  const read = async (...chunks: string[]) => {
    const lines: [string, number][] = [];
    const stream = ReadableStream.from(chunks.map((chunk) => new TextEncoder().encode(chunk)));
    await readLines({ name: "x", stream }, (line, number) => lines.push([line, number]));
    return lines;
  };
  const two = [["a", 1], ["b", 2]];
  assert.deepEqual(await read("a\r", "\nb"), two);
  assert.deepEqual(await read("a\r", "b"), two);
  assert.deepEqual(await read("a", "\r", "b\r"), two);
  assert.deepEqual(await read("a\r", "", "\n", "b\r", "\n"), two);
  assert.deepEqual(await read("a\r", "\r", "\nb"), [["a", 1], ["b", 3]]);
  const half = "x".repeat(MAX_LINE_BYTES / 2 + 1);
  assert.equal((await read(`${half}\r`, half, `\r`, half)).length, 3);
});

Deno.test("text: lines and characters that straddle the chunks of a read", async () => {
  const documents = Array.from({ length: 3000 }, (_, i) => "é👋".repeat(i % 97 + 1) + i);
  documents.push("ü".repeat(500_000), "end");
  const data = await withFile(documents.join("\n") + "\n", loadText);
  assert.deepEqual(data.documents, documents);
});

Deno.test("text: the sample data is complete", async () => {
  const { documents } = await loadText(
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
  assert.equal(await refusal(bytes(0xff, 0xfe)), "data.txt is UTF-16 text, not UTF-8 text");
  assert.equal(await refusal(bytes(0xfe, 0xff)), "data.txt is UTF-16 text, not UTF-8 text");
  assert.equal(await refusal(bytes(0x1f, 0x8b, 8)), "data.txt is compressed (gzip), not UTF-8 text");
  assert.match(await refusal(bytes(0x50, 0x4b, 3, 4)), /^data.txt is a zip archive/u);
  assert.equal(await refusal("%PDF-1.7\n"), "data.txt is a PDF, not UTF-8 text");
  assert.deepEqual((await withFile("PK\nBZh\n", loadText)).documents, ["PK", "BZh"]);
});

Deno.test("text: documents in memory are checked", () => {
  const refused = (documents: unknown) => {
    try {
      textInMemory("(memory)", documents as string[]);
    } catch (error) {
      return (error as Error).message;
    }
  };
  assert.equal(refused([" a\n", ""]), undefined);
  assert.equal(refused("anna"), 'documents: expected an array of texts, got "anna"');
  assert.equal(refused([]), "documents is empty");
  assert.equal(refused(["a", 7]), "documents[1]: expected text, got 7");
  assert.equal(refused(new Array(1)), "documents[0]: expected text, got none");
  assert.equal(refused(["a", "b\udc00"]), "documents[1]: expected well-formed Unicode, got a lone surrogate");
});

Deno.test("text: more than V8's heap holds is one line of error, before V8 ends the process", async () => {
  const source = `import { loadText } from ${
    JSON.stringify(new URL("../../data/text.ts", import.meta.url).href)
  };
    await loadText(Deno.args[0]).catch((error) => console.log(error.message));`;
  await withFile("emma\n".repeat(8_000_000), (path) =>
    withFile(source, async (program) => {
      const args = ["run", "-A", "--v8-flags=--max-old-space-size=200", program, path];
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
      const said = new TextDecoder().decode(stdout);
      assert.equal(code, 0, new TextDecoder().decode(stderr));
      assert.match(said, /is too large for JavaScript's memory: \d+ MB of it take \d+ of \d+ MB\n$/u);
    }, "read.ts"));
});

Deno.test("text: a line may be long, but not endless", async () => {
  const longest = "x".repeat(MAX_LINE_BYTES);
  assert.equal((await withFile(`a\n${longest}\nb`, loadText)).documents[1]!.length, MAX_LINE_BYTES);
  assert.equal(await refusal(`a\n\n${longest}x\nb`), "data.txt line 3 is longer than 4 MB");
});

Deno.test("text: what cannot be opened is said", async () => {
  await assert.rejects(loadText("/nowhere/names.txt"), {
    name: "MicrogptError",
    message: "cannot read /nowhere/names.txt: no such file",
  });
  await withFile("", async (path) => {
    const directory = path.replace(/\/data\.txt$/u, "");
    await assert.rejects(loadText(directory), { message: `${directory} is a directory, not a file` });
    await assert.rejects(loadText(`${path}/below`), MicrogptError);
  });
});

Deno.test({
  name: "text: a link to itself is said",
  ignore: Deno.build.os === "windows",
  fn: () =>
    withFile("", async (path) => {
      const loop = path.replace(/data\.txt$/u, "loop");
      await Deno.symlink("loop", loop);
      await assert.rejects(loadText(loop), { message: `cannot read ${loop}: symbolic links in a loop` });
    }),
});

Deno.test({
  name: "text: an unreadable file is said",
  ignore: Deno.build.os === "windows" || Deno.uid() === 0, // root reads everything
  fn: () =>
    withFile("anna", async (path) => {
      await Deno.chmod(path, 0o000);
      await assert.rejects(loadText(path), { message: `cannot read ${path}: permission denied` });
    }),
});

Deno.test("text: - is standard input", async () => {
  const source = `import { loadText } from ${
    JSON.stringify(new URL("../../data/text.ts", import.meta.url).href)
  };
    const { documents, path } = await loadText("-"); console.log(JSON.stringify({ documents, path }));`;
  await withFile(source, async (path) => {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", path],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode("anna\nbob"));
    await writer.close();
    const { stdout, stderr } = await child.output();
    assert.deepEqual(
      JSON.parse(new TextDecoder().decode(stdout) || "null"),
      { documents: ["anna", "bob"], path: "-" },
      new TextDecoder().decode(stderr),
    );
  }, "read.ts");
});
