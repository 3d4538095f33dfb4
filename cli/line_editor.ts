/** Lines that a person types, with line editing and history. */
import { Buffer } from "node:buffer";
import process from "node:process";
import { createInterface, type Interface } from "node:readline";
import { PassThrough, Writable } from "node:stream";
import { MARK_NO_PASTES, MARK_PASTES, PasteReader, withLineEnds } from "./paste_reader.ts";
import { isTerminal } from "./terminal.ts";

/** Where lines come from. */
export interface LineReader {
  /** The next line, or undefined at the end of the input. */
  next(): Promise<string | undefined>;
  /** What Ctrl-C does until the next line is asked for. */
  onInterrupt: (() => void) | undefined;
  close(): void;
}

/** The terminal as readline sees it: silent while an answer is being written. */
class PromptOutput extends Writable {
  muted = true;

  /** @param stream "stdout", or "stderr" where stdout is not the terminal */
  constructor(readonly stream: "stdout" | "stderr") {
    super();
  }

  get columns(): number {
    return Deno.consoleSize().columns || 80;
  }

  override _write(chunk: Uint8Array, _encoding: string, done: () => void): void {
    for (let at = 0; !this.muted && at < chunk.length;) at += Deno[this.stream].writeSync(chunk.subarray(at));
    done();
  }
}

/** What readline reads from: it is given what is typed, and switches the terminal itself to single keys. */
class TypedInput extends PassThrough {
  setRawMode(raw: boolean): void {
    process.stdin.setRawMode(raw);
  }
}

/**
 * Lines typed at a prompt. What is typed while no line is asked for is kept for the next. Lines that are pasted together
 * are edited as one, with a sign for each end, and given as they were.
 */
export class LineEditor implements LineReader {
  onInterrupt: (() => void) | undefined;
  readonly #output = new PromptOutput(Deno.stdout.isTerminal() ? "stdout" : "stderr");
  readonly #readline: Interface;
  readonly #prompt: string;
  readonly #typedAhead: string[] = [];
  readonly #input = new TypedInput();
  readonly #pastes = new PasteReader({
    // readline takes a key at a time, and looks at the whole line for each
    typed: (text) => this.#input.emit("data", Buffer.from(text)),
    pasted: (text) => this.#readline.write(text),
  });
  #waiting: ((line: string | undefined) => void) | undefined;
  #interrupted = false;
  #closed = false;

  /** @param prompt what stands before each line; without styles, its length counts */
  constructor(prompt: string) {
    this.#prompt = prompt;
    this.#readline = createInterface({
      input: this.#input,
      output: this.#output,
      terminal: true,
      prompt,
      historySize: 1000,
      removeHistoryDuplicates: true,
    });
    if (isTerminal(Deno[this.#output.stream])) this.#write(MARK_PASTES);
    process.stdin.on("data", this.#read);
    process.stdin.on("end", this.#end);
    this.#readline.on("line", (line: string) => this.#give(withLineEnds(line)));
    this.#readline.on("SIGINT", () => this.#interrupt());
    this.#readline.on("close", () => {
      this.#closed = true;
      process.stdin.off("data", this.#read);
      process.stdin.off("end", this.#end);
      if (isTerminal(Deno[this.#output.stream])) this.#write(MARK_NO_PASTES);
      this.onInterrupt?.();
      this.#give(undefined);
    });
  }

  next(): Promise<string | undefined> {
    this.onInterrupt = undefined;
    const typed = this.#typedAhead.shift();
    if (typed !== undefined) {
      this.#write(`${this.#prompt}${typed}\n`);
      return Promise.resolve(typed);
    }
    if (this.#closed) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      this.#waiting = resolve;
      this.#output.muted = false;
      this.#readline.prompt(true);
    });
  }

  close(): void {
    this.#readline.close();
  }

  readonly #read = (bytes: Uint8Array): void => this.#pastes.push(bytes);
  readonly #end = (): void => this.close();

  #give(line: string | undefined): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    this.#interrupted = false;
    this.#output.muted = true;
    if (waiting) waiting(line);
    else if (line !== undefined) this.#typedAhead.push(line);
  }

  /** Ctrl-C: stops the answer, or clears the line, or, the second time on an empty line, ends. */
  #interrupt(): void {
    if (this.onInterrupt) return this.onInterrupt();
    if (this.#readline.line !== "") {
      this.#readline.write(null, { ctrl: true, name: "e" });
      this.#readline.write(null, { ctrl: true, name: "u" });
    } else if (this.#interrupted) {
      this.#write("\n");
      this.close();
    } else {
      this.#interrupted = true;
      this.#write("\nCtrl-C again, Ctrl-D or /quit ends the conversation\n");
      this.#readline.prompt();
    }
  }

  #write(text: string): void {
    const { muted } = this.#output;
    this.#output.muted = false;
    this.#output.write(text);
    this.#output.muted = muted;
  }
}
