/**
 * Continuous batching: answers are drawn together, a row each, and come and go between steps. A prompt is fed in chunks
 * between other answers' steps. What an answer says depends on its request alone: see `cache_lines.ts` for prompts;
 * a row of a step does not depend on how many others there are.
 */
import { type Sampling, STEP_ROWS } from "../../device/device.ts";
import { Breather } from "../../device/pacing.ts";
import { mixSeed, uniform } from "../../device/random.ts";
import { drawToken, hasPenalties, penalize, saidIn } from "../../device/sampling.ts";
import { Decoder } from "../generate/decoder.ts";
import { contextOf, type GenerationModel } from "../generate/generation.ts";
import { networkOf } from "../networks.ts";
import { CacheLines, CHUNK, type Line } from "./cache_lines.ts";
import { scoreOf, type TokenScore } from "./logprobs.ts";

/** An answer to draw. */
export interface AnswerRequest {
  /** at least one, at most as many as the context holds */
  ids: readonly number[];
  /** most tokens to draw; 0 only scores the prompt */
  maxTokens: number;
  /** no stop token is drawn before so many tokens */
  minTokens: number;
  stopTokens: readonly number[];
  sampling: Sampling;
  /** added to logits, by id */
  bias: ReadonlyMap<number, number>;
  seed: number;
  /** score each token, with so many alternatives; undefined: no scores */
  alternatives: number | undefined;
  /** score the prompt's tokens too, from the second on */
  scorePrompt: boolean;
  /** when it must be done, in `performance.now()` */
  deadline: number;
}

/** Why an answer ended. */
export type Ending = "stop" | "length";

/** What is told about an answer, in this order. */
export interface AnswerListener {
  /** its turn has come: so many tokens of its prompt were found in the cache */
  started(cached: number): void;
  /** the prompt's tokens from the second on, where that was asked for */
  prompt(scores: TokenScore[]): void;
  /** @returns true when no more is wanted */
  drawn(id: number, score: TokenScore | undefined): boolean;
  /** whether it cannot keep up: no more is drawn until it can */
  behind(): boolean;
  /** the event loop is about to go round: what was told may go out */
  flush(): void;
  ended(ending: Ending): void;
  /** it will not be finished */
  failed(error: unknown): void;
}

/** The queue is full. */
export class QueueFull extends Error {
  /** @param seconds after which it may be worth another try */
  constructor(readonly seconds: number) {
    super("too many requests are waiting");
  }
}

/** A request took longer than it may. */
export class TookTooLong extends Error {}

/** Whoever asked does not take what it is told, and others wait for its place. */
export class ReaderStalled extends Error {}

/** The server is about to end. */
export class ShuttingDown extends Error {}

interface Answer {
  readonly request: AnswerRequest;
  readonly listener: AnswerListener;
  state: "waiting" | "feeding" | "drawing" | "over";
  line?: Line;
  /** tokens of the prompt that are in the line */
  fed: number;
  token: number;
  position: number;
  made: number;
  said?: Uint32Array<ArrayBuffer>;
  scores: TokenScore[];
  /** since when its reader cannot keep up, in `performance.now()` */
  behindSince?: number | undefined;
}

/** Between two steps prompts are fed for about so long, and no more than so many chunks: a device may only queue them. */
const FEED_MS = 16;
const FEEDS = 4;

/** The event loop is given a moment at least this often, and after an answer's first token. */
const BREATHE_MS = 4;

/** How often it is looked whether those who cannot keep up can again. */
const BEHIND_MS = 5;

/** How often it is looked whether something takes too long. */
const EXPIRE_MS = 20;

/** How many are served. */
export interface SchedulerLimits {
  /** answers that are drawn together */
  parallel: number;
  /** answers that wait */
  queue: number;
  /** megabytes of cache lines, which also bound how many answers are drawn together */
  cacheMb: number;
  /** seconds after which a reader that takes nothing makes room for those who wait */
  readerTimeout: number;
}

/** What is going on, and what has been. */
export interface SchedulerCounts {
  waiting: number;
  active: number;
  steps: number;
  /** rows of all steps */
  rows: number;
  promptTokens: number;
  cachedTokens: number;
  drawnTokens: number;
}

