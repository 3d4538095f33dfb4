/** A model being served: what all routes share. */
import type { LanguageModel } from "../generate/language_model.ts";
import type { GenerationModel } from "../generate/generation.ts";
import type { Answers } from "./answers.ts";
import { ApiError, apiErrorOf } from "./api_error.ts";
import type { LogEntry } from "./log_entry.ts";
import type { Endpoint, Metrics } from "./metrics.ts";
import type { FittedPrompt } from "./prompts.ts";
import { Scheduler, type SchedulerLimits } from "./scheduler.ts";
import { TokenText } from "./token_text.ts";
import type { HandlerOptions } from "./serve.ts";

/** One request on its way through the server. */
export class Call {
  readonly came = performance.now();
  answers: Answers | undefined;
  prompts: readonly FittedPrompt[] = [];
  ending: LogEntry["ending"];
  error: string | undefined;

  constructor(readonly request: Request, readonly endpoint: Endpoint) {}

  /** Waits for answers that are told as a whole; a client that leaves ends them. */
  async until(answers: Answers): Promise<void> {
    const { signal } = this.request;
    const left = () => answers.cancel();
    if (signal.aborted) left();
    signal.addEventListener("abort", left);
    try {
      await answers.finished;
    } finally {
      signal.removeEventListener("abort", left);
    }
  }
}

/** The settings of a handler, with defaults. */
export type ServiceOptions = HandlerOptions & { requestTimeout: number };

/** A model being served. */
export class Service {
  readonly model: GenerationModel;
  readonly tokens: TokenText;
  readonly scheduler: Scheduler;
  /** when it was loaded, in seconds since 1970 */
  readonly created = Math.floor(Date.now() / 1000);
  /** the same for the same weights, device and version */
  readonly fingerprint: string;

  constructor(
    readonly loaded: LanguageModel,
    readonly name: string,
    readonly metrics: Metrics,
    readonly options: ServiceOptions,
    limits: SchedulerLimits,
  ) {
    this.model = loaded.generationModel();
    this.tokens = new TokenText(loaded.tokenizer);
    this.scheduler = new Scheduler(this.model, limits);
    this.fingerprint = `microgpt-${loaded.device.kind}`;
    const { counts } = this.scheduler;
    const watch = (type: "counter" | "gauge", name: string, help: string, read: () => number) =>
      metrics.watch(name, type, help, read);
    watch("gauge", "microgpt_requests_waiting", "Answers that wait for their turn.", () => counts.waiting);
    watch("gauge", "microgpt_requests_active", "Answers that are generated.", () => counts.active);
    watch("counter", "microgpt_prompt_tokens_total", "Tokens of prompts.", () => counts.promptTokens);
    watch(
      "counter",
      "microgpt_cached_tokens_total",
      "Tokens of prompts found in the cache.",
      () => counts.cachedTokens,
    );
    watch("counter", "microgpt_decode_steps_total", "Steps of decoding.", () => counts.steps);
    watch("counter", "microgpt_decode_rows_total", "Rows of all steps of decoding.", () => counts.rows);
  }

  /**
   * Checks the name of a model that a request asks for; none is the one that is here.
   * @throws {ApiError} 404
   */
  checkModel(name: string | null | undefined): void {
    if (name === undefined || name === null || name === "" || name === this.name) return;
    throw new ApiError(404, `The model \`${name.slice(0, 100)}\` does not exist`, {
      param: "model",
      code: "model_not_found",
    });
  }

  /** Counts a request's answers when they are over, and hands them back. */
  track(call: Call, answers: Answers, prompts: readonly FittedPrompt[]): Answers {
    const { endpoint } = call;
    const { metrics } = this;
    call.answers = answers;
    call.prompts = prompts;
    metrics.add("microgpt_requests_total", 1, endpoint);
    const over = (ending: NonNullable<LogEntry["ending"]>) => {
      const { completionTokens, first, ended } = answers.usage;
      const ms = performance.now() - call.came;
      call.ending = ending;
      metrics.add("microgpt_tokens_generated_total", completionTokens, endpoint);
      metrics.observe("microgpt_request_duration_ms", endpoint, ms);
      if (ended !== undefined && first !== undefined && ended > first) {
        metrics.observe("microgpt_tokens_per_second", endpoint, 1000 * completionTokens / (ended - first));
      }
      if (ending === "cancelled") metrics.add("microgpt_cancelled_total");
    };
    answers.finished.then(() => over(answers.cancelled ? "cancelled" : "done"), (error) => {
      call.error = error instanceof Error ? error.message : String(error);
      metrics.add("microgpt_request_errors_total", 1, String(apiErrorOf(error).status));
      over("failed");
    });
    return answers;
  }
}
