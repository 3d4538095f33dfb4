/** A conversation with a chat model. The key-value cache is kept between turns, so a turn costs its own tokens only. */
import { StreamDecoder } from "../data/tokenizer.ts";
import { Decoder } from "./decoder.ts";
import { checkGenerateOptions, type GenerationModel, specialIds } from "./generation.ts";

/** How to answer. */
export interface ChatOptions {
  /** default 0.5; ≤ 0 takes the most probable token always */
  temperature?: number;
  /** default 42 */
  seed?: number;
  /** keep the k most probable tokens; default 0 = all */
  topK?: number;
  /** keep the most probable tokens that reach this mass; default 1 = all */
  topP?: number;
  /** tokens an answer gets at most; default: what the context holds */
  maxTokens?: number;
}

export class ChatSession {
  readonly #model: GenerationModel;
  readonly #options: ChatOptions;
  readonly #decoder: Decoder;
  readonly #ids: { bos: number; user: number; assistant: number; endTurn: number };
  /** the conversation so far, `<bos>` first */
  #tokens: number[];
  /** how many of them the cache holds */
  #cached = 0;
  #turns = 0;

  /** @throws {MicrogptError} for options out of range, or when memory is short */
  constructor(model: GenerationModel, options: ChatOptions = {}) {
    checkGenerateOptions(options);
    this.#model = model;
    this.#options = options;
    const { bos, user, assistant, endTurn } = specialIds(model.tokenizer);
    this.#ids = { bos, user: user!, assistant: assistant!, endTurn: endTurn! };
    this.#tokens = [bos];
    this.#decoder = new Decoder(model.device, model.config, model.weights, 1, model.config.block_size);
  }

  /** Forgets the conversation. */
  clear(): void {
    this.#tokens = [this.#ids.bos];
    this.#cached = 0;
    this.#turns = 0;
  }

  /**
   * Answers a message, in whole characters as they come.
   * @param signal ends the answer early; what was said stays in the conversation
   * @returns generator of text; its return value tells how many tokens at the start of the conversation had to be dropped
   */
  async *send(
    message: string,
    signal?: AbortSignal,
  ): AsyncGenerator<string, { droppedTokens: number }, void> {
    const { user, assistant, endTurn, bos } = this.#ids;
    const { temperature = 0.5, seed = 42, topK = 0, topP = 1, maxTokens = Infinity } = this.#options;
    this.#tokens.push(user, ...this.#model.tokenizer.encodeOne(message), endTurn, assistant);
    const droppedTokens = this.#truncate();
    this.#decoder.feed(0, this.#tokens.slice(this.#cached, -1), this.#cached);
    this.#cached = this.#tokens.length - 1;
    const position = this.#tokens.length - 1;
    const starts = [{ sequence: 0, token: assistant, position, seed: seed + this.#turns++ }];
    const stream = new StreamDecoder(this.#model.tokenizer);
    const drawing = {
      temperature,
      topK,
      topP,
      suppressed: [bos, user, assistant],
      stopToken: endTurn,
      minTokens: 1,
      maxTokens,
      ...(signal ? { signal } : {}),
    };
    try {
      for await (const [event] of this.#decoder.decode(starts, drawing)) {
        this.#tokens.push(...event!.tokens);
        const text = event!.tokens.map((id) => stream.push(id)).join("");
        if (text !== "") yield text;
      }
      const rest = stream.flush();
      if (rest !== "") yield rest;
    } finally {
      // every token but the last drawn was fed
      this.#cached = this.#tokens.length - 1;
      this.#tokens.push(endTurn);
    }
    return { droppedTokens };
  }

  /** Gives the device's memory back. */
  close(): void {
    this.#decoder.close();
  }

  /**
   * Cuts the conversation to the context less a quarter, which is for the answer: from the start, at a turn where that
   * is possible, with `<bos>` in front again.
   * @returns tokens dropped
   */
  #truncate(): number {
    const { bos, user } = this.#ids;
    const context = this.#model.config.block_size;
    const limit = context - Math.max(1, Math.floor(context / 4));
    if (this.#tokens.length <= limit) return 0;
    const earliest = this.#tokens.length - (limit - 1);
    const turn = this.#tokens.indexOf(user, earliest);
    const from = turn === -1 ? earliest : turn;
    this.#tokens = [bos, ...this.#tokens.slice(from)];
    this.#cached = 0;
    return from - 1;
  }
}
