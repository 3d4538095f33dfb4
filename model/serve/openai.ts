/** OpenAI's chat completions and completions. */
import { contextOf } from "../generate/generation.ts";
import { type AnswerOutput, Answers } from "./answers.ts";
import { ApiError, apiErrorOf } from "./api_error.ts";
import { EventStream } from "./event_stream.ts";
import type { TokenScore } from "./logprobs.ts";
import { conversationPrompt, type FittedPrompt, textPrompt } from "./prompts.ts";
import {
  ChatRequest,
  CompletionRequest,
  type Drawing,
  drawingOf,
  MOST_ANSWERS,
  parseRequest,
} from "./request_fields.ts";
import { type Ending, ReaderStalled } from "./scheduler.ts";
import type { Call, Service } from "./service.ts";
import type { CompletionLogprobs } from "./token_text.ts";

/** Tokens that OpenAI's completions get by default. */
const COMPLETION_TOKENS = 16;

/** What both routes are made of: how a request's answers are written. */
interface Form {
  /** of the answer's id */
  prefix: string;
  object: string;
  chunk: string;
  prompts: FittedPrompt[];
  n: number;
  drawing: Drawing;
  maxTokens: number;
  alternatives: number | undefined;
  scorePrompt: boolean;
  /** what a stream says of each answer before its text */
  opening(prompt: FittedPrompt): object[];
  /** a chunk's fields for some text */
  delta(index: number, text: string, scores: TokenScore[]): object;
  /** a chunk's fields at the end */
  closing: object;
  /** a whole answer's fields */
  whole(prompt: FittedPrompt, text: string, scores: TokenScore[], promptScores: TokenScore[]): object;
  stream: boolean;
  includeUsage: boolean;
}

/** `POST /v1/chat/completions`. @throws {ApiError} for what is refused */
export async function chatCompletions(service: Service, body: unknown, call: Call): Promise<Response> {
  const request = parseRequest(ChatRequest, body);
  service.checkModel(request.model);
  const { model, tokens } = service;
  const prompt = conversationPrompt(model, request.messages, request.truncate ?? false);
  if (request.messages.filter(({ role }) => role === "user").length === 1) {
    service.metrics.add("microgpt_conversations_total");
  }
  const logprobs = (scores: TokenScore[]) =>
    request.logprobs ? { content: scores.map((score) => tokens.chatEntry(score)), refusal: null } : null;
  return await respond(service, call, {
    prefix: "chatcmpl",
    object: "chat.completion",
    chunk: "chat.completion.chunk",
    prompts: [prompt],
    n: request.n ?? 1,
    drawing: drawingOf(request, service.options, model.config.vocab_size),
    maxTokens: request.max_completion_tokens ?? (request.max_tokens || undefined) ?? Infinity,
    alternatives: request.logprobs ? request.top_logprobs ?? 0 : undefined,
    scorePrompt: false,
    opening: () => [{ delta: { role: "assistant", content: "", refusal: null }, logprobs: null }],
    delta: (_, content, scores) => ({ delta: { content }, logprobs: logprobs(scores) }),
    closing: { delta: {}, logprobs: null },
    whole: (_, content, scores) => {
      return { message: { role: "assistant", content, refusal: null }, logprobs: logprobs(scores) };
    },
    stream: request.stream ?? false,
    includeUsage: request.stream_options?.include_usage ?? false,
  });
}

