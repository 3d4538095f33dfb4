/** Text up to a stop sequence, which may come in pieces: what could be the start of one is held back. */

/** Looks for stop sequences in text that comes in pieces. */
export class StopText {
  readonly #stops: readonly string[];
  #held = "";
  #stopped = false;

  /** @param stops none of them empty */
  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** Whether a stop sequence was found. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** Takes the next piece. @returns what may be shown; nothing that belongs to a stop sequence */
  push(text: string): string {
    if (this.#stopped) return "";
    this.#held += text;
    const found = this.#stops.map((stop) => this.#held.indexOf(stop)).filter((at) => at >= 0);
    this.#stopped = found.length > 0;
    const shown = this.#stopped ? Math.min(...found) : this.#held.length - this.#beginning();
    const piece = this.#held.slice(0, shown);
    this.#held = this.#stopped ? "" : this.#held.slice(shown);
    return piece;
  }

  /** Ends the text. @returns what was held back, which is no stop sequence after all */
  flush(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  /** Length of the longest end of the text that is the start of a stop sequence. */
  #beginning(): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let n = Math.min(stop.length - 1, this.#held.length); n > longest; n--) {
        if (this.#held.endsWith(stop.slice(0, n))) longest = n;
      }
    }
    return longest;
  }
}
