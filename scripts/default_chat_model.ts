/**
 * Makes the default chat model from prepared conversations (scripts/prepare_oasst.ts): fine-tunes SmolLM2-135M-Instruct on
 * their answers and exports it as GGUF in q8_0, with ten exchanges and what was measured in a model card beside it.
 *
 *   deno task chat-model --input oasst2_en.jsonl --output default-chat-model
 *   deno task chat-model --input oasst2_en.jsonl --from SmolLM2-135M-Instruct.Q4_1.gguf
 *   deno task chat-model --input oasst2_en.jsonl --preset chat-small
 *
 * Other data than those are named for the card by `--data "One sentence with its address" --data-licence SPDX`.
 *
 * The first downloads the model, the second takes a file, the third trains a preset from nothing and exports it in f16.
 *
 * The training checkpoint stays in OUTPUT.training; run again after an interruption, it goes on from there, and after the
 * last step it only exports.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  exportModel,
  loadModel,
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

/** A model that the default one starts from. */
export interface StartingModel {
  /** a file, a directory or a name on the hub, as `train` takes it in `from` */
  from: string;
  /** its name on the hub, for the card */
  name: string;
  /** an SPDX name */
  licence: string;
}

/** What the default one starts from unless something else is named. */
export const SMOLLM2: StartingModel = {
  from: "hf:HuggingFaceTB/SmolLM2-135M-Instruct",
  name: "HuggingFaceTB/SmolLM2-135M-Instruct",
  licence: "Apache-2.0",
};

/** Of SmolLM2: as many steps as two cores do in ten minutes, about. */
export const FINE_TUNING: Partial<Settings> = {
  steps: 100,
  batchSize: 4,
  blockSize: 512,
  evalEvery: 50,
  valFraction: 0.02,
};

/** Options of {@link makeChatModel}. */
export interface ChatModelOptions extends Pick<TrainOptions, "device" | "threads"> {
  /** JSONL of conversations */
  input: string;
  /** directory of the finished model */
  output: string;
  /** fine-tunes it; absent: the preset is trained from nothing */
  start?: StartingModel;
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
  /** absent: it started from a model */
  preset?: string;
  parameters: number;
  trainingDocuments: number;
  validationDocuments: number;
  steps: number;
  device: string;
  trainingLoss: number;
  /** held out: of what it started from, and of the best weights of the run */
  before?: Evaluation;
  validation?: Evaluation;
  /** where these weights are */
  best: string;
}

interface Evaluation {
  step: number;
  loss: number;
  bitsPerByte: number;
}

/** What the card shows answers to, as they come. */
const PROMPTS = [
  "Who are you?",
  "What is the capital of France?",
  "How do I learn to program?",
  "Write a short poem about the sea.",
  "Explain in one sentence why the sky is blue.",
  "What is 17 plus 25?",
  "Give me three ideas for dinner.",
  "What is a monopsony?",
  'Translate "good morning" into Spanish.',
  "I feel tired. What should I do?",
];

/** An answer ends there at the latest. */
const MOST_TOKENS = 100;

/**
 * Trains, exports, and writes the card.
 * @throws {MicrogptError} when the data cannot be used or something cannot be written
 */
export async function makeChatModel(options: ChatModelOptions): Promise<void> {
  const { output, source = OASST2, start, device, threads } = options;
  const work = `${output.replace(/[/\\]+$/, "")}.training`;
  const outcome = await trainOn(work, options);
  const { file } = await exportModel(
    outcome.best,
    output,
    start ? { format: "gguf", type: "q8_0" } : { half: true },
  );
  const answers = await exchanges(start ? file : output, {
    ...(device ? { device } : {}),
    ...(threads ? { threads } : {}),
  });
  await Deno.writeTextFile(join(output, "README.md"), modelCard(outcome, source, start, answers));
}

/** Answers of the finished model to all prompts, each a conversation of its own. */
async function exchanges(
  path: string,
  options: Pick<TrainOptions, "device" | "threads">,
): Promise<[prompt: string, answer: string][]> {
  using model = await loadModel(path, options);
  using chat = model.startChat({ temperature: 0.5, seed: 42, maxTokens: MOST_TOKENS });
  const answered: [string, string][] = [];
  for (const prompt of PROMPTS) {
    chat.clear();
    let answer = "";
    for await (const piece of chat.send(prompt)) answer += piece;
    answered.push([prompt, answer.trim()]);
  }
  return answered;
}

async function trainOn(work: string, options: ChatModelOptions): Promise<Outcome> {
  const { input, start, preset = "chat-small", settings = {}, onProgress, device, threads } = options;
  const fresh = start
    ? { from: start.from, ...FINE_TUNING }
    : { preset, skipLong: true, checkpointEvery: 500 };
  const begun = await readTrainState(work);
  const done = begun?.final === true;
  const events = train({
    input,
    output: work,
    ...(begun ? { resume: work } : { chat: true, ...fresh, ...settings }),
    ...(device ? { device } : {}),
    ...(threads ? { threads } : {}),
    dryRun: done,
  });
  const plan = (await events.next()).value as PlanEvent;
  for await (const event of events) {
    if (event.type === "evaluation") {
      const { step, loss, bitsPerByte } = event;
      onProgress?.(
        `step ${step} / ${plan.totalSteps}: held out ${loss.toFixed(4)}, ${
          bitsPerByte.toFixed(4)
        } bits per byte`,
      );
    }
    if (event.type === "notice" && !done) onProgress?.(event.message);
  }
  const state = (await readTrainState(work))!;
  return {
    settings: plan.settings,
    ...(start ? {} : { preset: state.preset ?? preset }),
    parameters: plan.parameters,
    trainingDocuments: plan.trainingDocuments,
    validationDocuments: plan.validationDocuments,
    steps: state.step,
    device: `${state.device}, ${state.dtype}`,
    ...await losses(work, state.step),
  };
}

