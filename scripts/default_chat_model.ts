/**
 * Makes the default chat model from prepared conversations (scripts/prepare_oasst.ts): trains a chat preset, exports it in
 * f16, and writes the model card beside it.
 *
 *   deno task chat-model --input oasst2_en.jsonl --output default-chat-model
 *
 * The training checkpoint stays in OUTPUT.training; run again after an interruption, it goes on from there, and after the
 * last step it only exports.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  exportModel,
  MicrogptError,
  type PlanEvent,
  type PresetName,
  type Settings,
  train,
  type TrainOptions,
} from "../mod.ts";
import { readTrainState } from "../model/files/checkpoint.ts";

/** What the model card says of the data. */
export interface DataSource {
  /** one sentence, with its address */
  description: string;
  /** an SPDX name */
  licence: string;
}

/** What scripts/prepare_oasst.ts makes. */
export const OASST2: DataSource = {
  description: "English conversations of [OpenAssistant Conversations 2]" +
    "(https://huggingface.co/datasets/OpenAssistant/oasst2), the best-ranked reply at each turn",
  licence: "Apache-2.0",
};

/** Options of {@link makeChatModel}. */
export interface ChatModelOptions extends Pick<TrainOptions, "device" | "threads"> {
  /** JSONL of conversations */
  input: string;
  /** directory of the finished model */
  output: string;
  preset?: PresetName;
  /** in place of the preset's */
  settings?: Partial<Settings>;
  source?: DataSource;
  /** told of each evaluation and each checkpoint */
  onProgress?: (line: string) => void;
}

/** How a run ended. */
interface Outcome {
  settings: Settings;
  preset: string;
  parameters: number;
  trainingDocuments: number;
  validationDocuments: number;
  steps: number;
  device: string;
  trainingLoss: number;
  validation?: { loss: number; bitsPerByte: number };
}

/**
 * Trains, exports, and writes the card.
 * @throws {MicrogptError} when the data cannot be used or something cannot be written
 */
export async function makeChatModel(options: ChatModelOptions): Promise<void> {
  const { output, source = OASST2 } = options;
  const work = `${output.replace(/[/\\]+$/, "")}.training`;
  const outcome = await trainOn(work, options);
  await exportModel(work, output, { half: true });
  await Deno.writeTextFile(join(output, "README.md"), modelCard(outcome, source));
}

async function trainOn(work: string, options: ChatModelOptions): Promise<Outcome> {
  const { input, preset = "chat-small", settings = {}, onProgress, device, threads } = options;
  const begun = await readTrainState(work);
  const done = begun?.final === true;
  const events = train({
    input,
    output: work,
    checkpointEvery: 500,
    ...(begun ? { resume: work } : { chat: true, preset, skipLong: true, ...settings }),
    ...(device ? { device } : {}),
    ...(threads ? { threads } : {}),
    dryRun: done,
  });
  const plan = (await events.next()).value as PlanEvent;
  for await (const event of events) {
    if (event.type === "evaluation") {
      onProgress?.(`step ${event.step} / ${plan.totalSteps}: held out ${event.loss.toFixed(4)}`);
    }
    if (event.type === "notice" && !done) onProgress?.(event.message);
  }
  const state = (await readTrainState(work))!;
  return {
    settings: plan.settings,
    preset: state.preset ?? preset,
    parameters: plan.parameters,
    trainingDocuments: plan.trainingDocuments,
    validationDocuments: plan.validationDocuments,
    steps: state.step,
    device: `${state.device}, ${state.dtype}`,
    ...await losses(work),
  };
}

/** What the run logged: its training loss, smoothed over about 50 steps, and its last evaluation. */
async function losses(work: string): Promise<Pick<Outcome, "trainingLoss" | "validation">> {
  const log = await Deno.readTextFile(join(work, "metrics.jsonl"));
  let trainingLoss = NaN;
  let validation: Outcome["validation"];
  for (const line of log.trimEnd().split("\n")) {
    const { loss, val_loss, val_bits_per_byte } = JSON.parse(line);
    if (Number.isFinite(loss)) {
      trainingLoss = Number.isNaN(trainingLoss) ? loss : 0.98 * trainingLoss + 0.02 * loss;
    }
    if (Number.isFinite(val_loss)) validation = { loss: val_loss, bitsPerByte: val_bits_per_byte };
  }
  return { trainingLoss, ...(validation ? { validation } : {}) };
}

/** The card, in Markdown with the header that model hubs read. */
function modelCard(outcome: Outcome, { description, licence }: DataSource): string {
  const { settings: s, validation, parameters } = outcome;
  const count = (value: number) => value.toLocaleString("en");
  const heldOut = validation
    ? `${validation.loss.toFixed(4)} nats per token, ${
      validation.bitsPerByte.toFixed(4)
    } bits per byte, on ` +
      `${count(outcome.validationDocuments)} conversations that were not trained on`
    : "not measured";
  return `---
license: ${licence.toLowerCase()}
language: en
pipeline_tag: text-generation
---

# microgpt default chat model

A transformer of ${count(parameters)} parameters that was trained from nothing on conversations, with
microgpt's preset \`${outcome.preset}\`. Talk with it: \`microgpt chat\`.

## Data

${description}: ${count(outcome.trainingDocuments)} conversations. Licence of the data: ${licence}.

## Recipe

| | |
|---|---|
| layers, heads, width | ${s.nLayer}, ${s.nHead}, ${s.nEmbd} |
| context | ${count(s.blockSize)} tokens |
| vocabulary | at most ${count(s.vocabSize)} tokens, byte-level BPE of the same data |
| steps, batch | ${count(outcome.steps)}, ${s.batchSize * s.gradAccum} conversations |
| learning rate | ${s.learningRate}, warmup ${s.warmupSteps} steps, schedule ${s.schedule} |
| gradient clipping | ${s.gradClip > 0 ? s.gradClip : "none"} |
| optimizer | ${
    s.optimizer === "muon" ? `Muon, ${s.muonLearningRate}, for the matrices of layers; for the rest ` : ""
  }Adam, beta 0.85 and 0.99 |
| seed | ${s.seed} |
| device | ${outcome.device} |

## Losses

- training: ${outcome.trainingLoss.toFixed(4)} nats per token, smoothed
- held out: ${heldOut}

Weights are stored as f16.

## Limits

It is a toy: it has learned how conversations look, and little of what is true. It makes up facts, loses the thread after a
turn or two, and knows only the language of its data. It was not tuned for safety: it can repeat what is harmful or wrong in
its data. Do not use it to inform or to advise anyone.
`;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      input: { type: "string" },
      output: { type: "string", default: "default-chat-model" },
      preset: { type: "string", default: "chat-small" },
      steps: { type: "string" },
      device: { type: "string", default: "cpu" },
    },
  });
  if (values.input === undefined) {
    console.error(
      "usage: deno task chat-model --input JSONL [--output DIR] [--preset NAME] [--steps N] [--device NAME]",
    );
    Deno.exit(2);
  }
  try {
    await makeChatModel({
      input: values.input,
      output: values.output,
      preset: values.preset as PresetName,
      device: values.device as NonNullable<TrainOptions["device"]>,
      settings: values.steps === undefined ? {} : { steps: Number(values.steps) },
      onProgress: (line) => console.error(line),
    });
    console.log(values.output);
  } catch (error) {
    if (!(error instanceof MicrogptError)) throw error;
    console.error(`error: ${error.message}${error.hint ? `\nhint: ${error.hint}` : ""}`);
    Deno.exit(1);
  }
}
