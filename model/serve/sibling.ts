/**
 * The HTTP API of microgpt's sibling written in Rust, for programs that were written for it: the same routes, fields,
 * defaults and errors.
 */
import type { Message } from "../../data/chat.ts";
import { contextOf } from "../generate/generation.ts";
import { foreignPrompt } from "../generate/foreign.ts";
import { buildPrompt, type Prompt } from "../generate/prompt.ts";
import { Answers } from "./answers.ts";
import { PLAIN_SAMPLING } from "../../device/sampling.ts";
import { ApiError, requestFault } from "./api_error.ts";
import { fittedConversation } from "./prompts.ts";
import { type Drawing, parseRequest, SiblingChatRequest, SiblingGenerateRequest } from "./request_fields.ts";
import type { Call, Service } from "./service.ts";

const TEMPERATURE = 0.8;
const SEED = 42;
const MOST_SAMPLES = 50;

/** `POST /microgpt/v1/generate`: `{num_samples, temperature, seed, max_tokens}` → `{samples}`. */
export async function siblingGenerate(service: Service, body: unknown, call: Call): Promise<Response> {
  const request = parseRequest(SiblingGenerateRequest, body);
  const asked = request.num_samples ?? 1;
  if (asked < 1) throw new ApiError(400, "num_samples must be at least 1");
  const { tokenizer, chat, foreign } = service.model;
  let prompt: Prompt;
  try {
    prompt = foreign
      ? foreignPrompt(tokenizer, foreign, Infinity, {})
      : buildPrompt(tokenizer, chat, Infinity, {});
  } catch (error) {
    throw requestFault(error, "model");
  }
  const maxTokens = request.max_tokens ?? Infinity;
  const drawing = drawingOf(request.temperature, request.seed);
  const samples = await texts(service, call, prompt, Math.min(asked, MOST_SAMPLES), maxTokens, drawing);
  return Response.json({ samples: samples.map((text) => text.trim()) });
}

/** `POST /microgpt/v1/chat`: `{messages, temperature, seed, max_tokens}` → `{role, content, tokens_dropped}`. */
export async function siblingChat(service: Service, body: unknown, call: Call): Promise<Response> {
  const { model, metrics } = service;
  if (!model.chat && !model.foreign?.template) {
    throw new ApiError(400, "model was not trained with chat tokens");
  }
  const request = parseRequest(SiblingChatRequest, body);
  const messages: Message[] = request.messages;
  const empty = messages.findIndex(({ content }) => content.trim() === "");
  if (empty >= 0) throw new ApiError(400, `messages[${empty}]: content must not be empty`);
  if (messages.filter(({ role }) => role === "user").length === 1) {
    metrics.add("microgpt_conversations_total");
  }
  const prompt = fittedConversation(model, messages, true);
  const context = contextOf(model);
  const remaining = context - prompt.ids.length;
  const usual = Math.max(1, Math.min(Math.max(remaining, 64), Math.floor(context / 4)));
  const drawing = drawingOf(request.temperature, request.seed);
  const [text] = await texts(service, call, prompt, 1, request.max_tokens ?? usual, drawing);
  const content = text!.replace(/^[!-/:-@[-`{-~]+/, "").trim();
  return Response.json({ role: "assistant", content, tokens_dropped: prompt.dropped });
}

function drawingOf(temperature: number | null | undefined, seed: number | null | undefined): Drawing {
  return {
    sampling: { ...PLAIN_SAMPLING, temperature: temperature ?? TEMPERATURE },
    bias: new Map(),
    stops: [],
    seed: seed ?? SEED,
  };
}

/** Several texts from one prompt, number i with seed + i. */
async function texts(
  service: Service,
  call: Call,
  prompt: Prompt,
  count: number,
  maxTokens: number,
  drawing: Drawing,
): Promise<string[]> {
  const { model, scheduler, options } = service;
  const most = Math.min(maxTokens, contextOf(model) - prompt.ids.length + 1);
  const made = Array.from({ length: count }, () => "");
  const answers = new Answers(scheduler, model, {
    answers: made.map((_, i) => ({
      prompt,
      maxTokens: most,
      seed: drawing.seed + i,
      output: { text: (text) => made[i] += text, ended: () => {} },
    })),
    drawing,
    seconds: options.requestTimeout,
  });
  await call.until(service.track(call, answers, [{ ...prompt, dropped: 0, added: 0 }]));
  return made;
}
