/** Prompts from files: one, or many. */

import { MicrogptError } from "../../device/errors.ts";
import { checkConversation, jsonReason } from "../../data/chat.ts";
import type { PromptOptions } from "./prompt.ts";

/** Bytes that are looked at to tell JSONL from text. */
const SAMPLE_BYTES = 64 * 1024;

/** Longest prompt in a file of its own, in UTF-16 units. */
const MAX_PROMPT = 16 << 20;

/** A prompt of many, and where it stands. */
export interface FilePrompt extends PromptOptions {
  /** the file and the line, for messages */
  where: string;
  /** its line, from 1 */
  line: number;
}

/**
 * The text of a file, without the end of its last line.
 * @param path "-" is standard input; may be compressed
 * @throws {MicrogptError} when it cannot be read, or is no text
 */
export async function readPrompt(path: string): Promise<string> {
  let text = "";
  for await (const { pieces } of openText(path)) {
    for await (const piece of pieces(() => 1)) {
      text += piece;
      if (text.length > MAX_PROMPT) {
        throw new MicrogptError(`${path} is longer than ${MAX_PROMPT >> 20} MB`, {
          hint: "a prompt must fit the model's context",
        });
      }
    }
  }
  return text.replace(/\r?\n$|\r$/u, "");
}

/**
 * The prompts of a file, one a line; empty lines do not count. Plain text, or JSONL: a text, {"prompt": text},
 * {"messages": [{role, content}, …]}, or the messages alone.
 * @param path "-" is standard input; may be compressed
 * @param options.system system messages may be among them
 * @throws {MicrogptError} when it cannot be read, naming the line
 */
export async function* readPrompts(
  path: string,
  options: { system?: boolean } = {},
): AsyncGenerator<FilePrompt, void, void> {
  const { LineCutter } = await import("../../data/reading/cutter.ts");
  let some = false;
  for await (const { name, sample, pieces } of openText(path)) {
    const isJson = looksLikeJsonLines(name, sample);
    let waiting: FilePrompt[] = [];
    const lines = new LineCutter(name, (text, line) => {
      if (text.trim() === "") return;
      const where = `${name} line ${line}`;
      waiting.push({ where, line, ...(isJson ? promptOfJson(text, where, options) : { prompt: text }) });
    });
    for await (const piece of pieces(() => lines.line)) {
      lines.push(piece);
      some ||= waiting.length > 0;
      yield* waiting;
      waiting = [];
    }
    lines.end();
    some ||= waiting.length > 0;
    yield* waiting;
  }
  if (!some) throw new MicrogptError(`${path} holds no prompt`, { hint: "write one a line" });
}

/** Opens one input as text: yields it once, so that it is closed whatever happens. */
async function* openText(path: string) {
  const { decodeText, sampleText } = await import("../../data/reading/decoded_text.ts");
  const { compressionOf, openBytes, PeekedBytes, unpack } = await import("../../data/reading/input_bytes.ts");
  const { findInputFiles } = await import("../../data/reading/input_files.ts");
  const { files: found } = path === "-" ? { files: [undefined] } : await findInputFiles([path]);
  if (found.length > 1) {
    throw new MicrogptError(`${path} is ${found.length} files`, { hint: "name one", usage: true });
  }
  const source = openBytes(found[0]);
  const raw = new PeekedBytes(source.chunks);
  try {
    const compression = compressionOf(await raw.peek(16));
    const bytes = compression ? new PeekedBytes(unpack(source, raw, compression)) : raw;
    const start = await bytes.peek(SAMPLE_BYTES);
    const pieces = (line: () => number) => decodeText(source.name, start, bytes, line);
    yield { name: source.name, sample: sampleText(start), pieces };
  } finally {
    await raw.close();
  }
}

/** By its name, or because its first line is an object or a list of some. */
function looksLikeJsonLines(name: string, sample: string): boolean {
  if (/\.(jsonl|ndjson)(\.(gz|zst|xz))?$/iu.test(name)) return true;
  return /^\s*(\{\s*"|\[\s*\{\s*")/u.test(sample);
}

function promptOfJson(line: string, where: string, options: { system?: boolean }): PromptOptions {
  const expected = 'a text, {"prompt": text} or {"messages": [{"role", "content"}, …]}';
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new MicrogptError(`${where}: expected ${expected}, got invalid JSON (${jsonReason(error)})`, {
      cause: error,
    });
  }
  const { prompt, messages } = (typeof value === "object" && value !== null ? value : {}) as Record<
    string,
    unknown
  >;
  const text = typeof value === "string" ? value : prompt;
  if (typeof text === "string" && messages === undefined) {
    if (text.isWellFormed()) return { prompt: text };
    throw new MicrogptError(`${where}: expected well-formed Unicode, got a lone surrogate`);
  }
  const conversation = Array.isArray(value) ? value : messages;
  if (!Array.isArray(conversation)) throw new MicrogptError(`${where}: expected ${expected}`);
  return { messages: checkConversation(conversation, where, options.system) };
}
