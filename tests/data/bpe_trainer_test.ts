/** The trainer in TypeScript writes the same tokenizer.json as the native one, byte for byte. */
import assert from "node:assert/strict";
import { trainTokenizerJson } from "../../data/bpe_trainer.ts";
import { NativeTokenizer } from "../../native/tokenizer.ts";
import { randomNumbers } from "./random_numbers.ts";

const SAMPLES = new URL("../../data/samples/", import.meta.url);

function lines(name: string): string[] {
  return Deno.readTextFileSync(new URL(name, SAMPLES)).trim().split("\n");
}

/** A text that the README and the docs make: words, code, tables. */
function prose(): string[] {
  const docs = [...Deno.readDirSync(new URL("../../docs/", import.meta.url))];
  return docs.filter(({ name }) => name.endsWith(".md")).map(({ name }) => name).sort()
    .map((name) => Deno.readTextFileSync(new URL(`../../docs/${name}`, import.meta.url)));
}

const next = randomNumbers(5);
const letters = (n: number, length: number) =>
  Array.from({ length }, () => String.fromCharCode(97 + next(n))).join("");

const CORPORA: Record<string, string[]> = {
  nothing: [],
  "one empty document": [""],
  "the names": lines("names.txt"),
  prose: prose(),
  "runs of one letter, in which pairs overlap": Array.from({ length: 500 }, (_, i) => "a".repeat(i % 37)),
  "few letters, so that many pairs are equally frequent": Array.from(
    { length: 3000 },
    () => letters(3, next(12)),
  ),
  "very long words": ["b".repeat(5000), "日".repeat(1000), letters(26, 3000), "👩‍👩‍👧‍👦".repeat(80)],
  "every kind of character": Array.from(
    { length: 800 },
    () =>
      Array.from({ length: next(40) }, () => String.fromCodePoint(next(4) ? next(0x500) : next(0x110000)))
        .join(""),
  ),
  "text of special tokens, digits, white space": Array.from(
    { length: 90 },
    (_, i) => `<bos><user> ${i * i} ${"\t ".repeat(i % 5)}\r\n\n x<end_turn>\u0085 \ufeff`,
  ),
};

for (const [name, documents] of Object.entries(CORPORA)) {
  Deno.test(`trained in TypeScript and natively: ${name}`, () => {
    for (const [vocabSize, chat] of [[260, true], [300, false], [512, false], [4096, true]] as const) {
      using native = NativeTokenizer.train(documents, { vocabSize, chat });
      const own = trainTokenizerJson(documents, { vocabSize, chat });
      assert(own === native.toJSON(), `${vocabSize} tokens${chat ? " of a chat" : ""}`);
    }
  });
}