/** `POST /v1/completions`. @throws {ApiError} for what is refused */
export async function completions(service: Service, body: unknown, call: Call): Promise<Response> {
  const request = parseRequest(CompletionRequest, body);
  service.checkModel(request.model);
  const { model, tokens } = service;
  const { echo = false, return_token_ids: withIds } = request;
  const n = request.n ?? 1;
  if (request.best_of != null && request.best_of !== n) {
    throw new ApiError(400, "this server does not support `best_of` other than `n`", { param: "best_of" });
  }
  const prompts = promptsOf(request.prompt ?? "").map((prompt) => {
    return textPrompt(model, prompt, request.truncate ?? false);
  });
  if (prompts.length * n > MOST_ANSWERS) {
    const param = prompts.length > MOST_ANSWERS ? "prompt" : "n";
    throw new ApiError(400, `prompts times \`n\` are at most ${MOST_ANSWERS}`, { param });
  }
  const alternatives = request.logprobs ?? undefined;
  const shown = ({ ids, added }: FittedPrompt) => ids.slice(added);
  const textOf = (prompt: FittedPrompt) => tokens.tokenizer.decode(shown(prompt).filter(hasText));
  const hasText = (id: number) => id < tokens.tokenizer.vocabSize;
  const lengths = prompts.map((prompt) => echo ? [...textOf(prompt)].length : 0);
  const ends = prompts.flatMap((_, i) => Array.from({ length: n }, () => lengths[i]!));
  const scored = (scores: (TokenScore | { id: number })[], offset: number): CompletionLogprobs | null => {
    if (alternatives === undefined) return null;
    const made = tokens.completion(scores, offset, alternatives);
    return withIds ? { ...made, content: scores.map((score) => tokens.entryWithId(score)) } : made;
  };
  const logprobs = (index: number, text: string, scores: TokenScore[]): CompletionLogprobs | null => {
    const offset = ends[index]!;
    ends[index] = offset + [...text].length;
    return scored(scores, offset);
  };
  // as vLLM's server has it
  const promptIds = ({ ids }: FittedPrompt) => withIds ? { prompt_token_ids: ids } : {};
  return await respond(service, call, {
    prefix: "cmpl",
    object: "text_completion",
    chunk: "text_completion",
    prompts,
    n,
    drawing: drawingOf(request, service.options, model.config.vocab_size),
    maxTokens: request.max_tokens ?? COMPLETION_TOKENS,
    alternatives,
    scorePrompt: Boolean(echo) && alternatives !== undefined,
    opening: (prompt) => {
      if (!echo && !withIds) return [];
      return [{ text: echo ? textOf(prompt) : "", logprobs: null, ...promptIds(prompt) }];
    },
    delta: (index, text, scores) => ({ text, logprobs: logprobs(index, text, scores) }),
    closing: { text: "", logprobs: null },
    whole: (prompt, text, scores, promptScores) => {
      const front = echo ? shown(prompt) : [];
      // the first token of all has nothing before it; what was put in front is not shown
      const before = echo && alternatives !== undefined
        ? [
          ...prompt.added === 0 ? [{ id: front[0]! }] : [],
          ...promptScores.slice(Math.max(0, prompt.added - 1)),
        ]
        : [];
      return {
        text: (echo ? textOf(prompt) : "") + text,
        logprobs: scored([...before, ...scores], 0),
        ...promptIds(prompt),
      };
    },
    stream: request.stream ?? false,
    includeUsage: request.stream_options?.include_usage ?? false,
  });
}

function promptsOf(prompt: NonNullable<CompletionRequest["prompt"]>): (string | number[])[] {
  if (typeof prompt === "string") return [prompt];
  if (typeof prompt[0] === "number") return [prompt as number[]];
  return prompt as string[] | number[][];
}

/** Queues a request's answers, and writes them whole or as they come. */
async function respond(service: Service, call: Call, form: Form): Promise<Response> {
  const { model, scheduler, options } = service;
  const head = {
    id: `${form.prefix}-${crypto.randomUUID().replaceAll("-", "")}`,
    created: Math.floor(Date.now() / 1000),
    model: service.name,
    system_fingerprint: service.fingerprint,
  };
  const context = contextOf(model);
  const plan = (outputs: AnswerOutput[]) => ({
    answers: outputs.map((output, index) => {
      const prompt = form.prompts[Math.floor(index / form.n)]!;
      // the last token that is drawn need not be fed
      const maxTokens = Math.min(form.maxTokens, context - prompt.ids.length + 1);
      return { prompt, maxTokens, seed: form.drawing.seed + index % form.n, output };
    }),
    drawing: form.drawing,
    alternatives: form.alternatives,
    scorePrompt: form.scorePrompt,
    seconds: options.requestTimeout,
  });
  const count = form.prompts.length * form.n;
  if (form.stream) return streamed(service, call, form, head, count, plan);
  const choices = Array.from({ length: count }, () => new WholeAnswer());
  const answers = service.track(call, new Answers(scheduler, model, plan(choices)), form.prompts);
  await call.until(answers);
  return Response.json({
    ...head,
    object: form.object,
    choices: choices.map(({ whole, scores, promptScores, ending }, index) => ({
      index,
      ...form.whole(form.prompts[Math.floor(index / form.n)]!, whole, scores, promptScores),
      finish_reason: ending,
    })),
    usage: usageOf(form, answers),
    microgpt: extrasOf(form, answers),
  });
}

