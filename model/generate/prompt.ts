/** What a model is fed before it draws: ids, and where the drawing ends. */
import { checkConversation, type Message, withTakenSystem } from "../../data/chat.ts";
import { SPECIAL_TOKENS, StreamDecoder, type Tokenizer } from "../../data/tokenizer.ts";
import { MicrogptError } from "../../device/errors.ts";

/** What to start from. */
export interface PromptOptions {
  /** text that every sample begins with, or what the user says first to a chat model; "" starts a new document */
  prompt?: string;
  /**
   * a conversation instead of a prompt, for chat models only: if the user spoke last, the assistant answers, and an
   * assistant's message at the end is continued. System messages that the model does not take stand in front of what the
   * user says next, as in training
   */
  messages?: Message[];
}

/** A prompt as ids. */
export interface Prompt {
  ids: number[];
  /** any of them ends a sample */
  stopTokens: readonly number[];
  /** ids that are never drawn */
  suppressed: number[];
  /** no stop token is drawn before a sample has this many tokens */
  minTokens: number;
  /** a chat model invents a whole conversation, so its turns are part of the text */
  conversation: boolean;
}

/** Ids of the special tokens; those of a chat only if the tokenizer has them all. */
export interface SpecialIds {
  bos: number;
  chat?: { user: number; assistant: number; endTurn: number };
}

/** @throws {MicrogptError} when there is no `<bos>` */
export function specialIds(tokenizer: Pick<Tokenizer, "id">): SpecialIds {
  const bos = tokenizer.id(SPECIAL_TOKENS.bos);
  if (bos === undefined) throw new MicrogptError(`the tokenizer has no ${SPECIAL_TOKENS.bos} token`);
  const user = tokenizer.id(SPECIAL_TOKENS.user);
  const assistant = tokenizer.id(SPECIAL_TOKENS.assistant);
  const endTurn = tokenizer.id(SPECIAL_TOKENS.endTurn);
  if (user === undefined || assistant === undefined || endTurn === undefined) return { bos };
  return { bos, chat: { user, assistant, endTurn } };
}

/**
 * Makes the ids of a prompt.
 * @param chat the model was trained on conversations
 * @param context the model's block size
 * @throws {MicrogptError} when the prompt fills the context, or messages are no conversation, or are given to a model
 * without chat tokens
 */
export function buildPrompt(
  tokenizer: Tokenizer,
  chat: boolean,
  context: number,
  { prompt = "", messages }: PromptOptions,
): Prompt {
  const { bos, chat: turns } = specialIds(tokenizer);
  const made = messages || (chat && prompt !== "")
    ? chatPrompt(
      tokenizer,
      chat ? { bos, ...turns! } : undefined,
      messages
        ? withTakenSystem(checkConversation(messages, "messages", true), false)
        : [{ role: "user", content: prompt }],
    )
    : {
      ids: [bos, ...tokenizer.encodeOne(prompt)],
      stopTokens: [bos],
      suppressed: [],
      minTokens: 0,
      conversation: chat,
    };
  checkFits(made.ids, context, messages !== undefined);
  return made;
}

/**
 * Checks that a prompt fits into the context.
 * @param messages it was made of some
 * @throws {MicrogptError} when not
 */
export function checkFits({ length }: ArrayLike<number>, context: number, messages: boolean): void {
  if (length <= context) return;
  throw new MicrogptError(`the prompt has ${length} tokens, the model's context is ${context}`, {
    hint: messages ? "leave out earlier messages" : "shorten the prompt",
  });
}

function chatPrompt(
  tokenizer: Tokenizer,
  special: { bos: number; user: number; assistant: number; endTurn: number } | undefined,
  messages: Message[],
): Prompt {
  if (!special) throw noChatTokens();
  const { bos, user, assistant, endTurn } = special;
  const continued = messages.at(-1)?.role === "assistant";
  const ids = [bos];
  messages.forEach(({ role, content }, i) => {
    ids.push(role === "user" ? user : assistant);
    // not `push(...)`: a long message has more ids than a call may have arguments
    for (const id of tokenizer.encodeOne(content)) ids.push(id);
    if (!continued || i < messages.length - 1) ids.push(endTurn);
  });
  if (!continued) ids.push(assistant);
  const suppressed = [bos, user, assistant];
  return { ids, stopTokens: [endTurn], suppressed, minTokens: continued ? 0 : 1, conversation: false };
}

/**
 * Makes the text of one sample from its tokens, in whole characters. Where a conversation is invented, its turns are
 * lines that say who speaks.
 * @returns a function to call with the next ids, and `done` at the last
 */
export function sampleText(
  tokenizer: Tokenizer,
  { conversation }: Prompt,
): (ids: number[], done: boolean) => string {
  const stream = new StreamDecoder(tokenizer);
  const chat = conversation ? specialIds(tokenizer).chat : undefined;
  const marks = new Map<number, string>();
  if (chat) {
    marks.set(chat.user, "user: ").set(chat.assistant, "assistant: ").set(chat.endTurn, "\n");
  }
  return (ids, done) =>
    ids.map((id) => stream.push(id) + (marks.get(id) ?? "")).join("") + (done ? stream.flush() : "");
}

/** The error for a model that was trained on plain text. */
export function noChatTokens(): MicrogptError {
  return new MicrogptError("the model has no chat tokens: it was trained on plain text", {
    hint: "train a model on conversations with `microgpt train --chat`",
  });
}
