/** A training run and its files: the trainer's events, logged and saved as checkpoints on the way. */
import { type Checkpoint, isReadWhileSaved, readCheckpoint } from "../files/checkpoint.ts";
import type { ModelConfig } from "../config.ts";
import type { Device } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import { bestDirectory } from "../files/kept_checkpoints.ts";
import { MetricsLog } from "../files/metrics_log.ts";
import { isSystemError, sameDirectory } from "../files/directory.ts";
import { oldModelPlace } from "../files/old_model.ts";
import { prepareOutput } from "../files/output_directory.ts";
import { networkOf } from "../networks.ts";
import { type BestEvaluation, RunCheckpoints } from "./run_checkpoints.ts";
import type { Ranks } from "./ranks.ts";
import type { TextRules } from "../files/description.ts";
import { LostDirectoryError, type RunLock } from "../files/lock.ts";
import type { TrainState } from "../files/train_state.ts";
import {
  type Recipe,
  Trainer,
  type TrainingData,
  type TrainingEvent,
  type TrainingState,
} from "./trainer.ts";

/** A whole checkpoint is on disk. */
export interface CheckpointEvent {
  /** tells this event from the others */
  type: "checkpoint";
  /** steps done */
  step: number;
  /** where it is */
  directory: string;
  /** its evaluation is the best so far: it is kept in DIR/checkpoints/best too */
  best: boolean;
  /** the run has come to its end */
  final: boolean;
}

/** Something a person should know. */
export interface NoticeEvent {
  /** tells this event from the others */
  type: "notice";
  /** one line */
  message: string;
}

/** What happens in a training run. */
export type RunEvent = TrainingEvent | CheckpointEvent | NoticeEvent;

/** The fields of `train_state.json` that do not change during a run. */
export type RunRecord = Omit<TrainState, "step" | "adam_step" | "learning_rate">;

export interface RunOptions {
  device: Device;
  config: ModelConfig;
  chat: boolean;
  tokenizerJson: string;
  /** see `ModelDescription` */
  rules?: TextRules | undefined;
  data: TrainingData;
  recipe: Recipe;
  /** step of the initial state */
  startStep: number;
  /** called when the run needs it; the same each time */
  initial: () => TrainingState;
  /** reads the initial state anew, where it is a model that is too large to be kept for it */
  initialAgain?: (() => Promise<TrainingState>) | undefined;
  /** directory of the checkpoints */
  output: string;
  /** held on `output`, and released by the run; none for a run that is only looked at */
  lock: RunLock | undefined;
  /** the checkpoint that the run goes on from */
  resumed: { dir: string; state: TrainState } | undefined;
  /** 0 = only at the end */
  checkpointEvery: number;
  /** earlier checkpoints to keep; 0 = none */
  keep: number;
  skippedSteps: number;
  recovered: boolean;
  record: RunRecord;
  /** share the steps; only the first writes files */
  ranks?: Ranks | undefined;
}

/** A save on the way that failed is tried again after this time, or at the next that is due. */
const RETRY_MS = 30_000;

/** A state of more bytes is not copied for a save: that reads it piece by piece, and steps wait. */
const HELD_BYTES = 512e6;

/** Characters of a sample that the log keeps. */
const LONGEST_SAMPLE = 2000;

/** How long the last save is tried again, and the pauses between: at first, and as they grow at most. */
const SAVE_PATIENCE_MS = 10 * 60_000;
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30_000;

export class TrainingRun {
  readonly output: string;
  readonly #options: Omit<RunOptions, "initial">;
  /** dropped once it can be read again: it is as large as the model, or three times that */
  #initial: (() => TrainingState) | undefined;
  #trainer: Trainer | undefined;
  #skipped: number;
  readonly #checkpoints: RunCheckpoints;
  /** the state now is that of the best evaluation so far */
  #isBest = false;
  /** a save under way while steps go on */
  #saving: Promise<void> | undefined;
  /** the log, as long as steps are done */
  #openLog: MetricsLog | undefined;
  /** how it ended, until that is reported */
  #saveEnded: RunEvent | undefined;
  /** it ended before its last step, out of patience */
  #ended = false;
  /** why the last save failed, until one succeeds; and when to try again */
  #failed: { message: string; retryAt: number } | undefined;

