/** How long the documents are, in real tokens: what a block size is chosen by. */

import type { TokenDocuments } from "./documents.ts";

/** One row of the histogram: documents of `from` … `to` tokens. */
export interface LengthBucket {
  /** shortest length */
  from: number;
  /** longest length */
  to: number;
  /** how many documents */
  count: number;
}

/** Lengths count all ids of a document, its special tokens too. Quantiles are lengths that occur (nearest rank). */
export interface LengthStatistics {
  /** how many */
  documents: number;
  /** of all of them */
  tokens: number;
  /** half are no longer */
  median: number;
  /** 90 % are no longer */
  p90: number;
  /** 99 % are no longer */
  p99: number;
  /** of all */
  longest: number;
  /** smallest block size that holds at least 90 % of the documents whole */
  blockSizeFor90: number;
  /** by length, at most about ten rows */
  histogram: LengthBucket[];
}

const MAX_BUCKETS = 10;
const BAR_WIDTH = 40;

/**
 * Measures documents before any is truncated.
 * @param documents at least one
 */
export function lengthStatistics(documents: TokenDocuments): LengthStatistics {
  const { offsets } = documents;
  const lengths = Uint32Array.from({ length: offsets.length - 1 }, (_, d) => offsets[d + 1]! - offsets[d]!)
    .sort();
  const quantile = (q: number) => lengths[Math.max(Math.ceil(q * lengths.length) - 1, 0)]!;
  const p90 = quantile(0.9);
  return {
    documents: lengths.length,
    tokens: offsets[offsets.length - 1]! - offsets[0]!,
    median: quantile(0.5),
    p90,
    p99: quantile(0.99),
    longest: quantile(1),
    // A block of B inputs holds a document of B + 1 ids.
    blockSizeFor90: Math.max(p90 - 1, 1),
    histogram: histogram(lengths, quantile(0.99)),
  };
}

/** Equal buckets of a round width up to p99; the last also takes the few longer ones, which would flatten all others. */
function histogram(sorted: Uint32Array, p99: number): LengthBucket[] {
  const width = roundUp((p99 + 1 - sorted[0]!) / MAX_BUCKETS);
  const first = Math.floor(sorted[0]! / width) * width;
  const buckets: LengthBucket[] = [];
  for (let from = first; from <= p99; from += width) buckets.push({ from, to: from + width - 1, count: 0 });
  for (const length of sorted) {
    buckets[Math.min(Math.floor((length - first) / width), buckets.length - 1)]!.count++;
  }
  const last = buckets[buckets.length - 1]!;
  last.to = Math.max(last.to, sorted[sorted.length - 1]!);
  return buckets;
}

/** The next number of one digit followed by zeros. */
function roundUp(x: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(x, 1)));
  return Math.ceil(x / power) * power;
}

/**
 * The statistics as lines of text.
 * @param unit what one document is called, in the plural: "documents" or "conversations"
 */
export function renderLengths(statistics: LengthStatistics, unit: string): string[] {
  const { histogram } = statistics;
  const labels = histogram.map(({ from, to }) => from === to ? `${from}` : `${from}–${to}`);
  const labelWidth = Math.max(...labels.map((label) => label.length));
  const most = Math.max(...histogram.map((bucket) => bucket.count));
  const bars = histogram.map(({ count }, i) => {
    const bar = "█".repeat(Math.round((count / most) * BAR_WIDTH)) || (count > 0 ? "▏" : "");
    return `  ${labels[i]!.padStart(labelWidth)}  ${bar} ${count}`;
  });
  return [
    `lengths: ${statistics.documents} ${unit}, median ${statistics.median}, p90 ${statistics.p90}, ` +
    `p99 ${statistics.p99}, longest ${statistics.longest} tokens`,
    ...bars,
    `block size ${statistics.blockSizeFor90} holds 90 % of them`,
  ];
}
