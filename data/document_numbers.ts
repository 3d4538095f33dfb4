/** Numbers of documents, ascending: a list, or all but a few, which takes no memory for the rest. A `Uint32Array` is one. */
export interface DocumentNumbers extends Iterable<number> {
  /** how many */
  readonly length: number;
  /** the one at a place from 0 on; undefined behind the last */
  at(place: number): number | undefined;
}

/** All numbers from 0 on, but some. */
export class AllBut implements DocumentNumbers {
  readonly length: number;
  readonly #count: number;

  /**
   * @param count of all
   * @param out those that are left out, ascending
   */
  constructor(count: number, readonly out: Uint32Array = new Uint32Array()) {
    this.#count = count;
    this.length = count - out.length;
  }

  at(place: number): number | undefined {
    return place < this.length ? place + this.#outUpTo((i) => this.out[i]! - i <= place) : undefined;
  }

  /** The place of a number; undefined where it is left out. */
  placeOf(number: number): number | undefined {
    const below = this.#outUpTo((i) => this.out[i]! < number);
    return this.out[below] === number ? undefined : number - below;
  }

  /** How many of `out` fulfil a condition that the first ones do. */
  #outUpTo(fulfils: (i: number) => boolean): number {
    let [low, high] = [0, this.out.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (fulfils(middle)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  *[Symbol.iterator](): IterableIterator<number> {
    for (let d = 0, next = 0; d < this.#count; d++) {
      if (this.out[next] === d) next++;
      else yield d;
    }
  }
}
