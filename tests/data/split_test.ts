import assert from "node:assert/strict";
import { copyRows, renderCleanup } from "../../data/cleanup.ts";
import { contentHash } from "../../data/content_hash.ts";
import {
  type HashSummary,
  type Split,
  splitByCount,
  splitDocuments,
  splitHashes,
  summaryOf,
  trainingDocuments,
} from "../../data/split.ts";

const names = (count: number, from = 0) => Array.from({ length: count }, (_, i) => `name ${from + i}`);
const hashes = (documents: string[], seed = 42) => summaryOf(splitHashes(documents, seed));
const held = (documents: string[], { validation }: Split) => [...validation].map((d) => documents[d]!);

Deno.test("content hash: the vectors of MurmurHash3's own implementation", () => {
  // mmh3.hash128(text.encode("utf-16-le"), seed, x64arch=False), its first 53 bits
  const vectors: [string, number, number][] = [
    ["", 0, 0],
    ["", 42, 6172269966702849],
    ["a", 0, 113757356924393],
    ["emma", 0xdeadbeef, 5080076948658042],
    ["12345678", 42, 5907757004183671],
    ["123456789", 42, 1080171493637837],
    ["é👋 naïve – text of more than sixteen units", 0xdeadbeef, 6352838264264559],
  ];
  for (const [text, seed, hash] of vectors) assert.equal(contentHash(text, seed), hash, text);
});

Deno.test("split: every document is in exactly one part, ascending", () => {
  const split = splitDocuments(hashes(names(1000)), 0.05);
  const { validation, notice } = split;
  const training = [...trainingDocuments(split, 1000)];
  assert.equal(validation.length, 50);
  assert.equal(notice, undefined);
  assert.deepEqual(training, training.toSorted((a, b) => a - b));
  assert.deepEqual(validation, validation.slice().sort());
  assert.deepEqual(new Set([...training, ...validation]), new Set(Array.from({ length: 1000 }, (_, i) => i)));
  assert.deepEqual([training.length, split.training], [950, 950]);
});

Deno.test("split: the seed decides, and nothing else", () => {
  const validation = (seed: number) => splitDocuments(hashes(names(500), seed), 0.1).validation;
  assert.deepEqual(validation(7), validation(7));
  assert.notDeepEqual(validation(7), validation(8));
});

Deno.test("split: a document keeps its side, whatever is added, dropped, repeated or moved", () => {
  const before = names(1000);
  const split = splitDocuments(hashes(before), 0.1);
  const heldOut = new Set(held(before, split));
  const after = [...names(3000, 5000), ...before.toReversed(), ...before.slice(0, 500)].filter((_, i) =>
    i % 7
  );
  const grown = splitDocuments(hashes(after), 0.1, split.threshold);
  const known = new Set(before);
  for (const d of trainingDocuments(grown, after.length)) assert(!heldOut.has(after[d]!), after[d]!);
  for (const name of held(after, grown)) if (known.has(name)) assert(heldOut.has(name), name);
  const share = grown.validation.length / new Set(after).size;
  assert(share > 0.07 && share < 0.13, `${share} of what is new is held out too`);
});

Deno.test("split: a conversation's hash is that of its roles and contents", () => {
  const [user, assistant] = [{ role: "user" as const, content: "a" }, {
    role: "assistant" as const,
    content: "b",
  }];
  const [one, same, longer, swapped] = splitHashes([
    [user, assistant],
    [{ ...user, id: 7 } as typeof user, { ...assistant }],
    [user, assistant, user],
    [{ ...user, role: "assistant" }, { ...assistant, role: "user" }],
  ], 1);
  assert.equal(one, same);
  assert.notEqual(one, longer);
  assert.notEqual(one, swapped);
  assert.equal(splitHashes(['[["user","a"],["assistant","b"]]'], 1)[0], one);
});

