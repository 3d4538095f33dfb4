import { basename, resolve } from "node:path";
import {
  CORPUS_OPTIONS,
  DEFAULTS,
  DEVICE_OPTIONS,
  type EndEvent,
  type EvaluationEvent,
  MicrogptError,
  type PlanEvent,
  type PreparationProgress,
  PRESET_NAMES,
  renderCleanup,
  renderLengths,
  RUN_OPTIONS,
  SETTINGS,
  type StepEvent,
  train,
  type TrainEvent,
  type TrainOptions,
} from "../mod.ts";
import type { Command, FlagValues } from "./command.ts";
import { flagsOf } from "./flags.ts";
import { harmlessLine } from "./harmless.ts";
import { ANY_MODEL, localModelDir } from "./model_dir.ts";
import { onInterrupt } from "./interrupt.ts";
import { programName, resumeCommand, shellPath } from "./printed_command.ts";
import {
  type CurvePoint,
  duration,
  isTerminal,
  LiveLine,
  lossCurve,
  print,
  say,
  sayNotice,
  styled,
} from "./terminal.ts";
import { samplesOfWatched, WATCH_PORT, WatchPage, watchPort } from "./watch_page.ts";
import { LineProgress, LiveProgress, PreparationView } from "./progress.ts";

export const command: Command = {
  flags: [
    ...flagsOf(CORPUS_OPTIONS),
    { name: "--output", value: "dir", help: "where the model goes", default: "output" },
    { name: "--chat", help: "the input is conversations, such as JSONL of [{role, content}, …]" },
    { name: "--preset", value: "name", help: "settings to start from", choices: PRESET_NAMES },
    { name: "--resume", value: "dir", help: "go on from this checkpoint" },
    { name: "--from", value: "dir", help: `start from the weights of ${ANY_MODEL}` },
    ...flagsOf(SETTINGS),
    ...flagsOf(DEVICE_OPTIONS),
    ...flagsOf(RUN_OPTIONS),
    {
      name: "--watch",
      value: "port",
      type: "number",
      optional: true,
      help: `show the run as it goes on at http://127.0.0.1:PORT; 0 takes a free port; default ${WATCH_PORT}`,
    },
    { name: "--dry-run", help: "stop before the first step: show configuration, memory plan and lengths" },
  ],
  run: runTrain,
};

/** @returns the exit code: 130 where the run was interrupted and is not at its end */
async function runTrain(values: FlagValues): Promise<number> {
  const interrupt = new AbortController();
  const finalSamples = 5;
  const { watch: watched, ...flags } = values;
  const watch = watched === undefined ? undefined : watchPort(watched);
  if (watch !== undefined) flags.sampleEvery ??= samplesOfWatched(flags);
  // downloaded with a bar, where it is on the hub
  const from = values.from === undefined ? {} : { from: await localModelDir(values.from as string) };
  const preparation = new PreparationView();
  const onPreparing = (progress: PreparationProgress) => preparation.show(progress);
  const { signal } = interrupt;
  const events = train({ ...flags as TrainOptions, ...from, finalSamples, signal, onPreparing });
  const plan = await firstEvent(events, interrupt, preparation, flags);
  if (!plan) return 130;
  if (plan.ranks && plan.ranks.rank > 0) return await joinIn(events, interrupt);
  describe(plan);
  const stopListening = onInterrupt(() => {
    say("\nstopping after this step and saving; Ctrl-C again stops at once");
    interrupt.abort();
  });
  let told: Told;
  let page: WatchPage | undefined;
  try {
    if (watch !== undefined && !values.dryRun) page = await watchPage(plan.output, watch);
    told = await follow(plan, events, interrupt.signal);
  } finally {
    stopListening(); // from here on, Ctrl-C works as usual
    await page?.close();
  }
  const { end } = told;
  if (!end) return 0; // --dry-run
  if (end.step === plan.startStep) {
    say("stopped before the first step: there is nothing to save");
    return 130;
  }
  await finish(plan, told, end, values);
  return end.complete ? 0 : 130;
}

/** The page of the run. Where it cannot be had, the run goes on without: it is said. */
async function watchPage(output: string, port: number): Promise<WatchPage | undefined> {
  try {
    return await WatchPage.open(output, port);
  } catch (error) {
    if (!(error instanceof MicrogptError)) throw error;
    say(`warning: --watch: ${error.message}; training goes on without its page`);
  }
}

