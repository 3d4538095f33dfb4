/**
 * Makes chat training data from OpenAssistant conversation trees: downloads the OASST2 export (Apache-2.0), follows
 * the best-ranked replies, keeps one language, and writes one conversation a line.
 *
 *     deno run --allow-net --allow-read --allow-write scripts/prepare_oasst.ts --output oasst2_en.jsonl
 */

import { parseArgs } from "node:util";
import type { Message } from "../data/chat.ts";
import { cannotRead } from "../data/reading/limits.ts";
import { MicrogptError } from "../device/errors.ts";
import { lines } from "./lines.ts";

/** The trees that are ready for export: https://huggingface.co/datasets/OpenAssistant/oasst2 */
const OASST2_URL =
  "https://huggingface.co/datasets/OpenAssistant/oasst2/resolve/main/2023-11-05_oasst2_ready.trees.jsonl.gz";

const USAGE = `usage: prepare_oasst.ts [--input FILE|URL] [--lang CODE] [--output FILE]

  --input   conversation trees, .jsonl or .jsonl.gz (default: the OASST2 export, downloaded)
  --lang    language of the messages that are kept (default: en)
  --output  JSONL for microgpt train --chat (default: oasst2_LANG.jsonl)`;

/** A message of a tree with the fields that matter here. */
interface TreeMessage {
  text: string;
  role: "prompter" | "assistant";
  lang: string;
  deleted?: boolean | null;
  /** false when reviewers rejected it */
  review_result?: boolean | null;
  /** 0 is the best of its siblings; not every message was ranked */
  rank?: number | null;
  replies?: TreeMessage[];
}

/**
 * The conversation that starts at the root of a tree and follows the best reply each time: lowest rank first, unranked ones
 * after ranked, earlier ones first among equals. Deleted, rejected, empty and foreign-language messages are not followed.
 * It ends with an assistant's message.
 * @param prompt the root
 * @param lang language code, such as "en"
 * @returns undefined when there is no such conversation
 */
function bestConversation(prompt: TreeMessage, lang: string): Message[] | undefined {
  const messages: Message[] = [];
  let candidates = [prompt];
  while (true) {
    const best = candidates.filter((m) => isUsable(m, lang)).sort((a, b) => rankOf(a) - rankOf(b))[0];
    if (best === undefined) break;
    messages.push({ role: best.role === "prompter" ? "user" : "assistant", content: best.text.trim() });
    candidates = best.replies ?? [];
  }
  const end = messages.findLastIndex((message) => message.role === "assistant") + 1;
  return end > 0 ? messages.slice(0, end) : undefined;
}

function isUsable(message: TreeMessage, lang: string): boolean {
  return message.deleted !== true && message.review_result !== false && message.lang === lang &&
    message.text.trim() !== "" && message.text.isWellFormed();
}

function rankOf(message: TreeMessage): number {
  return message.rank ?? Number.MAX_SAFE_INTEGER;
}

/** Bytes to read, and what to call them in messages. */
interface Input {
  name: string;
  stream: ReadableStream<Uint8Array<ArrayBuffer>>;
}

/** What {@link convertTrees} read and kept. */
export interface Conversion {
  trees: number;
  /** one JSON array of messages each */
  lines: string[];
}

/**
 * Converts all trees of an input.
 * @throws {MicrogptError} with the line number of a line that is not a tree
 */
export async function convertTrees(input: Input, lang: string): Promise<Conversion> {
  const conversion: Conversion = { trees: 0, lines: [] };
  try {
    for await (const line of lines((await unpacked(input)).stream)) {
      conversion.trees++;
      const conversation = bestConversation(parseTree(line, `${input.name} line ${conversion.trees}`), lang);
      if (conversation) conversion.lines.push(JSON.stringify(conversation));
    }
  } catch (error) {
    throw error instanceof MicrogptError ? error : cannotRead(input.name, error);
  }
  return conversion;
}