/** Draws many answers together. */
export class Scheduler {
  readonly contextLength: number;
  readonly parallel: number;
  readonly counts: SchedulerCounts = {
    waiting: 0,
    active: 0,
    steps: 0,
    rows: 0,
    promptTokens: 0,
    cachedTokens: 0,
    drawnTokens: 0,
  };
  readonly #decoder: Decoder;
  readonly #lines: CacheLines;
  readonly #queueLimit: number;
  readonly #stalledMs: number;
  readonly #vocabulary: number;
  #waiting: Answer[] = [];
  #feeding: Answer | undefined;
  #drawing: Answer[] = [];
  #wake: (() => void) | undefined;
  #closing = false;
  /** when it was last looked */
  #expired = 0;
  /** some answer has its first token, which should go out */
  #isFresh = false;
  readonly #done: Promise<void>;

  /** @throws {MicrogptError} when the device's memory is short */
  constructor(model: GenerationModel, options: SchedulerLimits) {
    this.contextLength = contextOf(model);
    this.#vocabulary = model.config.vocab_size;
    const lineBytes = this.contextLength * networkOf(model.config).cacheWidth * 4;
    const lines = Math.max(1, Math.floor(options.cacheMb * 2 ** 20 / lineBytes));
    this.parallel = Math.min(options.parallel, lines);
    // beyond one for each answer, lines only keep prompts
    const count = Math.min(lines, 2 * this.parallel);
    this.#decoder = new Decoder(model.device, model.config, model.weights, count, this.contextLength);
    this.#lines = new CacheLines(count, (from, length, to) => this.#decoder.copy(from, length, [to]));
    this.#queueLimit = options.queue;
    this.#stalledMs = 1000 * options.readerTimeout;
    this.#done = this.#run();
  }

