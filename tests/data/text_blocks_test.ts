/** Texts that are handed on as bytes are those that are read as strings, whatever they are cut into, and so are errors. */
import assert from "node:assert/strict";
import { contentHashes } from "../../data/content_hash.ts";
import { openCorpus } from "../../data/corpus.ts";
import { countOf, packed, unpacked } from "../../data/packed_texts.ts";
import { LineBytes } from "../../data/reading/line_bytes.ts";

const encoder = new TextEncoder();

/** What `blocks` and `textBlocks` read of a file, with what they say of it, or the error. */
async function bothWays(bytes: Uint8Array, name = "a.txt"): Promise<[unknown, unknown]> {
  const dir = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  try {
    const input = `${dir}/${name}`;
    await Deno.writeFile(input, bytes);
    const outcome = async (read: () => Promise<unknown>) => {
      try {
        return await read();
      } catch (error) {
        return (error as Error).message;
      }
    };
    const strings = await outcome(async () => {
      const corpus = await openCorpus({ input });
      const texts: string[] = [];
      for await (const { documents } of corpus.blocks()) texts.push(...documents as string[]);
      return [texts, corpus.report()];
    });
    const inBytes = await outcome(async () => {
      const corpus = await openCorpus({ input });
      const texts: string[] = [];
      for await (const block of corpus.textBlocks({ characters: 40, documents: 3 })) {
        const some = unpacked(block.texts);
        assert(some.length <= 3);
        assert.equal(some.reduce((sum, { length }) => sum + length, 0), block.characters);
        texts.push(...some);
      }
      return [texts, corpus.report()];
    });
    return [strings, inBytes];
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

Deno.test("texts as bytes: lines, trimmed, of every kind of line end and white space", async () => {
  const files = [
    "a\nb\r\nc\rd",
    "\ufeffone\n\n  two  \n\t\u00a0three\u3000\u2028\n\u0085four\u0085\n\u1680\n\ufefffive\ufeff \n\u200bsix\u200b",
    "naïve 🙂\r\r\n日本語\n\u000b\u000c x \u001c\n",
    "no end\r",
    "\n\n \r\n\r end\n",
    "🙂".repeat(100) + "\nshort",
  ];
  for (const text of files) {
    const [strings, inBytes] = await bothWays(encoder.encode(text));
    assert.deepEqual(inBytes, strings, JSON.stringify(text));
    assert(Array.isArray(strings), `${strings}`);
  }
});

Deno.test("texts as bytes: errors are the same, to the letter", async () => {
  const bad = [
    Uint8Array.of(97, 10, 98, 0xff, 10, 99),
    Uint8Array.of(97, 10, 98, 10, 0, 10),
    encoder.encode("ok\n" + "x".repeat(4 * 1024 * 1024 + 1) + "\nend"),
    encoder.encode("\n \n"),
    Uint8Array.of(97, 10, 0xe2, 0x82),
  ];
  for (const bytes of bad) {
    const [strings, inBytes] = await bothWays(bytes);
    assert.equal(typeof strings, "string");
    assert.equal(inBytes, strings);
  }
  // as long in bytes, but not in UTF-16
  const [strings, inBytes] = await bothWays(encoder.encode("ok\n" + "日".repeat(2_000_000) + "\nend"));
  assert.deepEqual(inBytes, strings);
  assert.equal((strings as [string[]])[0].length, 3);
});

Deno.test("texts as bytes: other formats too", async () => {
  const jsonl = Array.from({ length: 9 }, (_, i) => JSON.stringify({ text: ` line\n${"é".repeat(i)} ` }))
    .join("\n");
  for (
    const [name, text] of [["a.jsonl", jsonl], ["a.md", "# x\n\ny"], ["a.csv", 'text,n\n"a\nb",1\nc,2\n']]
  ) {
    const [strings, inBytes] = await bothWays(encoder.encode(text), name);
    assert.deepEqual(inBytes, strings);
    assert(Array.isArray(strings), `${strings}`);
  }
});

Deno.test("texts as bytes: the result does not depend on where pieces end", () => {
  const bytes = encoder.encode("ab\r\n é \r\n\r\n日本\u3000\rx\n\n🙂\r");
  const read = (size: number) => {
    const found: [string, number][] = [];
    const lines = new LineBytes((from, start, end, characters) => {
      found.push([new TextDecoder().decode(from.slice(start, end)), characters]);
    });
    for (let at = 0; at < bytes.length; at += size) {
      assert.equal(lines.push(bytes.slice(at, at + size)), undefined);
    }
    assert.equal(lines.end(), undefined);
    return [found, lines.line];
  };
  const whole = read(bytes.length);
  assert.deepEqual(whole[0], [["ab", 2], ["é", 1], ["日本", 2], ["x", 1], ["🙂", 2]]);
  for (let size = 1; size < bytes.length; size++) assert.deepEqual(read(size), whole, `${size}`);
});

Deno.test("packed texts: there and back, with the same hashes", () => {
  const texts = Array.from({ length: 300 }, (_, i) => "a🙂é日".repeat(i % 17) + "x".repeat(i % 9));
  const all = packed(texts);
  assert.equal(countOf(all), 300);
  assert.deepEqual(unpacked(all), texts);
  assert.deepEqual(contentHashes(all, 42), contentHashes(texts, 42));
});
