/** Chat mode: JSONL, each line one conversation, an array of `{"role", "content"}`. */

import { MicrogptError } from "../device/errors.ts";

/** Who speaks; `system` only for models that have a token for it. */
export type Role = "user" | "assistant" | "system";

/** One turn of a conversation. */
export interface Message {
  /** who speaks */
  role: Role;
  /** what is said */
  content: string;
}

/** What a conversation looks like, for messages. */
export const EXPECTED = 'an array of {"role", "content"} messages';
/** An example of one, for hints. */
export const EXAMPLE =
  'write [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]';
const ONE_A_LINE = "each conversation must be on one line of its own";

/** How many messages are empty. */
export function countEmptyMessages(messages: readonly Message[]): number {
  let empty = 0;
  for (const { content } of messages) if (content.trim() === "") empty++;
  return empty;
}

/** What cleaning changed, as the line to print; undefined when it changed nothing. */
export function cleanupNotice(
  { trimmed, skipped }: { trimmed: number; skipped: number },
): string | undefined {
  if (trimmed === 0 && skipped === 0) return undefined;
  return `data cleanup: ${trimmed} conversations trimmed (trailing user turn removed), ` +
    `${skipped} skipped (no assistant turn)`;
}

/**
 * One line as messages, unchanged.
 * @param where names file and line in errors
 * @param options.system system messages may be among them
 * @throws {MicrogptError} when it is not a conversation
 */
export function parseConversation(
  line: string,
  where: string,
  { system = false }: { system?: boolean } = {},
): Message[] {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new MicrogptError(`${where}: expected ${EXPECTED}, got invalid JSON (${jsonReason(error)})`, {
      ...invalidJsonHint(line),
      cause: error,
    });
  }
  return checkConversation(value, where, system);
}

/**
 * A value as messages, unchanged.
 * @param where names its place in errors
 * @param system system messages may be among them
 * @throws {MicrogptError} when it is no conversation
 */
export function checkConversation(value: unknown, where: string, system = false): Message[] {
  if (!Array.isArray(value)) throw unexpected(where, EXPECTED, value, shapeHint(value));
  if (Array.isArray(value[0])) {
    throw unexpected(`${where}: message 1`, 'an object {"role", "content"}', value[0], ONE_A_LINE);
  }
  // not value.map, which skips the holes of an array
  return Array.from(value, (message, i) => parseMessage(message, `${where}: message ${i + 1}`, system));
}

/**
 * Puts system messages that the model does not take in front of what the user says next, as in training.
 * @param keeps those that it takes: all, one in front of all others, or none
 */
export function withTakenSystem(messages: readonly Message[], keeps: boolean | "first"): Message[] {
  if (keeps === true) return [...messages];
  const [first] = messages;
  if (keeps === "first" && first?.role === "system") {
    return [first, ...withTakenSystem(messages.slice(1), false)];
  }
  const turns: Message[] = [];
  let before: string[] = [];
  for (const { role, content } of messages) {
    if (role === "system") before.push(content);
    else if (role === "user") {
      turns.push({ role, content: [...before, content].join("\n\n") });
      before = [];
    } else turns.push({ role, content });
  }
  if (before.length > 0) turns.push({ role: "user", content: before.join("\n\n") });
  return turns;
}

function shapeHint(value: unknown): string {
  if (typeof value !== "object" || value === null) return EXAMPLE;
  const field = conversationField(value);
  return field === undefined ? EXAMPLE : `leave out the object around the array: jq -c .${field}`;
}

/** The field that holds the conversation in an object around it, as other programs write it. */
export function conversationField(value: object): string | undefined {
  return ["messages", "conversation", "conversations"].find((name) =>
    Array.isArray((value as Record<string, unknown>)[name])
  );
}

function parseMessage(value: unknown, where: string, system: boolean): Message {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw unexpected(where, 'an object {"role", "content"}', value);
  }
  const { role, content } = value as Record<string, unknown>;
  if (role !== "user" && role !== "assistant" && !(system && role === "system")) {
    const hint = role === undefined ? EXAMPLE : "there are no other roles: leave such messages out";
    throw unexpected(where, '"role" to be "user" or "assistant"', role, hint);
  }
  if (typeof content !== "string") throw unexpected(where, '"content" to be a string', content);
  // JSON can spell half of a surrogate pair ("\ud800"), UTF-8 cannot: replacing it would silently change the data.
  if (!content.isWellFormed()) {
    throw new MicrogptError(`${where}: expected "content" to be well-formed Unicode, got a lone surrogate`);
  }
  return { role, content };
}

function unexpected(where: string, expected: string, value: unknown, hint = EXAMPLE): MicrogptError {
  return new MicrogptError(`${where}: expected ${expected}, got ${describe(value)}`, { hint });
}

/** A value in a few words, safe to print. */
export function describe(value: unknown): string {
  if (value === undefined) return "none";
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "object") return "an object";
  if (typeof value === "function" || typeof value === "symbol") return `a ${typeof value}`;
  if (typeof value !== "string") return `${value}`;
  return printable(JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value));
}

/** The engine's reason why a text is not JSON, without its excerpt of the line, which may hold anything. */
export function jsonReason(error: unknown): string {
  if (error instanceof RangeError) return "nested too deeply";
  const message = error instanceof Error ? error.message : String(error);
  return printable(message.replace(/, (\.\.\.)?".*$/su, "").replace(/ \(line 1 .*$/u, ""));
}

/** Control characters of the data must not reach the terminal. */
function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
}

export function invalidJsonHint(line: string): { hint?: string } {
  if (/^[[{]+$/u.test(line)) return { hint: "each conversation must be on one line of its own" };
  if (!/^[[{]/u.test(line)) {
    return {
      hint: "is this a plain text file? then drop `chat`, or to measure a chat model give `format` text",
    };
  }
  return {};
}