/** The root message of a line, checked with all its replies. */
function parseTree(line: string, where: string): TreeMessage {
  let tree: { prompt?: unknown } | null;
  try {
    tree = JSON.parse(line);
  } catch (error) {
    throw new MicrogptError(`${where}: not valid JSON`, { cause: error });
  }
  const prompt = tree?.prompt;
  // A list of what is still to check, not recursion: trees may be deep.
  const open: unknown[] = [prompt];
  while (open.length > 0) {
    const message = open.pop() as TreeMessage | null | undefined;
    const replies = message?.replies ?? [];
    const valid = typeof message?.text === "string" && typeof message.lang === "string" &&
      (message.role === "prompter" || message.role === "assistant") && Array.isArray(replies);
    if (!valid) {
      throw new MicrogptError(
        `${where}: expected a conversation tree, {"prompt": {"text", "role", "lang", "replies"}}`,
        { hint: "use the file of trees that are ready for export (…_ready.trees.jsonl.gz)" },
      );
    }
    for (const reply of replies) open.push(reply);
  }
  return prompt as TreeMessage;
}

/** The input itself, or what is packed in it when it begins as gzip does. */
async function unpacked(input: Input): Promise<Input> {
  const reader = input.stream.getReader();
  const first = await reader.read().catch((error) => {
    throw cannotRead(input.name, error);
  });
  const rest = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start(controller) {
      if (first.value) controller.enqueue(first.value as Uint8Array<ArrayBuffer>);
    },
    async pull(controller) {
      const { done, value } = await reader.read();
      if (done) controller.close();
      else controller.enqueue(value as Uint8Array<ArrayBuffer>);
    },
    cancel: (reason) => reader.cancel(reason),
  });
  const isGzip = first.value?.[0] === 0x1f && first.value[1] === 0x8b;
  return { name: input.name, stream: isGzip ? rest.pipeThrough(new DecompressionStream("gzip")) : rest };
}

/** @throws {MicrogptError} when there is no such file */
async function openFile(path: string): Promise<Input> {
  const file = await Deno.open(path).catch((error) => {
    throw cannotRead(path, error);
  });
  return { name: path, stream: file.readable };
}

/** @throws {MicrogptError} when the server cannot be reached or has no such file */
async function download(url: string): Promise<Input> {
  const hint = "download the file yourself and pass it with --input";
  const response = await fetch(url).catch((error) => {
    throw new MicrogptError(`cannot download ${url}: ${error.message.split("\n")[0]}`, {
      hint,
      cause: error,
    });
  });
  if (!response.ok || !response.body) {
    await response.body?.cancel();
    throw new MicrogptError(`cannot download ${url}: the server answered ${response.status}`, { hint });
  }
  return { name: url, stream: response.body };
}

/** Writes the whole file or nothing: under another name first, then renamed. */
async function writeAtomically(path: string, text: string): Promise<void> {
  const partial = `${path}.part`;
  try {
    await Deno.writeTextFile(partial, text);
    await Deno.rename(partial, path);
  } catch (error) {
    await Deno.remove(partial).catch(() => {});
    throw new MicrogptError(`cannot write ${path}: ${error instanceof Error ? error.message : error}`, {
      cause: error,
    });
  }
}

/**
 * The program.
 * @param args command-line arguments
 * @throws {MicrogptError} when anything stops it; then no output is written
 */
export async function main(args: string[]): Promise<void> {
  const values = parseFlags(args);
  if (values.help) return console.log(USAGE);
  const lang = values.lang;
  const output = values.output ?? `oasst2_${lang}.jsonl`;
  const isUrl = /^https?:\/\//u.test(values.input);
  if (isUrl) console.error(`downloading ${values.input}`);
  const { trees, lines } = await convertTrees(
    isUrl ? await download(values.input) : await openFile(values.input),
    lang,
  );
  if (lines.length === 0) {
    throw new MicrogptError(`no conversation in language "${lang}" among ${trees} trees`, {
      hint: "--lang takes a code as the data spells it: en, es, de, ru, zh …",
    });
  }
  await writeAtomically(output, lines.join("\n") + "\n");
  console.error(`${lines.length} conversations of ${trees} trees written to ${output}`);
  console.error(`next: microgpt train --chat --preset chat-small --skip-long --input ${output}`);
}

function parseFlags(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        input: { type: "string", default: OASST2_URL },
        lang: { type: "string", default: "en" },
        output: { type: "string" },
        help: { type: "boolean", default: false },
      },
    }).values;
  } catch (error) {
    throw new MicrogptError((error as Error).message, { hint: "see --help", usage: true, cause: error });
  }
}

if (import.meta.main) {
  try {
    await main(Deno.args);
  } catch (error) {
    if (!(error instanceof MicrogptError)) throw error;
    console.error(`error: ${error.message}`);
    if (error.hint) console.error(`hint: ${error.hint}`);
    Deno.exit(error.usage ? 2 : 1);
  }
}
