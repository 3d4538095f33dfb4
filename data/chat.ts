/** Chat mode: JSONL, each line one conversation, an array of `{"role", "content"}`. */

import { MicrogptError } from "../device/errors.ts";
import { openInput, readLines } from "./lines.ts";

/** Who speaks; `system` only for models that have a token for it. */
export type Role = "user" | "assistant" | "system";

/** One turn of a conversation. */
export interface Message {
  /** who speaks */
  role: Role;
  /** what is said */
  content: string;
}

/** Conversations, cleaned: each ends with an assistant turn. */
export interface ChatData {
  mode: "chat";
  /** the path as given; "-" is standard input */
  path: string;
  /** SHA-256 of the file's bytes: a resumed run compares it */
  hash?: string;
  conversations: Message[][];
  /** how many conversations lost user turns after their last assistant turn */
  trimmed: number;
  /** how many had no assistant turn and were left out */
  skipped: number;
}

/** What a conversation looks like, for messages. */
export const EXPECTED = 'an array of {"role", "content"} messages';
/** An example of one, for hints. */
export const EXAMPLE =
  'write [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]';
const ONE_A_LINE = "each conversation must be on one line of its own";

/**
 * Loads conversations. Other fields of a message are ignored, and so is the order of roles.
 * @param path a JSONL file, or "-" for standard input
 * @throws {MicrogptError} with file and line number, for a line that is not such a conversation, for text that is not
 * well-formed Unicode (a lone surrogate escape), or when no conversation is left
 */
export async function loadChat(path: string): Promise<ChatData> {
  const input = await openInput(path);
  const data: ChatData = { mode: "chat", path, conversations: [], trimmed: 0, skipped: 0 };
  data.hash = await readLines(input, (line, number) => {
    addConversation(data, parseConversation(line, `${input.name} line ${number}`));
  });
  checkSomeLeft(data, input.name, `write one conversation a line: ${EXPECTED}`);
  return data;
}

/**
 * The same for conversations in memory, which are checked like those in a file.
 * @param path what stands for a path
 * @throws {MicrogptError} saying where something is not a conversation, or when none is left
 */
export function cleanChat(path: string, conversations: readonly Message[][]): ChatData {
  if (!Array.isArray(conversations)) {
    throw unexpected("conversations", "an array of conversations", conversations);
  }
  const data: ChatData = { mode: "chat", path, conversations: [], trimmed: 0, skipped: 0 };
  for (let c = 0; c < conversations.length; c++) {
    addConversation(data, checkConversation(conversations[c], `conversations[${c}]`));
  }
  checkSomeLeft(data, "conversations", "each is an array of {role, content} messages");
  return data;
}

/** Adds a conversation up to its last assistant turn, if it has one. */
function addConversation(data: ChatData, messages: Message[]): void {
  const end = messages.findLastIndex((message) => message.role === "assistant") + 1;
  if (end === 0) {
    data.skipped++;
    return;
  }
  if (end < messages.length) data.trimmed++;
  data.conversations.push(messages.slice(0, end));
}

function checkSomeLeft({ conversations, skipped }: ChatData, name: string, hint: string): void {
  if (conversations.length > 0) return;
  const missing = skipped > 0 ? ` with an assistant turn (${skipped} without)` : "";
  throw new MicrogptError(`${name} holds no conversation${missing}`, { hint });
}

/** How many messages are empty. */
export function countEmptyMessages(messages: readonly Message[]): number {
  let empty = 0;
  for (const { content } of messages) if (content.trim() === "") empty++;
  return empty;
}

/** The notice about empty messages; undefined when there are none. */
export function emptyMessagesNotice(empty: number): string | undefined {
  return empty === 0 ? undefined : `warning: ${empty} messages are empty, and are trained on as such`;
}

/** What cleaning changed, as the line to print; undefined when it changed nothing. */
export function cleanupNotice(
  { trimmed, skipped }: Pick<ChatData, "trimmed" | "skipped">,
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
  if (!/^[[{]/u.test(line)) return { hint: "is this a plain text file? then drop `chat`" };
  return {};
}