  /**
   * Queues answers, all or none of them.
   * @returns a function for each that ends it, which then hears nothing more
   * @throws {QueueFull} when so many more may not wait
   * @throws {ShuttingDown} once it is closing
   */
  submit(requests: readonly [AnswerRequest, AnswerListener][]): (() => void)[] {
    if (this.#closing) throw new ShuttingDown("the server is shutting down");
    const idle = Math.max(0, this.parallel - this.counts.active);
    if (this.#waiting.length + requests.length > this.#queueLimit + idle) throw new QueueFull(1);
    const answers = requests.map(([request, listener]): Answer => {
      const position = request.ids.length - 1;
      const token = request.ids[position]!;
      return { request, listener, state: "waiting", fed: 0, token, position, made: 0, scores: [] };
    });
    this.#waiting.push(...answers);
    this.#count();
    this.#wake?.();
    return answers.map((answer) => () => this.#drop(answer));
  }

  /** Ends when every answer has ended; nothing new is taken. */
  async drain(): Promise<void> {
    this.#closing = true;
    this.#wake?.();
    await this.#done;
  }

  /** Ends now: answers under way fail. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#failAll(new ShuttingDown("the server was stopped"));
    this.#wake?.();
    await this.#done;
  }

  async #run(): Promise<void> {
    const breather = new Breather(BREATHE_MS);
    try {
      for (;;) {
        this.#expire();
        await this.#feedSome();
        const isIdle = !this.#feeding && this.#drawing.length === 0 && this.#waiting.length === 0;
        if (isIdle) {
          if (this.#closing) break;
          await new Promise<void>((resolve) => this.#wake = resolve);
          this.#wake = undefined;
          continue;
        }
        const rows = this.#drawing.filter(keepsUp);
        for (let at = 0; at < rows.length; at += STEP_ROWS) await this.#step(rows.slice(at, at + STEP_ROWS));
        const isStalled = rows.length === 0 && this.#drawing.length > 0 && !this.#feeding;
        if (isStalled || this.#isFresh || breather.due) {
          for (const { listener } of this.#drawing) listener.flush();
          this.#isFresh = false;
          await (isStalled ? new Promise((resolve) => setTimeout(resolve, BEHIND_MS)) : breather.take());
        }
      }
    } catch (error) {
      this.#closing = true;
      this.#failAll(error);
    } finally {
      this.#decoder.close();
    }
  }

  /** Feeds prompts, one after the other, between two steps. */
  async #feedSome(): Promise<void> {
    const end = performance.now() + FEED_MS;
    for (let feeds = 0; feeds < FEEDS && performance.now() < end; feeds++) {
      this.#admit();
      if (!this.#feeding) return;
      await this.#feed(this.#feeding);
    }
  }

  /** Gives a line to the answer that waits longest. One prompt is fed at a time, so that the next can find it. */
  #admit(): void {
    const answer = this.#waiting[0];
    if (this.#feeding || !answer) return;
    if (this.#drawing.length >= this.parallel && !this.#makeRoom()) return;
    const { ids, scorePrompt } = answer.request;
    const taken = this.#lines.take(ids, !scorePrompt);
    if (!taken) return;
    this.#waiting.shift();
    answer.line = taken.line;
    answer.fed = taken.kept;
    answer.state = "feeding";
    this.#feeding = answer;
    this.counts.promptTokens += ids.length;
    this.counts.cachedTokens += taken.kept;
    this.#count();
    answer.listener.started(taken.kept);
  }

  /** Ends the answer whose reader has taken nothing for longest, if that is too long. @returns whether it did */
  #makeRoom(): boolean {
    const since = (answer: Answer) => answer.behindSince ?? Infinity;
    const slowest = this.#drawing.reduce((best, answer) => since(answer) < since(best) ? answer : best);
    if (!(performance.now() - since(slowest) >= this.#stalledMs)) return false;
    this.#drop(slowest);
    slowest.listener.failed(new ReaderStalled("the answer was not read, and others waited"));
    return true;
  }

  /** Feeds a chunk of a prompt; after the last one its answer is drawn from the next step on. */
  async #feed(answer: Answer): Promise<void> {
    const { ids, scorePrompt } = answer.request;
    const last = ids.length - 1;
    if (scorePrompt) await this.#score(answer, last);
    else if (answer.fed < last) {
      const end = Math.min(last, answer.fed + CHUNK);
      this.#decoder.feed(answer.line!.index, ids.slice(answer.fed, end), answer.fed);
      answer.fed = end;
      this.#lines.fed(answer.line!, end);
    }
    if (answer.state !== "feeding" || answer.fed < last) return;
    this.#feeding = undefined;
    if (scorePrompt) answer.listener.prompt(answer.scores);
    if (answer.request.maxTokens === 0) return this.#end(answer, "length");
    const { sampling, stopTokens } = answer.request;
    if (hasPenalties(sampling)) answer.said = saidIn(ids, this.#vocabulary, stopTokens);
    try {
      this.#begin(answer);
    } catch (error) { // it asks for what cannot be drawn: others can
      this.#drop(answer);
      return answer.listener.failed(error);
    }
    answer.state = "drawing";
    this.#drawing.push(answer);
  }

  /** Feeds some of a prompt and scores what follows each token. */
  async #score(answer: Answer, last: number): Promise<void> {
    const { ids, alternatives = 0 } = answer.request;
    const end = Math.min(last, answer.fed + Math.min(STEP_ROWS, this.#decoder.sequences));
    const places = ids.slice(answer.fed, end).map((token, i) => {
      return { sequence: answer.line!.index, token, position: answer.fed + i };
    });
    if (places.length === 0) return;
    const logits = await this.#decoder.step(places);
    const V = this.#vocabulary;
    places.forEach(({ position }, i) => {
      answer.scores.push(scoreOf(logits.subarray(i * V, (i + 1) * V), ids[position + 1]!, alternatives));
    });
    answer.fed = end;
  }

  /** Tells the decoder how an answer is drawn from its next token on. */
  #begin({ request, line, made, said }: Answer): void {
    const { sampling, stopTokens, minTokens, seed } = request;
    const suppressed = made < minTokens ? [...sampling.suppressed, ...stopTokens] : sampling.suppressed;
    this.#decoder.begin(line!.index, seed, { ...sampling, suppressed }, said);
  }

  /** Draws a token of each answer: on the device, but where logits are changed or looked at. */
  async #step(rows: Answer[]): Promise<void> {
    const places = rows.map(({ line, token, position }) => ({ sequence: line!.index, token, position }));
    const { ids, logits } = await this.#decoder.draw(places, rows.some(needsLogits));
    this.counts.steps++;
    this.counts.rows += rows.length;
    const V = this.#vocabulary;
    rows.forEach((answer, r) => {
      if (answer.state !== "drawing") return; // it was dropped meanwhile
      const row = needsLogits(answer) ? logits!.subarray(r * V, (r + 1) * V) : undefined;
      this.#take(answer, row ? drawFor(answer, row) : ids[r]!, row);
    });
  }

  /** Takes a token that was drawn for an answer. */
  #take(answer: Answer, id: number, logits: Float32Array | undefined): void {
    const { stopTokens, alternatives, maxTokens } = answer.request;
    this.#isFresh ||= answer.made === 0;
    answer.made++;
    answer.position++;
    answer.token = id;
    if (answer.said) answer.said[id]!++;
    this.counts.drawnTokens++;
    if (stopTokens.includes(id)) return this.#end(answer, "stop");
    const score = alternatives === undefined ? undefined : scoreOf(logits!, id, alternatives);
    if (answer.listener.drawn(id, score)) return this.#end(answer, "stop");
    if (answer.made >= maxTokens || answer.position >= this.contextLength) {
      return this.#end(answer, "length");
    }
    if (answer.made === answer.request.minTokens) this.#begin(answer);
  }

  #end(answer: Answer, ending: Ending): void {
    this.#drop(answer);
    answer.listener.ended(ending);
  }

  /** Ends an answer wherever it is; its line is free from now on. */
  #drop(answer: Answer): void {
    if (answer.state === "over") return;
    if (answer.state === "waiting") this.#waiting = this.#waiting.filter((other) => other !== answer);
    if (answer.state === "drawing") this.#drawing = this.#drawing.filter((other) => other !== answer);
    if (this.#feeding === answer) this.#feeding = undefined;
    answer.state = "over";
    if (answer.line) this.#lines.release(answer.line);
    this.#count();
  }

  /** Fails what took too long. */
  #expire(): void {
    const now = performance.now();
    if (now < this.#expired + EXPIRE_MS) return;
    this.#expired = now;
    for (const answer of this.#all()) {
      if (answer.request.deadline > now) continue;
      this.#drop(answer);
      answer.listener.failed(new TookTooLong("the request took longer than it may"));
    }
  }

  #failAll(error: unknown): void {
    for (const answer of this.#all()) {
      this.#drop(answer);
      answer.listener.failed(error);
    }
  }

  #all(): Answer[] {
    return [...this.#waiting, ...(this.#feeding ? [this.#feeding] : []), ...this.#drawing];
  }

  #count(): void {
    this.counts.waiting = this.#waiting.length;
    this.counts.active = this.#drawing.length + (this.#feeding ? 1 : 0);
  }
}

/** Whether an answer's reader takes what it is told. */
function keepsUp(answer: Answer): boolean {
  const isBehind = answer.listener.behind();
  if (!isBehind) answer.behindSince = undefined;
  else answer.behindSince ??= performance.now();
  return !isBehind;
}

/** Whether an answer's tokens are drawn here. Depends on the request alone, since rounding differs. */
function needsLogits({ request: { alternatives, bias } }: Answer): boolean {
  return alternatives !== undefined || bias.size > 0;
}

/** Draws an answer's next token from its logits. */
function drawFor({ request, position, made, said }: Answer, logits: Float32Array): number {
  const row = Float64Array.from(logits);
  if (said) penalize(row, said, request.sampling);
  for (const [id, bias] of request.bias) row[id]! += bias;
  const { suppressed } = request.sampling;
  const sampling = made < request.minTokens
    ? { ...request.sampling, suppressed: [...suppressed, ...request.stopTokens] }
    : request.sampling;
  return drawToken(row, uniform(mixSeed(request.seed), position), sampling);
}
