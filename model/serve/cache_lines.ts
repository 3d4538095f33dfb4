/**
 * The decoder's cache lines, and what earlier prompts left in them. A request gets the line whose prompt begins like its
 * own, or a copy of it, and goes on from there.
 *
 * Prompts are fed in chunks whose borders are multiples of `CHUNK`, and only whole chunks are found again: then a token's
 * keys and values come from the same rows whether they were found or not, and so do the bits of what is drawn. What was
 * drawn is not found again: its keys and values were made one row at a time.
 */

/** Rows of a prompt that are fed together. */
export const CHUNK = 64;

/** A cache line. */
export interface Line {
  readonly index: number;
  /** the prompt whose keys and values it holds, from position 0 */
  ids: readonly number[];
  /** so many of them, whole chunks, are there */
  kept: number;
  busy: boolean;
  /** when it was last taken, in takes */
  used: number;
}

/** What a request got. */
export interface Taken {
  line: Line;
  /** tokens of its prompt that are in the line */
  kept: number;
}

/** Gives out the lines of a decoder. */
export class CacheLines {
  readonly #lines: Line[];
  readonly #copy: (from: number, length: number, to: number) => void;
  #takes = 0;

  /** @param copy copies the first positions of a line to another */
  constructor(count: number, copy: (from: number, length: number, to: number) => void) {
    this.#lines = Array.from(
      { length: count },
      (_, index) => ({ index, ids: [], kept: 0, busy: false, used: 0 }),
    );
    this.#copy = copy;
  }

  /** Lines that nobody uses. */
  get free(): number {
    return this.#lines.filter((line) => !line.busy).length;
  }

  /**
   * Takes a line for a prompt.
   * @param reuse false: nothing that an earlier prompt left
   * @returns undefined when all are busy
   */
  take(ids: readonly number[], reuse = true): Taken | undefined {
    const free = this.#lines.filter((line) => !line.busy);
    if (free.length === 0) return undefined;
    const oldest = free.reduce((best, line) => line.used < best.used ? line : best);
    const [source, kept] = reuse ? this.#longest(ids) : [oldest, 0];
    // a line of which most is wanted is gone on with; of another the start is copied, so that its own prompt stays
    const line = source.busy || 2 * kept < source.kept ? oldest : source;
    if (line !== source && kept > 0) this.#copy(source.index, kept, line.index);
    line.busy = true;
    line.used = ++this.#takes;
    line.ids = ids;
    line.kept = kept;
    return { line, kept };
  }

  /** Notes that so many tokens of a line's prompt were fed. */
  fed(line: Line, tokens: number): void {
    line.kept = Math.max(line.kept, wholeChunks(tokens));
  }

  /** Gives a line back; its prompt stays until the line is taken for another. */
  release(line: Line): void {
    line.busy = false;
  }

  /** The line that holds most of a prompt's start, and how many tokens; the last token is always fed. */
  #longest(ids: readonly number[]): [Line, number] {
    let best = this.#lines[0]!;
    let most = 0;
    for (const line of this.#lines) {
      const end = Math.min(line.kept, ids.length - 1);
      let same = 0;
      while (same < end && line.ids[same] === ids[same]) same++;
      const kept = wholeChunks(same);
      if (kept > most || (kept === most && kept > 0 && best.busy && !line.busy)) [best, most] = [line, kept];
    }
    return [best, most];
  }
}

/** A number of tokens down to a border between chunks. */
function wholeChunks(tokens: number): number {
  return tokens - tokens % CHUNK;
}
