/** Conversations in the shapes that people keep them in, as messages of user and assistant. */

import { countEmptyMessages, describe, EXAMPLE, EXPECTED, type Message, type Role } from "../chat.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { Tally } from "./tally.ts";

/** Fields with an array of messages, as OpenAI and ShareGPT name them. */
const MESSAGES = ["messages", "conversations", "conversation"];

/** Fields with one question and one answer; `context` follows the question where there is one. */
const PAIRS: { user: string[]; context: string[]; assistant: string[] }[] = [
  { user: ["instruction"], context: ["input", "context"], assistant: ["output", "response"] },
  { user: ["prompt"], context: [], assistant: ["completion", "response"] },
  { user: ["question", "query"], context: [], assistant: ["answer", "response"] },
];

/** Fields with what is said to the model beforehand. */
const SYSTEM = ["system", "system_prompt"];

/** All fields that a conversation may be in, beside one that is asked for. */
export const CONVERSATION_FIELDS = [
  ...MESSAGES,
  ...PAIRS.flatMap(({ user, context, assistant }) => [...user, ...context, ...assistant]),
  ...SYSTEM,
];

/** Who speaks, by the names in use. */
const ROLES: Record<string, Role> = {
  user: "user",
  human: "user",
  prompter: "user",
  assistant: "assistant",
  gpt: "assistant",
  bot: "assistant",
  model: "assistant",
  chatgpt: "assistant",
  system: "system",
  developer: "system",
};

/** Messages from programs that the model calls. */
const TOOL_ROLES = new Set([
  "tool",
  "function",
  "function_call",
  "function_response",
  "tool_call",
  "tool_response",
]);
const TOOL_FIELDS = ["tool_calls", "function_call"];

/** Separates parts that become one message. */
const GAP = "\n\n";

type Fields = Record<string, unknown>;

/** How a conversation is read. */
export interface ConversationOptions {
  /** the field with the messages */
  field?: string | undefined;
  /** whether the model takes system messages, or only one in front; others are put in front of the next user message */
  keepSystem: boolean | "first";
  tally: Tally;
}

/** A conversation whose parts cannot be trained on. */
class Unusable {
  constructor(
    readonly reason: "tool calls" | "images or other content that is no text" | "no text in the field",
  ) {}
}

const NO_TEXT = new Unusable("no text in the field");

/**
 * Reads and cleans a conversation: an array of messages, or an object in one of the shapes above. Other fields are
 * ignored, and so is the order of roles.
 * @param where names file and line
 * @returns undefined when it is skipped, which is counted; else it ends with an assistant turn
 * @throws {MicrogptError} when it is in no known shape, or its text is not well-formed Unicode
 */
export function readConversation(
  value: unknown,
  where: () => string,
  { field, keepSystem, tally }: ConversationOptions,
): Message[] | undefined {
  const messages = messagesOf(value, where, field);
  if (messages instanceof Unusable) {
    tally.skip(messages.reason, where);
    return undefined;
  }
  const merged = keepSystem === true ? keptSystem(messages, tally) : mergeSystem(messages, keepSystem, tally);
  const end = merged.findLastIndex(({ role }) => role === "assistant") + 1;
  if (end === 0) {
    tally.skip("no assistant turn", where);
    return undefined;
  }
  if (end < merged.length) tally.clean("trailing user turn removed");
  const cleaned = end < merged.length ? merged.slice(0, end) : merged;
  tally.clean("empty message kept", countEmptyMessages(cleaned));
  return cleaned;
}

/** The fields that a record keeps its conversation in, for people; undefined for an array of messages. */
export function shapeOf(value: unknown, field?: string): string | undefined {
  if (!isObject(value)) return undefined;
  const messages = field ?? MESSAGES.find((name) => Array.isArray(own(value, name)));
  if (messages !== undefined) return `field ${messages}`;
  const pair = pairOf(value);
  return pair && `fields ${Object.values(pair).filter((name) => name !== undefined).join(", ")}`;
}

function messagesOf(value: unknown, where: () => string, field?: string): Message[] | Unusable {
  if (Array.isArray(value)) return readMessages(value, where);
  if (!isObject(value)) throw unexpected(where(), EXPECTED, value);
  const name = field ?? MESSAGES.find((name) => Array.isArray(own(value, name)));
  if (name !== undefined) {
    const messages = own(value, name);
    if (messages === null) return NO_TEXT;
    if (!Array.isArray(messages)) throw unexpected(`${where()}: field ${describe(name)}`, EXPECTED, messages);
    return withSystem(value, readMessages(messages, where));
  }
  const pair = pairOf(value);
  if (!pair) {
    const isNull = MESSAGES.some((name) => own(value, name) === null) || pairOf(value, true);
    if (isNull) return NO_TEXT;
    throw unexpected(where(), EXPECTED, value, unknownShapeHint(value));
  }
  const prompt = own(value, pair.user);
  const completion = own(value, pair.assistant);
  // both may be arrays of messages
  if (Array.isArray(prompt) && Array.isArray(completion)) {
    return withSystem(value, readMessages([...prompt, ...completion], where));
  }
  const context = pair.context === undefined ? undefined : own(value, pair.context);
  const question = text(prompt, pair.user, where);
  const more = context === undefined || context === null ? "" : text(context, pair.context!, where);
  return withSystem(value, [
    { role: "user", content: more === "" ? question : question + GAP + more },
    { role: "assistant", content: text(completion, pair.assistant, where) },
  ]);
}

