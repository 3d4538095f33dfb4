/** Lines that come from a pipe or a file. */
import { MicrogptError } from "../mod.ts";
import type { LineReader } from "./line_editor.ts";

/** A longer line is not a message. */
const MAX_LINE_BYTES = 4 << 20;

/** Reads lines without prompts: each as soon as it is there. */
export class PipedLines implements LineReader {
  onInterrupt: (() => void) | undefined;
  readonly #reader = Deno.stdin.readable.getReader();
  readonly #utf8 = new TextDecoder("utf-8", { fatal: true });
  readonly #complete: string[] = [];
  /** the start of a line whose end has not come */
  #begun: string[] = [];
  #begunLength = 0;
  #lines = 0;
  /** a line ended with \r; should \n come next, it belongs to that end */
  #afterReturn = false;
  #ended = false;

  /** @throws {MicrogptError} for text that is not UTF-8, a line above MAX_LINE_BYTES, or a failed read */
  async next(): Promise<string | undefined> {
    while (this.#complete.length === 0 && !this.#ended) await this.#readMore();
    return this.#complete.shift();
  }

  close(): void {
    // whatever came of the input, nothing more is wanted of it
    this.#reader.cancel().catch(() => undefined);
  }

  async #readMore(): Promise<void> {
    const { done, value } = await this.#reader.read().catch((error) => {
      throw new MicrogptError(`cannot read standard input: ${(error as Error).message}`, { cause: error });
    });
    let text = this.#decode(value);
    if (text !== "") {
      if (this.#afterReturn && text.startsWith("\n")) text = text.slice(1);
      this.#afterReturn = text.endsWith("\r");
    }
    const [first, ...others] = text.split(/\r\n|\n|\r/);
    this.#begin(first!);
    for (const line of others) {
      this.#end();
      this.#begin(line);
    }
    if (!done) return;
    this.#ended = true;
    if (this.#begunLength > 0) this.#end();
  }

  /** @param bytes none at the end of the input */
  #decode(bytes: Uint8Array | undefined): string {
    try {
      return this.#utf8.decode(bytes, { stream: bytes !== undefined });
    } catch {
      throw new MicrogptError(`standard input is not valid UTF-8 at line ${this.#lines + 1} or after`, {
        hint: "convert it to UTF-8 first, for example with iconv",
      });
    }
  }

  #begin(text: string): void {
    this.#begun.push(text);
    this.#begunLength += text.length;
    if (this.#begunLength <= MAX_LINE_BYTES) return;
    throw new MicrogptError(
      `standard input line ${this.#lines + 1} is longer than ${MAX_LINE_BYTES >> 20} MB`,
      {
        hint: "each line is a message; split it",
      },
    );
  }

  #end(): void {
    this.#complete.push(this.#begun.join(""));
    this.#begun = [];
    this.#begunLength = 0;
    this.#lines++;
  }
}
