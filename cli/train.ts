import { basename, resolve } from "node:path";
import { renderLengths } from "../data/lengths.ts";
import { MicrogptError } from "../device/errors.ts";
import { generateSamples, wholeSamples } from "../model/generate/generation.ts";
import { networkOf } from "../model/networks.ts";
import { PRESETS, SETTINGS } from "../model/settings.ts";
import { isFile } from "../data/dataset.ts";
import type { EvaluationEvent, StepEvent } from "../model/train/trainer.ts";
import { DEVICE_OPTIONS } from "../model/devices.ts";
import { type PreparedRun, prepareRun, type TrainOptions } from "../model/train/train.ts";
import type { Command, FlagValues } from "./command.ts";
import { flagsOf } from "./flags.ts";
import { harmlessLine } from "./harmless.ts";
import { onInterrupt } from "./interrupt.ts";
import { programName, resumeCommand, shellPath } from "./printed_command.ts";
import {
  bar,
  columns,
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

export const command: Command = {
  flags: [
    {
      name: "--input",
      value: "file",
      help: "text, one document a line, or JSONL with --chat; - is standard input",
    },
    { name: "--output", value: "dir", help: "where the model goes", default: "output" },
    { name: "--chat", help: "the input is conversations: JSONL of [{role, content}, …]" },
    { name: "--preset", value: "name", help: "settings to start from", choices: Object.keys(PRESETS) },
    { name: "--resume", value: "dir", help: "go on from this checkpoint" },
    ...flagsOf(SETTINGS),
    ...flagsOf(DEVICE_OPTIONS),
    {
      name: "--keep",
      value: "n",
      type: "number",
      help: "keep the last n checkpoints under DIR/checkpoints, where the best is in any case",
    },
    {
      name: "--sample-every",
      value: "n",
      type: "number",
      help: "print three samples every n steps; 0 = never",
      default: 0,
    },
    { name: "--dry-run", help: "stop before the first step: show configuration, memory plan and lengths" },
  ],
  run: runTrain,
};

async function runTrain(values: FlagValues): Promise<number> {
  const { dryRun, sampleEvery = 0, ...rest } = values as FlagValues & { sampleEvery?: number };
  checkCount("--sample-every", sampleEvery);
  checkCount("--keep", values.keep as number | undefined);
  const prepared = await prepareRun({ ...rest as TrainOptions, lookOnly: dryRun === true });
  try {
    describe(prepared);
    return dryRun ? 0 : await trainAndFinish(prepared, values, sampleEvery);
  } finally {
    prepared.run.close();
  }
}

/** @returns the exit code: 130 where the run was interrupted and is not at its end */
async function trainAndFinish(
  prepared: PreparedRun,
  values: FlagValues,
  sampleEvery: number,
): Promise<number> {
  const interrupt = new AbortController();
  const stopListening = onInterrupt(() => {
    say("\nstopping after this step and saving; Ctrl-C again stops at once");
    interrupt.abort();
  });
  let report: Report;
  try {
    report = await follow(prepared, interrupt.signal, sampleEvery);
  } finally {
    stopListening(); // what comes now may be interrupted as anything else
  }
  const { run } = prepared;
  if (run.trainer.step === run.startStep) {
    say("stopped before the first step: there is nothing to save");
    return 130;
  }
  await finish(prepared, report, values);
  return run.trainer.step < run.totalSteps ? 130 : 0;
}

function checkCount(flag: string, value: number | undefined): void {
  if (value === undefined || (Number.isInteger(value) && value >= 0 && value <= 1e9)) return;
  throw new MicrogptError(`${flag} must be a whole number from 0 to 1000000000, got ${value}`, {
    usage: true,
  });
}

/** Configuration, device, data, memory. */
function describe(prepared: PreparedRun): void {
  const { config, settings, device, memory, run } = prepared;
  const unit = prepared.mode === "chat" ? "conversations" : "documents";
  const mb = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
  const clip = settings.gradClip > 0 ? `clip ${settings.gradClip}` : "no clipping";
  const batch = settings.gradAccum > 1
    ? `${settings.batchSize} × ${settings.gradAccum}`
    : `${settings.batchSize}`;
  const row = (label: string, text: string) => say(`${styled("dim", label.padEnd(8))} ${text}`);
  row(
    "model",
    `${networkOf(config).describe()}, context ${config.block_size}, ` +
      `vocabulary ${config.vocab_size}: ${prepared.parameters.toLocaleString("en")} parameters`,
  );
  row(
    "data",
    `${
      harmlessLine(prepared.dataPath)
    }: ${prepared.trainingDocuments} ${unit} to train on, ${prepared.validationDocuments} held out`,
  );
  row(
    "training",
    `steps ${run.startStep} … ${run.totalSteps}, batch ${batch}, lr ${settings.learningRate}, ` +
      `warmup ${settings.warmupSteps}, ${clip}, seed ${settings.seed}`,
  );
  row("device", `${device.name}, ${device.dtype}`);
  row(
    "memory",
    `${mb(memory.total)}: weights ${mb(memory.weights)}, gradients ${mb(memory.gradients)}, ` +
      `moments ${mb(memory.moments)}, activations at most ${mb(memory.activations)}, batch ${
        mb(memory.batch)
      }`,
  );
  for (const line of renderLengths(prepared.lengths, unit)) say(line);
  for (const notice of prepared.notices) sayNotice(notice);
}

/** What is remembered of a run for its end. */
interface Report {
  training: CurvePoint[];
  validation: EvaluationEvent[];
  smoothed: number;
  /** the lowest that `smoothed` was, once over ten steps */
  lowest: number;
  tokens: number;
  seconds: number;
}

/** Runs to the end and shows how it goes. */
async function follow(prepared: PreparedRun, signal: AbortSignal, sampleEvery: number): Promise<Report> {
  const { run } = prepared;
  const report: Report = {
    training: [],
    validation: [],
    smoothed: NaN,
    lowest: Infinity,
    tokens: 0,
    seconds: 0,
  };
  const live = new LiveLine();
  const progress = isTerminal() ? new LiveProgress(run.totalSteps, live) : new LineProgress(run.totalSteps);
  const started = performance.now();
  const samplesAt = (step: number) => sampleEvery > 0 && step % sampleEvery === 0;
  for await (const event of run.events({ signal, pauseAt: samplesAt })) {
    switch (event.type) {
      case "step":
        remember(report, event);
        progress.step(event, report.smoothed);
        if (!event.applied) {
          live.clear();
          sayNotice(
            `warning: step ${event.step} skipped: loss ${event.loss}, gradient norm ${event.gradNorm}`,
          );
        }
        if (samplesAt(event.step)) {
          live.clear();
          await showSamples(prepared, 3, (text, i) => say(`  sample ${i + 1}: ${text}`));
        }
        break;
      case "evaluation":
        report.validation.push(event);
        live.clear();
        say(`step ${event.step}: held out ${lossAndBits(event)}`);
        break;
      case "recovery":
        live.clear();
        sayNotice(
          `warning: too many steps were not finite: back to step ${event.step}, learning rate now ${event.learningRate}`,
        );
        break;
      case "checkpoint":
        live.clear();
        if (!event.final && !signal.aborted) {
          const best = event.best ? ", the best so far" : "";
          sayNotice(`step ${event.step}: checkpoint saved to ${event.directory}${best}`);
        }
        break;
      case "notice":
        live.clear();
        sayNotice(event.message);
    }
  }
  live.clear();
  report.seconds = (performance.now() - started) / 1000;
  return report;
}

function lossAndBits({ loss, bitsPerByte }: EvaluationEvent): string {
  return `loss ${loss.toFixed(4)}, ${bitsPerByte.toFixed(4)} bits per byte`;
}

/** Smooths the loss over about 50 steps, fewer at the start. */
function remember(report: Report, { step, loss, tokens }: StepEvent): void {
  report.training.push({ step, loss });
  report.tokens += tokens;
  if (!Number.isFinite(loss)) return;
  const weight = Math.max(1 / report.training.length, 0.02);
  report.smoothed = Number.isNaN(report.smoothed)
    ? loss
    : report.smoothed + weight * (loss - report.smoothed);
  if (report.training.length >= 10) report.lowest = Math.min(report.lowest, report.smoothed);
}

/** A warning where a run ended far above a guess, or lost half of what it had learned. */
function divergence(
  { training, smoothed, lowest }: Report,
  { config, settings }: PreparedRun,
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

/** Below so many columns a bar would leave no room for the step. */
const NARROW = 20;

/** One live line, for a terminal. */
class LiveProgress {
  readonly #pace = new Pace();
  constructor(readonly totalSteps: number, readonly live: LiveLine) {}

  step(event: StepEvent, smoothed: number): void {
    this.#pace.add(event);
    const { step, learningRate } = event;
    const left = duration((this.totalSteps - step) * this.#pace.milliseconds / 1000);
    const text =
      ` ${step}/${this.totalSteps}  loss ${smoothed.toFixed(4)}  lr ${learningRate.toPrecision(3)}  ` +
      `${Math.round(this.#pace.tokensPerSecond).toLocaleString("en")} tok/s  ${
        this.#pace.milliseconds.toFixed(1)
      } ms  ETA ${left}`;
    const width = columns();
    const room = width < NARROW ? 0 : Math.max(5, Math.min(30, width - text.length - 2));
    this.live.update((bar(step / this.totalSteps, room) + text).trimStart());
  }
}

/** Plain lines, for a file or a pipe: the first step, then one a while, the last. */
class LineProgress {
  readonly #pace = new Pace();
  #next = 0;
  constructor(readonly totalSteps: number) {}

  step(event: StepEvent, _smoothed: number): void {
    this.#pace.add(event);
    const { step, tokens, loss } = event;
    const now = performance.now();
    if (now < this.#next && step !== this.totalSteps) return;
    this.#next = now + 2000;
    const seconds = this.#pace.milliseconds / 1000;
    say(
      `step ${step} / ${this.totalSteps} | len ${tokens} | loss ${loss.toFixed(4)} | ${
        seconds.toPrecision(3)
      }s/step | ` +
        `eta ${duration((this.totalSteps - step) * seconds)}`,
    );
  }
}

/** Speed over the last while. */
class Pace {
  milliseconds = NaN;
  #tokens = NaN;

  add({ milliseconds, tokens }: StepEvent): void {
    const smooth = (old: number, value: number) => Number.isNaN(old) ? value : old + 0.05 * (value - old);
    this.milliseconds = smooth(this.milliseconds, milliseconds);
    this.#tokens = smooth(this.#tokens, tokens);
  }

  get tokensPerSecond(): number {
    return this.#tokens / this.milliseconds * 1000;
  }
}

async function showSamples(
  { run, device, config, tokenizer, mode }: PreparedRun,
  numSamples: number,
  show: (text: string, index: number) => void,
): Promise<void> {
  const model = { device, config, tokenizer, chat: mode === "chat", weights: run.trainer.weights };
  let index = 0;
  for await (const text of wholeSamples(generateSamples(model, { numSamples, maxTokens: 200 }))) {
    show(harmlessLine(text), index++);
  }
}

/** Losses, curve, samples, and what to do next. */
async function finish(prepared: PreparedRun, report: Report, values: FlagValues): Promise<void> {
  const { run, mode } = prepared;
  const { step } = run.trainer;
  for (const line of lossCurve(report.training, report.validation)) say(line);
  const rate = Math.round(report.tokens / report.seconds).toLocaleString("en");
  say(
    `trained to step ${step} in ${duration(report.seconds)}: ${
      report.tokens.toLocaleString("en")
    } tokens, ${rate} a second`,
  );
  const held = report.validation.at(-1);
  say(
    `training loss ${report.smoothed.toFixed(4)} (smoothed)` +
      (held ? `, held out ${lossAndBits(held)}${held.step < step ? ` (step ${held.step})` : ""}` : ""),
  );
  if (run.skippedSteps > 0) {
    sayNotice(`warning: ${run.skippedSteps} steps were skipped, their loss or gradient was not finite`);
  }
  const diverged = divergence(report, prepared);
  if (diverged) sayNotice(diverged);
  await sayWhere(run, report);
  if (step < run.totalSteps) {
    say(`resume with: ${resumeCommand(run.output, prepared.dataPath)}${notInCheckpoint(values)}`);
    if (!isFile(prepared.dataPath)) {
      say("FILE is the same data in a file: what came from standard input cannot be read again");
    }
    return;
  }
  const next = mode === "chat" ? "chat" : "generate";
  say(`next: ${programName()} ${next} --model-dir ${shellPath(run.output)}`);
  if (mode === "text") {
    await showSamples(prepared, 5, (text, i) => print(`sample ${String(i + 1).padStart(2)}: ${text}`));
  }
}

/** Where the last weights are and where the best, which are not the same once a model learns its data by heart. */
async function sayWhere(
  { output, best, trainer }: PreparedRun["run"],
  { validation }: Report,
): Promise<void> {
  const place = await realPlace(output);
  if (!best) return sayNotice(`model in ${place}`);
  const last = validation.at(-1);
  const measured = last?.step === trainer.step ? `, held out loss ${last.loss.toFixed(4)}` : "";
  const isBest = best.step === trainer.step;
  sayNotice(`model in ${place}: step ${trainer.step}${measured}${isBest ? ", the best so far" : ""}`);
  if (isBest) return;
  sayNotice(`best in ${best.directory}: step ${best.step}, held out loss ${best.loss.toFixed(4)}`);
}

/** The flags that a resumed run does not have from its checkpoint, as they were given. */
function notInCheckpoint(values: FlagValues): string {
  const flags = {
    device: "--device",
    dtype: "--dtype",
    threads: "--threads",
    checkpointEvery: "--checkpoint-every",
    keep: "--keep",
    sampleEvery: "--sample-every",
  };
  return Object.entries(flags).filter(([name]) => values[name] !== undefined)
    .map(([name, flag]) => ` ${flag} ${values[name]}`).join("");
}

/** A directory as it was named, and where it is, should a link or "." hide that. */
async function realPlace(dir: string): Promise<string> {
  const real = await Deno.realPath(dir);
  return real === resolve(dir) && basename(dir) === basename(real) ? dir : `${dir} (${real})`;
}