/**
 * The plan, before which large data may take hours.
 * @returns undefined where Ctrl-C ended its preparation
 */
async function firstEvent(
  events: AsyncIterator<TrainEvent>,
  interrupt: AbortController,
  preparation: PreparationView,
  values: FlagValues,
): Promise<PlanEvent | undefined> {
  // one of several processes cannot end alone before they all know of each other: the launcher ends them
  const stopListening = values.distributed === "mpi" ? () => {} : onInterrupt(() => interrupt.abort());
  try {
    return (await events.next()).value as PlanEvent;
  } catch (error) {
    if (error !== interrupt.signal.reason) throw error;
    preparation.end();
    say(stoppedBefore(preparation.last, values));
    return undefined;
  } finally {
    preparation.end();
    stopListening();
  }
}

/** What is left of a preparation that was stopped. */
function stoppedBefore(last: PreparationProgress | undefined, { input }: FlagValues): string {
  const before = "stopped before the first step";
  // what is not in files, or cannot be kept, lies in a temporary file that goes now
  const kept = last?.phase === "tokens" && last.totalBytes !== undefined && ![input].flat().includes("-");
  if (!kept) return `${before}: nothing is kept`;
  const share = Math.floor(100 * last.bytes / last.totalBytes!);
  return `${before}: the tokens so far (about ${share} % of the data) are kept, and the same command goes on behind them`;
}

/** A process that another one speaks for. @returns the exit code, as that of the other */
async function joinIn(events: AsyncIterable<TrainEvent>, interrupt: AbortController): Promise<number> {
  onInterrupt(() => interrupt.abort());
  let complete = true; // also of a dry run
  for await (const event of events) if (event.type === "end") complete = event.complete;
  return complete ? 0 : 130;
}

/** Configuration, device, data, memory. */
function describe(plan: PlanEvent): void {
  const { settings, memory } = plan;
  const unit = plan.mode === "chat" ? "conversations" : "documents";
  const mb = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
  const clip = settings.gradClip > 0 ? `clip ${settings.gradClip}` : "no clipping";
  const batch = settings.gradAccum > 1
    ? `${settings.batchSize} × ${settings.gradAccum}`
    : `${settings.batchSize}`;
  const entry = (label: string, text: string) => say(`${styled("dim", label.padEnd(8))} ${text}`);
  entry(
    "model",
    `${plan.network}, context ${plan.config.block_size}, ` +
      `vocabulary ${plan.config.vocab_size}: ${plan.parameters.toLocaleString("en")} parameters`,
  );
  if (plan.from !== undefined) entry("from", harmlessLine(plan.from));
  entry(
    "data",
    `${
      harmlessLine(plan.dataPath)
    }: ${plan.trainingDocuments} ${unit} to train on, ${plan.validationDocuments} held out`,
  );
  entry(
    "training",
    `steps ${plan.startStep} … ${plan.totalSteps}, batch ${batch}, lr ${settings.learningRate}` +
      (settings.optimizer === "muon" ? ` (muon ${settings.muonLearningRate}), ` : ", ") +
      `warmup ${settings.warmupSteps}, ${clip}, seed ${settings.seed}` +
      (settings.loss === "answers" ? "; only answers count in the loss" : "") +
      (settings.freeze === DEFAULTS.freeze ? "" : `; frozen: ${harmlessLine(settings.freeze)}`),
  );
  entry("device", `${plan.device}, ${plan.dtype}`);
  entry(
    "memory",
    `${mb(memory.total)}: weights ${mb(memory.weights)}, gradients ${mb(memory.gradients)}, ` +
      `moments ${mb(memory.moments)}, activations at most ${mb(memory.activations)}, batch ${
        mb(memory.batch)
      }`,
  );
  if (plan.ranks) entry("ranks", ranksLine(plan.ranks));
  for (const line of renderLengths(plan.lengths, unit)) say(line);
  entry("tokens", usedTokens(plan));
  for (const line of renderCleanup(plan.cleanup)) say(line);
}

