/** xz: any number of streams, and one line of error for what is damaged or not read. */
import assert from "node:assert/strict";
import { readContent, refusal } from "./corpus_reading.ts";

const bytes = (base64: string) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

/** "anna", "bob": made by Python's lzma, as the others. */
const WHOLE = bytes(
  "/Td6WFoAAATm1rRGAgAhARYAAAB0L+WjAQAIYW5uYQpib2IKAAAAAEtgaIeH6VPwAAEhCWwYxdUftvN9AQAAAAAEWVo=",
);
/** the same, padding, and a second stream with "zoë" */
const TWO = bytes(
  "/Td6WFoAAATm1rRGAgAhARYAAAB0L+WjAQAIYW5uYQpib2IKAAAAAEtgaIeH6VPwAAEhCWwYxdUftvN9AQAAAAAEWVoAAAAA/Td6WFoAAATm1rRGAgAhARYAAAB0L+WjAQAEem/DqwoAAAAANt/9xH2PUC0AAR0FuC2Arx+2830BAAAAAARZWg==",
);
/** with a check by SHA-256 */
const SHA = bytes(
  "/Td6WFoAAArh+wyhAgAhARYAAAB0L+WjAQAIYW5uYQpib2IKAAAAAPLXn86xFAf11r/rNaYbb1hHzasnPUtkYTsq/mvaEX/XAAE5CTWA3lcYm0uaAQAAAAAKWVo=",
);
/** with a dictionary of 3 GB */
const HUGE = bytes(
  "/Td6WFoAAATm1rRGAgAhAScAAACwsHLrAQAIYW5uYQpib2IKAAAAAEtgaIeH6VPwAAEhCWwYxdUftvN9AQAAAAAEWVo=",
);

Deno.test("xz: one stream and several, told by content and named where the name does not say it", async () => {
  const one = await readContent(WHOLE, {}, "names.txt.xz");
  assert.deepEqual(one.documents, ["anna", "bob"]);
  assert.deepEqual(one.report.notices, ["names.txt.xz: 2 documents, one a line"]);
  const two = await readContent(TWO);
  assert.deepEqual(two.documents, ["anna", "bob", "zoë"]);
  assert.deepEqual(two.report.notices, ["data.txt: 3 documents, one a line, xz"]);
});

Deno.test("xz: what is cut off or damaged, and what is not read", async () => {
  const cannot = "data.txt cannot be unpacked (xz): ";
  const again = " | it is damaged or cut off; get it again";
  for (const length of [7, 20, WHOLE.length - 30, WHOLE.length - 1]) {
    const said = await refusal(WHOLE.slice(0, length));
    assert.equal(said, `${cannot}unexpected end of file${again}`, `${length} bytes`);
  }
  for (let at = 6; at < WHOLE.length; at++) {
    const changed = WHOLE.slice();
    changed[at]! ^= 0x10;
    assert((await refusal(changed)).startsWith(cannot), `byte ${at}`);
  }
  assert.equal(
    await refusal(SHA),
    `${cannot}it was packed in a way that is not read, such as with a check by SHA-256 | unpack it first: unxz`,
  );
  assert.match(
    await refusal(HUGE),
    /a dictionary of more memory than is given to it \| unpack it first: unxz$/u,
  );
});
