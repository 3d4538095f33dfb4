import assert from "node:assert/strict";
import { cleanupOf } from "../../data/cleanup.ts";
import { createHash } from "node:crypto";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { corpusOf, openCorpus } from "../../data/corpus.ts";
import { drain, readContent, refusal, refusalOf, withFiles } from "./corpus_reading.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

Deno.test("corpus: a text file is one document a line, as loadText reads it", async () => {
  const content = "\ufeffanna\r\n\r\n  bob \t\n\nélodie 👋\rcarla";
  const { documents, report } = await readContent(content);
  assert.deepEqual(documents, ["anna", "bob", "élodie 👋", "carla"]);
  assert.equal(report.sha256, createHash("sha256").update(content).digest("hex"));
  assert.equal(report.documents, 4);
  assert.equal(report.bytes, bytes(content).length);
  assert.deepEqual(report.notices, ["data.txt: 4 documents, one a line"]);
});

Deno.test("corpus: a document is a line, a paragraph, a file or what stands between separators", async () => {
  const content = "a\r\nb\r\n\r\n \t\r\nc\rd\n<|endoftext|>\ne\n";
  const read = async (document: string) => (await readContent(content, { document })).documents;
  assert.deepEqual(await read("line"), ["a", "b", "c", "d", "<|endoftext|>", "e"]);
  assert.deepEqual(await read("paragraph"), ["a\nb", "c\nd\n<|endoftext|>\ne"]);
  assert.deepEqual(await read("file"), ["a\nb\n\n \t\nc\nd\n<|endoftext|>\ne"]);
  assert.deepEqual(await read("<|endoftext|>"), ["a\nb\n\n \t\nc\nd", "e"]);
  assert.deepEqual(await read("\n\n"), ["a\nb", "c\nd\n<|endoftext|>\ne"]);
});

Deno.test("corpus: Markdown is one document a file", async () => {
  const { documents, report } = await readContent("# Title\n\ntext\n", {}, "notes.md");
  assert.deepEqual(documents, ["# Title\n\ntext"]);
  assert.deepEqual(report.notices, ["notes.md: 1 document, one a file"]);
});

Deno.test("corpus: UTF-16 is read where a byte order mark says so", async () => {
  const text = "\ufeffanna\nélodie 👋\n";
  const units = Array.from({ length: text.length }, (_, i) => text.charCodeAt(i));
  const le = Uint8Array.from(units.flatMap((unit) => [unit & 255, unit >> 8]));
  const be = Uint8Array.from(units.flatMap((unit) => [unit >> 8, unit & 255]));
  for (const content of [le, be]) {
    const { documents, report } = await readContent(content);
    assert.deepEqual(documents, ["anna", "élodie 👋"]);
    assert.deepEqual(report.notices, ["data.txt: 2 documents, one a line, UTF-16"]);
  }
  assert.match(await refusal(le.subarray(0, le.length - 1)), /data.txt is not valid UTF-16/u);
});

Deno.test("corpus: gzip of several members and zstd of several frames are unpacked, whatever their names", async () => {
  const [a, b] = ["anna\nbo", "b\ncarla\n"];
  const joined = (x: Uint8Array, y: Uint8Array) => new Uint8Array([...x, ...y]);
  for (const pack of [gzipSync, zstdCompressSync]) {
    const { documents, report } = await readContent(joined(pack(a), pack(b)));
    assert.deepEqual(documents, ["anna", "bob", "carla"]);
    assert.equal(report.files[0]!.compression, pack === gzipSync ? "gzip" : "zstd");
  }
});

Deno.test("corpus: JSONL is told by its content, its field by the usual name or as the only one", async () => {
  const usual = '{"id": 1, "url": "u", "text": "a\\nb"}\n{"id": 2, "url": "u", "text": " c"}\n';
  for (const name of ["data.txt", "data.jsonl"]) {
    const { documents, report } = await readContent(usual, {}, name);
    assert.deepEqual(documents, ["a\nb", " c"]);
    const format = name === "data.txt" ? ", JSONL" : "";
    assert.deepEqual(report.notices, [`${name}: 2 documents${format}, field text`]);
  }
  assert.deepEqual((await readContent('{"n": 1, "poem": "x"}\n')).documents, ["x"]);
  assert.deepEqual((await readContent(usual, { field: "url" })).documents, ["u", "u"]);
  assert.deepEqual((await readContent(usual, { format: "text" })).documents[0], usual.split("\n")[0]);
  assert.equal(
    await refusal('{"a": "x", "b": "y"}\n'),
    'data.txt: which field holds the text? "a", "b" do | name it with `field`; conversations are read with `chat`',
  );
  assert.equal(
    await refusal(usual, { field: "txt" }),
    'data.txt has no field "txt" | it has "id", "url", "text"',
  );
  assert.match(await refusal('{"n": 1}\n'), /has no field that holds text: its fields are "n"/u);
});

