/** A training run and its files: the trainer's events, logged and saved as checkpoints on the way. */
import { type Checkpoint, readCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import type { ModelConfig } from "./config.ts";
import type { Device } from "./device.ts";
import { MicrogptError } from "./errors.ts";
import { keepCheckpoint } from "./kept_checkpoints.ts";
import { MetricsLog } from "./metrics_log.ts";
import { sameDirectory } from "./model_dir.ts";
import { oldModelPlace } from "./old_model.ts";
import { prepareOutput } from "./output_dir.ts";
import type { TrainState } from "./train_state.ts";
import {
  type EvaluationEvent,
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
  /** the run has done all its steps */
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
  data: TrainingData;
  recipe: Recipe;
  /** step of the initial state */
  startStep: number;
  /** called when the run needs it; the same each time */
  initial: () => TrainingState;
  /** directory of the checkpoints */
  output: string;
  /** directory that the run goes on from */
  resumed: string | undefined;
  /** 0 = only at the end */
  checkpointEvery: number;
  /** earlier checkpoints to keep; 0 = none */
  keep: number;
  bestValLoss: number | undefined;
  bestValStep: number | undefined;
  skippedSteps: number;
  recovered: boolean;
  record: RunRecord;
}

export class TrainingRun {
  readonly output: string;
  readonly #options: Omit<RunOptions, "initial">;
  /** let go where a checkpoint holds the state too: it is three times the model */
  #initial: (() => TrainingState) | undefined;
  #trainer: Trainer | undefined;
  #skipped: number;
  #best: { loss: number; step: number } | undefined;
  /** where this run saved last */
  #saved: string | undefined;
  /** a save that goes on while steps do */
  #saving: Promise<void> | undefined;
  /** how it ended, until that is told */
  #saveEnded: RunEvent | undefined;

  constructor({ initial, ...options }: RunOptions) {
    const { bestValLoss, bestValStep } = options;
    this.#options = options;
    this.#initial = initial;
    this.output = options.output;
    this.#skipped = options.skippedSteps;
    if (bestValLoss !== undefined && bestValStep !== undefined) {
      this.#best = { loss: bestValLoss, step: bestValStep };
    }
  }

  /**
   * What trains. Allocates the device's memory when it is first asked for.
   * @throws {MicrogptError} when that is short
   */
  get trainer(): Trainer {
    return this.#trainer ??= this.#createTrainer();
  }

  #createTrainer(): Trainer {
    const { device, config, data, recipe, recovered, resumed } = this.#options;
    const trainer = new Trainer(device, config, data, recipe, recovered);
    trainer.load(this.#initial!());
    if (resumed !== undefined) this.#initial = undefined;
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

  /** the step it started from */
  get startStep(): number {
    return this.#options.startStep;
  }

  /**
   * Trains to the end, or until `signal`, and saves then in any case.
   * @param options.pauseAt names steps at whose event no later step has begun, as at evaluations and checkpoints
   * @throws {MicrogptError} when the output directory cannot be written, or training fails
   */
  async *events(
    { signal, pauseAt = () => false }: { signal?: AbortSignal; pauseAt?: (step: number) => boolean } = {},
  ): AsyncGenerator<RunEvent, void, void> {
    const { checkpointEvery, resumed, output, data, recipe } = this.#options;
    if (this.startStep >= this.totalSteps) {
      throw new MicrogptError(
        `the run in ${resumed} is complete: all of its ${this.totalSteps} steps are done`,
        {
          hint: "train on with --steps N, which are added",
          usage: true,
        },
      );
    }
    const keepOld = await this.#replacesOther();
    if (keepOld) {
      const { path, replaces } = await oldModelPlace(output);
      const message =
        `${output} holds a model: it stays until this run's first checkpoint, then moves to ${path}` +
        (replaces ? ", in place of the one there" : "");
      yield { type: "notice", message };
    }
    const log = await MetricsLog.open(
      output,
      resumed === undefined ? undefined : { dir: resumed, step: this.startStep },
    );
    try {
      const savesAt = (step: number) =>
        checkpointEvery > 0 && step % checkpointEvery === 0 && step < this.totalSteps;
      const evaluatesAt = (step: number) =>
        data.validationBytes > 0 && recipe.evalEvery > 0 && step % recipe.evalEvery === 0;
      let evaluated = -1;
      const options = {
        pauseAt: (step: number) => savesAt(step) || pauseAt(step),
        lastGood: () => this.#lastGood(),
        ...(signal ? { signal } : {}),
      };
      if (resumed !== undefined && evaluatesAt(this.startStep) && log.lastEvaluation !== this.startStep) {
        // Ctrl-C came before the evaluation of the step that the run goes on from.
        const event = await this.trainer.evaluate(signal);
        if (event) {
          this.#record(event, log);
          yield event;
          if (savesAt(this.startStep)) {
            this.#saving = this.#savePeriodic(await this.#checkpoint(log), keepOld);
          }
        }
      }
      for await (const event of this.trainer.run(this.totalSteps, options)) {
        this.#record(event, log);
        yield event;
        yield* this.#takeSaveEnded();
        if (event.type === "evaluation") evaluated = event.step;
        const complete = event.type === (evaluatesAt(event.step) ? "evaluation" : "step");
        if (complete && savesAt(event.step)) {
          await this.#saving;
          yield* this.#takeSaveEnded();
          this.#saving = this.#savePeriodic(await this.#checkpoint(log), keepOld);
        }
      }
      if (data.validationBytes > 0 && evaluated !== this.trainer.step) {
        // after Ctrl-C the checkpoint comes first: an evaluation may take minutes
        const event = signal?.aborted ? undefined : await this.trainer.evaluate(signal);
        if (event) {
          this.#record(event, log);
          yield event;
        }
      }
      await this.#saving;
      yield* this.#takeSaveEnded();
      yield await this.#save(await this.#checkpoint(log), keepOld);
    } finally {
      await this.#saving;
      await log.close();
    }
  }

  /** Frees the device. */
  close(): void {
    this.#options.device.destroy();
  }

  async #replacesOther(): Promise<boolean> {
    const { output, resumed } = this.#options;
    const { kind } = await prepareOutput(output);
    if (resumed !== undefined && await sameDirectory(resumed, output)) return false;
    return kind !== "nothing";
  }

  #record(event: TrainingEvent, log: MetricsLog): void {
    if (event.type === "step") {
      const { step, loss, learningRate: lr, gradNorm: grad_norm, tokens, milliseconds, applied } = event;
      log.append({ step, loss, lr, grad_norm, tokens, ms: Math.round(milliseconds * 1000) / 1000 });
      if (!applied) this.#skipped++;
    } else if (event.type === "evaluation") {
      log.append({ step: event.step, val_loss: event.loss, val_bits_per_byte: event.bitsPerByte });
      this.#noteBest(event);
    }
  }

  #noteBest({ loss, step }: EvaluationEvent): void {
    if (Number.isFinite(loss) && (this.#best === undefined || loss < this.#best.loss)) {
      this.#best = { loss, step };
    }
  }

  /** The state now, with everything that is saved beside it. */
  async #checkpoint(log: MetricsLog): Promise<Checkpoint> {
    const { config, chat, tokenizerJson, record, recipe } = this.#options;
    const { step, adamStep, params, optimizer, lossScale, goodSteps } = await this.trainer.snapshot();
    const trainState: TrainState = {
      ...record,
      step,
      adam_step: adamStep,
      learning_rate: this.trainer.learningRate,
      start_step: this.startStep,
      steps_total: recipe.totalSteps,
      warmup_steps: recipe.warmupSteps,
      weight_decay: recipe.weightDecay,
      grad_clip: recipe.gradClip,
      grad_accum: recipe.gradAccum,
      eval_every: recipe.evalEvery,
      ...(this.#best ? { best_val_loss: this.#best.loss, best_val_step: this.#best.step } : {}),
      skipped_steps: this.#skipped,
      lr_halved: this.trainer.recovered,
      ...(lossScale === undefined ? {} : { loss_scale: lossScale }),
      ...(goodSteps === undefined ? {} : { good_steps: goodSteps }),
      final: step >= recipe.totalSteps,
    };
    return { config, chat, tokenizerJson, params, optimizer, trainState, metrics: log.snapshot() };
  }

  async #save(checkpoint: Checkpoint, keepOld: boolean): Promise<CheckpointEvent> {
    const { output, keep } = this.#options;
    const { step, final = false } = checkpoint.trainState;
    await saveCheckpoint(output, checkpoint, { keepOld: keepOld && this.#saved === undefined });
    this.#saved = output;
    if (keep > 0) await keepCheckpoint(output, step, keep, this.#best?.step === step);
    return { type: "checkpoint", step, directory: output, final };
  }

  /** A checkpoint on the way that cannot be saved costs no run: it is told, and the next one tries again. */
  async #savePeriodic(checkpoint: Checkpoint, keepOld: boolean): Promise<void> {
    try {
      this.#saveEnded = await this.#save(checkpoint, keepOld);
    } catch (error) {
      if (!(error instanceof MicrogptError)) throw error;
      const message = `warning: checkpoint of step ${checkpoint.trainState.step}: ${error.message}`;
      this.#saveEnded = { type: "notice", message };
    }
  }

  *#takeSaveEnded(): Generator<RunEvent> {
    const ended = this.#saveEnded;
    this.#saveEnded = undefined;
    if (ended) yield ended;
  }

  async #lastGood(): Promise<TrainingState> {
    await this.#saving;
    const saved = this.#saved ?? this.#options.resumed;
    if (saved === undefined) return this.#initial!();
    const { params, optimizer, trainState } = await readCheckpoint(saved);
    return { step: trainState.step, adamStep: trainState.adam_step, params, optimizer };
  }
}