/** The names of a record's fields that make a question and its answer. @param nulls also those without a value */
function pairOf(
  value: Fields,
  nulls = false,
): { user: string; context: string | undefined; assistant: string } | undefined {
  const isThere = (field: unknown) => field !== undefined && (nulls || field !== null);
  const first = (names: string[]) => names.find((name) => isThere(own(value, name)));
  for (const pair of PAIRS) {
    const [user, assistant] = [first(pair.user), first(pair.assistant)];
    if (user !== undefined && assistant !== undefined) {
      return { user, context: first(pair.context), assistant };
    }
  }
  return undefined;
}

/** Puts the record's system text in front, where it has one beside the messages. */
function withSystem(value: Fields, messages: Message[] | Unusable): Message[] | Unusable {
  const system = SYSTEM.map((name) => own(value, name)).find((text) =>
    typeof text === "string" && text.trim() !== ""
  );
  if (messages instanceof Unusable || system === undefined || messages[0]?.role === "system") return messages;
  return [{ role: "system", content: system as string }, ...messages];
}

function readMessages(values: unknown[], where: () => string): Message[] | Unusable {
  const messages: Message[] = [];
  // not for…of on entries or values.map, which skips the holes of an array
  for (let i = 0; i < values.length; i++) {
    const message = readMessage(values[i], () => `${where()}: message ${i + 1}`);
    if (message instanceof Unusable) return message;
    messages.push(message);
  }
  return messages;
}

function readMessage(value: unknown, where: () => string): Message | Unusable {
  if (!isObject(value)) throw unexpected(where(), 'an object {"role", "content"}', value);
  const speaker = own(value, "role") ?? own(value, "from");
  if (
    typeof speaker === "string" && TOOL_ROLES.has(speaker) ||
    TOOL_FIELDS.some((name) => isUsed(own(value, name)))
  ) {
    return new Unusable("tool calls");
  }
  const role = typeof speaker === "string" && Object.hasOwn(ROLES, speaker) ? ROLES[speaker] : undefined;
  if (role === undefined) {
    const hint = speaker === undefined || speaker === null
      ? EXAMPLE
      : "system, human and gpt are known too; leave others out";
    throw unexpected(where(), '"role" to be "user" or "assistant"', speaker, hint);
  }
  const name = Object.hasOwn(value, "content") || !Object.hasOwn(value, "value") ? "content" : "value";
  const content = own(value, name);
  const said = Array.isArray(content) ? joinParts(content) : content;
  if (said instanceof Unusable) return said;
  return { role, content: text(said, name, where) };
}

/** Parts of a content: texts are joined. @returns the content itself when it is not an array of parts */
function joinParts(parts: unknown[]): unknown {
  const texts: string[] = [];
  for (const part of parts) {
    if (typeof part === "string") texts.push(part);
    else if (!isObject(part)) return parts;
    else if (typeof part.text === "string" && /^(input_|output_)?text$/u.test(String(part.type ?? "text"))) {
      texts.push(part.text);
    } else return new Unusable("images or other content that is no text");
  }
  return texts.join("");
}

function isUsed(value: unknown): boolean {
  return value !== undefined && value !== null && !(Array.isArray(value) && value.length === 0);
}

/** @throws {MicrogptError} when a value is not text, or holds half of a surrogate pair, which UTF-8 cannot spell */
function text(value: unknown, name: string, where: () => string): string {
  if (typeof value !== "string") throw unexpected(where(), `"${name}" to be a string`, value);
  if (value.isWellFormed()) return value;
  throw new MicrogptError(`${where()}: expected "${name}" to be well-formed Unicode, got a lone surrogate`);
}

/** Counts a conversation whose system text stays; an empty one says nothing. */
function keptSystem(messages: Message[], tally: Tally): Message[] {
  if (!messages.some(({ role }) => role === "system")) return messages;
  tally.clean("system text kept");
  return messages.filter(({ role, content }) => role !== "system" || content.trim() !== "");
}

/**
 * Puts each system text in front of the next user message; where an assistant's comes first, it becomes a user message
 * itself.
 * @param keep "first": one that opens the conversation stays
 */
function mergeSystem(messages: Message[], keep: false | "first", tally: Tally): Message[] {
  if (!messages.some(({ role }) => role === "system")) return messages;
  if (keep === "first" && messages[0]!.role === "system" && messages[0]!.content.trim() !== "") {
    tally.clean("system text kept");
    return [messages[0]!, ...mergeSystem(messages.slice(1), false, tally)];
  }
  tally.clean("system text put in front of a user message");
  const merged: Message[] = [];
  let pending: string[] = [];
  for (const { role, content } of messages) {
    if (role === "system") {
      if (content.trim() !== "") pending.push(content);
      continue;
    }
    if (role === "user") merged.push({ role, content: [...pending, content].join(GAP) });
    else {
      if (pending.length > 0) merged.push({ role: "user", content: pending.join(GAP) });
      merged.push({ role, content });
    }
    pending = [];
  }
  return merged;
}

function unknownShapeHint(value: Fields): string {
  const names = Object.keys(value).slice(0, 5).map((name) => describe(name)).join(", ");
  const known = "messages, conversations, instruction/output, prompt/completion, question/answer";
  return names === "" || "role" in value
    ? EXAMPLE
    : `its fields are ${names}; known are ${known}; or name one with \`field\``;
}

function unexpected(where: string, expected: string, value: unknown, hint = EXAMPLE): MicrogptError {
  return new MicrogptError(`${where}: expected ${expected}, got ${describe(value)}`, { hint });
}

/** A field of the record itself, not one that objects inherit. */
function own(value: Fields, name: string): unknown {
  return Object.hasOwn(value, name) ? value[name] : undefined;
}

function isObject(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
