import {
  CORPUS_OPTIONS,
  describeModel,
  INFERENCE_DEVICE_OPTIONS,
  type InferenceDeviceOptions,
  inspectData,
  type InspectDataOptions,
  MicrogptError,
  type PreparationProgress,
  renderInspection,
  SETTINGS,
  trainingMemory,
  type TrainingSummary,
} from "../mod.ts";
import type { Command, FlagValues } from "./command.ts";
import { flagsOf, inFlags } from "./flags.ts";
import { harmless } from "./harmless.ts";
import { ANY_MODEL, localModelDir } from "./model_dir.ts";
import { resumeCommand } from "./printed_command.ts";
import { PreparationView } from "./progress.ts";
import { print, printJson, sayNotice } from "./terminal.ts";

const HELP_DTYPE =
  "type of weights to count memory with (default: as the file has them, q8 for quantized ones)";

const HELP_BLOCK_SIZE = "with --input: tells how many documents are longer (default: the model's)";
const { default: _, ...BLOCK_SIZE } = SETTINGS.blockSize;

export const command: Command = {
  flags: [
    {
      name: "--model-dir",
      value: "dir",
      help: `${ANY_MODEL}; with --input the one whose tokenizer counts`,
      default: "output",
    },
    ...flagsOf(CORPUS_OPTIONS),
    { name: "--chat", help: "the input is conversations (default: as the model, if one is given)" },
    ...flagsOf({
      vocabSize: {
        ...SETTINGS.vocabSize,
        help: "size of the tokenizer that is trained to count with, where no model's does",
      },
    }),
    ...flagsOf({ blockSize: { ...BLOCK_SIZE, help: HELP_BLOCK_SIZE } }),
    ...flagsOf({ dtype: { ...INFERENCE_DEVICE_OPTIONS.dtype, help: HELP_DTYPE } }),
    { name: "--json", help: "print one JSON object" },
  ],
  run: runInfo,
};

async function runInfo(values: FlagValues): Promise<void> {
  const { modelDir, input, json } = values;
  if (input !== undefined) return await showData(values);
  const aboutData = ["chat", "vocabSize", "blockSize", ...Object.keys(CORPUS_OPTIONS)];
  const given = aboutData.find((name) => values[name] !== undefined);
  if (given !== undefined) {
    throw new MicrogptError(`\`${given}\` is about a data file: name it with --input`, { usage: true });
  }
  const dtype = values.dtype as InferenceDeviceOptions["dtype"];
  await showModel(modelDir as string | undefined ?? "output", dtype, !!json);
}

async function showModel(
  dir: string,
  dtype: InferenceDeviceOptions["dtype"],
  json: boolean,
): Promise<void> {
  const model = await describeModel(await localModelDir(dir), dtype ? { dtype } : {});
  const { source, config, chat, parameters, tokenizer, file, memory, unusable, formats, training } = model;
  const toTrain = unusable === undefined ? trainingMemory(config) : undefined;
  if (json) {
    return printJson({
      directory: dir,
      source,
      kind: chat ? "chat" : "text",
      ...config,
      parameters,
      tokenizer,
      file,
      memory,
      training_memory: toTrain ?? null,
      formats,
      ...(unusable === undefined ? {} : { unusable }),
      training: training?.state ?? null,
    });
  }
  entry("model", `${dir}: ${chat ? "chat" : "text"}, ${parameters.toLocaleString("en")} parameters`);
  entry("network", `${model.network}, context ${config.block_size} tokens`);
  entry("tokenizer", `${tokenizer.tokens} tokens: byte-level BPE, ${tokenizer.merges} merges`);
  entry("special", specialTokens(tokenizer.special));
  entry("weights", `${file.format}, ${file.dtype}, ${megabytes(file.bytes)}`);
  entry(
    "memory",
    `weights in ${memory.dtype} ${megabytes(memory.weights)}, a full context ${megabytes(memory.context)}`,
  );
  const types = Object.entries(memory.byDtype).map(([type, bytes]) => `${type} ${megabytes(bytes)}`);
  entry("", `weights by --dtype on the CPU: ${types.join(", ")}`);
  if (toTrain) {
    const { state, activations } = toTrain;
    entry(
      "to train",
      `${megabytes(state)}, and ${megabytes(activations)} for 1,024 tokens of a batch (f32, Adam)`,
    );
  }
  if (unusable !== undefined) entry("use", `none here: ${unusable}`);
  else {
    const uses = ["generate", ...(chat ? ["chat"] : []), "serve", "eval", "train --from"];
    const goesOn = training && training.state.step !== training.state.steps_total ? ["train --resume"] : [];
    entry("use", `${[...uses, ...goesOn].join(", ")}; export as ${formats.join(", ")}`);
  }
  if (training) showTraining(dir, training);
  else if (source !== "microgpt") entry("training", `no state: a ${SOURCES[source]}`);
  else entry("training", "no state: an inference-only model");
}

/** What a model of others is on disk. */
const SOURCES = { huggingface: "HuggingFace directory", gguf: "GGUF file" };

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 0)} MB`;
}

/** Some models have hundreds. */
function specialTokens(names: readonly string[], most = 12): string {
  const more = names.length > most ? [`and ${names.length - most} more`] : [];
  return [...names.slice(0, most), ...more].join(" ");
}

function showTraining(dir: string, { state, rereadable, goesOnIn, bestDirectory }: TrainingSummary): void {
  const { step, steps_total: total, learning_rate, batch_size, preset, dtype, seed } = state;
  const where = goesOnIn === undefined ? "" : ` in ${goesOnIn}`;
  const end = total === undefined || step === total
    ? ""
    : ` of ${total}, \`${resumeCommand(dir, rereadable)}\` goes on${where}`;
  entry("training", `step ${step}${end}`);
  entry(
    "recipe",
    `batch ${batch_size}, learning rate ${learning_rate}, ${dtype}` +
      (preset === undefined ? "" : `, preset ${preset}`) + (seed === undefined ? "" : `, seed ${seed}`),
  );
  entry("data", `${state.dataset_path} (${state.dataset_mode})`);
  const { best_val_loss: loss, best_val_step: bestStep, skipped_steps: skipped } = state;
  if (loss !== undefined) {
    const kept = bestDirectory === undefined ? "" : `, in ${bestDirectory}`;
    entry("held out", `best loss ${loss.toFixed(4)} at step ${bestStep}${kept}`);
  }
  if (skipped) entry("skipped", `${skipped} steps that were not finite`);
}

/** Text of files is data: nothing in it may command the terminal. */
function entry(label: string, text: string): void {
  print(`${label.padEnd(10)} ${harmless(text)}`);
}

/** What the program would read of a data file, and how long its documents are in tokens. */
async function showData({ json, ...options }: FlagValues): Promise<void> {
  const preparation = new PreparationView({ tokens: "reading" });
  const onProgress = (progress: PreparationProgress) => preparation.show(progress);
  const { mode, notices, inspection } = await inspectData({ ...options, onProgress } as InspectDataOptions)
    .finally(() => preparation.end());
  for (const notice of notices) sayNotice(notice);
  if (json) return printJson(inspection);
  const unit = mode === "chat" ? "conversations" : "documents";
  for (const line of renderInspection(inspection, unit)) print(harmless(inFlags(line)));
}