/** What the run logged: its training loss, smoothed over about 50 steps, its first and its best evaluation. */
async function losses(
  work: string,
  steps: number,
): Promise<Pick<Outcome, "trainingLoss" | "before" | "validation" | "best">> {
  const log = await Deno.readTextFile(join(work, "metrics.jsonl"));
  let trainingLoss = NaN;
  let [before, validation]: (Evaluation | undefined)[] = [];
  for (const line of log.trimEnd().split("\n")) {
    const { step, loss, val_loss, val_bits_per_byte } = JSON.parse(line);
    if (Number.isFinite(loss)) {
      trainingLoss = Number.isNaN(trainingLoss) ? loss : 0.98 * trainingLoss + 0.02 * loss;
    }
    if (!Number.isFinite(val_loss)) continue;
    const evaluation = { step, loss: val_loss, bitsPerByte: val_bits_per_byte };
    if (step === 0) before = evaluation;
    else if (validation === undefined || val_loss < validation.loss) validation = evaluation;
  }
  const isLast = validation === undefined || validation.step === steps;
  return {
    trainingLoss,
    ...(before ? { before } : {}),
    ...(validation ? { validation } : {}),
    best: isLast ? work : join(work, "checkpoints", "best"),
  };
}

/** The card, in Markdown with the header that model hubs read. */
function modelCard(
  outcome: Outcome,
  { description, licence }: DataSource,
  start: StartingModel | undefined,
  answers: [prompt: string, answer: string][],
): string {
  const { settings: s, before, validation, parameters } = outcome;
  const count = (value: number) => value.toLocaleString("en");
  const figures = ({ step, loss, bitsPerByte }: Evaluation) =>
    `${loss.toFixed(4)} nats per token, ${bitsPerByte.toFixed(4)} bits per byte after step ${step}`;
  const heldOut = validation
    ? `${figures(validation)}, on ${
      count(outcome.validationDocuments)
    } conversations that were not trained on`
    : "not measured";
  const origin = start
    ? `[${start.name}](https://huggingface.co/${start.name}) (${start.licence}), fine-tuned on answers of conversations. It has ` +
      `${count(parameters)} parameters.`
    : `A transformer of ${
      count(parameters)
    } parameters that was trained from nothing on conversations, with ` +
      `microgpt's preset \`${outcome.preset}\`.`;
  return `---
license: ${(start ?? { licence }).licence.toLowerCase()}
language: en
pipeline_tag: text-generation
${start ? `base_model: ${start.name}\n` : ""}---

# microgpt default chat model

${origin} Talk with it: \`microgpt chat\`.

## Data

${description}: ${count(outcome.trainingDocuments)} conversations. Licence of the data: ${licence}.

## Recipe

| | |
|---|---|
| layers, heads, width | ${s.nLayer}, ${s.nHead}, ${s.nEmbd} |
| context | ${count(s.blockSize)} tokens |
| vocabulary | ${
    start
      ? `${count(s.vocabSize)} tokens, the first model's`
      : `at most ${count(s.vocabSize)} tokens, byte-level BPE of the same data`
  } |
| what counts | ${s.loss === "answers" ? "what the assistant says" : "all tokens"} |
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
${before ? `- held out, before: ${figures(before)}\n` : ""}- held out: ${heldOut}

Weights are stored as ${start ? "q8_0 (8 bits, a scale for 32)" : "f16"}; losses are of f32.

## Exchanges

Each a conversation of its own, at temperature 0.5 with seed 42, at most ${MOST_TOKENS} tokens, as they came.

${answers.map(([prompt, answer]) => `> **${prompt}**\n>\n${quoted(answer)}`).join("\n\n")}

## Limits

It is a toy: it has learned how conversations look, and ${
    start ? "some" : "little"
  } of what is true. It makes up facts, loses the thread after a
turn or two, and knows only the language of its data. It was not tuned for safety: it can repeat what is harmful or wrong in
its data. Do not use it to inform or to advise anyone.
`;
}

/** Text as a quotation in Markdown that shows it as it is, but for control characters. */
function quoted(text: string): string {
  const escaped = text.replace(/[^\P{Cc}\n]/gu, "\ufffd").replace(
    /[\\`*_<>#|[\]]/gu,
    (character) => `\\${character}`,
  );
  return (escaped || "(nothing)").split("\n").map((line) => `> ${line}`.trimEnd()).join("\n");
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      input: { type: "string" },
      output: { type: "string", default: "default-chat-model" },
      from: { type: "string" },
      preset: { type: "string" },
      steps: { type: "string" },
      threads: { type: "string" },
      device: { type: "string", default: "cpu" },
      data: { type: "string", default: OASST2.description },
      "data-licence": { type: "string", default: OASST2.licence },
    },
  });
  if (values.input === undefined || (values.from !== undefined && values.preset !== undefined)) {
    console.error(
      "usage: deno task chat-model --input JSONL [--output DIR] [--from MODEL | --preset NAME] [--steps N] " +
        "[--device NAME] [--threads N] [--data TEXT --data-licence SPDX]",
    );
    Deno.exit(2);
  }
  try {
    await makeChatModel({
      input: values.input,
      output: values.output,
      source: { description: values.data, licence: values["data-licence"] },
      ...(values.preset === undefined
        ? { start: { ...SMOLLM2, from: values.from ?? SMOLLM2.from } }
        : { preset: values.preset as PresetName }),
      ...(values.threads === undefined ? {} : { threads: Number(values.threads) }),
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
