import { loadModel } from "../language_model.ts";
import type { ChatOptions, ChatSession } from "../model/chat.ts";
import { checkGenerateOptions } from "../model/generation.ts";
import { DEVICE_OPTIONS } from "../devices.ts";
import { SAMPLING } from "../model/generate/sampling.ts";
import { type Command, deviceOptions, type FlagValues } from "./command.ts";
import { flagsOf } from "./flags.ts";
import { DEFAULT_CHAT_MODEL, defaultChatModel } from "./default_model.ts";
import { HarmlessText } from "./harmless.ts";
import { LineEditor, PipedLines } from "./line_editor.ts";
import { print, say, sayWarnings, styled, writeOut } from "./terminal.ts";

export const command: Command = {
  flags: [
    { name: "--model-dir", value: "dir", help: "the model", default: DEFAULT_CHAT_MODEL },
    ...flagsOf(SAMPLING),
    ...flagsOf(DEVICE_OPTIONS),
    { name: "--json", help: "print one JSON object an answer: message, answer, dropped_tokens" },
  ],
  run: runChat,
};

const HELP = [
  "/clear  forget the conversation and begin anew",
  "/help   show this",
  "/quit   end the conversation (also Ctrl-D)",
  "Ctrl-C stops an answer; the arrow keys bring earlier messages back",
];

async function runChat(values: FlagValues): Promise<void> {
  const { modelDir, json, device: _device, dtype: _dtype, threads: _threads, ...rest } = values;
  const options = rest as ChatOptions;
  checkGenerateOptions(options);
  using model = await loadModel(modelDir as string ?? await defaultChatModel(), deviceOptions(values));
  sayWarnings(model.device);
  using session = model.startChat(options);
  const terminal = Deno.stdin.isTerminal();
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
      if (line.startsWith("/")) {
        if (line.trim() === "/quit") break;
        obey(line.trim(), session);
      } else if (line.trim() !== "") {
        const stop = new AbortController();
        lines.onInterrupt = () => stop.abort();
        await answer(session, line.trim(), stop.signal);
      }
    }
  } finally {
    lines.close();
  }
}

function obey(command: string, session: ChatSession): void {
  switch (command) {
    case "/clear":
      session.clear();
      say("the conversation begins anew");
      break;
    case "/help":
      for (const line of HELP) say(line);
      break;
    default:
      say(`there is no command ${new HarmlessText().push(command)}; /help lists them`);
  }
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
  print(JSON.stringify({ message, answer, dropped_tokens: dropped }));
}