Deno.test("corpus: empty lines and white space that was removed are counted, also where reading is strict", async () => {
  const { documents, report } = await readContent("a\n\n  b \n\t\n\nc", { strict: true });
  assert.deepEqual(documents, ["a", "b", "c"]);
  assert.deepEqual(cleanupOf(report, "documents"), [
    { count: 3, unit: "documents", effect: "left out", reason: "empty" },
    { count: 1, unit: "documents", effect: "changed", reason: "white space at its ends removed" },
  ]);
});

Deno.test("corpus: records without text are counted, or stop where reading is strict", async () => {
  const content = '{"text": "a"}\n{"text": null}\n{"other": 1}\n{"text": "b"}\n{"text": " "}\n';
  const { documents, report } = await readContent(content);
  assert.deepEqual(documents, ["a", "b"]);
  assert.deepEqual(report.skipped, { "no text in the field": 3 });
  assert.match(await refusal(content, { strict: true }), /^data.txt line 2: no text in the field \| /u);
});

Deno.test("corpus: a JSON array of texts or objects, on one line or many", async () => {
  const array = ["a", 'q"[{\\', "c"];
  const objects = array.map((text, id) => ({ id, text }));
  for (const indent of [0, 2]) {
    assert.deepEqual((await readContent(JSON.stringify(array, null, indent))).documents, array);
    assert.deepEqual((await readContent(JSON.stringify(objects, null, indent))).documents, array);
  }
  // values that follow each other, over many lines
  const values = objects.map((value) => JSON.stringify(value, null, 2)).join("\n");
  assert.deepEqual((await readContent(values)).documents, array);
  assert.match(
    await refusal('[{"text": "a"},\n{"text": "b"}'),
    /line 2 ends within an array \| the file is cut off/u,
  );
  assert.match(await refusal('[{"text": "a"}\n{"text": "b"}]'), /line 2: expected , or \], got \{/u);
  assert.match(
    await refusal('[{"text": "a"},\n{"text": b}]'),
    /data.txt line 2: expected a record, got invalid JSON/u,
  );
});

Deno.test("corpus: plain text that begins as JSON does stays text", async () => {
  for (const content of ["[Verse 1]\nla la\n", "{curly}\nx", "[1] a note\n[2] another", "[1, 2]\n[3]"]) {
    assert.deepEqual((await readContent(content)).documents, content.trim().split("\n"));
  }
});

Deno.test("corpus: CSV and TSV, with quotes, line ends within fields and a byte order mark", async () => {
  const rows = 'id,text\r\n1,"a, ""b""\r\nc"\r\n\r\n2,d\r3,\n4,e,f\n5,"g"';
  const { documents, report } = await readContent("\ufeff" + rows, {}, "table.csv");
  assert.deepEqual(documents, ['a, "b"\r\nc', "d", "g"]);
  assert.deepEqual(report.skipped, {
    "no text in the field": 1,
    "another number of columns than the header": 1,
  });
  assert.deepEqual((await readContent("id;text\n1;a,b\n", {}, "t.csv")).documents, ["a,b"]);
  assert.deepEqual((await readContent("id\ttext\n1\ta,b\n", {}, "t.tsv")).documents, ["a,b"]);
  assert.deepEqual((await readContent("id,text\n1,a\n", { format: "csv" })).documents, ["a"]);
  assert.match(
    await refusal(rows, { strict: true }, "table.csv"),
    /^table.csv line 7: another number of columns than/u,
  );
  assert.match(await refusal('text\n"a\nb', {}, "t.csv"), /line 2: a quote is opened and never closed/u);
  assert.match(await refusal('text\n"a"b\n', {}, "t.csv"), /line 2: text behind a closing quote/u);
});

Deno.test("corpus: text that looks like a table or like conversations is text, with a warning", async () => {
  const table = await readContent("id,text\n1,a\n2,b\n");
  assert.equal(table.documents.length, 3);
  assert.match(table.report.notices[1]!, /looks like a CSV table .* `format` csv/u);
  const chat = await readContent(
    '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]\n',
  );
  assert.match(chat.report.notices[1]!, /look like conversations; without `chat` they are plain text$/u);
});

Deno.test("corpus: directories and patterns in the order of their bytes, each file once", async () => {
  const files = {
    "b.txt": "b",
    "a/z.jsonl": '{"text": "z"}',
    "a/é.txt": "e",
    "a/Z.md": "Z",
    ".x.txt": "x",
    "c.png": "?",
  };
  await withFiles(files, async (directory) => {
    const read = async (...input: string[]) => {
      const { documents, report } = await drain(await openCorpus({ input }));
      return [documents, report.notices.map((notice) => notice.replaceAll(directory, "DIR"))] as const;
    };
    const [all, notices] = await read(`${directory}/`);
    assert.deepEqual(all, ["Z", "z", "e", "b"]);
    assert.equal(notices.at(-1), "DIR/: 1 file with other endings left out");
    assert.deepEqual((await read(`${directory}/**/*.{txt,md}`))[0], ["Z", "e", "b"]);
    assert.deepEqual((await read(`${directory}/?.txt`))[0], ["b"]);
    const [twice, said] = await read(`${directory}/b.txt`, directory);
    assert.deepEqual(twice, ["b", "Z", "z", "e"]);
    assert(said.includes("1 file is named more than once, and read once"));
    assert.deepEqual((await read(`${directory}/b.txt`, `${directory}/a/../b.txt`))[0], ["b"]);
    await Deno.utime(`${directory}/b.txt`, 0, 0); // as reproducible archives have it
    assert.deepEqual((await read(`${directory}/b.txt`))[0], ["b"]);
    const none = (input: string) => refusalOf({ input: `${directory}/${input}` }, directory);
    assert.match(await none("*.csv"), /^no file matches \*\.csv \| /u);
    assert.match(await none("nothing"), /^cannot read nothing: no such file/u);
    await Deno.mkdir(`${directory}/empty`);
    assert.match(await none("empty"), /^empty is a directory without data files \| /u);
    assert.match(
      await refusalOf({ input: ["-", directory] }, directory),
      /^standard input \(-\) and files are both/u,
    );
  });
});

