import assert from "node:assert/strict";
import { batchesInOrder, BatchSampler } from "../../data/batches.ts";
import type { TokenDocuments } from "../../data/documents.ts";
import type { PackedDocuments } from "../../device/device.ts";
import { mixSeed, permutation, shuffled, uniform, uniformInteger } from "../../device/random.ts";
import { pieces, range } from "./token_pieces.ts";

/** Documents of 2 … 6 ids; all ids of document d are 10·d + their position, so that any mix-up shows. */
function numbered(count: number): TokenDocuments {
  const offsets = new Uint32Array(count + 1);
  for (let d = 0; d < count; d++) offsets[d + 1] = offsets[d]! + 2 + d % 5;
  const ids = new Uint32Array(offsets[count]!);
  for (let d = 0; d < count; d++) {
    for (let i = offsets[d]!; i < offsets[d + 1]!; i++) ids[i] = 10 * d + i - offsets[d]!;
  }
  return { ids, offsets };
}

/** The numbers of the documents in a batch, after a check of all its arrays. */
function documentsIn({ tokens, targets, starts }: PackedDocuments, documents: TokenDocuments): number[] {
  assert.equal(starts[0], 0);
  assert.equal(starts[starts.length - 1], tokens.length);
  assert.equal(targets.length, tokens.length);
  return Array.from({ length: starts.length - 1 }, (_, i) => {
    const d = Math.floor(tokens[starts[i]!]! / 10);
    const ids = [...documents.ids.subarray(documents.offsets[d], documents.offsets[d + 1])];
    assert.deepEqual([...tokens.subarray(starts[i], starts[i + 1])], ids.slice(0, -1));
    assert.deepEqual([...targets.subarray(starts[i], starts[i + 1])], ids.slice(1));
    return d;
  });
}

/** Documents of batches 0 … count − 1 in the order drawn. */
function draws(
  documents: TokenDocuments,
  indices: Uint32Array,
  size: number,
  seed: number,
  count: number,
): number[] {
  const sampler = new BatchSampler(pieces(documents, indices), size, seed);
  return Array.from({ length: count }, (_, b) => documentsIn(sampler.batch(b), documents)).flat();
}

Deno.test("batches: each epoch holds each training document once, in a new order", () => {
  const documents = numbered(30);
  const indices = range(30).filter((d) => d % 3 !== 0); // 20
  const drawn = draws(documents, indices, 8, 42, 10); // 80: four epochs, cut across batches
  const epochs = [0, 1, 2, 3].map((e) => drawn.slice(20 * e, 20 * e + 20));
  for (const epoch of epochs) assert.deepEqual(epoch.toSorted((a, b) => a - b), [...indices]);
  assert.equal(new Set(epochs.map(String)).size, 4);
  assert.notDeepEqual(epochs[0], [...indices]);
});

Deno.test("batches: the batch's number is the only state", () => {
  const documents = numbered(17);
  const inOrder = draws(documents, range(17), 4, 7, 50);
  const sampler = new BatchSampler(pieces(documents, range(17)), 4, 7);
  for (const b of [49, 3, 12, 12, 0, 30, 4, 5]) {
    assert.deepEqual(documentsIn(sampler.batch(b), documents), inOrder.slice(4 * b, 4 * b + 4));
  }
});

Deno.test("batches: N small batches draw what one N times as large draws", () => {
  const documents = numbered(17);
  assert.deepEqual(draws(documents, range(17), 4, 7, 12), draws(documents, range(17), 12, 7, 4));
});

Deno.test("batches: the seed decides", () => {
  const documents = numbered(40);
  const drawn = [1, 2, 42, 2 ** 40, 2 ** 40 + 1].map((seed) =>
    String(draws(documents, range(40), 8, seed, 3))
  );
  assert.equal(new Set(drawn).size, 5);
});

Deno.test("batches: larger than the data", () => {
  const documents = numbered(3);
  const drawn = draws(documents, range(3), 10, 1, 3);
  assert.deepEqual([0, 1, 2].map((d) => drawn.filter((x) => x === d).length), [10, 10, 10]);
  assert.deepEqual(draws(documents, Uint32Array.of(2), 4, 1, 1), [2, 2, 2, 2]);
});

Deno.test("batches: maxTokens bounds every batch", () => {
  const documents = numbered(9);
  const sampler = new BatchSampler(pieces(documents, range(9)), 4, 1);
  assert.equal(sampler.maxTokens, 4 * 5);
  for (let b = 0; b < 30; b++) assert(sampler.batch(b).tokens.length <= sampler.maxTokens);
});

Deno.test("batches: what is dropped depends on the seed and the batch's number alone", () => {
  const sampler = (seed: number) =>
    new BatchSampler(pieces(numbered(9), range(9)), 4, seed, { dropout: 0.1, zLoss: 1e-4 });
  const [first, second] = [sampler(3), sampler(3)];
  const keys = [0, 1, 2, 3].map((b) => first.batch(b).regularization!.key);
  assert.equal(new Set(keys).size, 4);
  for (const b of [3, 1]) {
    assert.deepEqual(second.batch(b).regularization, { dropout: 0.1, key: keys[b], zLoss: 1e-4 });
  }
  assert.notEqual(sampler(4).batch(0).regularization!.key, keys[0]);
  assert.equal(new BatchSampler(pieces(numbered(9), range(9)), 4, 3).batch(0).regularization, undefined);
});

