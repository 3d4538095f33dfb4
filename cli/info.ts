import { MicrogptError } from "../device/errors.ts";
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
  await describeModel(modelDir as string | undefined ?? "output", !!json);
}

async function describeModel(dir: string, json: boolean): Promise<void> {
  const { readSummary } = await import("../model/files/checkpoint.ts");
  const { bestDirectory, keptBestStep } = await import("../model/files/kept_checkpoints.ts");
  const { networkOf } = await import("../model/networks.ts");
  const { keptIn } = await import("../model/files/output_directory.ts");
  const { SPECIAL_TOKENS } = await import("../data/tokenizer.ts");
  const summary = await readSummary(dir);
  const { config, chat, parameters, fileDtype, weightsBytes, trainState } = summary;
  const listed: unknown = JSON.parse(summary.tokenizerJson).model.merges;
  const merges = Array.isArray(listed) ? listed.length : 0;
  const special = chat ? Object.values(SPECIAL_TOKENS) : [SPECIAL_TOKENS.bos];
  if (json) {
    const described = {
      directory: dir,
      kind: chat ? "chat" : "text",
      ...config,
      parameters,
      tokenizer: { tokens: config.vocab_size, merges, special },
      file: { format: "safetensors", dtype: fileDtype, bytes: weightsBytes },
      training: trainState ?? null,
    };
    return printJson(described);
  }
  const { block_size, vocab_size } = config;
  row("model", `${dir}: ${chat ? "chat" : "text"}, ${parameters.toLocaleString("en")} parameters`);
  row("network", `${networkOf(config).describe()}, context ${block_size} tokens`);
  row("tokenizer", `${vocab_size} tokens: byte-level BPE, ${merges} merges`);
  row("special", special.join(" "));
  row("weights", `safetensors, ${fileDtype}, ${(weightsBytes / 1e6).toFixed(2)} MB`);
  if (!trainState) return row("training", "no state: an inference-only model");
  const { step, steps_total: total, learning_rate, batch_size, dataset_path, preset, dtype } = trainState;
  const next = (await keptIn(dir))?.next;
  const where = next === undefined ? "" : ` in ${next}`;
  const end = total === undefined || step === total
    ? ""
    : ` of ${total}, \`${resumeCommand(dir, dataset_path)}\` goes on${where}`;
  row("training", `step ${step}${end}`);
  row(
    "recipe",
    `batch ${batch_size}, learning rate ${learning_rate}, ${dtype}` +
      (preset === undefined ? "" : `, preset ${preset}`) +
      (trainState.seed === undefined ? "" : `, seed ${trainState.seed}`),
  );
  row("data", `${dataset_path} (${trainState.dataset_mode})`);
  const { best_val_loss: loss, best_val_step: bestStep } = trainState;
  if (loss !== undefined) {
    const kept = bestStep === await keptBestStep(dir) ? `, in ${bestDirectory(dir)}` : "";
    row("held out", `best loss ${loss.toFixed(4)} at step ${bestStep}${kept}`);
  }
  if (trainState.skipped_steps) row("skipped", `${trainState.skipped_steps} steps that were not finite`);
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
    : await (await import("../model/files/checkpoint.ts")).readSummary(modelDir);
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
