/** Parquet files that pyarrow wrote: tests/data/parquet/make.py. */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openCorpus } from "../../data/corpus.ts";
import { drain, refusal, refusalOf } from "./corpus_reading.ts";

const fixture = (name: string) => fileURLToPath(new URL(`parquet/${name}.parquet`, import.meta.url));
const texts = Array.from({ length: 50 }, (_, i) => `document ${i}: é👋 ${"x".repeat(i % 7)}`).filter((_, i) =>
  i !== 7
);

Deno.test("Parquet: texts of every codec, row group by row group", async () => {
  for (const codec of ["none", "snappy", "gzip", "zstd", "lz4", "brotli"]) {
    const input = fixture(`text_${codec}`);
    const { documents, report } = await drain(await openCorpus({ input, field: "text" }));
    assert.deepEqual(documents, texts, codec);
    assert.deepEqual(report.skipped, { "no text in the field": 1 });
    assert.equal(report.bytes, Deno.statSync(input).size);
  }
});

Deno.test("Parquet: the field is guessed, and conversations are nested columns", async () => {
  const { documents, report } = await drain(await openCorpus({ input: fixture("text_snappy") }));
  assert.deepEqual(documents, texts);
  assert.match(report.notices[0]!, /text_snappy\.parquet: 49 documents, field text$/u);
  const chat = await drain(await openCorpus({ input: fixture("messages"), chat: true }));
  assert.deepEqual(chat.documents, [
    [{ role: "user", content: "Be kind.\n\nhi" }, { role: "assistant", content: "hello" }],
    [{ role: "user", content: "a" }, { role: "assistant", content: "b" }],
  ]);
  assert.match(chat.report.notices[0]!, /messages\.parquet: 2 conversations, field messages$/u);
  const input = fixture("text_none");
  assert.match(
    await refusalOf({ input, field: "txt" }, "tests"),
    /has no field "txt" \| it has "id", "text", "url"/u,
  );
  assert.match(
    await refusalOf({ input, chat: true }, "tests"),
    /has no column of conversations: its columns are "id", "text"/u,
  );
});

Deno.test("Parquet: damaged files are one line of error", async () => {
  const whole = await Deno.readFile(fixture("text_zstd"));
  const cut = whole.subarray(0, whole.length - 100);
  assert.match(
    await refusal(cut, {}, "x.parquet"),
    /^x.parquet cannot be read as Parquet: it does not end as Parquet/u,
  );
  assert.match(
    await refusal(whole.subarray(0, 8), {}, "x.parquet"),
    /cannot be read as Parquet: it is cut off/u,
  );
  const length = whole.slice();
  new DataView(length.buffer).setUint32(whole.length - 8, 0xffff_ff00, true);
  assert.match(await refusal(length, {}, "x.parquet"), /it says that its description takes 4294967040 of/u);
  // whatever single byte is changed, the file is read or refused with a line
  let refusals = 0;
  for (let at = 4; at < whole.length; at += 13) {
    const changed = whole.slice();
    changed[at] = changed[at]! ^ 0xff;
    const said = await refusal(changed, {}, "x.parquet").catch((error) => error.message);
    if (said !== "it was read without an error") refusals++;
    assert.match(said, /^(x\.parquet|it was read without an error)/u, `byte ${at}`);
  }
  assert(refusals > 50, `${refusals}`);
});
