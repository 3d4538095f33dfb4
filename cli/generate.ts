import {
  checkGenerateOptions,
  type GenerateOptions,
  GENERATION,
  INFERENCE_DEVICE_OPTIONS,
  type LanguageModel,
  loadModel,
  parseConversation,
  type PromptOptions,
  SAMPLING,
  wholeSamples,
} from "../mod.ts";
import type { Command, FlagValues } from "./command.ts";
import { flagsOf, given } from "./flags.ts";
import { harmless, harmlessLine, HarmlessText } from "./harmless.ts";
import { ANY_MODEL, localModelDir } from "./model_dir.ts";
import { print, printJson, sayWarnings, writeOut } from "./terminal.ts";

export const command: Command = {
  flags: [
    { name: "--model-dir", value: "dir", help: ANY_MODEL, default: "output" },
    ...flagsOf(GENERATION),
    {
      name: "--prompt",
      value: "text",
      help: "what each sample begins with; for a chat model what the user says, " +
        'or a conversation to go on with: [{"role", "content"}, …]',
    },
    ...flagsOf(SAMPLING),
    ...flagsOf(INFERENCE_DEVICE_OPTIONS),
    { name: "--json", help: "print one JSON object a line: index, seed, text" },
  ],
  run: runGenerate,
};

async function runGenerate(values: FlagValues): Promise<void> {
  const { modelDir = "output", json } = values;
  const prompt = values.prompt as string | undefined;
  const drawing = { ...given(GENERATION, values), ...given(SAMPLING, values) };
  checkGenerateOptions(drawing);
  using model = await loadModel(
    await localModelDir(modelDir as string),
    given(INFERENCE_DEVICE_OPTIONS, values),
  );
  sayWarnings(model.device);
  const options = { ...drawing, ...promptOf(prompt, model) };
  // a chat model answers the prompt, others go on with it
  const beginning = model.chat ? "" : prompt ?? "";
  if (!json && Deno.stdout.isTerminal()) return await streamSamples(model, options, beginning);
  let index = 0;
  for await (const sample of wholeSamples(model.generate(options))) {
    const whole = beginning + sample;
    const seed = (options.seed ?? SAMPLING.seed.default) + index;
    // the documents of a text model are lines
    const shown = () => model.chat ? harmless(whole).trim() : harmlessLine(whole);
    if (json) printJson({ index, seed, text: whole.trim() });
    else print(label(index) + shown());
    index++;
  }
}

function label(index: number): string {
  return `sample ${String(index + 1).padStart(2)}: `;
}

/** A chat model's prompt may be a conversation as JSON. */
function promptOf(prompt: string | undefined, { chat, hasTemplate }: LanguageModel): PromptOptions {
  if (prompt === undefined) return {};
  if (!chat || !/^\s*\[\s*\{/.test(prompt)) return { prompt };
  return { messages: parseConversation(prompt, "--prompt", { system: hasTemplate }) };
}

/** In a terminal: one sample after the other, so that each can be read as it grows. */
async function streamSamples(
  model: LanguageModel,
  options: GenerateOptions,
  beginning: string,
): Promise<void> {
  const { numSamples = GENERATION.numSamples.default, seed = SAMPLING.seed.default } = options;
  for (let index = 0; index < numSamples; index++) {
    const trimmed = new TrimmedText();
    const safe = new HarmlessText();
    const shown = (piece: string) => {
      const text = safe.push(piece);
      return trimmed.push(model.chat ? text : text.replaceAll("\n", " "));
    };
    writeOut(label(index) + shown(beginning));
    for await (const { text } of model.generate({ ...options, numSamples: 1, seed: seed + index })) {
      writeOut(shown(text));
    }
    writeOut("\n");
  }
}

/** Trims text that comes in pieces. */
class TrimmedText {
  #started = false;
  #space = "";

  /** @returns what may be shown so far: white space waits for what follows it */
  push(text: string): string {
    const whole = this.#space + text;
    const end = whole.trimEnd();
    this.#space = whole.slice(end.length);
    const shown = this.#started ? end : end.trimStart();
    this.#started ||= shown !== "";
    if (!this.#started) this.#space = "";
    return shown;
  }
}
