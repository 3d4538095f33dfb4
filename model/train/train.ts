/** Training from data to checkpoint: what `microgpt train` does, for programs. */
import type { CleanupRow } from "../../data/cleanup.ts";
import type { LengthStatistics } from "../../data/lengths.ts";
import type { Dtype } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import { AgreedError } from "../../device/group.ts";
import type { ModelConfig } from "../config.ts";
import { endTraining } from "../devices.ts";
import { generateSamples, wholeSamples } from "../generate/generation.ts";
import { networkOf } from "../networks.ts";
import type { Settings } from "../settings.ts";
import type { MemoryPlan } from "./memory_plan.ts";
import { EventFile } from "./event_file.ts";
import type { TrainOptions } from "./options.ts";
import { type PreparedRun, prepareRun } from "./prepare.ts";
import { openRanks, type Ranks, type RanksPlan } from "./ranks.ts";
import type { RunEvent } from "./run.ts";
import type { EvaluationEvent, StepEvent } from "./trainer.ts";

/** What is going to be trained, on what and where: the first event. */
export interface PlanEvent {
  /** tells this event from the others */
  type: "plan";
  /** what the documents are */
  mode: "text" | "chat";
  /** where they come from, as it was named */
  dataPath: string;
  /** the model that the run started from, as it was named */
  from?: string;
  /** they lie in files, which can be read again to go on with the run */
  rereadable: boolean;
  /** documents to train on */
  trainingDocuments: number;
  /** documents held out */
  validationDocuments: number;
  /** of all documents, before any is truncated */
  lengths: LengthStatistics;
  /** tokens of them that are trained on or held out: others do not fit a sequence, or are left out with their document */
  usedTokens: number;
  /** what is not trained on as it is */
  cleanup: CleanupRow[];
  /** the architecture */
  config: ModelConfig;
  /** its layers, heads and width, in words */
  network: string;
  /** how many parameters it has */
  parameters: number;
  /** every setting of the run */
  settings: Settings;
  /** the hardware's own name */
  device: string;
  /** type of working weights and activations */
  dtype: Dtype;
  /** bytes that the run takes on the device */
  memory: MemoryPlan;
  /** where several processes share the steps */
  ranks?: RanksPlan;
  /** steps done before */
  startStep: number;
  /** the step that the run ends with */
  totalSteps: number;
  /** directory of the checkpoints */
  output: string;
}

/** Samples of the model as it is. */
export interface SamplesEvent {
  /** tells this event from the others */
  type: "samples";
  /** steps done */
  step: number;
  /** whole samples */
  texts: string[];
}

/** The run has ended and is saved: the last event. */
export interface EndEvent {
  /** tells this event from the others */
  type: "end";
  /** steps done */
  step: number;
  /** it came to its end; false where it was told to end before */
  complete: boolean;
  /** directory of the last checkpoint */
  output: string;
  /** the evaluation with the lowest loss, and where its weights are */
  best?: { step: number; loss: number; directory: string };
  /** steps whose loss or gradient was not finite */
  skippedSteps: number;
}

/** What `train` tells. */
export type TrainEvent = PlanEvent | SamplesEvent | EndEvent | RunEvent;

/** Samples that `sampleEvery` asks for. */
const SAMPLES = 3;
/** Most tokens of a sample. */
const SAMPLE_TOKENS = 200;

/**
 * Trains a model, or goes on training one, and yields its plan, each step and the end. Checkpoints are saved on the way
 * and at the end; leaving the loop ends the run without one, `options.signal` ends it with one.
 *
 * @example
 * ```ts
 * import { train } from "../../mod.ts";
 *
 * const documents = ["anna", "bob", "carla", "dora"];
 * const output = await Deno.makeTempDir();
 * const small = { nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 260 };
 * for await (const event of train({ documents, output, steps: 10, ...small })) {
 *   if (event.type === "step") console.log(event.step, event.loss);
 *   if (event.type === "checkpoint") console.log("saved to", event.directory);
 * }
 * for await (const _ of train({ documents, resume: output, steps: 10 })); // ten more
 * ```
 *
 * @param options data, settings and where to compute; every option has the name and the default of its flag
 * @returns the events of the run, in their order
 * @throws {MicrogptError} for options out of range, unusable data, a checkpoint that does not load, a device that is
 * not there, a directory that cannot be written, and when training fails
 */
