/** Tells what is pasted into a terminal from what is typed, where the terminal marks it (xterm's bracketed paste). */

import { harmless } from "./harmless.ts";

/** Asks the terminal to mark pastes. */
export const MARK_PASTES = "\x1b[?2004h";
/** Asks it to leave that. */
export const MARK_NO_PASTES = "\x1b[?2004l";

const BEGIN = "\x1b[200~";
const END = "\x1b[201~";
const CTRL_C = "\x03";
/** Stands for a line's end in a line that is edited. */
const LINE_END = "\u2424";

/** A line as it was pasted. */
export function withLineEnds(line: string): string {
  return line.replaceAll(LINE_END, "\n");
}

/** Where keys and pastes go, in their order. */
export interface PasteTarget {
  /** keys, as the terminal sends them */
  typed(text: string): void;
  /** a whole paste on one line, without what the terminal would obey; `withLineEnds` gives its lines back */
  pasted(text: string): void;
}

/** Reads a terminal's input, in pieces that may end within a mark or a character. */
export class PasteReader {
  readonly #target: PasteTarget;
  readonly #utf8 = new TextDecoder();
  /** the start of a mark, or of a paste whose end has not come */
  #held = "";
  #pasting = false;

  constructor(target: PasteTarget) {
    this.#target = target;
  }

  push(bytes: Uint8Array): void {
    const piece = this.#utf8.decode(bytes, { stream: true });
    // a terminal that forgot to end a paste must not swallow Ctrl-C
    if (this.#pasting && piece === CTRL_C) {
      this.#pasting = false;
      this.#held = "";
    }
    let text = this.#held + piece;
    for (let at; (at = text.indexOf(this.#pasting ? END : BEGIN)) >= 0;) {
      this.#give(text.slice(0, at));
      text = text.slice(at + BEGIN.length);
      this.#pasting = !this.#pasting;
    }
    const held = this.#pasting ? text.length : begunMark(text);
    this.#give(text.slice(0, text.length - held));
    this.#held = text.slice(text.length - held);
  }

  #give(text: string): void {
    if (text === "") return;
    if (this.#pasting) this.#target.pasted(harmless(text.replace(/\r\n|\r|\n/g, LINE_END)));
    else this.#target.typed(text);
  }
}

/**
 * Length of the mark's start that a text ends with; a lone Escape is more likely the key, which must not be held back.
 */
function begunMark(text: string): number {
  for (let length = BEGIN.length - 1; length > 1; length--) {
    if (text.endsWith(BEGIN.slice(0, length))) return length;
  }
  return 0;
}
