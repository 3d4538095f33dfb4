/** Text of a model or a file, without what a terminal would take as a command. */

const ESC = "\x1b";
/** After ESC: what begins a control sequence, and what begins a string that goes on to its terminator. */
const SEQUENCE = "[";
const STRING = "]P^_X";
/** The same as one character each, which eight-bit terminals know. */
const C1_SEQUENCE = "\x9b";
const C1_STRING = "\x9d\x90\x9e\x9f\x98";
const BELL = "\x07";
const C1_TERMINATOR = "\x9c";
/** Most characters to wait for a terminator. */
const LONGEST_SEQUENCE = 256;

/** Control characters except tab and line feed. */
// deno-lint-ignore no-control-regex
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/;

type State = "text" | "escape" | "sequence" | "string";

/**
 * Removes control characters and whole escape sequences from text that comes in pieces, wherever the pieces are split.
 */
export class HarmlessText {
  #state: State = "text";
  #length = 0;

  /** @returns what of the next piece may be shown */
  push(text: string): string {
    if (this.#state === "text" && !CONTROL.test(text)) return text;
    let shown = "";
    for (const c of text) shown += this.#next(c);
    return shown;
  }

  #next(c: string): string {
    const within = this.#state !== "text" && ++this.#length < LONGEST_SEQUENCE && c !== "\n";
    if (c === ESC) return this.#enter("escape");
    if (c === C1_SEQUENCE) return this.#enter("sequence");
    if (C1_STRING.includes(c)) return this.#enter("string");
    if (!within) this.#state = "text";
    switch (this.#state) {
      case "text":
        return CONTROL.test(c) ? "" : c;
      case "escape":
        if (c === SEQUENCE) return this.#enter("sequence");
        if (STRING.includes(c)) return this.#enter("string");
        // intermediate characters, then one that ends it
        if (c < " " || c > "/") this.#state = "text";
        return "";
      case "sequence":
        if (c >= "@") this.#state = "text";
        return c > "~" ? this.#next(c) : "";
      case "string":
        if (c === BELL || c === C1_TERMINATOR) this.#state = "text";
        return "";
    }
  }

  #enter(state: State): string {
    this.#state = state;
    this.#length = 0;
    return "";
  }
}

/** A whole text without control characters and escape sequences. */
export function harmless(text: string): string {
  return new HarmlessText().push(text);
}

/** The same, trimmed and on one line. */
export function harmlessLine(text: string): string {
  return harmless(text).trim().replace(/\s*\n\s*/g, " ");
}
