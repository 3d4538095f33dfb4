/** The documents of a step, dealt out to micro-batches that take about as long. */
import assert from "node:assert/strict";
import type { PackedDocuments } from "../../../device/device.ts";
import { mixSeed, normal } from "../../../device/random.ts";
import { dealtBatches } from "../../../model/train/dealing.ts";

/** Document d is d d d …, its targets d + 1. */
function batchOf(documents: { id: number; length: number }[]): PackedDocuments {
  const flat = (shift: number) =>
    Uint32Array.from(documents.flatMap(({ id, length }) => Array(length).fill(id + shift)));
  const starts = [0];
  for (const { length } of documents) starts.push(starts.at(-1)! + length);
  return { tokens: flat(0), targets: flat(1), starts: Uint32Array.from(starts) };
}

/** A step of batches of four, of very mixed lengths. */
function stepOf(microBatches: number): PackedDocuments[] {
  const length = (id: number) => Math.ceil(30 * Math.exp(0.6 * normal(mixSeed(1), id)));
  return Array.from({ length: microBatches }, (_, i) => {
    return batchOf([0, 1, 2, 3].map((j) => ({ id: 10 * (4 * i + j), length: length(4 * i + j) })));
  });
}

/** Documents as text, to be compared. */
function texts({ tokens, targets, starts }: PackedDocuments): string[] {
  return Array.from({ length: starts.length - 1 }, (_, i) => {
    return `${tokens.subarray(starts[i], starts[i + 1])} → ${targets.subarray(starts[i], starts[i + 1])}`;
  });
}

const cost = (length: number) => length;
const deal = (step: PackedDocuments[], first = 0, count = step.length) =>
  dealtBatches({ microBatches: step.length, first, count }, (i) => step[i]!, cost);

Deno.test("every document of a step is dealt out once, as many to each micro-batch", () => {
  for (const microBatches of [1, 2, 3, 8, 70]) {
    const step = stepOf(microBatches);
    const dealt = deal(step);
    assert.deepEqual(dealt.flatMap(texts).sort(), step.flatMap(texts).sort());
    assert.deepEqual(dealt.map(({ starts }) => starts.length), Array(microBatches).fill(5));
  }
});

Deno.test("a rank gets its micro-batches of the same deal, however many ranks there are", () => {
  for (const microBatches of [8, 128]) {
    const step = stepOf(microBatches);
    const whole = deal(step);
    for (const ranks of [2, 4, 8]) {
      const count = microBatches / ranks;
      const shares = Array.from({ length: ranks }, (_, rank) => deal(step, rank * count, count));
      assert.deepEqual(shares.flat(), whole);
    }
  }
});

Deno.test("a micro-batch drops what its number says, whatever documents it got and on whichever rank", () => {
  const step = stepOf(8).map((documents, key) => ({
    ...documents,
    regularization: { dropout: 0.1, key, zLoss: 0 },
  }));
  const keys = [0, 4].flatMap((first) =>
    deal(step, first, 4).map(({ regularization }) => regularization!.key)
  );
  assert.deepEqual(keys, [0, 1, 2, 3, 4, 5, 6, 7]);
});

Deno.test("ranks have about the same to compute", () => {
  const slowest = (step: PackedDocuments[], ranks: number) => {
    const shares = Array.from(
      { length: ranks },
      (_, rank) =>
        step.slice(rank * step.length / ranks, (rank + 1) * step.length / ranks)
          .reduce((sum, { tokens }) => sum + tokens.length, 0),
    );
    return Math.max(...shares) / (shares.reduce((a, b) => a + b) / ranks);
  };
  for (const [microBatches, ranks] of [[8, 2], [8, 4], [16, 16], [64, 8]] as const) {
    const step = stepOf(microBatches);
    const [drawn, dealt] = [slowest(step, ranks) - 1, slowest(deal(step), ranks) - 1];
    assert(dealt < drawn / 2, `${ranks} ranks: the slowest has ${drawn} too much, dealt out ${dealt}`);
  }
});

Deno.test("arrays that are used again for the next batch do no harm", () => {
  const step = stepOf(4);
  const shared = { tokens: new Uint32Array(5000), targets: new Uint32Array(5000) };
  const dealt = dealtBatches({ microBatches: 4, first: 0, count: 4 }, (i) => {
    const { tokens, targets, starts } = step[i]!;
    shared.tokens.set(tokens);
    shared.targets.set(targets);
    return {
      tokens: shared.tokens.subarray(0, tokens.length),
      targets: shared.targets.subarray(0, targets.length),
      starts,
    };
  }, cost);
  assert.deepEqual(dealt, deal(step));
});

Deno.test("how much a target counts goes with it", () => {
  const step = stepOf(4).map((batch) => ({
    ...batch,
    weights: Float32Array.from(batch.targets, (id) => id % 3),
  }));
  for (const { targets, weights } of deal(step)) {
    assert.deepEqual([...weights!], Array.from(targets, (id) => id % 3));
  }
});
