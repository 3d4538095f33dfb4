/** Hostile chat data: each case is refused with one clear line, in bounded memory. */

import assert from "node:assert/strict";
import { refusal as refusalOfContent } from "../data/corpus_reading.ts";
import { withFile } from "../data/temporary_file.ts";

/** The line, fit for a terminal, by which content must be refused. */
async function refusal(content: string | Uint8Array): Promise<string> {
  return (await refusalOfContent(content, { chat: true }, "chats.jsonl")).split(" | ")[0]!;
}

/** Loads content in a process of its own; returns its error and the most memory it ever held, in MB. */
function refusalAndPeak(content: string | Uint8Array): Promise<{ error: string; peak: number }> {
  const source = `import { peakMegabytes } from ${JSON.stringify(import.meta.resolve("./peak.ts"))};
    import { openCorpus } from ${JSON.stringify(import.meta.resolve("../../data/corpus.ts"))};
    const read = async (input) => {
      for await (const _ of (await openCorpus({ input, chat: true })).blocks());
    };
    const error = await read(Deno.args[0]).then(() => "none", (error) => error.name + ": " + error.message);
    console.log(JSON.stringify({ error, peak: peakMegabytes() }));`;
  return withFile(
    content,
    (path) =>
      withFile(source, async (program) => {
        const command = new Deno.Command(Deno.execPath(), { args: ["run", "-A", program, path] });
        const { stdout, stderr } = await command.output();
        const out = new TextDecoder().decode(stdout);
        assert.notEqual(out, "", new TextDecoder().decode(stderr));
        return JSON.parse(out.replaceAll(path, "chats.jsonl"));
      }, "load.ts"),
  );
}

const message = (content: string) =>
  `[{"role":"user","content":"x"},{"role":"assistant","content":${content}}]`;

Deno.test("attack: 100 MB in one line stops at the line limit, with memory below 1 GB", async () => {
  const line = new Uint8Array(100_000_000).fill(0x61);
  const prefix = new TextEncoder().encode(message('"ok"') + '\n[{"role":"user","content":"');
  line.set(prefix);
  const { error, peak } = await refusalAndPeak(line);
  assert.equal(error, "MicrogptError: chats.jsonl line 2 is longer than 4 MB");
  assert(peak < 1000, `${peak} MB`);
});

Deno.test("attack: 100,000 nested arrays", async () => {
  const deep = (n: number) => "[".repeat(n) + "]".repeat(n);
  assert.match(
    await refusal(deep(100_000)),
    /^chats.jsonl line 1: message 1: expected an object .* got an array$/u,
  );
  assert.match(
    await refusal(message(deep(100_000))),
    /line 1: message 2: expected "content" to be a string, got an array$/u,
  );
  assert.match(await refusal("[".repeat(100_000)), /line 1: expected an array .*, got invalid JSON/u);
});

Deno.test("attack: the longest line full of nesting or of objects, with memory below 1 GB", async () => {
  for (const line of ["[".repeat(2_000_000) + "]".repeat(2_000_000), `[${"{},".repeat(1_300_000)}{}]`]) {
    const { error, peak } = await refusalAndPeak(line);
    assert.match(error, /^MicrogptError: chats.jsonl line 1: (message 1: )?expected/u);
    assert(peak < 1000, `${peak} MB`);
  }
});

Deno.test("attack: lone surrogates, as escapes and as bytes", async () => {
  for (const escape of ["\\ud800", "\\udc00", "\\udc00\\ud800", "a\\ud800b"]) {
    assert.equal(
      await refusal(message(`"${escape}"`)),
      'chats.jsonl line 1: message 2: expected "content" to be well-formed Unicode, got a lone surrogate',
    );
  }
  const bytes = Uint8Array.from(message('"@"'), (c) => c.charCodeAt(0));
  const at = bytes.indexOf("@".charCodeAt(0));
  const hostile = new Uint8Array([...bytes.subarray(0, at), 0xed, 0xa0, 0x80, ...bytes.subarray(at + 1)]);
  assert.equal(
    await refusal(hostile),
    `chats.jsonl line 1 is not valid UTF-8: bad byte at offset ${at}`,
  );
  assert.match(await refusal('[{"role":"\\ud800","content":""}]'), /got "\\ud800"$/u);
});

Deno.test("attack: nulls in every place", async () => {
  assert.match(await refusal("null"), /got null$/u);
  assert.match(await refusal("[null]"), /message 1: .* got null$/u);
  assert.match(await refusal('[{"role":null,"content":""}]'), /"role" .* got none$/u);
  assert.match(await refusal(message("null")), /"content" .* got null$/u);
  assert.match(await refusal(message('"a\0b"')), /zero byte at offset/u);
});

Deno.test("attack: control characters are not printed", async () => {
  await refusal('[{"role":"\\u001b[2J\\u009b31m","content":""}]');
  await refusal("\x1b[2J");
  await refusal("\x9b31m");
  await refusal(message('"\x1b]0;title\x07"'));
});

Deno.test("attack: names of Object.prototype are no fields and change nothing", async () => {
  assert.match(
    await refusal('[{"__proto__":{"role":"assistant","content":"x"}}]'),
    /expected an array .* got an object$/u,
  );
  assert.match(await refusal('{"length":1,"0":{"role":"assistant","content":"x"}}'), /got an object$/u);
  assert.equal(({} as Record<string, unknown>).role, undefined);
});

Deno.test("attack: an unknown role as long as a line", async () => {
  await refusal(`[{"role":"${"x".repeat(1_000_000)}","content":""}]`);
  await refusal(`${"9".repeat(1_000_000)}`);
  await refusal(`${"9".repeat(1_000_000)}x`);
});
