import assert from "node:assert/strict";
import { splitDocuments } from "../data/split.ts";

Deno.test("split: every document is in exactly one part, ascending", () => {
  const { training, validation, notice } = splitDocuments(1000, 0.05, 42);
  assert.equal(validation.length, 50);
  assert.equal(notice, undefined);
  assert.deepEqual(training, training.slice().sort());
  assert.deepEqual(validation, validation.slice().sort());
  assert.deepEqual(new Set([...training, ...validation]), new Set(Array.from({ length: 1000 }, (_, i) => i)));
  assert.equal(training.length, 950);
});

Deno.test("split: the seed decides, and nothing else", () => {
  assert.deepEqual(splitDocuments(500, 0.1, 7), splitDocuments(500, 0.1, 7));
  assert.notDeepEqual(splitDocuments(500, 0.1, 7).validation, splitDocuments(500, 0.1, 8).validation);
});

Deno.test("split: at least one, at most 512, never all", () => {
  assert.equal(splitDocuments(3, 0.05, 1).validation.length, 1);
  assert.equal(splitDocuments(2, 0.9, 1).training.length, 1);
  assert.equal(splitDocuments(32_033, 0.05, 1).validation.length, 512);
});

Deno.test("split: 0 holds out none, and says nothing", () => {
  const { training, validation, notice } = splitDocuments(10, 0, 1);
  assert.deepEqual([training.length, validation.length, notice], [10, 0, undefined]);
});

Deno.test("split: one document cannot be split, which is said", () => {
  const { training, validation, notice } = splitDocuments(1, 0.05, 1);
  assert.deepEqual([training.length, validation.length], [1, 0]);
  assert.equal(notice, "validation is off: a single document cannot be split");
});