Deno.test("corpus: the hash of several files tells where one ends", async () => {
  const hashOf = (files: Record<string, string>) =>
    withFiles(
      files,
      async (directory) => (await drain(await openCorpus({ input: directory }))).report.sha256,
    );
  assert.notEqual(
    await hashOf({ "a.txt": "ab\n", "b.txt": "c\n" }),
    await hashOf({ "a.txt": "a\n", "b.txt": "bc\n" }),
  );
});

Deno.test("corpus: files are read again, and must be the same", async () => {
  await withFiles({ "a.txt": "anna\nbob\n" }, async (directory) => {
    const corpus = await openCorpus({ input: `${directory}/a.txt` });
    assert.equal(corpus.totalBytes, 9);
    assert(corpus.rereadable);
    const first = await drain(corpus);
    assert.deepEqual(await drain(corpus), first);
    for (const content of ["anna\nbob\ncarla\n", "anna\n", "anna\nbub\n"]) {
      await Deno.writeTextFile(`${directory}/a.txt`, content);
      await Deno.utime(`${directory}/a.txt`, new Date(), new Date(Date.now() + 10_000));
      await assert.rejects(
        drain(corpus),
        /a\.txt (has grown|ended after 5 of its 9 bytes|was written to) while it was read/u,
      );
    }
    await Deno.remove(`${directory}/a.txt`);
    await assert.rejects(drain(corpus), /cannot read .*a\.txt: no such file/u);
  });
});

Deno.test("corpus: a signal ends reading with its reason", async () => {
  await withFiles({ "a.txt.gz": gzipSync("anna\n".repeat(1_000_000)) }, async (directory) => {
    const controller = new AbortController();
    const corpus = await openCorpus({ input: directory });
    await assert.rejects(async () => {
      for await (const _ of corpus.blocks(controller.signal)) controller.abort(new Error("enough"));
    }, /enough/u);
  });
});

Deno.test("corpus: arrays, generators and async generators", async () => {
  const texts = [" a\n", "b"];
  const array = corpusOf("text", texts);
  assert.deepEqual((await drain(array)).documents, texts);
  assert(array.rereadable);
  const generated = corpusOf(
    "text",
    (function* () {
      yield* texts;
    })(),
  );
  const first = await drain(generated);
  assert.deepEqual(first.documents, texts);
  assert.equal(first.report.sha256, (await drain(array)).report.sha256);
  await assert.rejects(drain(generated), /\(memory\) can be read only once/u);
  const chats = corpusOf(
    "chat",
    (async function* () {
      yield await Promise.resolve([{ role: "user" as const, content: "a" }, {
        role: "assistant" as const,
        content: "b",
      }]);
    })(),
  );
  assert.equal((await drain(chats)).documents.length, 1);
  const refused = async (mode: "text" | "chat", items: unknown) =>
    await drain(corpusOf(mode, items as string[])).then(() => "read", (error) => error.message);
  assert.equal(await refused("text", ["a", 7]), "documents[1]: expected text, got 7");
  assert.equal(await refused("text", []), "documents is empty");
  assert.match(await refused("text", ["a", "b\udc00"]), /^documents\[1\]: expected well-formed Unicode/u);
  assert.match(
    await refused("chat", [[{ role: "x", content: "" }]]),
    /^conversations\[0\]: message 1: expected "role"/u,
  );
  assert.throws(
    () => corpusOf("text", "anna"),
    /documents: expected an array or an iterable of texts, got "anna"/u,
  );
});

Deno.test({
  name: "corpus: a pipe is read once, and has no size",
  ignore: Deno.build.os === "windows",
  fn: () =>
    withFiles({}, async (directory) => {
      const pipe = `${directory}/pipe`;
      await new Deno.Command("mkfifo", { args: [pipe] }).output();
      const writer = new Deno.Command("sh", { args: ["-c", 'printf "anna\\nbob\\n" > "$0"', pipe] }).spawn();
      const corpus = await openCorpus({ input: pipe });
      assert.equal(corpus.totalBytes, undefined);
      assert(!corpus.rereadable);
      assert.deepEqual((await drain(corpus)).documents, ["anna", "bob"]);
      await assert.rejects(drain(corpus), /can be read only once/u);
      await writer.status;
    }),
});
