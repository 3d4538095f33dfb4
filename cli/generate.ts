import { checkGenerateOptions, type GenerateOptions, wholeSamples } from "../model/generation.ts";
import type { DeviceOptions } from "../devices.ts";
import { loadModel } from "../language_model.ts";
import { type Command, DEVICE_FLAGS, type FlagValues } from "./command.ts";
import { harmless, print, writeOut } from "./terminal.ts";

export const command: Command = {
  name: "generate",
  summary: "print samples of a model",
  flags: [
    { name: "--model-dir", value: "dir", help: "the model", default: "output" },
    { name: "--num-samples", value: "n", type: "number", help: "how many", default: 20 },
    {
      name: "--prompt",
      value: "text",
      help: "what each sample begins with; for a chat model, the user's message",
    },
    {
      name: "--temperature",
      value: "x",
      type: "number",
      help: "0 takes the most probable token always",
      default: 0.5,
    },
    {
      name: "--top-k",
      value: "n",
      type: "number",
      help: "draw from the n most probable tokens; 0 = all",
      default: 0,
    },
    {
      name: "--top-p",
      value: "x",
      type: "number",
      help: "draw from the tokens that together reach this mass; 1 = all",
      default: 1,
    },
    {
      name: "--max-tokens",
      value: "n",
      type: "number",
      help: "tokens a sample gets at most (default: the context)",
    },
    { name: "--seed", value: "n", type: "number", help: "sample i uses seed + i", default: 42 },
    ...DEVICE_FLAGS,
    { name: "--json", help: "print one JSON object a line" },
  ],
  run: runGenerate,
};

async function runGenerate(values: FlagValues): Promise<void> {
  const { modelDir = "output", json, device, dtype, threads, ...rest } = values;
  const options = rest as GenerateOptions;
  checkGenerateOptions(options);
  const where = Object.fromEntries(
    Object.entries({ device, dtype, threads }).filter(([, value]) => value !== undefined),
  );
  using model = await loadModel(modelDir as string, where as DeviceOptions);
  const seed = options.seed ?? 42;
  const label = (index: number) => `sample ${String(index + 1).padStart(2)}: `;
  if (!json && Deno.stdout.isTerminal()) {
    // one after the other, so that each can stream
    for (let index = 0; index < (options.numSamples ?? 20); index++) {
      writeOut(label(index));
      let started = false;
      for await (const { text } of model.generate({ ...options, numSamples: 1, seed: seed + index })) {
        const shown: string = started ? harmless(text) : harmless(text).trimStart();
        started ||= shown !== "";
        writeOut(shown);
      }
      writeOut("\n");
    }
    return;
  }
  let index = 0;
  for await (const whole of wholeSamples(model.generate(options))) {
    const text = harmless(whole).trim();
    print(json ? JSON.stringify({ index, seed: seed + index, text: whole.trim() }) : label(index) + text);
    index++;
  }
}
