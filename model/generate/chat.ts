/** A conversation with a chat model. The key-value cache is kept between turns, so a turn costs its own tokens only. */
import { StreamDecoder } from "../../data/tokenizer.ts";
import { Decoder } from "./decoder.ts";
import { MicrogptError } from "../../device/errors.ts";
import { checkGenerateOptions, contextOf, type GenerationModel } from "./generation.ts";
import { samplingOf, type SamplingOptions } from "./sampling.ts";
import { noChatTokens, specialIds } from "./prompt.ts";
import { OwnScript, type Script, TemplateScript } from "./script.ts";

/** How to answer. */
export interface ChatOptions extends SamplingOptions {
  /** what the model is told before the conversation; where it takes no such message, it stands in front of the first one */
  system?: string;
}

/** What `ChatSession.send` takes beside the message. */
export interface SendOptions {
  /** ends the answer early; what was said stays in the conversation */
  signal?: AbortSignal;
  /** called before the answer when the conversation is too long, with the number of tokens forgotten at its start */
  onDropped?: (tokens: number) => void;
}

/** `<bos> <user> … <end_turn> <assistant>` and a few tokens of text must fit into three quarters of it. */
const SHORTEST_CONTEXT = 8;

/** A conversation; `LanguageModel.startChat` makes one. */
export class ChatSession implements Disposable {
  readonly #model: GenerationModel;
  readonly #options: ChatOptions;
  readonly #decoder: Decoder;
  readonly #script: Script;
  /** how many of the script's tokens have their keys and values in the cache */
  #cached = 0;
  #turns = 0;
  #answering = false;
  #closed = false;

  /**
   * @throws {MicrogptError} for options out of range, a model without chat tokens or with too short a context, or when
   * memory is short
   * @internal
   */
  constructor(model: GenerationModel, options: ChatOptions = {}) {
    checkGenerateOptions(options);
    const context = contextOf(model);
    this.#script = scriptOf(model, context, options.system);
    this.#model = model;
    this.#options = options;
    this.#decoder = new Decoder(model.device, model.config, model.weights, 1, context);
  }

  /**
   * Forgets the conversation.
   * @throws {Error} during an answer
   */
  clear(): void {
    this.#checkIdle();
    this.#script.clear();
    this.#cached = 0;
    this.#turns = 0;
  }

  /** Tokens of the conversation so far, special ones included. */
  get length(): number {
    return this.#script.tokens.length;
  }

  /**
   * Answers a message, in whole characters as they come. One answer at a time.
   * @throws {Error} during another answer
   * @throws {MicrogptError} once the conversation or its model is closed, or when a model's template refuses the message
   */
  async *send(message: string, { signal, onDropped }: SendOptions = {}): AsyncGenerator<string, void, void> {
    this.#checkIdle();
    if (this.#closed) throw new MicrogptError("the conversation is closed", { hint: "start another" });
    const { dropped, kept } = this.#script.ask(message);
    this.#cached = Math.min(this.#cached, kept);
    this.#answering = true;
    try {
      if (dropped > 0) onDropped?.(dropped);
      yield* this.#answer(signal);
    } finally {
      this.#script.answered();
      this.#answering = false;
    }
  }

  /**
   * Frees the device's memory; does nothing the second time, or after the model was closed. An answer under way ends
   * with an error.
   */
  close(): void {
    this.#closed = true;
    this.#decoder.close();
  }

  /** The same as `close`. */
  [Symbol.dispose](): void {
    this.close();
  }

  #checkIdle(): void {
    if (this.#answering) throw new Error("the answer before is not complete: iterate it to its end first");
  }

  /** Draws tokens after the conversation, which ends where the assistant speaks. */
  async *#answer(signal: AbortSignal | undefined): AsyncGenerator<string, void, void> {
    const script = this.#script;
    const { seed, ...drawn } = samplingOf(this.#options);
    const position = script.tokens.length - 1;
    this.#decoder.feed(0, script.tokens.slice(this.#cached, position), this.#cached);
    this.#cached = position;
    const token = script.tokens[position]!;
    const starts = [{ sequence: 0, token, position, seed: seed + this.#turns++, said: script.tokens }];
    const drawing = {
      ...drawn,
      suppressed: script.suppressed,
      stopTokens: script.stopTokens,
      minTokens: script.minTokens,
      ...(signal ? { signal } : {}),
    };
    const stream = new StreamDecoder(this.#model.tokenizer);
    for await (const [event] of this.#decoder.decode(starts, drawing)) {
      script.push(event!.tokens);
      // a token is fed to draw the next, so all but the last are in the cache
      this.#cached = script.tokens.length - 1;
      const text = event!.tokens.map((id) => stream.push(id)).join("");
      if (text !== "") yield text;
    }
    const rest = stream.flush();
    if (rest !== "") yield rest;
  }
}

/** @throws {MicrogptError} for a model without chat tokens or with too short a context */
function scriptOf({ tokenizer, foreign }: GenerationModel, context: number, system?: string): Script {
  if (foreign?.template) return new TemplateScript(tokenizer, context, foreign, system);
  const { bos, chat } = specialIds(tokenizer);
  if (!chat) throw noChatTokens();
  if (context < SHORTEST_CONTEXT) {
    throw new MicrogptError(`a context of ${context} tokens is too short for a conversation`, {
      hint: `train with \`blockSize\` ${SHORTEST_CONTEXT} or more`,
    });
  }
  return new OwnScript(tokenizer, context, { bos, ...chat }, system);
}