  constructor({ initial, ...options }: RunOptions) {
    this.#options = options;
    this.#initial = initial;
    this.output = options.output;
    this.#skipped = options.skippedSteps;
    this.#checkpoints = new RunCheckpoints(options.output, options.keep, options.startStep);
  }

  /**
   * What trains. Allocates the device's memory on first use.
   * @throws {MicrogptError} when that is short
   */
  get trainer(): Trainer {
    return this.#trainer ??= this.#createTrainer();
  }

  #createTrainer(): Trainer {
    const { device, config, data, recipe, recovered, resumed, ranks } = this.#options;
    const trainer = new Trainer(device, config, data, recipe, recovered, ranks);
    const initial = this.#initial!();
    trainer.load(initial);
    if (resumed !== undefined || this.#options.initialAgain) this.#initial = undefined;
    // at once, not when the collector finds time
    if (this.#options.initialAgain) (initial.params.buffer as ArrayBuffer).transfer(0);
    return trainer;
  }

  /** steps whose loss or gradient was not finite */
  get skippedSteps(): number {
    return this.#skipped;
  }

  /** S: the step the run ends with */
  get totalSteps(): number {
    return this.#options.recipe.totalSteps;
  }

  /** the run has come to its end: nothing more would be trained */
  get complete(): boolean {
    return this.#ended || this.trainer.step >= this.totalSteps;
  }

  /** the step it started from */
  get startStep(): number {
    return this.#options.startStep;
  }

  /** the best evaluation so far, and where its checkpoint is */
  get best(): (BestEvaluation & { directory: string }) | undefined {
    const { best } = this.#checkpoints;
    return best && { ...best, directory: bestDirectory(this.output) };
  }

  /**
   * Trains to the end, or until `signal`, and saves in either case.
   * @param options.pauseAt names steps at whose event no later step has begun, as at evaluations and checkpoints
   * @throws {MicrogptError} when the output directory cannot be written, or training fails
   */
  async *events(
    { signal, pauseAt = () => false }: { signal?: AbortSignal; pauseAt?: (step: number) => boolean } = {},
  ): AsyncGenerator<RunEvent, void, void> {
    const { resumed, output, ranks } = this.#options;
    if (this.startStep >= this.totalSteps) {
      throw new MicrogptError(
        `the run in ${resumed?.dir} is complete: all of its ${this.totalSteps} steps are done`,
        {
          hint: "train on with `steps` N, which are added",
          usage: true,
        },
      );
    }
    let log: MetricsLog | undefined;
    try {
      if (ranks === undefined || ranks.isFirst) {
        yield* this.#prepare();
        log = await MetricsLog.open(output, resumed && { dir: resumed.dir, step: this.startStep });
        this.#openLog = log;
      }
      yield* this.#train(log, signal, pauseAt);
      if (signal?.aborted && this.trainer.step === this.startStep) return; // no step was done: nothing to save
      if (log) yield* this.#saveAtEnd(await this.#checkpoint(log), signal);
      ranks?.group.barrier(); // nobody goes before the checkpoint is whole
    } finally {
      await this.#saving;
      this.#openLog = undefined;
      await log?.close();
      this.#options.lock?.release();
    }
  }

  /** Notes samples in the log, which is open while steps are done. */
  noteSamples(step: number, texts: readonly string[]): void {
    this.#openLog?.append({ step, samples: texts.map((text) => text.slice(0, LONGEST_SAMPLE)) });
  }

  /** What a person should know about the directory, before the first step. */
  async *#prepare(): AsyncGenerator<NoticeEvent, void, void> {
    const { output, resumed, lock, record } = this.#options;
    if (lock?.warning !== undefined) yield notice(lock.warning);
    if (await this.#replacesOther()) {
      this.#checkpoints.keepOld();
      const { path, replaces } = await oldModelPlace(output);
      yield notice(
        `${output} holds a model: it stays until this run's first checkpoint, then moves to ${path}` +
          (replaces ? ", in place of the one there" : ""),
      );
    }
    const recalled = resumed && await this.#checkpoints.recall(resumed, record);
    if (recalled !== undefined) yield notice(recalled);
  }

