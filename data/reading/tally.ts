/** Counts what is left out or changed while a corpus is read, or stops there. */

import { MicrogptError } from "../../device/errors.ts";

/** Why a document or conversation is left out. */
export type SkipReason =
  | "empty"
  | "no assistant turn"
  | "tool calls"
  | "images or other content that is no text"
  | "no text in the field"
  | "another number of columns than the header";

/** What is done to a document or conversation that is kept. */
export type Cleanup =
  | "white space at its ends removed"
  | "trailing user turn removed"
  | "system text put in front of a user message"
  | "system text kept"
  | "empty message kept";

/** Counts of one reading of a corpus. */
export class Tally {
  readonly skipped = new Map<SkipReason, number>();
  readonly cleaned = new Map<Cleanup, number>();
  readonly #strict: boolean;

  /** @param strict stop at what would be skipped */
  constructor(strict: boolean) {
    this.#strict = strict;
  }

  /**
   * Leaves something out.
   * @param where names file and line
   * @throws {MicrogptError} when reading is strict
   */
  skip(reason: SkipReason, where: () => string): void {
    // an unanswered conversation is nothing unusual, and their count has always been printed
    if (this.#strict && reason !== "no assistant turn") {
      throw new MicrogptError(`${where()}: ${reason}`, {
        hint: "without `strict` it is skipped and counted",
      });
    }
    add(this.skipped, reason, 1);
  }

  /** Leaves out documents of plain text that are white space alone, which is nothing unusual. */
  leaveOutEmpty(times = 1): void {
    if (times > 0) add(this.skipped, "empty", times);
  }

  /** Notes that a conversation was changed, or how many of its messages were. */
  clean(cleanup: Cleanup, times = 1): void {
    if (times > 0) add(this.cleaned, cleanup, times);
  }
}

function add<Key>(counts: Map<Key, number>, key: Key, n: number): void {
  counts.set(key, (counts.get(key) ?? 0) + n);
}
