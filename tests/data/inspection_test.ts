import assert from "node:assert/strict";
import type { Message } from "../../data/chat.ts";
import { contentHash } from "../../data/content_hash.ts";
import { corpusOf } from "../../data/corpus.ts";
import { DistinctCount } from "../../data/distinct.ts";
import { inspectCorpus } from "../../data/inspection.ts";
import { renderInspection } from "../../data/inspection_lines.ts";
import { byteTokenizer } from "./byte_tokenizer.ts";
import { withFiles } from "./corpus_reading.ts";
import { microgpt } from "../cli/program.ts";

Deno.test("inspection: counts, lengths, alphabet, copies and documents in tokens", async () => {
  const texts = ["ab", "ab", "b👋", "a\nb", "aaaaaa", "ab"];
  const inspection = await inspectCorpus(corpusOf("text", texts), byteTokenizer(["<bos>"]), { blockSize: 6 });
  assert.equal(inspection.documents, 6);
  assert.equal(inspection.tokens, 20 + 2 * 6);
  assert.equal(inspection.longest, 8);
  assert.equal(inspection.copies, 2);
  assert(inspection.copiesExact);
  assert.deepEqual(inspection.alphabet, {
    characters: 4,
    common: [["a", 10], ["b", 5], ["\n", 1], ["👋", 1]].map(([character, count]) => ({ character, count })),
  });
  assert.deepEqual(inspection.long, { blockSize: 6, documents: 1, tokens: 8, cutTokens: 1 });
  assert.equal(inspection.examples.length, 4);
  const lines = renderInspection(inspection, "documents");
  assert(lines.includes("  2 documents kept: repeat others word for word"));
  const long =
    "1 documents (16.7 %) are longer than the block of 6 tokens: 3.1 % of all tokens do not fit, see `long`";
  assert(lines.includes(long), lines.join("\n"));
  assert(lines.includes("  <bos>|a|\\n|b|<bos>"));
  assert(lines.includes("  <bos>|b|\\xf0|\\x9f|\\x91|\\x8b|<bos>"));
});

Deno.test("inspection: of conversations what is left out and changed, and turns marked", async () => {
  const chats: Message[][] = [
    [{ role: "user", content: "a" }, { role: "assistant", content: "b" }, { role: "user", content: "c" }],
    [{ role: "user", content: "d" }],
  ];
  const tokenizer = byteTokenizer(["<bos>", "<user>", "<assistant>", "<end_turn>"]);
  const inspection = await inspectCorpus(corpusOf("chat", chats), tokenizer);
  const lines = renderInspection(inspection, "conversations");
  assert(lines.includes("  1 conversation left out: no assistant turn"));
  assert(lines.includes("  1 conversation changed: trailing user turn removed"));
  assert(lines.includes("  <bos>|<user>|a|<end_turn>|<assistant>|b|<end_turn>|<bos>"));
});

Deno.test("distinct: exact as long as all are kept, close beyond", () => {
  const exact = new DistinctCount(1 << 13);
  const sampled = new DistinctCount(1 << 10);
  for (let i = 0; i < 20_000; i++) {
    const hash = contentHash(`document ${i % 8000}`, 0);
    exact.add(hash);
    sampled.add(hash);
  }
  assert.equal(exact.count, 8000);
  assert(exact.isExact);
  assert(!sampled.isExact);
  assert(Math.abs(sampled.count - 8000) < 1000, `${sampled.count}`);
});

Deno.test("info: several inputs of several formats, as lines and as JSON", async () => {
  const files = {
    "a.txt": "anna\nbob\n",
    "b/b.jsonl": '{"text": "carla"}\n{"text": null}\n',
    "c.csv": "id,text\n1,anna\n",
  };
  await withFiles(files, async (cwd) => {
    const inputs = ["--input=a.txt", "--input", "b", "--input=*.csv", "--vocab-size", "257"];
    const { stdout, stderr, code } = await microgpt(["info", ...inputs], { cwd });
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^lengths: 4 documents, median 6/u);
    assert.match(stdout, /^ +1 document left out: no text in the field$/mu);
    assert.match(stdout, /^ {2}<bos>\|a\|n\|n\|a\|<bos>$/mu);
    assert.match(
      stderr,
      /^a\.txt: 2 documents, one a line\nb\/b\.jsonl: 1 document, field text\nc\.csv: 1 document, field text\n/u,
    );
    const json = JSON.parse((await microgpt(["info", ...inputs, "--json"], { cwd })).stdout);
    assert.deepEqual([json.documents, json.copies, json.data.files.length], [4, 1, 3]);
    const strict = await microgpt(["info", ...inputs, "--strict"], { cwd });
    assert.match(
      strict.stderr,
      /^error: b\/b\.jsonl line 2: no text in the field\nhint: without --strict it is skipped/u,
    );
    const field = await microgpt(["info", "--input", "c.csv", "--field", "txt"], { cwd });
    assert.match(field.stderr, /^error: c\.csv has no field "txt"\nhint: it has "id", "text"\n$/u);
  });
});
