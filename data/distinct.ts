/** Counts how many of a stream's documents are distinct, in bounded memory. */

/** Most hashes that are kept; a table of twice that size takes 64 MB. */
const MAX_KEPT = 1 << 22;

/**
 * Counts distinct hashes: all of them up to some millions, and from there on an estimate from those below a threshold,
 * which is halved whenever too many are kept (adaptive sampling, Flajolet 1990).
 */
export class DistinctCount {
  readonly #maxKept: number;
  /** Open addressing; −1 is an empty place. */
  #table = new Float64Array(1 << 12).fill(-1);
  #kept = 0;
  /** Hashes from here on are not looked at. */
  #threshold = 2 ** 53;

  /** @param maxKept most hashes to keep, a power of two */
  constructor(maxKept: number = MAX_KEPT) {
    this.#maxKept = maxKept;
  }

  /** Whether all were counted, rather than a sample. */
  get isExact(): boolean {
    return this.#threshold === 2 ** 53;
  }

  /** How many distinct hashes were added. */
  get count(): number {
    return Math.round(this.#kept * (2 ** 53 / this.#threshold));
  }

  /** @param hash evenly distributed, a whole number below 2^53 */
  add(hash: number): void {
    if (hash >= this.#threshold || !this.#insert(this.#table, hash)) return;
    this.#kept++;
    if (this.#kept > this.#maxKept) {
      this.#threshold /= 2;
      this.#rebuild(this.#table.length);
    } else if (this.#kept > this.#table.length / 2) this.#rebuild(2 * this.#table.length);
  }

  #rebuild(size: number): void {
    const old = this.#table;
    this.#table = new Float64Array(size).fill(-1);
    this.#kept = 0;
    for (const hash of old) {
      if (hash >= 0 && hash < this.#threshold && this.#insert(this.#table, hash)) this.#kept++;
    }
  }

  /** @returns whether it is new */
  #insert(table: Float64Array, hash: number): boolean {
    // the low bits: the high ones are all zero once the threshold has fallen
    let at = hash % table.length;
    while (table[at] !== -1) {
      if (table[at] === hash) return false;
      at = (at + 1) % table.length;
    }
    table[at] = hash;
    return true;
  }
}