Deno.test("split: copies are on one side, held out once, counted and told", () => {
  const documents = [...names(100), ...names(100), ...names(50)];
  const split = splitDocuments(hashes(documents), 0.1);
  const out = held(documents, split);
  assert.equal(out.length, 10);
  assert.equal(new Set(out).size, 10);
  for (const d of trainingDocuments(split, 250)) assert(!out.includes(documents[d]!));
  assert.equal(split.training + split.validation.length + split.leftOut.length, 250);
  assert(split.leftOut.length >= 10);
  const left = split.leftOut.length;
  assert.deepEqual(renderCleanup(copyRows(150, "documents", left)), [
    "cleanup:",
    `  ${150 - left} documents kept: repeat others word for word`,
    `  ${`${left}`.padStart(`${150 - left}`.length)} documents left out: repeat a held-out one word for word`,
  ]);
  assert.deepEqual(copyRows(0, "documents"), []);
});

Deno.test("split: at least one, at most 512, never all", () => {
  const sizes = (count: number, fraction: number) => {
    const { training, validation } = splitDocuments(hashes(names(count)), fraction);
    return [training, validation.length];
  };
  assert.deepEqual(sizes(3, 0.05), [2, 1]);
  assert.deepEqual(sizes(2, 0.9), [1, 1]);
  assert.deepEqual(sizes(32_033, 0.05), [32_033 - 512, 512]);
});

Deno.test("split: 0 holds out none, says nothing, and trains on copies too", () => {
  const { training, validation, notice, threshold } = splitDocuments(hashes([...names(9), "name 0"]), 0);
  assert.deepEqual([training, validation.length, notice, threshold], [10, 0, undefined, 0]);
});

Deno.test("split: what cannot be split, which is said", () => {
  const off = (documents: string[], threshold?: number) => {
    const { validation, notice } = splitDocuments(hashes(documents), 0.05, threshold);
    assert.equal(validation.length, 0);
    return notice;
  };
  assert.equal(off(["a"]), "validation is off: a single document cannot be split");
  assert.equal(off(["a", "a"]), "validation is off: copies of one document cannot be split");
  assert.equal(off(names(9), 0), "validation is off, as when the run began");
  assert.equal(off(names(9), 1), "validation is off: none of the documents is among those held out");
  assert.throws(() => splitDocuments(hashes(names(9)), 0.05, 2 ** 53 - 1), {
    name: "MicrogptError",
    message: "all 9 documents are held out, nothing is left to train on",
  });
});

Deno.test("split: the rule of early checkpoints is what it was", () => {
  assert.deepEqual([...splitByCount(20, 0.2, 42).validation], [5, 10, 11, 17]);
  const { training, validation } = splitByCount(32_033, 0.05, 1);
  assert.deepEqual([training, validation.length], [32_033 - 512, 512]);
});

Deno.test("split: the lowest hashes tell as much as all", () => {
  const documents = [...names(3000), ...names(700)];
  const all = splitHashes(documents, 42);
  const known = summaryOf(all);
  assert.deepEqual([known.documents, known.distinct, known.complete], [3700, 3000, false]);
  assert(known.low.documents.length >= 513 && known.low.documents.length < 700);
  const whole: HashSummary = {
    ...summaryOf(all),
    complete: false,
    low: { hashes: all, documents: Uint32Array.of() },
  };
  whole.low = { hashes: new Float64Array(), documents: new Uint32Array() };
  const unasked: HashSummary = { ...known, all: () => assert.fail("all hashes were read") };
  for (const fraction of [0.01, 0.05, 0.5]) {
    const split = splitDocuments(unasked, fraction);
    assert.deepEqual(splitDocuments(whole, fraction), split);
    assert.deepEqual(splitDocuments(known, fraction, split.threshold), split);
  }
  // a threshold that holds out more than a fresh run would
  assert.equal(splitDocuments(known, 0.5, 2 ** 52).validation.length > 1400, true);
});
