import {
  checkGenerateOptions,
  type GenerateOptions,
  GENERATION,
  INFERENCE_DEVICE_OPTIONS,
  type LanguageModel,
  loadModel,
  MicrogptError,
  parseConversation,
  type PromptOptions,
  readPrompt,
  readPrompts,
  SAMPLING,
  wholeSamples,
} from "../mod.ts";
import type { Command, FlagValues } from "./command.ts";
import { flagsOf, given } from "./flags.ts";
import { harmless, harmlessLine, HarmlessText } from "./harmless.ts";
import { ANY_MODEL, localModelDir } from "./model_dir.ts";
import { print, printJson, sayNotice, sayWarnings, writeOut } from "./terminal.ts";

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
    { name: "--prompt-file", value: "file", help: "the same from a file, all of it; - is standard input" },
    {
      name: "--input",
      value: "file",
      help:
        "many prompts, each of which gets a sample (or --num-samples): one a line, or JSONL with prompt " +
        "or messages; - is standard input",
    },
    ...flagsOf(SAMPLING),
    ...flagsOf(INFERENCE_DEVICE_OPTIONS),
    {
      name: "--json",
      help: "print one JSON object a line: index, seed, text; with --input line and prompt, too",
    },
  ],
  run: runGenerate,
};

/** @returns 1 where a prompt of many was left out */
async function runGenerate(values: FlagValues): Promise<number> {
  const { modelDir = "output", json } = values;
  const { prompt: typed, promptFile, input } = values as Record<string, string | undefined>;
  checkOnePrompt({ "--prompt": typed, "--prompt-file": promptFile, "--input": input });
  const drawing = { ...given(GENERATION, values), ...given(SAMPLING, values) };
  checkGenerateOptions(drawing);
  // before the model, which may take long to load
  const prompt = promptFile === undefined ? typed : await readPrompt(promptFile);
  using model = await loadModel(
    await localModelDir(modelDir as string),
    given(INFERENCE_DEVICE_OPTIONS, values),
  );
  sayWarnings(model.device);
  if (input !== undefined) return await answerAll(model, input, drawing, json === true);
  const where = promptFile === undefined ? "--prompt" : promptFile;
  const options = { ...drawing, ...promptOf(prompt, where, model) };
  // a chat model answers the prompt, others go on with it
  const beginning = model.chat ? "" : prompt ?? "";
  if (!json && Deno.stdout.isTerminal()) await streamSamples(model, options, beginning, label);
  else await printSamples(model, options, beginning, json === true ? {} : undefined, label);
  return 0;
}

/** @throws {MicrogptError} where two flags say what to begin with */
function checkOnePrompt(flags: Record<string, string | undefined>): void {
  const [first, second] = Object.keys(flags).filter((name) => flags[name] !== undefined);
  if (second === undefined) return;
  throw new MicrogptError(`${first} and ${second} are both given`, {
    hint: "the prompts come from one of them",
    usage: true,
  });
}

/**
 * Samples for each prompt of a file, the same as for that prompt alone. One that does not fit is told and left out.
 * @returns the exit code
 */
async function answerAll(
  model: LanguageModel,
  input: string,
  drawing: GenerateOptions,
  json: boolean,
): Promise<number> {
  const numSamples = drawing.numSamples ?? 1;
  let left = 0;
  let number = 0;
  for await (const { where, line, ...asked } of readPrompts(input, { system: model.hasTemplate })) {
    const options = { ...drawing, ...asked, numSamples };
    const beginning = model.chat ? "" : asked.prompt ?? "";
    const prompt = `prompt ${String(++number).padStart(2)}`;
    const named = (index: number) => numSamples === 1 ? `${prompt}: ` : `${prompt}, ${label(index)}`;
    try {
      if (!json && Deno.stdout.isTerminal()) await streamSamples(model, options, beginning, named);
      else await printSamples(model, options, beginning, json ? { line, ...asked } : undefined, named);
    } catch (error) {
      if (!(error instanceof MicrogptError)) throw error;
      left++;
      sayNotice(`warning: ${where} is left out: ${error.message}`);
    }
  }
  return left > 0 ? 1 : 0;
}

/**
 * Each sample as soon as it is whole.
 * @param fields what JSON objects have besides; undefined for text
 * @param named what a line of text begins with
 */
async function printSamples(
  model: LanguageModel,
  options: GenerateOptions,
  beginning: string,
  fields: Record<string, unknown> | undefined,
  named: (index: number) => string,
): Promise<void> {
  let index = 0;
  for await (const sample of wholeSamples(model.generate(options))) {
    const whole = beginning + sample;
    const seed = (options.seed ?? SAMPLING.seed.default) + index;
    // the documents of a text model are lines
    const shown = () => model.chat ? harmless(whole).trim() : harmlessLine(whole);
    if (fields) printJson({ ...fields, index, seed, text: whole.trim() });
    else print(named(index) + shown());
    index++;
  }
}

function label(index: number): string {
  return `sample ${String(index + 1).padStart(2)}: `;
}

/** A chat model's prompt may be a conversation as JSON. */
function promptOf(
  prompt: string | undefined,
  where: string,
  { chat, hasTemplate }: LanguageModel,
): PromptOptions {
  if (prompt === undefined) return {};
  if (!chat || !/^\s*\[\s*\{/.test(prompt)) return { prompt };
  return { messages: parseConversation(prompt, where, { system: hasTemplate }) };
}

/** In a terminal: one sample after the other, so that each can be read as it grows. */
async function streamSamples(
  model: LanguageModel,
  options: GenerateOptions,
  beginning: string,
  named: (index: number) => string,
): Promise<void> {
  const { numSamples = GENERATION.numSamples.default, seed = SAMPLING.seed.default } = options;
  for (let index = 0; index < numSamples; index++) {
    const trimmed = new TrimmedText();
    const safe = new HarmlessText();
    const shown = (piece: string) => {
      const text = safe.push(piece);
      return trimmed.push(model.chat ? text : text.replaceAll("\n", " "));
    };
    writeOut(named(index) + shown(beginning));
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
