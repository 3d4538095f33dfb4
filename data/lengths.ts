/** How long the documents are in real tokens, which is what to choose a block size by. */

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

/** Lengths that are counted in a table; longer ones are few. */
const TABLE = 1 << 16;

/** Lengths of any number of documents. Memory grows only with the number of different lengths. */
export class LengthCounts {
  readonly #short = new Float64Array(TABLE);
  readonly #long = new Map<number, number>();
  #documents = 0;
  #tokens = 0;

  /** @param entries lengths, and how many documents have each, see {@link entries} */
  constructor(entries: Iterable<[length: number, count: number]> = []) {
    for (const [length, count] of entries) this.#count(length, count);
  }

  #count(length: number, count: number): void {
    if (length < TABLE) this.#short[length]! += count;
    else this.#long.set(length, (this.#long.get(length) ?? 0) + count);
    this.#documents += count;
    this.#tokens += length * count;
  }

  /** Counts some more documents. @param lengths in tokens */
  add(lengths: Iterable<number>): void {
    for (const length of lengths) this.#count(length, 1);
  }

  /** Counts documents that lie end to end. @param offsets start of each, and the end of the last */
  addOffsets(offsets: Uint32Array): void {
    for (let d = 0; d + 1 < offsets.length; d++) this.#count(offsets[d + 1]! - offsets[d]!, 1);
  }

  /** How many documents there are. */
  get documents(): number {
    return this.#documents;
  }

  /** Tokens of all of them. */
  get tokens(): number {
    return this.#tokens;
  }

  /** Lengths that occur, ascending, and how many documents have each. */
  entries(): [length: number, count: number][] {
    const found: [number, number][] = [];
    this.#short.forEach((count, length) => count > 0 && found.push([length, count]));
    return [...found, ...[...this.#long].sort(([a], [b]) => a - b)];
  }

  /** How many documents have a length. */
  of(length: number): number {
    return length < TABLE ? this.#short[length]! : this.#long.get(length) ?? 0;
  }

  /** Tokens of all documents, of each at most so many. */
  upTo(most: number): number {
    return this.entries().reduce((sum, [length, count]) => sum + Math.min(length, most) * count, 0);
  }

  /** Tokens of documents with more than `limit` of them, and how many documents those are. */
  above(limit: number): { documents: number; tokens: number } {
    const above = { documents: 0, tokens: 0 };
    for (const [length, count] of this.entries()) {
      if (length <= limit) continue;
      above.documents += count;
      above.tokens += count * length;
    }
    return above;
  }

  /** The statistics of the documents counted, of which there must be at least one. */
  statistics(): LengthStatistics {
    const sorted = this.entries();
    const quantile = (q: number) => {
      const rank = Math.max(Math.ceil(q * this.#documents), 1);
      let below = 0;
      return sorted.find(([, count]) => (below += count) >= rank)![0];
    };
    const p90 = quantile(0.9);
    return {
      documents: this.#documents,
      tokens: this.#tokens,
      median: quantile(0.5),
      p90,
      p99: quantile(0.99),
      longest: quantile(1),
      // A block of B inputs holds a document of B + 1 ids.
      blockSizeFor90: Math.max(p90 - 1, 1),
      histogram: histogram(sorted, quantile(0.99)),
    };
  }
}

/**
 * Equal buckets of a round width up to p99; the last also takes the few longer ones, which would flatten the rest.
 * @param sorted lengths with how many documents have them, ascending
 */
function histogram(sorted: [length: number, count: number][], p99: number): LengthBucket[] {
  const shortest = sorted[0]![0];
  const width = roundUp((p99 + 1 - shortest) / MAX_BUCKETS);
  const first = Math.floor(shortest / width) * width;
  const buckets: LengthBucket[] = [];
  for (let from = first; from <= p99; from += width) buckets.push({ from, to: from + width - 1, count: 0 });
  for (const [length, count] of sorted) {
    buckets[Math.min(Math.floor((length - first) / width), buckets.length - 1)]!.count += count;
  }
  const last = buckets[buckets.length - 1]!;
  last.to = Math.max(last.to, sorted[sorted.length - 1]![0]);
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