  /** All steps and evaluations, with checkpoints on the way. */
  async *#train(
    log: MetricsLog | undefined,
    signal: AbortSignal | undefined,
    pauseAt: (step: number) => boolean,
  ): AsyncGenerator<RunEvent, void, void> {
    const { checkpointEvery, resumed, data, recipe, record } = this.#options;
    const savesAt = (step: number) =>
      checkpointEvery > 0 && step % checkpointEvery === 0 && step < this.totalSteps;
    const evaluatesAt = (step: number) =>
      data.validationBytes > 0 && recipe.evalEvery > 0 && step % recipe.evalEvery === 0;
    let evaluated = -1;
    const { ranks } = this.#options;
    const missing = () => log !== undefined && log.lastEvaluation !== this.startStep;
    if (resumed && evaluatesAt(this.startStep) && (ranks ? ranks.firstSays(missing()) : missing())) {
      // Ctrl-C came before the evaluation of the step that the run goes on from.
      const event = await this.trainer.evaluate(signal);
      if (event) {
        yield* this.#record(event, log);
        if (savesAt(event.step) || this.#isBest) yield* this.#saveMeanwhile(log, savesAt(event.step));
      }
    }
    let retryStep = -1;
    const retriesAt = (step: number) => {
      if (!this.#failed || performance.now() < this.#failed.retryAt) return false;
      retryStep = step;
      return true;
    };
    if (record.from !== undefined && this.startStep === 0 && data.validationBytes > 0) {
      // what there is to lose and to gain; it is no evaluation of this run's own weights
      const event = await this.trainer.evaluate(signal);
      if (event) yield* this.#log(event, log);
    }
    const options = {
      pauseAt: (step: number) => savesAt(step) || pauseAt(step) || retriesAt(step),
      lastGood: () => this.#lastGood(),
      ...(signal ? { signal } : {}),
    };
    for await (const event of this.trainer.run(this.totalSteps, options)) {
      yield* this.#record(event, log);
      if (event.type === "evaluation") evaluated = event.step;
      const complete = event.type === (evaluatesAt(event.step) ? "evaluation" : "step");
      const isBest = this.#isBest && event.step < this.totalSteps; // the last checkpoint comes anyway
      if (complete && (savesAt(event.step) || isBest || event.step === retryStep)) {
        yield* this.#saveMeanwhile(log, savesAt(event.step));
      }
      if (event.type !== "evaluation" || recipe.patience === 0) continue;
      const best = this.#outOfPatience(event.step);
      // of a run that goes on, the first rank alone remembers the best
      this.#ended = ranks ? ranks.firstSays(best !== undefined) : best !== undefined;
      if (best) {
        yield notice(
          `${recipe.patience} evaluations in a row were no better than that of step ${best.step} ` +
            `(loss ${best.loss.toFixed(4)}): training ends here`,
        );
      }
      if (this.#ended) break;
    }
    if (data.validationBytes > 0 && evaluated !== this.trainer.step) {
      // after Ctrl-C the checkpoint comes first: an evaluation may take minutes
      const event = signal?.aborted ? undefined : await this.trainer.evaluate(signal);
      if (event) yield* this.#record(event, log);
    }
    await this.#saving;
    yield* this.#takeSaveEnded();
  }

  /** The best evaluation, when it is longer ago than the run has patience. The step alone decides: so do resumed runs. */
  #outOfPatience(step: number): BestEvaluation | undefined {
    const { patience, evalEvery } = this.#options.recipe;
    const { best } = this.#checkpoints;
    return patience > 0 && best && step - best.step >= patience * evalEvery ? best : undefined;
  }

  /** Weights and two moments. */
  get #stateBytes(): number {
    return 12 * networkOf(this.#options.config).layout.length;
  }

  /** Frees the device and the data, and the directory for others. */
  close(): void {
    this.#options.device.destroy();
    this.#options.data.close?.();
    this.#options.lock?.release();
  }

  async #replacesOther(): Promise<boolean> {
    const { output, resumed } = this.#options;
    const goesOn = resumed !== undefined && await sameDirectory(resumed.dir, output);
    const { kind } = await prepareOutput(output, goesOn, this.#options.config.architecture);
    return kind !== "nothing" && !goesOn;
  }

  /** Yields an event, and logs it. */
  *#record(event: TrainingEvent, log: MetricsLog | undefined): Generator<RunEvent, void, void> {
    this.#isBest = event.type === "evaluation" && this.#checkpoints.note(event);
    yield* this.#log(event, log);
  }

  *#log(event: TrainingEvent, log: MetricsLog | undefined): Generator<RunEvent, void, void> {
    if (event.type === "step") {
      const { step, loss, learningRate: lr, gradNorm: grad_norm, tokens, milliseconds, applied } = event;
      log?.append({ step, loss, lr, grad_norm, tokens, ms: Math.round(milliseconds * 1000) / 1000 });
      if (!applied) this.#skipped++;
    } else if (event.type === "evaluation") {
      log?.append({ step: event.step, val_loss: event.loss, val_bits_per_byte: event.bitsPerByte });
    }
    yield event;
    for (const message of log?.takeNotices() ?? []) yield notice(message);
    const waiting = event.type === "step" && this.#options.ranks?.waiting(this.#options.recipe.gradAccum);
    if (waiting) yield notice(waiting);
    yield* this.#takeSaveEnded();
  }

  /** The state now, with everything that is saved beside it. */
  async #checkpoint(log: MetricsLog): Promise<Checkpoint> {
    const { config, chat, tokenizerJson, rules, record, recipe } = this.#options;
    const { best } = this.#checkpoints;
    const { step, adamStep, params, optimizer, lossScale, goodSteps } = this.#stateBytes > HELD_BYTES
      ? await this.trainer.current()
      : await this.trainer.snapshot();
    const trainState: TrainState = {
      ...record,
      step,
      adam_step: adamStep,
      learning_rate: this.trainer.learningRate,
      muon_learning_rate: this.trainer.muonLearningRate,
      start_step: this.startStep,
      steps_total: recipe.totalSteps,
      warmup_steps: recipe.warmupSteps,
      weight_decay: recipe.weightDecay,
      grad_clip: recipe.gradClip,
      grad_accum: recipe.gradAccum,
      eval_every: recipe.evalEvery,
      ...(best ? { best_val_loss: best.loss, best_val_step: best.step } : {}),
      skipped_steps: this.#skipped,
      lr_halved: this.trainer.recovered,
      ...(lossScale === undefined ? {} : { loss_scale: lossScale }),
      ...(goodSteps === undefined ? {} : { good_steps: goodSteps }),
      final: step >= recipe.totalSteps || this.#ended,
    };
    const description = { config, chat, tokenizerJson, ...(rules ? { rules } : {}) };
    return { ...description, params, optimizer, trainState, metrics: log.snapshot() };
  }

  async #save(checkpoint: Checkpoint, best: boolean, kept: boolean): Promise<CheckpointEvent> {
    const { step, final = false } = checkpoint.trainState;
    if (await this.#options.lock?.renew()) this.#checkpoints.startAnew(step);
    await this.#checkpoints.save(checkpoint, { best, kept });
    return { type: "checkpoint", step, directory: this.output, best, final };
  }

  /** Begins to save the current state once the previous save has ended. Steps go on meanwhile. */
  async *#saveMeanwhile(
    log: MetricsLog | undefined,
    kept: boolean,
  ): AsyncGenerator<RunEvent, void, void> {
    if (!log) return; // the first rank saves
    await this.#saving;
    yield* this.#takeSaveEnded();
    const checkpoint = await this.#checkpoint(log);
    this.#saving = this.#trySave(checkpoint, this.#isBest, kept);
    if (isReadWhileSaved(checkpoint)) await this.#saving;
  }

  /**
   * A checkpoint on the way that cannot be saved does not end the run: it is reported, once for each cause, and tried
   * again.
   */
  async #trySave(checkpoint: Checkpoint, best: boolean, kept: boolean): Promise<void> {
    try {
      this.#saveEnded = await this.#save(checkpoint, best, kept);
      this.#failed = undefined;
    } catch (error) {
      if (!(error instanceof MicrogptError)) throw error;
      const { message } = error;
      if (this.#failed?.message !== message) {
        const step = checkpoint.trainState.step;
        this.#saveEnded = notice(
          `warning: checkpoint of step ${step}: ${message}; training goes on and tries again`,
        );
      }
      this.#failed = { message, retryAt: performance.now() + RETRY_MS };
    }
  }

  /**
   * The last checkpoint is what the run was for: if the system refuses it, this waits a while for a person to make
   * room.
   */
  async *#saveAtEnd(checkpoint: Checkpoint, signal?: AbortSignal): AsyncGenerator<RunEvent, void, void> {
    const best = this.#isBest;
    const stopped = signal?.aborted;
    const deadline = performance.now() + SAVE_PATIENCE_MS;
    for (let pause = FIRST_PAUSE_MS;; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      try {
        yield await this.#save(checkpoint, best, true);
        return;
      } catch (error) {
        const givesUp = performance.now() > deadline || signal?.aborted && !stopped;
        if (!(error instanceof MicrogptError) || !mayPass(error) || givesUp) throw error;
        if (pause === FIRST_PAUSE_MS) {
          const megabytes = Math.ceil(this.#stateBytes / 1e6);
          yield notice(
            `warning: ${error.message}${
              error instanceof LostDirectoryError ? `: ${error.hint}` : ""
            }. Its last steps are only in memory: it takes ${megabytes} MB there. ` +
              `Trying again for ${SAVE_PATIENCE_MS / 60_000} minutes; Ctrl-C gives up`,
          );
        }
        await pauseFor(pause, stopped ? undefined : signal);
      }
    }
  }

  *#takeSaveEnded(): Generator<RunEvent> {
    const ended = this.#saveEnded;
    this.#saveEnded = undefined;
    if (ended) yield ended;
  }

  async #lastGood(): Promise<TrainingState> {
    const { ranks } = this.#options;
    if (!ranks) return await this.#ownLastGood();
    return ranks.shareState(ranks.isFirst ? await this.#ownLastGood() : undefined);
  }

  async #ownLastGood(): Promise<TrainingState> {
    await this.#saving;
    const saved = this.#checkpoints.saved ? this.output : this.#options.resumed?.dir;
    if (saved === undefined) return await this.#options.initialAgain?.() ?? this.#initial!();
    const { params, optimizer, trainState } = await readCheckpoint(saved);
    return { step: trainState.step, adamStep: trainState.adam_step, params, optimizer };
  }
}

function notice(message: string): NoticeEvent {
  return { type: "notice", message };
}

/** Whether a save that failed may succeed later: a disk gets room or comes back, a limit of this process stays. */
function mayPass(error: MicrogptError): boolean {
  if (error instanceof LostDirectoryError) return true;
  const { cause } = error;
  return isSystemError(cause) && !cause.message.startsWith("File too large");
}

/** Waits, but no longer than until `signal`. */
function pauseFor(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", done);
  });
}
