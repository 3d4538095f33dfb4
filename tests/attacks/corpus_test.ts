/** Hostile and enormous corpora: one clear line or a counted skip, in bounded memory. */

import assert from "node:assert/strict";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { openCorpus } from "../../data/corpus.ts";
import { drain, readContent, refusal, withFiles } from "../data/corpus_reading.ts";

const MB = 1024 * 1024;

/** The same bytes again and again. */
function repeated(bytes: Uint8Array, times: number): Uint8Array {
  const all = new Uint8Array(bytes.length * times);
  for (let i = 0; i < times; i++) all.set(bytes, i * bytes.length);
  return all;
}

/**
 * Reads a corpus in a process of its own.
 * @param stdin what it reads there
 * @returns what came of it, and by how many MB its memory grew
 */
async function readApart(
  options: object,
  stdin?: () => Iterable<Uint8Array>,
): Promise<{ said: string; growth: number }> {
  const program = `
    import { peakMegabytes } from ${JSON.stringify(import.meta.resolve("./peak.ts"))};
    import { openCorpus } from ${JSON.stringify(import.meta.resolve("../../data/corpus.ts"))};
    const corpus = await openCorpus(${JSON.stringify(options)});
    const before = peakMegabytes();
    let documents = 0;
    const said = await (async () => {
      for await (const block of corpus.blocks()) documents += block.documents.length;
      return documents + " documents";
    })().catch((error) => error.name + ": " + error.message);
    console.log(JSON.stringify({ said, growth: peakMegabytes() - before }));`;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", `data:application/typescript,${encodeURIComponent(program)}`],
    stdin: stdin ? "piped" : "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  if (stdin) {
    const writer = child.stdin.getWriter();
    for (const chunk of stdin()) await writer.write(chunk);
    await writer.close();
  }
  const { stdout, stderr } = await child.output();
  const text = new TextDecoder().decode(stdout);
  assert.notEqual(text, "", new TextDecoder().decode(stderr));
  return JSON.parse(text);
}

Deno.test("attack: 200 MB from standard input are read with less than 100 MB", async () => {
  const line = `${"the quick brown fox jumps over the lazy dog ".repeat(5)}é👋\n`;
  const chunk = new TextEncoder().encode(line.repeat(Math.floor(MB / line.length)));
  const lines = Math.floor(MB / line.length) * 200;
  const { said, growth } = await readApart({ input: "-" }, function* () {
    for (let i = 0; i < 200; i++) yield chunk;
  });
  assert.equal(said, `${lines} documents`);
  assert(growth < 100, `${growth} MB`);
});

Deno.test("attack: bombs of gzip and zstd stop at a line, with less than 150 MB", async () => {
  const text = new Uint8Array(4 * MB).fill(0x61);
  for (let i = 4095; i < text.length; i += 4096) text[i] = 0x0a;
  for (const pack of [gzipSync, zstdCompressSync]) {
    await withFiles({ "bomb.txt": repeated(pack(text), 80) }, async (directory) => {
      const { said, growth } = await readApart({ input: `${directory}/bomb.txt` });
      assert.match(said, /bomb\.txt unpacks to more than 500 times its size$/u);
      assert(growth < 150, `${growth} MB`);
    });
  }
  assert.match(
    await refusal(gzipSync(new Uint8Array(8 * MB))),
    /^data.txt is not a text file: it has a zero byte/u,
  );
  assert.match(
    await refusal(gzipSync(gzipSync("anna"))),
    /^data.txt is compressed \(gzip\), not UTF-8 text/u,
  );
});

Deno.test("attack: a line of 2 GB stops at the longest that is read", async () => {
  const packed = repeated(gzipSync(new Uint8Array(8 * MB).fill(0x61)), 256);
  await withFiles({ "line.gz": packed }, async (directory) => {
    for (
      const options of [{}, { document: "paragraph" }, { document: "<|end|>" }, { format: "csv" }, {
        chat: true,
      }]
    ) {
      const { said, growth } = await readApart({ input: `${directory}/line.gz`, ...options });
      assert.match(said, /line\.gz line 1(:| is).* longer than (4|16) MB$/u);
      // about 300 where 16 MB may be one document, of which V8 holds copies for a while
      assert(growth < 400, `${growth} MB`);
    }
  });
});

