/** How a conversation becomes tokens: as this program's own chat models learned it, or by a model's chat template. */
import type { Tokenizer } from "../../data/tokenizer.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { TemplateMessage } from "./chat_template.ts";
import type { ForeignRules } from "./foreign.ts";

/** What a message came to. */
export interface Asked {
  /** so many tokens at the start of the conversation were forgotten for it */
  dropped: number;
  /** so many tokens at the front are what they were before */
  kept: number;
}

/** The tokens of a conversation, which grow by messages and answers. */
export interface Script {
  /** the conversation so far; after `ask` they end where the answer begins */
  readonly tokens: readonly number[];
  readonly suppressed: number[];
  /** any of them ends an answer */
  readonly stopTokens: readonly number[];
  /** tokens that an answer has at least */
  readonly minTokens: number;
  /** Adds a message. @throws {MicrogptError} when it cannot be; the conversation is then as it was */
  ask(message: string): Asked;
  /** Adds tokens of the answer. */
  push(tokens: readonly number[]): void;
  /** Ends the answer. */
  answered(): void;
  /** Forgets all. */
  clear(): void;
}

/** Of a context, what a conversation may fill before an answer. */
function longest(context: number): number {
  return context - Math.ceil(context / 4);
}

/** A first message that brings the system's, as in training. */
function afterSystem(system: string, message: string): string {
  return system === "" ? message : `${system}\n\n${message}`;
}

/** How far two lists, or texts, are the same from their start. */
export function commonLength<T>(a: ArrayLike<T>, b: ArrayLike<T>): number {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
}

/** The turns of this program's own models: `<bos> <user> … <end_turn> <assistant> … <end_turn>`. */
export class OwnScript implements Script {
  readonly suppressed: number[];
  readonly stopTokens: readonly number[];
  readonly minTokens = 1;
  readonly #tokenizer: Tokenizer;
  readonly #context: number;
  readonly #ids: { bos: number; user: number; assistant: number; endTurn: number };
  readonly #system: string;
  #tokens: number[];

  /** @param system stands in front of the first message, since these models have no place of its own for it */
  constructor(
    tokenizer: Tokenizer,
    context: number,
    ids: { bos: number; user: number; assistant: number; endTurn: number },
    system = "",
  ) {
    this.#system = system;
    this.#tokenizer = tokenizer;
    this.#context = context;
    this.#ids = ids;
    this.#tokens = [ids.bos];
    this.suppressed = [ids.bos, ids.user, ids.assistant];
    this.stopTokens = [ids.endTurn];
  }

  get tokens(): readonly number[] {
    return this.#tokens;
  }

  ask(message: string): Asked {
    const ids = this.#tokenizer.encodeOne(
      this.#tokens.length === 1 ? afterSystem(this.#system, message) : message,
    );
    const { user, assistant, endTurn } = this.#ids;
    const before = this.#tokens.length;
    // no `push(...ids)`: a long message has more ids than a call may have arguments
    this.#tokens = [...this.#tokens, user, ...ids, endTurn, assistant];
    const dropped = this.#truncate();
    return { dropped, kept: dropped > 0 ? 0 : before };
  }

  push(tokens: readonly number[]): void {
    this.#tokens.push(...tokens);
  }

  answered(): void {
    this.#tokens.push(this.#ids.endTurn);
  }

  clear(): void {
    this.#tokens = [this.#ids.bos];
  }

  /**
   * Cuts the conversation to the context less a quarter, which is for the answer: at the start of a user's turn, with
   * `<bos>` in front again. Of a last message that is too long by itself the end is kept.
   * @returns tokens dropped
   */
  #truncate(): number {
    const { bos, user } = this.#ids;
    const { length } = this.#tokens;
    const limit = longest(this.#context);
    if (length <= limit) return 0;
    const turn = this.#tokens.indexOf(user, length - (limit - 1));
    const kept = turn === -1 ? [user, ...this.#tokens.slice(length - (limit - 2))] : this.#tokens.slice(turn);
    this.#tokens = [bos, ...kept];
    return length - this.#tokens.length;
  }
}

/** A model of others: the template writes the whole conversation anew each turn, and what its front has in common stays. */
export class TemplateScript implements Script {
  readonly suppressed: number[];
  readonly stopTokens: readonly number[];
  readonly minTokens = 0;
  readonly #tokenizer: Tokenizer;
  readonly #context: number;
  readonly #template: NonNullable<ForeignRules["template"]>;
  /** in front of all messages, where the template takes it; else in front of the first one's text */
  readonly #system: TemplateMessage[] = [];
  readonly #front: string = "";
  #messages: TemplateMessage[] = [];
  #tokens: number[] = [];
  #answer: number[] = [];

  /** @param rules with a template @param system stays in front of the conversation */
  constructor(tokenizer: Tokenizer, context: number, rules: ForeignRules, system = "") {
    this.#tokenizer = tokenizer;
    this.#context = context;
    this.#template = rules.template!;
    if (system !== "" && this.#template.keepsSystem) this.#system = [{ role: "system", content: system }];
    else this.#front = system;
    this.suppressed = rules.suppressed;
    this.stopTokens = rules.eos;
  }

  get tokens(): readonly number[] {
    return this.#tokens;
  }

  ask(message: string): Asked {
    const limit = longest(this.#context);
    const content = this.#messages.length === 0 ? afterSystem(this.#front, message) : message;
    let messages: TemplateMessage[] = [...this.#messages, { role: "user", content }];
    let tokens = this.#encode(messages);
    const whole = tokens.length;
    // a question goes with its answer: templates want the user to begin
    while (tokens.length > limit && messages.length > 2) {
      messages = messages.slice(2);
      tokens = this.#encode(messages);
    }
    if (tokens.length > limit) {
      throw new MicrogptError(
        `the message makes a prompt of ${tokens.length} tokens, of a context of ${this.#context} it may be ${limit}`,
        { hint: "shorten the message" },
      );
    }
    const kept = commonLength(this.#tokens, tokens);
    this.#messages = messages;
    this.#tokens = tokens;
    this.#answer = [];
    return { dropped: whole - tokens.length, kept };
  }

  #encode(messages: TemplateMessage[]): number[] {
    return this.#template.encode([...this.#system, ...messages]);
  }

  push(tokens: readonly number[]): void {
    this.#tokens.push(...tokens);
    this.#answer.push(...tokens);
  }

  answered(): void {
    this.#messages.push({ role: "assistant", content: this.#tokenizer.decode(this.#answer) });
  }

  clear(): void {
    this.#messages = [];
    this.#tokens = [];
  }
}