/** An answer that is told when it is complete. */
class WholeAnswer implements AnswerOutput {
  whole = "";
  readonly scores: TokenScore[] = [];
  promptScores: TokenScore[] = [];
  ending: Ending = "length";

  prompt(scores: TokenScore[]): void {
    this.promptScores = scores;
  }

  text(text: string, scores: TokenScore[]): void {
    this.whole += text;
    this.scores.push(...scores);
  }

  ended(ending: Ending): void {
    this.ending = ending;
  }
}

/** Writes answers as they come. */
function streamed(
  service: Service,
  call: Call,
  form: Form,
  head: object,
  count: number,
  plan: (outputs: AnswerOutput[]) => ConstructorParameters<typeof Answers>[2],
): Response {
  let answers: Answers | undefined = undefined;
  const events = new EventStream(() => answers?.cancel());
  // all chunks are the same but for their choice
  const before = `${JSON.stringify({ ...head, object: form.chunk }).slice(0, -1)},"choices":[`;
  const after = form.includeUsage ? '],"usage":null' : "]";
  const send = (index: number, fields: object, finish: Ending | null = null, extras?: object) => {
    const choice = JSON.stringify({ index, ...fields, finish_reason: finish });
    events.send(before + choice + after + (extras ? `,${JSON.stringify(extras).slice(1)}` : "}"));
  };
  let open = count;
  const outputs = Array.from({ length: count }, (_, index): AnswerOutput => ({
    text: (text, scores) => send(index, form.delta(index, text, scores)),
    ended: (ending) => {
      const extras = --open === 0 ? { microgpt: extrasOf(form, answers!) } : undefined;
      send(index, form.closing, ending, extras);
    },
    behind: () => events.behind,
    flush: () => events.flush(),
  }));
  try {
    answers = service.track(call, new Answers(service.scheduler, service.model, plan(outputs)), form.prompts);
  } catch (error) {
    events.end();
    throw error;
  }
  for (let index = 0; index < count; index++) {
    for (const fields of form.opening(form.prompts[Math.floor(index / form.n)]!)) send(index, fields);
  }
  events.flush();
  answers.finished.then(() => {
    if (form.includeUsage) {
      const usage = usageOf(form, answers!);
      events.send(JSON.stringify({ ...head, object: form.chunk, choices: [], usage }));
    }
    events.done();
  }, (error) => {
    if (error instanceof ReaderStalled) return events.abort(error);
    events.send(JSON.stringify(apiErrorOf(error).body()));
    events.end();
  });
  return events.response;
}

function usageOf({ prompts }: Form, { usage }: Answers) {
  const promptTokens = prompts.reduce((sum, { ids }) => sum + ids.length, 0);
  return {
    prompt_tokens: promptTokens,
    completion_tokens: usage.completionTokens,
    total_tokens: promptTokens + usage.completionTokens,
    prompt_tokens_details: { cached_tokens: Math.min(promptTokens, usage.cachedTokens) },
  };
}

/** What our own page shows: the seed that gives this answer again, what was left out, and times. */
function extrasOf({ prompts, drawing }: Form, { usage }: Answers) {
  const { started = 0, first = started, ended = first, completionTokens } = usage;
  return {
    seed: drawing.seed,
    tokens_dropped: prompts.reduce((sum, { dropped }) => sum + dropped, 0),
    queued_ms: round(started),
    prompt_ms: round(first - started),
    predicted_ms: round(ended - first),
    tokens_per_second: round(1000 * Math.max(0, completionTokens - 1) / Math.max(1e-3, ended - first)),
  };
}

function round(value: number): number {
  return Math.round(10 * value) / 10;
}
