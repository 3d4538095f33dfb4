/** Answers as text: what the scheduler draws for a request, in whole characters, up to stop sequences. */
import type { GenerationModel } from "../generate/generation.ts";
import { type Prompt, sampleText } from "../generate/prompt.ts";
import type { TokenScore } from "./logprobs.ts";
import type { Drawing } from "./request_fields.ts";
import type { AnswerListener, AnswerRequest, Ending, Scheduler } from "./scheduler.ts";
import { StopText } from "./stop_text.ts";

/** What becomes of an answer's text. */
export interface AnswerOutput {
  /** the prompt's tokens from the second on, scored */
  prompt?(scores: TokenScore[]): void;
  /** the next text, with the scores of the tokens that it completes */
  text(text: string, scores: TokenScore[]): void;
  ended(ending: Ending): void;
  /** whether whoever reads cannot keep up */
  behind?(): boolean;
  /** what was told may go out */
  flush?(): void;
}

/** An answer of a request. */
export interface AnswerPlan {
  prompt: Prompt;
  maxTokens: number;
  seed: number;
  output: AnswerOutput;
}

/** What a request asks of all its answers. */
export interface AnswersPlan {
  answers: AnswerPlan[];
  drawing: Drawing;
  /** see `AnswerRequest` */
  alternatives?: number | undefined;
  scorePrompt?: boolean;
  /** seconds that the request may take */
  seconds: number;
}

/** What a request took. Times are milliseconds since it came. */
export interface AnswersUsage {
  completionTokens: number;
  cachedTokens: number;
  /** the first answer's turn came, and its first token */
  started?: number;
  first?: number;
  ended?: number;
}

/** The answers of a request under way. */
export class Answers {
  readonly usage: AnswersUsage = { completionTokens: 0, cachedTokens: 0 };
  /** its client left */
  cancelled = false;
  /** settles when all answers have ended, or one of them failed */
  readonly finished: Promise<void>;
  readonly #came = performance.now();
  readonly #cancels: (() => void)[];
  #open: number;
  #over = false;
  #resolve!: () => void;
  #reject!: (error: unknown) => void;

  /**
   * Queues the answers.
   * @throws {QueueFull} when there is no room for them
   */
  constructor(scheduler: Scheduler, model: GenerationModel, plan: AnswersPlan) {
    this.finished = new Promise((resolve, reject) => [this.#resolve, this.#reject] = [resolve, reject]);
    this.finished.catch(() => {}); // whoever waits hears of it
    this.#open = plan.answers.length;
    const deadline = this.#came + 1000 * plan.seconds;
    this.#cancels = scheduler.submit(plan.answers.map((answer) => {
      return [requestOf(answer, plan, deadline), this.#listener(model, answer, plan.drawing.stops)];
    }));
  }

  /** Ends it: the client left. */
  cancel(): void {
    if (this.#over) return;
    this.cancelled = true;
    this.#stop();
  }

  #stop(): void {
    this.#over = true;
    for (const cancel of this.#cancels) cancel();
    this.#resolve();
  }

  get #now(): number {
    return performance.now() - this.#came;
  }

  #listener(model: GenerationModel, { prompt, output }: AnswerPlan, stops: string[]): AnswerListener {
    const { usage } = this;
    const text = new AnswerText(sampleText(model.tokenizer, prompt), stops, output);
    return {
      started: (cached) => {
        usage.cachedTokens += cached;
        usage.started ??= this.#now;
      },
      prompt: (scores) => output.prompt?.(scores),
      drawn: (id, score) => {
        usage.first ??= this.#now;
        usage.completionTokens++;
        return text.push(id, score);
      },
      behind: () => output.behind?.() ?? false,
      flush: () => output.flush?.(),
      ended: (ending) => {
        usage.ended = this.#now; // before `ended`, which tells it
        text.end();
        output.ended(ending);
        if (--this.#open > 0 || this.#over) return;
        this.#over = true;
        this.#resolve();
      },
      failed: (error) => {
        if (this.#over) return;
        this.#reject(error); // before `stop`, which settles it too
        this.#stop();
      },
    };
  }
}

/** Text and scores of one answer. */
class AnswerText {
  readonly #stop: StopText;
  readonly #scores: { score: TokenScore; start: number; end: number }[] = [];
  #length = 0;
  #shown = 0;

  constructor(
    readonly stream: (ids: number[], done: boolean) => string,
    stops: readonly string[],
    readonly output: AnswerOutput,
  ) {
    this.#stop = new StopText(stops);
  }

  /** @returns true at a stop sequence */
  push(id: number, score: TokenScore | undefined): boolean {
    const text = this.stream([id], false);
    if (score) this.#scores.push({ score, start: this.#length, end: this.#length + text.length });
    this.#length += text.length;
    this.#show(this.#stop.push(text));
    return this.#stop.stopped;
  }

  end(): void {
    const text = this.stream([], true);
    this.#length += text.length;
    const rest = this.#stop.push(text) + this.#stop.flush();
    this.#show(rest, !this.#stop.stopped);
  }

  /** Hands on text with the tokens that are complete in it; those of a stop sequence never are. */
  #show(text: string, all = false): void {
    this.#shown += text.length;
    const isShown = ({ start, end }: { start: number; end: number }) =>
      all || (this.#stop.stopped ? start < this.#shown : end <= this.#shown);
    const waiting = this.#scores.findIndex((token) => !isShown(token));
    const scores = this.#scores.splice(0, waiting === -1 ? this.#scores.length : waiting);
    if (this.#stop.stopped) this.#scores.length = 0;
    if (text !== "" || scores.length > 0) this.output.text(text, scores.map(({ score }) => score));
  }
}

function requestOf(
  { prompt, maxTokens, seed }: AnswerPlan,
  { drawing, alternatives, scorePrompt = false }: AnswersPlan,
  deadline: number,
): AnswerRequest {
  return {
    ids: prompt.ids,
    maxTokens,
    minTokens: prompt.minTokens,
    stopTokens: prompt.stopTokens,
    sampling: { ...drawing.sampling, suppressed: prompt.suppressed },
    bias: drawing.bias,
    seed,
    alternatives,
    scorePrompt,
    deadline,
  };
}
