import { MicrogptError, type TrainingSummary } from "../mod.ts";
import type { Command, FlagValues } from "./command.ts";
import { harmless } from "./harmless.ts";
import { resumeCommand } from "./printed_command.ts";
import { print, printJson, sayNotice } from "./terminal.ts";

// Models are described without opening a device, and modules load when they are needed: it must start fast.

export const command: Command = {
  flags: [
    {
      name: "--model-dir",
      value: "dir",
      help: "the model; with --input the one whose tokenizer counts",
      default: "output",
    },
    {
      name: "--input",
      value: "file",
      help: "measure this data file: documents and their lengths in tokens; - is standard input",
    },
    { name: "--chat", help: "the input is conversations (default: as the model, if one is given)" },
    {
      name: "--vocab-size",
      value: "n",
      type: "number",
      help: "train a tokenizer of this size to count with, as train would (default 4096)",
    },
    { name: "--json", help: "print one JSON object" },
  ],
  run: runInfo,
};

async function runInfo(values: FlagValues): Promise<void> {
  const { modelDir, input, chat, vocabSize, json } = values;
  if (input !== undefined) {
    return await describeData(
      input as string,
      modelDir as string | undefined,
      chat === true,
      vocabSize,
      !!json,
    );
  }
  for (const [flag, value] of [["--chat", chat], ["--vocab-size", vocabSize]]) {
    if (value === undefined) continue;
    throw new MicrogptError(`${flag} is about a data file: name it with --input`, { usage: true });
  }
  await showModel(modelDir as string | undefined ?? "output", !!json);
}

async function showModel(dir: string, json: boolean): Promise<void> {
  const { describeModel } = await import("../mod.ts");
  const model = await describeModel(dir);
  const { config, chat, parameters, tokenizer, file, training } = model;
  if (json) {
    return printJson({
      directory: dir,
      kind: chat ? "chat" : "text",
      ...config,
      parameters,
      tokenizer,
      file: { format: "safetensors", ...file },
      training: training?.state ?? null,
    });
  }
  row("model", `${dir}: ${chat ? "chat" : "text"}, ${parameters.toLocaleString("en")} parameters`);
  row("network", `${model.network}, context ${config.block_size} tokens`);
  row("tokenizer", `${tokenizer.tokens} tokens: byte-level BPE, ${tokenizer.merges} merges`);
  row("special", tokenizer.special.join(" "));
  row("weights", `safetensors, ${file.dtype}, ${(file.bytes / 1e6).toFixed(2)} MB`);
  if (training) showTraining(dir, training);
  else row("training", "no state: an inference-only model");
}

function showTraining(dir: string, { state, rereadable, goesOnIn, bestDirectory }: TrainingSummary): void {
  const { step, steps_total: total, learning_rate, batch_size, preset, dtype, seed } = state;
  const where = goesOnIn === undefined ? "" : ` in ${goesOnIn}`;
  const end = total === undefined || step === total
    ? ""
    : ` of ${total}, \`${resumeCommand(dir, rereadable)}\` goes on${where}`;
  row("training", `step ${step}${end}`);
  row(
    "recipe",
    `batch ${batch_size}, learning rate ${learning_rate}, ${dtype}` +
      (preset === undefined ? "" : `, preset ${preset}`) + (seed === undefined ? "" : `, seed ${seed}`),
  );
  row("data", `${state.dataset_path} (${state.dataset_mode})`);
  const { best_val_loss: loss, best_val_step: bestStep, skipped_steps: skipped } = state;
  if (loss !== undefined) {
    const kept = bestDirectory === undefined ? "" : `, in ${bestDirectory}`;
    row("held out", `best loss ${loss.toFixed(4)} at step ${bestStep}${kept}`);
  }
  if (skipped) row("skipped", `${skipped} steps that were not finite`);
}

/** Text of files is data: nothing in it may command the terminal. */
function row(label: string, text: string): void {
  print(`${label.padEnd(10)} ${harmless(text)}`);
}

/** Documents and their lengths, in tokens of a model's tokenizer or of one made for the file. */
async function describeData(
  path: string,
  modelDir: string | undefined,
  chat: boolean,
  vocabSize: FlagValues[string],
  json: boolean,
): Promise<void> {
  if (modelDir !== undefined && vocabSize !== undefined) {
    throw new MicrogptError(
      "--vocab-size makes a tokenizer, --model-dir takes the model's: give one of them",
      {
        usage: true,
      },
    );
  }
  const { dataNotices, documentsOf, encodeDataset, loadDataset, textsOf, unitOf } = await import(
    "../data/dataset.ts"
  );
  const { copiesNotice, countCopies, splitHashes } = await import("../data/split.ts");
  const { lengthStatistics, renderLengths } = await import("../data/lengths.ts");
  const { checkSettings, DEFAULTS } = await import("../model/settings.ts");
  const { openTokenizer, trainTokenizer } = await import("../model/devices.ts");
  const size = vocabSize as number | undefined ?? DEFAULTS.vocabSize;
  checkSettings({ vocabSize: size });
  const model = modelDir === undefined
    ? undefined
    : await (await import("../model/files/checkpoint.ts")).readModelHeader(modelDir);
  const data = await loadDataset(path, chat || model?.chat === true ? "chat" : "text");
  for (const notice of dataNotices(data)) sayNotice(notice);
  const tokenizer = model
    ? await openTokenizer(model.tokenizerJson)
    : await trainTokenizer(textsOf(data), { vocabSize: size, chat: data.mode === "chat" });
  const documents = encodeDataset(data, tokenizer);
  const hashes = splitHashes(documentsOf(data), DEFAULTS.seed);
  const statistics = lengthStatistics(documents);
  if (json) {
    const vocab_size = tokenizer.vocabSize;
    const copies = countCopies(hashes);
    printJson({ input: path, mode: data.mode, vocab_size, ...statistics, copies });
    return;
  }
  const copies = copiesNotice(hashes, unitOf(data));
  if (copies) sayNotice(copies);
  for (const line of renderLengths(statistics, unitOf(data))) print(line);
  print(`${statistics.tokens.toLocaleString("en")} tokens of a vocabulary of ${tokenizer.vocabSize}`);
}