/** What share of the tokens is trained on. */
function usedTokens({ lengths: { tokens: all }, usedTokens: used }: PlanEvent): string {
  const number = (n: number) => n.toLocaleString("en");
  // rounded down, so that it never says 100 %
  return used === all
    ? `all ${number(all)} are trained on or held out`
    : `${number(used)} of ${number(all)} (${
      Math.floor(1000 * used / all) / 10
    } %) are trained on or held out`;
}

/** What sharing a step costs. */
function ranksLine(ranks: NonNullable<PlanEvent["ranks"]>): string {
  const { size, trafficBytes, sumSeconds, waitingShare, fittingGradAccum } = ranks;
  if (size === 1) return "1 process";
  const share = (part: number) => `${Math.round(100 * part)} %`;
  return `${size} processes, each sends and receives ${(trafficBytes / 1e6).toFixed(1)} MB a step: ` +
    `measured ${(1000 * sumSeconds).toPrecision(3)} ms, ${
      (trafficBytes / sumSeconds / 1e9).toPrecision(2)
    } GB/s; waiting takes about ${share(waitingShare)} of the time` +
    (fittingGradAccum ? `, under 10 % with --grad-accum ${fittingGradAccum}` : "");
}

/** What is remembered of a run for its end. */
interface Told {
  training: CurvePoint[];
  validation: EvaluationEvent[];
  smoothed: number;
  /** the lowest that `smoothed` was, once over ten steps */
  lowest: number;
  tokens: number;
  seconds: number;
  /** of the finished model */
  samples: string[];
  /** undefined after a dry run */
  end: EndEvent | undefined;
}

/** Shows how the run goes, to its end. */
async function follow(
  plan: PlanEvent,
  events: AsyncIterable<TrainEvent>,
  signal: AbortSignal,
): Promise<Told> {
  const told: Told = {
    training: [],
    validation: [],
    smoothed: NaN,
    lowest: Infinity,
    tokens: 0,
    seconds: 0,
    samples: [],
    end: undefined,
  };
  const live = new LiveLine();
  const progress = isTerminal() ? new LiveProgress(plan.totalSteps, live) : new LineProgress(plan.totalSteps);
  const started = performance.now();
  for await (const event of events) {
    if (event.type === "step") {
      remember(told, event);
      progress.step(event, told.smoothed);
      if (event.applied) continue;
    }
    live.clear();
    if (event.type === "evaluation") told.validation.push(event);
    if (event.type === "end") told.end = event;
    else if (event.type === "samples" && event.step === plan.totalSteps) told.samples = event.texts;
    else tell(event, signal);
    told.seconds = event.type === "samples" ? told.seconds : (performance.now() - started) / 1000;
  }
  return told;
}

/** One event in words, but for steps that went well. */
function tell(event: TrainEvent, signal: AbortSignal): void {
  switch (event.type) {
    case "step":
      return sayNotice(
        `warning: step ${event.step} skipped: loss ${event.loss}, gradient norm ${event.gradNorm}`,
      );
    case "samples":
      return event.texts.forEach((text, i) => say(`  sample ${i + 1}: ${harmlessLine(text)}`));
    case "evaluation":
      return say(`step ${event.step}: held out ${lossAndBits(event)}`);
    case "recovery":
      return sayNotice(
        `warning: too many steps were not finite: back to step ${event.step}, learning rate now ${event.learningRate}`,
      );
    case "checkpoint": {
      if (event.final || signal.aborted) return;
      const best = event.best ? ", the best so far" : "";
      return sayNotice(`step ${event.step}: checkpoint saved to ${event.directory}${best}`);
    }
    case "notice":
      return sayNotice(event.message);
  }
}

function lossAndBits({ loss, bitsPerByte }: EvaluationEvent): string {
  return `loss ${loss.toFixed(4)}, ${bitsPerByte.toFixed(4)} bits per byte`;
}

/** Smooths the loss over about 50 steps, fewer at the start. */
function remember(told: Told, { step, loss, tokens }: StepEvent): void {
  told.training.push({ step, loss });
  told.tokens += tokens;
  if (!Number.isFinite(loss)) return;
  const weight = Math.max(1 / told.training.length, 0.02);
  told.smoothed = Number.isNaN(told.smoothed) ? loss : told.smoothed + weight * (loss - told.smoothed);
  if (told.training.length >= 10) told.lowest = Math.min(told.lowest, told.smoothed);
}