export async function* train(options: TrainOptions): AsyncGenerator<TrainEvent, void, void> {
  const ranks = await openRanks(options);
  if (!ranks) return yield* runTraining(options, options.signal);
  try {
    yield* runTraining(options, ranks.signal, ranks);
    endTraining();
  } catch (error) {
    // any other error leaves ranks behind that wait for this one: they end with this program
    if (error instanceof AgreedError) endTraining();
    throw ofRank(ranks, error);
  }
}

/** An error of one rank names it, since all of them write to one terminal. */
function ofRank({ group: { rank, size } }: Ranks, error: unknown): unknown {
  if (size === 1 || !(error instanceof MicrogptError) || error instanceof AgreedError) return error;
  const { message, hint, usage } = error;
  return new MicrogptError(`rank ${rank} of ${size}: ${message}`, {
    usage,
    cause: error,
    ...(hint === undefined ? {} : { hint }),
  });
}

async function* runTraining(
  options: TrainOptions,
  signal: AbortSignal | undefined,
  ranks?: Ranks,
): AsyncGenerator<TrainEvent, void, void> {
  const prepared = await prepareRun(options, ranks);
  const { run, notices } = prepared;
  const { sampleEvery = 0, finalSamples = 0 } = options;
  const samples = ranks === undefined || ranks.isFirst;
  const logs = options.log === "tensorboard" && samples;
  let events: EventFile | undefined;
  try {
    yield planOf(prepared);
    for (const message of notices) yield { type: "notice", message };
    if (options.dryRun) return;
    const samplesAt = (step: number) => sampleEvery > 0 && step % sampleEvery === 0;
    for await (const event of run.events({ pauseAt: samplesAt, ...(signal ? { signal } : {}) })) {
      yield event;
      if (logs && isMeasured(event)) {
        events ??= await EventFile.open(run.output);
        const message = events.append(event);
        if (message !== undefined) yield { type: "notice", message };
      }
      if (samples && event.type === "step" && samplesAt(event.step)) {
        const drawn = await samplesOf(prepared, SAMPLES);
        run.noteSamples(drawn.step, drawn.texts);
        yield drawn;
      }
    }
    const { complete } = run;
    if (samples && complete && finalSamples > 0) yield await samplesOf(prepared, finalSamples);
    yield {
      type: "end",
      step: run.trainer.step,
      complete,
      output: run.output,
      ...(run.best ? { best: run.best } : {}),
      skippedSteps: run.skippedSteps,
    };
  } finally {
    events?.close();
    run.close();
  }
}

/** Whether an event has numbers for a log. */
function isMeasured(event: RunEvent): event is StepEvent | EvaluationEvent {
  return event.type === "step" || event.type === "evaluation";
}

function planOf(prepared: PreparedRun): PlanEvent {
  const { run, config, device, tokenizer: _, notices: __, foreign: ___, chat: ____, ...told } = prepared;
  return {
    type: "plan",
    ...told,
    config,
    network: networkOf(config).describe(),
    device: device.name,
    dtype: device.dtype,
    startStep: run.startStep,
    totalSteps: run.totalSteps,
    output: run.output,
  };
}

async function samplesOf(
  { run, device, config, tokenizer, chat, foreign }: PreparedRun,
  numSamples: number,
): Promise<SamplesEvent> {
  const { weights } = run.trainer;
  const model = { device, config, tokenizer, chat, weights, ...(foreign ? { foreign } : {}) };
  const pieces = generateSamples(model, { numSamples, maxTokens: SAMPLE_TOKENS });
  return { type: "samples", step: run.trainer.step, texts: await Array.fromAsync(wholeSamples(pieces)) };
}
