/** What requests say as the ids that a model is fed. */
import { type Message, withTakenSystem } from "../../data/chat.ts";
import { contextOf, type GenerationModel } from "../generate/generation.ts";
import { foreignPrompt } from "../generate/foreign.ts";
import { buildPrompt, type Prompt, specialIds } from "../generate/prompt.ts";
import { ApiError, requestFault } from "./api_error.ts";
import type { ChatRequest } from "./request_fields.ts";

/** A prompt, and what became of a longer one. */
export interface FittedPrompt extends Prompt {
  /** tokens at the start of the conversation that were left out */
  dropped: number;
  /** tokens at the front that the request did not give */
  added: number;
}

/** A message's text; OpenAI's roles as ours. */
function plainMessages(messages: ChatRequest["messages"]): Message[] {
  return messages.map(({ role, content }) => ({
    role: role === "developer" ? "system" : role,
    content: typeof content === "string" ? content : (content ?? []).map(({ text }) => text).join(""),
  }));
}

/**
 * The prompt of a conversation, which ends where the assistant speaks.
 * @param truncate leave out turns at the start of one that is too long
 * @throws {ApiError} 400 when it is too long, or no conversation for this model
 */
export function conversationPrompt(
  model: GenerationModel,
  messages: ChatRequest["messages"],
  truncate: boolean,
): FittedPrompt {
  return fittedConversation(model, plainMessages(messages), truncate);
}

/** The same of messages of ours. */
export function fittedConversation(
  model: GenerationModel,
  messages: readonly Message[],
  truncate: boolean,
): FittedPrompt {
  const context = contextOf(model);
  let turns = withTakenSystem(messages, model.foreign?.template?.keepsSystem ?? false);
  const whole = encoded(model, turns);
  let prompt = whole;
  // a quarter is for the answer, as in `microgpt chat`
  const limit = truncate ? context - Math.ceil(context / 4) : context;
  if (truncate) {
    while (prompt.ids.length > limit) {
      const shorter = withoutFirstTurn(turns);
      if (!shorter) break;
      prompt = encoded(model, turns = shorter);
    }
  }
  if (prompt.ids.length > limit) throw tooLong(prompt.ids.length, limit, "messages");
  return { ...prompt, dropped: whole.ids.length - prompt.ids.length, added: 0 };
}

/** Without the first question and its answer; system messages stay. */
function withoutFirstTurn(messages: readonly Message[]): Message[] | undefined {
  const first = messages.findIndex(({ role }) => role === "user");
  const next = messages.findIndex(({ role }, i) => i > first && role === "user");
  if (first === -1 || next === -1) return undefined;
  return [...messages.slice(0, first), ...messages.slice(next)];
}

function encoded(model: GenerationModel, messages: Message[]): Prompt {
  const { tokenizer, chat, foreign } = model;
  try {
    if (foreign) return foreignPrompt(tokenizer, foreign, Infinity, { messages });
    return buildPrompt(tokenizer, chat, Infinity, { messages });
  } catch (error) {
    throw requestFault(error, "messages");
  }
}

/**
 * The prompt of a text or of ids, to be continued.
 * @param text "" begins a new text
 * @throws {ApiError} 400 when it is too long, or an id is none
 */
export function textPrompt(
  model: GenerationModel,
  text: string | readonly number[],
  truncate: boolean,
): FittedPrompt {
  const prompt = typeof text === "string" ? encodedText(model, text) : checkedIds(model, text);
  const context = contextOf(model);
  const limit = truncate ? context - Math.ceil(context / 4) : context;
  const dropped = Math.max(0, prompt.ids.length - limit);
  if (dropped > 0 && !truncate) throw tooLong(prompt.ids.length, limit, "prompt");
  return { ...prompt, ids: prompt.ids.slice(dropped), dropped, added: Math.max(0, prompt.added - dropped) };
}

function encodedText(model: GenerationModel, text: string): Omit<FittedPrompt, "dropped"> {
  const { tokenizer, foreign } = model;
  const ids = tokenizer.encodeOne(text);
  if (!foreign) {
    const { bos } = specialIds(tokenizer);
    return { ...endings(model), ids: [bos, ...ids], added: 1 };
  }
  try {
    // a template writes conversations; a text is continued as it is
    const { template: _, ...rules } = foreign;
    const prompt = foreignPrompt(tokenizer, rules, Infinity, { prompt: text });
    return { ...prompt, added: prompt.ids.length - ids.length };
  } catch (error) {
    throw requestFault(error, "prompt");
  }
}

function checkedIds(model: GenerationModel, ids: readonly number[]): Omit<FittedPrompt, "dropped"> {
  const { vocab_size } = model.config;
  const wrong = ids.find((id) => id >= vocab_size);
  if (wrong !== undefined) {
    throw new ApiError(400, `there is no token ${wrong} in a vocabulary of ${vocab_size}`, {
      param: "prompt",
    });
  }
  return { ...endings(model), ids: [...ids], added: 0 };
}

/** What ends a text, and what is not drawn in one. */
function endings({ tokenizer, foreign }: GenerationModel): Omit<Prompt, "ids"> {
  const rest = { minTokens: 0, conversation: false };
  if (foreign) return { stopTokens: foreign.eos, suppressed: foreign.suppressed, ...rest };
  const { bos, chat } = specialIds(tokenizer);
  if (!chat) return { stopTokens: [bos], suppressed: [], ...rest };
  return { stopTokens: [bos, chat.endTurn], suppressed: [chat.user, chat.assistant], ...rest };
}

function tooLong(length: number, limit: number, param: string): ApiError {
  return new ApiError(
    400,
    `This model's maximum context length is ${limit} tokens. However, your ${param} resulted in ${length} tokens.`,
    { param, code: "context_length_exceeded" },
  );
}
