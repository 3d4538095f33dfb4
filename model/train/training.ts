/** The events of a run, from its plan to its end. */
import { MicrogptError } from "../../device/errors.ts";
import { AgreedError } from "../../device/group.ts";
import { endTraining } from "../devices.ts";
import { generateSamples, wholeSamples } from "../generate/generation.ts";
import { networkOf } from "../networks.ts";
import { EventFile } from "./event_file.ts";
import type { TrainOptions } from "./options.ts";
import { type PreparedRun, prepareRun } from "./prepare.ts";
import { openRanks, type Ranks } from "./ranks.ts";
import type { RunEvent } from "./run.ts";
import type { PlanEvent, SamplesEvent, TrainEvent } from "./train.ts";
import type { EvaluationEvent, StepEvent } from "./trainer.ts";

/** Samples that `sampleEvery` asks for. */
const SAMPLES = 3;
/** Most tokens of a sample. */
const SAMPLE_TOKENS = 200;

/** What `train` does, which loads it when it is called. */
export async function* eventsOf(options: TrainOptions): AsyncGenerator<TrainEvent, void, void> {
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