/** A warning where a run ended far above a guess, or lost half of what it had learned. */
function divergence(
  { training, smoothed, lowest }: Told,
  { config, settings }: PlanEvent,
): string | undefined {
  const guess = Math.log(config.vocab_size);
  const best = Math.min(guess, lowest);
  const allowed = Math.max(0.05 * guess, (guess - best) / 2);
  // the median does not know a spike that the run recovered from; of tiny batches it says less than the mean
  const last = training.slice(-50).map(({ loss }) => loss).filter(Number.isFinite).sort((a, b) => a - b);
  const end = Math.min(smoothed, last[last.length >> 1] ?? NaN);
  if (training.length <= 20 || !(end > best + allowed)) return undefined;
  const before = best < guess
    ? `it was ${best.toFixed(4)} before`
    : `a uniform guess has ${guess.toFixed(4)}`;
  const clip = settings.gradClip > 0 ? `--grad-clip below ${settings.gradClip}` : "--grad-clip 1";
  return `warning: training diverged: its loss ends at ${end.toFixed(4)}, ${before}; ` +
    `train anew with --lr below ${settings.learningRate} or ${clip}`;
}

/** Losses, curve, samples, and what to do next. */
async function finish(plan: PlanEvent, told: Told, end: EndEvent, values: FlagValues): Promise<void> {
  for (const line of lossCurve(told.training, told.validation)) say(line);
  const rate = Math.round(told.tokens / told.seconds).toLocaleString("en");
  say(
    `trained to step ${end.step} in ${duration(told.seconds)}: ${
      told.tokens.toLocaleString("en")
    } tokens, ${rate} a second`,
  );
  const held = told.validation.at(-1);
  say(
    `training loss ${told.smoothed.toFixed(4)} (smoothed)` +
      (held ? `, held out ${lossAndBits(held)}${held.step < end.step ? ` (step ${held.step})` : ""}` : ""),
  );
  if (end.skippedSteps > 0) {
    sayNotice(`warning: ${end.skippedSteps} steps were skipped, their loss or gradient was not finite`);
  }
  const diverged = divergence(told, plan);
  if (diverged) sayNotice(diverged);
  await sayWhere(end, told);
  if (!end.complete) {
    say(
      `resume with: ${plan.ranks?.launcher ?? ""}${resumeCommand(end.output, plan.rereadable)}${
        notInCheckpoint(values)
      }`,
    );
    if (!plan.rereadable) {
      say("FILE is the same data in a file: what came from standard input cannot be read again");
    }
    return;
  }
  const next = plan.mode === "chat" ? "chat" : "generate";
  say(`next: ${programName()} ${next} --model-dir ${shellPath(end.output)}`);
  if (plan.mode === "chat") return;
  told.samples.forEach((text, i) => print(`sample ${String(i + 1).padStart(2)}: ${harmlessLine(text)}`));
}

/** Where the last weights are and where the best, which are not the same once a model learns its data by heart. */
async function sayWhere({ output, best, step }: EndEvent, { validation }: Told): Promise<void> {
  const place = await realPlace(output);
  if (!best) return sayNotice(`model in ${place}`);
  const last = validation.at(-1);
  const measured = last?.step === step ? `, held out loss ${last.loss.toFixed(4)}` : "";
  const isBest = best.step === step;
  sayNotice(`model in ${place}: step ${step}${measured}${isBest ? ", the best so far" : ""}`);
  if (isBest) return;
  sayNotice(`best in ${best.directory}: step ${best.step}, held out loss ${best.loss.toFixed(4)}`);
}

/** The flags that a resumed run does not have from its checkpoint, as they were given. */
function notInCheckpoint(values: FlagValues): string {
  return [
    ...flagsOf(DEVICE_OPTIONS),
    ...flagsOf(RUN_OPTIONS),
    ...flagsOf({ checkpointEvery: SETTINGS.checkpointEvery }),
  ]
    .filter(({ key }) => key !== "minutes" && values[key!] !== undefined)
    .map(({ key, name }) => ` ${name} ${values[key!]}`).join("");
}

/** A directory as it was named, and where it is, should a link or "." hide that. */
async function realPlace(dir: string): Promise<string> {
  const real = await Deno.realPath(dir);
  return real === resolve(dir) && basename(dir) === basename(real) ? dir : `${dir} (${real})`;
}