Deno.test("attack: JSON that is one value of any size, or nested without end", async () => {
  assert.match(
    await refusal(`[{"text": "${"x".repeat(20 * MB)}"}]`, { format: "json" }),
    /^data.txt line 1: a value longer than 16 MB/u,
  );
  assert.match(
    await refusal("[".repeat(5 * MB), { format: "json" }),
    /^data.txt line 1 ends within a value/u,
  );
  assert.match(
    await refusal('{"text": "one"}\n{"text": "two"\n{"text": "three"}\n', { format: "json" }),
    /^data.txt line 2: the value that begins here does not end/u,
  );
  const nested = "[".repeat(3 * MB) + "]".repeat(3 * MB);
  assert.match(await refusal(nested, { format: "jsonl" }), /^data.txt line 1 is longer than 4 MB/u);
  assert.match(
    await refusal("[".repeat(100_000), { chat: true }),
    /^data.txt line 1: expected .* invalid JSON/u,
  );
});

Deno.test("attack: a million columns, a quote that never closes", async () => {
  const wide = "c,".repeat(1_000_000) + "c\n";
  assert.match(await refusal(wide, { format: "csv" }), /^data.txt line 1 has more than 10000 columns/u);
  const open = `id,text\n1,"${"x,\n".repeat(6 * MB)}`;
  assert.match(await refusal(open, { format: "csv" }), /^data.txt line 2: a row longer than 16 MB/u);
});

Deno.test("attack: one broken line among many is named, of text, JSONL, CSV and compressed ones", async () => {
  const lines = Array.from({ length: 50_000 }, (_, i) => `{"text": "${i}"}`);
  lines[43_210] = '{"text": "cut of';
  assert.match(await refusal(lines.join("\n")), /^data.txt line 43211: expected a record, got invalid JSON/u);
  assert.match(await refusal(zstdCompressSync(lines.join("\n"))), /^data.txt line 43211: expected a record/u);
  const bytes = new TextEncoder().encode(lines.map((_, i) => `name ${i}\n`).join(""));
  const at = bytes.length >> 1;
  bytes[at] = 0xff;
  const line = bytes.subarray(0, at).filter((byte) => byte === 0x0a).length + 1;
  assert.match(
    await refusal(bytes),
    new RegExp(`^data.txt line ${line} is not valid UTF-8: bad byte at offset ${at}`, "u"),
  );
});

Deno.test("attack: names of Object.prototype are fields like others, and change nothing", async () => {
  const { documents } = await readContent(
    '{"__proto__": {"text": "x"}, "text": "a"}\n{"__proto__": {"text": "x"}}\n',
  );
  assert.deepEqual(documents, ["a"]);
  assert.deepEqual(
    (await readContent("__proto__,constructor\na,b\n", { field: "__proto__" }, "t.csv")).documents,
    ["a"],
  );
  assert.match(await refusal('{"constructor": 1}\n', { field: "toString" }), /has no field "toString"/u);
  assert.match(
    await refusal('[{"__proto__": {"role": "user", "content": ""}}]\n', { chat: true }),
    /got an object/u,
  );
  assert.equal(({} as Record<string, unknown>).text, undefined);
});

Deno.test("attack: control characters of the data are not printed", async () => {
  const evil = "\\u001b[2J\\u009b31m";
  await refusal(`[{"role": "${evil}", "content": ""}]\n`, { chat: true });
  await refusal(`{"${evil}": "a", "b": "c"}\n`);
  await refusal(`{"${evil}": 1}\n`, { chat: true });
  await refusal("\x1b[2J\x9b31m", { format: "json" });
});

Deno.test("attack: thousands of tiny files, each of them read", async () => {
  const files = Object.fromEntries(
    Array.from({ length: 2000 }, (_, i) => [`d${i % 40}/${i}.txt`, `name ${i}\n`]),
  );
  await withFiles(files, async (directory) => {
    const { documents, report } = await drain(await openCorpus({ input: directory }));
    assert.equal(new Set(documents).size, 2000);
    assert(report.notices.length < 10, `${report.notices.length} lines`);
  });
});

Deno.test({
  name: "attack: links in a loop, and a file without end",
  ignore: Deno.build.os === "windows",
  fn: () =>
    withFiles({ "d/a.txt": "anna\n" }, async (directory) => {
      await Deno.symlink(".", `${directory}/d/self`);
      await Deno.symlink("loop.txt", `${directory}/d/loop.txt`);
      await assert.rejects(
        openCorpus({ input: directory }),
        /^MicrogptError: cannot read .*: symbolic links in a loop$/u,
      );
      await Deno.remove(`${directory}/d/loop.txt`);
      assert.deepEqual((await drain(await openCorpus({ input: directory }))).documents, ["anna"]);
      const { said, growth } = await readApart({ input: "/dev/zero" });
      assert.match(said, /\/dev\/zero is not a text file: it has a zero byte at offset 0$/u);
      assert(growth < 100, `${growth} MB`);
    }),
});