Deno.test("batches: a mask hides a share of the inputs, never a first one, and no target", () => {
  const documents = numbered(40);
  const mask = { share: 0.3, token: 7777 };
  const [plain, hidden, again] = [undefined, mask, mask].map((mask) =>
    new BatchSampler(pieces(documents, range(40)), 16, 3, { mask, dropout: 0, zLoss: 0 })
  );
  const places = new Set<string>();
  let [count, inputs] = [0, 0];
  for (const b of [5, 0, 1, 2, 3, 4]) {
    const { tokens, targets, starts } = plain!.batch(b);
    const masked = hidden!.batch(b);
    assert.deepEqual([masked.targets, masked.starts], [targets, starts]);
    for (const start of starts.subarray(0, -1)) assert.equal(masked.tokens[start], tokens[start]);
    const at = Array.from(masked.tokens.keys()).filter((t) => masked.tokens[t] === 7777);
    for (const t of tokens.keys()) assert(at.includes(t) || masked.tokens[t] === tokens[t]);
    places.add(String(at));
    count += at.length;
    inputs += tokens.length - 16;
  }
  assert.equal(places.size, 6);
  assert(Math.abs(count / inputs - 0.3) < 0.08, `${count} of ${inputs}`);
  // the batch's number is the only state
  assert.deepEqual(again!.batch(4), hidden!.batch(4));
});

Deno.test("batches: nothing to draw from is a mistake of the caller", () => {
  assert.throws(() => new BatchSampler(pieces(numbered(2), new Uint32Array(0)), 4, 1), RangeError);
});

Deno.test("batches in order: all documents, within both limits", () => {
  const documents = numbered(23);
  const indices = Uint32Array.of(20, 3, 4, 5, 9, 14, 0, 1, 2, 22);
  const seen: number[] = [];
  let batches = 0;
  for (const batch of batchesInOrder(pieces(documents, indices), 9, 3)) {
    assert(batch.tokens.length <= 9 && batch.starts.length <= 4);
    seen.push(...documentsIn(batch, documents));
    batches++;
  }
  assert.deepEqual(seen, [...indices]);
  assert(batches > 3);
  assert.deepEqual([...batchesInOrder(pieces(documents, new Uint32Array(0)), 9, 3)], []);
  assert.throws(() => [...batchesInOrder(pieces(documents, Uint32Array.of(4)), 4, 3)], RangeError);
});

Deno.test("permutation: the draws of a small one are what they were", () => {
  assert.deepEqual([...permutation(mixSeed(42), 12)], [6, 0, 10, 5, 9, 8, 4, 2, 7, 11, 1, 3]);
  const n = 2 ** 24;
  for (const i of [1, 77, n - 1]) {
    assert.equal(uniformInteger(5, i, n), Math.floor(uniform(5, i) * n));
  }
});

Deno.test("permutation: above 2^24 documents every place is reached", () => {
  // 24 bits times 2^26 are multiples of 4
  const n = 2 ** 26;
  const remainders = [0, 0, 0, 0];
  let high = 0;
  for (let i = 0; i < 4000; i++) {
    const draw = uniformInteger(mixSeed(1), i, n);
    assert(Number.isInteger(draw) && draw >= 0 && draw < n);
    remainders[draw % 4]!++;
    if (draw >= n / 2) high++;
  }
  for (const count of [...remainders, high / 2]) assert(Math.abs(count - 1000) < 120, `${count}`);
});

Deno.test("permutation: without a table every number comes once, in an order that the seed decides", () => {
  for (const n of [1, 2, 3, 1000, 4096, 5001]) {
    const order = (seed: number) => Array.from({ length: n }, (_, i) => shuffled(mixSeed(seed), n, 0)(i));
    const one = order(1);
    assert.deepEqual(one.toSorted((a, b) => a - b), [...range(n)]);
    assert.deepEqual(order(1), one);
    if (n > 3) assert.notDeepEqual(order(2), one);
  }
  const table = shuffled(mixSeed(42), 12);
  assert.deepEqual(Array.from(range(12), table), [...permutation(mixSeed(42), 12)]);
});

Deno.test("permutation: without a table neighbours are far apart, and places even", () => {
  const n = 100_000;
  const order = shuffled(mixSeed(3), n, 0);
  const quarters = [0, 0, 0, 0];
  let apart = 0;
  for (let i = 0; i < 4000; i++) {
    quarters[Math.floor(4 * order(i) / n)]!++;
    apart += Math.abs(order(i) - order(i + 1));
  }
  for (const count of quarters) assert(Math.abs(count - 1000) < 120, `${count}`);
  assert(Math.abs(apart / 4000 / n - 1 / 3) < 0.02, `${apart}`);
});
