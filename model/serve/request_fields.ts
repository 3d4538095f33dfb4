/** The fields of requests, and what of OpenAI's API is refused because leaving it out would change the answer. */
import * as z from "npm:zod@4.6.7";
import type { Sampling } from "../../device/device.ts";
import { ApiError } from "./api_error.ts";
import type { SamplingDefaults } from "./options.ts";
import { samplingOf } from "../generate/sampling.ts";

/** Longest stop sequence, in UTF-16 units. */
const LONGEST_STOP = 1000;
/** Most messages of a conversation, prompts of a request, and answers of a request. */
const MOST_MESSAGES = 10_000;
const MOST_PROMPTS = 1000;
export const MOST_ANSWERS = 128;
const LARGEST_SEED = 2 ** 52;

const wellFormed = z.string().refine((text) => text.isWellFormed(), "must not have lone surrogates");
const whole = (min: number, max: number) => z.int().min(min).max(max).nullish();
const number = (min: number, max: number) => z.number().min(min).max(max).nullish();
const stop = wellFormed.max(LONGEST_STOP);

/** Sampling and the like, of every route of OpenAI's. */
const common = {
  model: z.string().nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  n: whole(1, MOST_ANSWERS),
  seed: whole(-LARGEST_SEED, LARGEST_SEED),
  stop: z.union([stop, z.array(stop).max(4)]).nullish(),
  max_tokens: whole(0, 1e9),
  temperature: number(0, 2),
  top_p: number(0, 1),
  top_k: whole(-1, 1e9),
  min_p: number(0, 1),
  repetition_penalty: z.number().gt(0).max(100).nullish(),
  frequency_penalty: number(-2, 2),
  presence_penalty: number(-2, 2),
  logit_bias: z.record(z.string().regex(/^\d{1,9}$/, "keys are token ids"), z.number().min(-100).max(100))
    .refine((bias) => Object.keys(bias).length <= 1000, "has more than 1000 tokens").nullish(),
  truncate: z.boolean().nullish(),
};

const part = z.object({ type: z.literal("text"), text: wellFormed });
const content = z.union([wellFormed, z.array(part)]);

/** A message as it comes. */
const message = z.object({
  role: z.enum(["system", "developer", "user", "assistant"]),
  content: content.nullish(),
});

/** The body of `POST /v1/chat/completions`. */
export const ChatRequest = z.object({
  ...common,
  messages: z.array(message).min(1).max(MOST_MESSAGES),
  max_completion_tokens: whole(1, 1e9),
  logprobs: z.boolean().nullish(),
  top_logprobs: whole(0, 20),
}).refine(({ logprobs, top_logprobs }) => logprobs || top_logprobs == null, {
  message: "needs `logprobs`: true",
  path: ["top_logprobs"],
});

const ids = z.array(z.int().min(0)).max(10_000_000);

/** The body of `POST /v1/completions`. */
export const CompletionRequest = z.object({
  ...common,
  prompt: z.union([
    wellFormed,
    z.array(wellFormed).min(1).max(MOST_PROMPTS),
    ids.min(1),
    z.array(ids.min(1)).min(1).max(MOST_PROMPTS),
  ]).nullish(),
  logprobs: whole(0, 20),
  echo: z.boolean().nullish(),
  return_token_ids: z.boolean().nullish(),
  best_of: whole(1, MOST_ANSWERS),
});

export type ChatRequest = z.infer<typeof ChatRequest>;
export type CompletionRequest = z.infer<typeof CompletionRequest>;
type Common = Pick<CompletionRequest, keyof typeof common>;

/** What the sibling of the Rust program takes. */
export const SiblingGenerateRequest = z.object({
  num_samples: z.int().max(1e9).nullish(),
  temperature: number(0, 1000),
  seed: whole(0, LARGEST_SEED),
  max_tokens: whole(1, 1e9),
});
export const SiblingChatRequest = z.object({
  messages: z.array(z.object({ role: z.enum(["user", "assistant"]), content: wellFormed })).min(1)
    .max(MOST_MESSAGES),
  temperature: number(0, 1000),
  seed: whole(0, LARGEST_SEED),
  max_tokens: whole(1, 1e9),
});

/** Fields that would change the answer, and what of them may stand there because it asks for nothing. */
const REFUSED: Record<string, (value: unknown) => boolean> = {
  tools: isEmpty,
  functions: isEmpty,
  tool_choice: (value) => value === "none" || value === "auto",
  function_call: (value) => value === "none" || value === "auto",
  response_format: (value) => (value as { type?: unknown })?.type === "text",
  modalities: (value) => Array.isArray(value) && value.every((one) => one === "text"),
  audio: () => false,
  web_search_options: () => false,
  suffix: (value) => value === "",
  grammar: (value) => value === "",
  json_schema: () => false,
  guided_json: () => false,
  guided_regex: () => false,
  guided_grammar: () => false,
  guided_choice: () => false,
  structured_outputs: () => false,
};

function isEmpty(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0;
}

/**
 * Checks a body against its fields.
 * @throws {ApiError} 400, naming the field
 */
export function parseRequest<T>(schema: z.ZodType<T>, body: unknown): T {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new ApiError(400, "the body must be a JSON object");
  }
  for (const [field, asksNothing] of Object.entries(REFUSED)) {
    const value = (body as Record<string, unknown>)[field];
    if (value === undefined || value === null || asksNothing(value)) continue;
    throw new ApiError(400, `this server does not support \`${field}\``, {
      param: field,
      code: "unsupported_parameter",
    });
  }
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  throw invalid(parsed.error.issues[0]!);
}

/** The first thing that is wrong, as one line. */
function invalid(issue: z.core.$ZodIssue): ApiError {
  const path = issue.path.map((key, i) =>
    typeof key === "number" ? `[${key}]` : (i > 0 ? "." : "") + String(key)
  );
  const param = path.join("").slice(0, 100);
  const message = issue.message.slice(0, 200);
  return new ApiError(400, param === "" ? message : `\`${param}\`: ${message}`, {
    ...(param === "" ? {} : { param }),
    code: "invalid_value",
  });
}

/** How a request's answers are drawn. */
export interface Drawing {
  sampling: Omit<Sampling, "suppressed">;
  /** added to logits, by id */
  bias: Map<number, number>;
  stops: string[];
  seed: number;
}

/**
 * How a request's answers are drawn, with the server's defaults for what it leaves out.
 * @param vocabulary ids are below it
 * @throws {ApiError} for a bias of an id that is none
 */
export function drawingOf(request: Common, defaults: SamplingDefaults, vocabulary: number): Drawing {
  const bias = new Map(Object.entries(request.logit_bias ?? {}).map(([id, value]) => [Number(id), value]));
  for (const id of bias.keys()) {
    if (id >= vocabulary) {
      throw new ApiError(400, `there is no token ${id} in a vocabulary of ${vocabulary}`, {
        param: "logit_bias",
      });
    }
  }
  const usual = samplingOf(defaults);
  return {
    sampling: {
      temperature: request.temperature ?? usual.temperature,
      topK: Math.max(0, request.top_k ?? usual.topK),
      topP: request.top_p ?? usual.topP,
      minP: request.min_p ?? usual.minP,
      repetitionPenalty: request.repetition_penalty ?? usual.repetitionPenalty,
      frequencyPenalty: request.frequency_penalty ?? usual.frequencyPenalty,
      presencePenalty: request.presence_penalty ?? usual.presencePenalty,
    },
    bias,
    stops: [request.stop ?? []].flat().filter((text) => text !== ""),
    seed: request.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!,
  };
}
