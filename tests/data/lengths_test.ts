import assert from "node:assert/strict";
import { LengthCounts, type LengthStatistics, renderLengths } from "../../data/lengths.ts";

function statisticsOf(lengths: number[]): LengthStatistics {
  const counts = new LengthCounts();
  counts.add(lengths);
  return counts.statistics();
}

Deno.test("lengths: quantiles by nearest rank, whatever the order", () => {
  const lengths = Array.from({ length: 100 }, (_, i) => (i * 37) % 100 + 1); // 1 … 100, shuffled
  const statistics = statisticsOf(lengths);
  const { documents, tokens, median, p90, p99, longest, blockSizeFor90 } = statistics;
  assert.deepEqual(
    { documents, tokens, median, p90, p99, longest, blockSizeFor90 },
    { documents: 100, tokens: 5050, median: 50, p90: 90, p99: 99, longest: 100, blockSizeFor90: 89 },
  );
});

Deno.test("lengths: the block size named really holds 90 %, and the next smaller does not", () => {
  for (
    const lengths of [
      [3],
      [3, 9],
      [3, 3, 3, 3, 3, 3, 3, 3, 3, 50],
      Array.from({ length: 77 }, (_, i) => i + 2),
    ]
  ) {
    const block = statisticsOf(lengths).blockSizeFor90;
    const share = (b: number) => lengths.filter((length) => length <= b + 1).length / lengths.length;
    assert(share(block) >= 0.9);
    assert(share(block - 1) < 0.9);
  }
});

Deno.test("lengths: the histogram counts each document once, and one outlier does not flatten it", () => {
  const lengths = [...Array.from({ length: 400 }, (_, i) => 3 + i % 6), 5000];
  const { histogram } = statisticsOf(lengths);
  assert.equal(histogram.reduce((sum, bucket) => sum + bucket.count, 0), 401);
  assert.deepEqual(histogram.map(({ from, to }) => [from, to]), [
    [3, 3],
    [4, 4],
    [5, 5],
    [6, 6],
    [7, 7],
    [8, 5000],
  ]);
  assert.deepEqual(histogram.map(({ count }) => count), [67, 67, 67, 67, 66, 67]);
});

Deno.test("lengths: documents of one length", () => {
  const { histogram, median, longest } = statisticsOf([500, 500]);
  assert.deepEqual([median, longest], [500, 500]);
  assert.equal(histogram.at(-1)!.count, 2);
});

Deno.test("lengths: as text", () => {
  const lengths = [
    3,
    ...Array.from({ length: 80 }, () => 4),
    ...Array.from({ length: 40 }, () => 5),
    6,
    6,
    6,
  ];
  assert.deepEqual(renderLengths(statisticsOf(lengths), "documents"), [
    "lengths: 124 documents, median 4, p90 5, p99 6, longest 6 tokens",
    "  3  █ 1",
    `  4  ${"█".repeat(40)} 80`,
    `  5  ${"█".repeat(20)} 40`,
    "  6  ██ 3",
    "block size 4 holds 90 % of them",
  ]);
});
