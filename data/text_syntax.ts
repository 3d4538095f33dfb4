/** Text files that are another format's syntax, which a model would learn with the text. */

import { MicrogptError } from "../device/errors.ts";
import { conversationField, parseConversation } from "./chat.ts";

/** Lines that are looked at. */
const SAMPLE = 10;

/**
 * The notice about a text file whose lines are the syntax of another format, which a model would learn too.
 * @param path the file, for the message
 * @param documents its lines
 * @returns undefined for plain text
 * @throws {MicrogptError} when a whole JSON array on one line is the only document
 */
export function syntaxNotice(path: string, documents: readonly string[]): string | undefined {
  const values = documents.slice(0, 3).map(parsed);
  if (documents.length === 1 && Array.isArray(values[0]) && values[0].length > 1) {
    if (!isConversation(documents[0]!) && values[0].every((entry) => typeof entry !== "number")) {
      throw new MicrogptError(`${path} is a JSON array on one line, which would be a single document`, {
        hint: "write one document a line: jq -r '.[]' for an array of texts",
      });
    }
  }
  if (documents.slice(0, 3).every(isConversation)) {
    return `warning: the lines of ${path} look like conversations; without \`chat\` they are plain text`;
  }
  const learned = "and would be learned with all of that syntax";
  if (values.every(isObject)) {
    return `warning: the lines of ${path} are JSON objects ${learned}: ${fieldAdvice(values)}`;
  }
  if (isOneJsonText(documents)) {
    return `warning: ${path} is JSON over many lines ${learned}: write one document a line`;
  }
  if (isTable(documents)) {
    return `warning: ${path} looks like a CSV table ${learned}: write the text of one column, one document a line`;
  }
  return undefined;
}

function parsed(line: string): unknown {
  if (!/^[[{]/u.test(line)) return undefined;
  try {
    return JSON.parse(line);
  } catch {
    return undefined; // plain text that begins with a bracket
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) &&
    Object.keys(value).length > 0;
}

function isConversation(line: string): boolean {
  try {
    return parseConversation(line, "").length > 0;
  } catch (error) {
    if (error instanceof MicrogptError) return false;
    throw error;
  }
}

/** How to get at the objects' text, going by the usual fields. */
function fieldAdvice(values: Record<string, unknown>[]): string {
  const inAll = (name: string) => values.every((value) => name in value);
  const chat = conversationField(values[0]!);
  if (chat !== undefined && inAll(chat)) return `jq -c .${chat} makes conversations of them, for \`chat\``;
  const text = ["text", "content", "body"].find(inAll);
  if (text !== undefined) return `jq -r '.${text} | gsub("\\\\s+"; " ")' makes plain text of them`;
  return "write one document a line";
}

/** One value, indented over many lines. */
function isOneJsonText(documents: readonly string[]): boolean {
  const [first, second] = documents;
  const last = documents[documents.length - 1]!;
  if (second === undefined) return false;
  return /^(\[\{?|\{)$/u.test(first!) && /^[[{"]/u.test(second) && /^(\}?\]|\})$/u.test(last);
}

/** Names of columns that hold text or stand beside it: a first line with one of them is a header. */
const COLUMNS = new Set(
  ("answer answers article author body category class comment completion content date description id input " +
    "instruction label labels language message messages name output prompt question response review role sentence " +
    "sentiment source summary target text timestamp title url").split(" "),
);

/** A header of names, one of them usual, and at least as many columns in most lines below it. */
function isTable(documents: readonly string[]): boolean {
  const [header, ...rows] = documents.slice(0, 1 + SAMPLE);
  if (rows.length === 0) return false;
  return [",", ";", "\t"].some((separator) => {
    const names = header!.split(separator).map((name) => name.trim().replace(/^"(.*)"$/u, "$1"));
    if (names.length < 2 || !names.every((name) => /^[\p{L}_][\p{L}\d_. -]{0,40}$/u.test(name))) return false;
    if (!names.some((name) => COLUMNS.has(name.toLowerCase()))) return false;
    const full = rows.filter((row) => row.split(separator).length >= names.length);
    return full.length > rows.length / 2;
  });
}
