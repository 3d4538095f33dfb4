/** A conversation with a chat model. The key-value cache is kept between turns, so a turn costs its own tokens only. */
import { StreamDecoder } from "../../data/tokenizer.ts";
import { Decoder } from "./decoder.ts";
import { MicrogptError } from "../../device/errors.ts";
import { checkGenerateOptions, type GenerationModel } from "./generation.ts";
import { samplingOf, type SamplingOptions } from "./sampling.ts";
import { noChatTokens, specialIds } from "./prompt.ts";

/** How to answer. */
export type ChatOptions = SamplingOptions;

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
  readonly #ids: { bos: number; user: number; assistant: number; endTurn: number };
  /** the conversation so far, `<bos>` first */
  #tokens: number[];
  /** how many of them have their keys and values in the cache */
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
    const { bos, chat } = specialIds(model.tokenizer);
    if (!chat) throw noChatTokens();
    const context = model.config.block_size;
    if (context < SHORTEST_CONTEXT) {
      throw new MicrogptError(`a context of ${context} tokens is too short for a conversation`, {
        hint: `train with \`blockSize\` ${SHORTEST_CONTEXT} or more`,
      });
    }
    this.#model = model;
    this.#options = options;
    this.#ids = { bos, ...chat };
    this.#tokens = [bos];
    this.#decoder = new Decoder(model.device, model.config, model.weights, 1, context);
  }

  /**
   * Forgets the conversation.
   * @throws {Error} during an answer
   */
  clear(): void {
    this.#checkIdle();
    this.#tokens = [this.#ids.bos];
    this.#cached = 0;
    this.#turns = 0;
  }

  /** Tokens of the conversation so far, special ones included. */
  get length(): number {
    return this.#tokens.length;
  }

  /**
   * Answers a message, in whole characters as they come. One answer at a time.
   * @throws {Error} during another answer
   * @throws {MicrogptError} once the conversation or its model is closed
   */
  async *send(message: string, { signal, onDropped }: SendOptions = {}): AsyncGenerator<string, void, void> {
    this.#checkIdle();
    if (this.#closed) throw new MicrogptError("the conversation is closed", { hint: "start another" });
    const ids = this.#model.tokenizer.encodeOne(message);
    this.#answering = true;
    try {
      const { user, assistant, endTurn } = this.#ids;
      // not `push(...ids)`: a long message has more ids than a call may have arguments
      this.#tokens = [...this.#tokens, user, ...ids, endTurn, assistant];
      const dropped = this.#truncate();
      if (dropped > 0) onDropped?.(dropped);
      yield* this.#answer(signal);
    } finally {
      this.#tokens.push(this.#ids.endTurn);
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

  /** Draws tokens after the conversation, which ends with `<assistant>`. */
  async *#answer(signal: AbortSignal | undefined): AsyncGenerator<string, void, void> {
    const { bos, user, assistant, endTurn } = this.#ids;
    const { seed, ...drawn } = samplingOf(this.#options);
    const position = this.#tokens.length - 1;
    this.#decoder.feed(0, this.#tokens.slice(this.#cached, position), this.#cached);
    this.#cached = position;
    const starts = [{ sequence: 0, token: assistant, position, seed: seed + this.#turns++ }];
    const drawing = {
      ...drawn,
      suppressed: [bos, user, assistant],
      stopToken: endTurn,
      minTokens: 1,
      ...(signal ? { signal } : {}),
    };
    const stream = new StreamDecoder(this.#model.tokenizer);
    for await (const [event] of this.#decoder.decode(starts, drawing)) {
      this.#tokens.push(...event!.tokens);
      // a token is fed to draw the next, so all but the last are in the cache
      this.#cached = this.#tokens.length - 1;
      const text = event!.tokens.map((id) => stream.push(id)).join("");
      if (text !== "") yield text;
    }
    const rest = stream.flush();
    if (rest !== "") yield rest;
  }

  /**
   * Cuts the conversation to the context less a quarter, which is for the answer: at the start of a user's turn, with
   * `<bos>` in front again. Of a last message that is too long by itself, the end is kept.
   * @returns tokens dropped
   */
  #truncate(): number {
    const { bos, user } = this.#ids;
    const { length } = this.#tokens;
    const context = this.#model.config.block_size;
    const limit = context - Math.ceil(context / 4);
    if (length <= limit) return 0;
    const turn = this.#tokens.indexOf(user, length - (limit - 1));
    const kept = turn === -1 ? [user, ...this.#tokens.slice(length - (limit - 2))] : this.#tokens.slice(turn);
    this.#tokens = [bos, ...kept];
    this.#cached = 0;
    return length - this.#tokens.length;
  }
}
