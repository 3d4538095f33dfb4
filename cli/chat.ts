import {
  type ChatSession,
  checkGenerateOptions,
  INFERENCE_DEVICE_OPTIONS,
  loadModel,
  SAMPLING,
} from "../mod.ts";
import type { Command, FlagValues } from "./command.ts";
import { flagsOf, given } from "./flags.ts";
import { DEFAULT_CHAT_MODEL, defaultChatModel } from "./default_model.ts";
import { HarmlessText } from "./harmless.ts";
import { LineEditor } from "./line_editor.ts";
import { ANY_MODEL, localModelDir } from "./model_dir.ts";
import { PipedLines } from "./piped_lines.ts";
import { printJson, say, sayWarnings, styled, writeOut } from "./terminal.ts";

export const command: Command = {
  flags: [
    { name: "--model-dir", value: "dir", help: ANY_MODEL, default: DEFAULT_CHAT_MODEL },
    { name: "--system", value: "text", help: "what the model is told before the conversation" },
    ...flagsOf(SAMPLING),
    ...flagsOf(INFERENCE_DEVICE_OPTIONS),
    { name: "--json", help: "print one JSON object an answer: message, answer, dropped_tokens" },
  ],
  run: runChat,
};

const COMMANDS = {
  "/clear": "forget the conversation and begin anew",
  "/help": "show this",
  "/quit": "end the conversation (also Ctrl-D)",
};

const HELP = [
  ...Object.entries(COMMANDS).map(([name, does]) => `${name.padEnd(7)} ${does}`),
  "everything else is a message, //help the message /help; lines that are pasted together are one",
  "Ctrl-C stops an answer; the arrow keys bring earlier messages back",
];

async function runChat(values: FlagValues): Promise<void> {
  const { modelDir, json, system } = values;
  const options = given(SAMPLING, values);
  checkGenerateOptions(options);
  using model = await loadModel(
    modelDir === undefined ? await defaultChatModel() : await localModelDir(modelDir as string),
    given(INFERENCE_DEVICE_OPTIONS, values),
  );
  sayWarnings(model.device);
  using session = model.startChat({
    ...options,
    ...(system === undefined ? {} : { system: system as string }),
  });
  const terminal = Deno.stdin.isTerminal();
  // in a pipe every line is a message: data that begins with a slash must not command
  const lines = terminal ? new LineEditor("> ") : new PipedLines();
  const answer = json ? answerAsJson : answerAsText;
  if (terminal) {
    say(
      styled(
        "dim",
        `${
          model.parameters.toLocaleString("en")
        } parameters on ${model.deviceName}; /help lists the commands`,
      ),
    );
  }
  try {
    for (let line; (line = await lines.next()) !== undefined;) {
      let message = line.trim();
      if (terminal && message.startsWith("/")) {
        if (message === "/quit") break;
        if (obey(message, session)) continue;
        message = message.replace(/^\/\//, "/");
      }
      if (message === "") continue;
      const stop = new AbortController();
      lines.onInterrupt = () => stop.abort();
      await answer(session, message, stop.signal);
    }
  } finally {
    lines.close();
  }
}

/** @returns false for what is a message; a command that was mistyped is neither obeyed nor sent */
function obey(line: string, session: ChatSession): boolean {
  if (line === "/clear") {
    session.clear();
    say("the conversation begins anew");
  } else if (line === "/help") {
    for (const text of HELP) say(text);
  } else {
    const meant = likelyCommand(line);
    if (meant === undefined) return false;
    say(`not sent: did you mean ${meant}? /${line} sends it as a message`);
  }
  return true;
}

/** The command that a single word beginning with a slash was probably meant to be. */
export function likelyCommand(word: string): string | undefined {
  if (!/^\/[a-z]+$/i.test(word)) return undefined;
  const typed = word.toLowerCase();
  const names = Object.keys(COMMANDS);
  return names.find((name) => name.startsWith(typed)) ?? names.find((name) => editDistance(name, typed) <= 2);
}

/** Letters to insert, leave out or change between two words (Levenshtein's distance). */
function editDistance(a: string, b: string): number {
  let above = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = above[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(change, above[j]! + 1, row[j - 1]! + 1));
    }
    above = row;
  }
  return above[b.length]!;
}

function sayDropped(tokens: number): void {
  say(`note: dropped ${tokens} tokens at the start of the conversation, the context holds no more`);
}

async function answerAsText(session: ChatSession, message: string, signal: AbortSignal): Promise<void> {
  const safe = new HarmlessText();
  let last = "";
  for await (const piece of session.send(message, { signal, onDropped: sayDropped })) {
    const text = safe.push(piece);
    writeOut(text);
    last = text || last;
  }
  if (!last.endsWith("\n")) writeOut("\n");
  if (signal.aborted) say(styled("dim", "(stopped)"));
}

async function answerAsJson(session: ChatSession, message: string, signal: AbortSignal): Promise<void> {
  let [answer, dropped] = ["", 0];
  const onDropped = (tokens: number) => dropped = tokens;
  for await (const piece of session.send(message, { signal, onDropped })) answer += piece;
  printJson({ message, answer, dropped_tokens: dropped });
}
