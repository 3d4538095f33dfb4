/** The training loop: queues steps on a device, a few ahead of what it reads back, and tells what happened. */
import type { ModelConfig } from "../config.ts";
import { type Device, METRIC, type PackedDocuments } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import { countedTargets } from "../../data/batches.ts";
import { Breather, nextWindowSteps } from "../../device/pacing.ts";
import type { Frozen } from "../freeze.ts";
import type { Network, Weights } from "../network.ts";
import type { OptimizerState } from "../optimizer_state.ts";
import { networkOf } from "../networks.ts";
import type { OptimizerName } from "../optimizer_state.ts";
import type { Settings } from "../settings.ts";
import {
  bindUpdates,
  type CurrentState,
  currentState,
  readUpdateState,
  type UpdateState,
  writeUpdateState,
} from "./optimizer.ts";
import { checkWeights, type Ranks } from "./ranks.ts";
import { sharedBuffers, SharedStep } from "./shared_step.ts";
import { allocateTraining, OPTIMIZERS, type TrainingTensors } from "./training_tensors.ts";

/** Where batches come from. What a call returns may be overwritten by the next. */
export interface TrainingData {
  /** most tokens and documents of any batch, of both kinds */
  maxTokens: number;
  maxDocuments: number;
  /** Training batch `number`, counted from 0. */
  batch(number: number): PackedDocuments;
  /** All held-out documents; none when validation is off. */
  validation(): Iterable<PackedDocuments>;
  /** bytes of text that the held-out targets stand for, of those that count */
  validationBytes: number;
  /** frees what the data lie in */
  close?(): void;
}

/** How to train. */
export interface Recipe {
  /** S: the step at which the learning rate reaches 0 */
  totalSteps: number;
  learningRate: number;
  warmupSteps: number;
  /** how the rate falls after the warmup */
  schedule: Settings["schedule"];
  /** share of the steps in which a trapezoid falls */
  decayFraction: number;
  optimizer: OptimizerName;
  /** peak rate of what Muon updates */
  muonLearningRate: number;
  weightDecay: number;
  /** see `UpdateHyper.cautious` */
  cautiousDecay: boolean;
  /** 0 = off */
  gradClip: number;
  /** batches a step */
  gradAccum: number;
  /** steps between evaluations; 0 = never */
  evalEvery: number;
  /** evaluations without a better one after which a run ends; 0 = never */
  patience: number;
  /** parameters that stay as they are */
  frozen?: Frozen;
}

/** A training run at rest: all that the next step depends on. */
export interface TrainingState extends UpdateState {
  /** steps done */
  step: number;
}

/** A step was done. */
export interface StepEvent {
  /** tells this event from the others */
  type: "step";
  /** counts from 1 */
  step: number;
  /** mean negative log-likelihood of the targets that count, in nats */
  loss: number;
  /** of this step, after warmup and decay */
  learningRate: number;
  /** before clipping */
  gradNorm: number;
  /** real tokens */
  tokens: number;
  /** time of the step, an average where several were in flight */
  milliseconds: number;
  /** false when loss or gradient was not finite, and the step therefore changed nothing */
  applied: boolean;
}

/** The held-out documents were measured. */
export interface EvaluationEvent {
  /** tells this event from the others */
  type: "evaluation";
  /** steps done before it */
  step: number;
  /** nats a target that counts */
  loss: number;
  /** the same loss for a byte of their text, in bits; the end of a document counts as a byte */
  bitsPerByte: number;
}

/** Too many steps in a row were not finite: the run went back. */
export interface RecoveryEvent {
  /** tells this event from the others */
  type: "recovery";
  /** the step it went on from */
  step: number;
  /** the halved base rate */
  learningRate: number;
}

/** What happens while steps are done. */
export type TrainingEvent = StepEvent | EvaluationEvent | RecoveryEvent;

/** This many skipped steps in a row are no accident. */
const MAX_SKIPPED = 10;

/** Steps after which ranks compare their weights. */
const COMPARE_EVERY = 100;

/** The event loop is given a moment at least this often, for signals and the terminal. */
const BREATHE_MS = 25;

/** What `learningRate` needs to know. */
export type Schedule = Pick<
  Recipe,
  "learningRate" | "totalSteps" | "warmupSteps" | "schedule" | "decayFraction"
>;

/**
 * Learning rate of step s, from 0, of S: linear warmup over w steps, then to 0 at S along a line, half a cosine, or a
 * plateau and a line over the last `decayFraction` of the steps.
 */
export function learningRate(s: number, recipe: Schedule): number {
  const { learningRate: lr, totalSteps: S, warmupSteps, schedule, decayFraction } = recipe;
  const w = Math.min(warmupSteps, S);
  if (s < w) return lr * (s + 1) / w;
  if (schedule === "cosine") return lr * (1 + Math.cos(Math.PI * (s - w) / (S - w))) / 2;
  const start = schedule === "trapezoid" ? Math.max(w, S - decayFraction * S) : w;
  return s < start ? lr : lr * (1 - (s - start) / (S - start));
}

/** Steps that were queued together and are read back together. */
interface Window {
  steps: { step: number; learningRate: number; tokens: number }[];
  /** the device catches up after its last step */
  pauses: boolean;
  metrics: Promise<Float32Array | Uint32Array>;
  /** of a step */
  milliseconds: number;
}

export class Trainer {
  /** The working weights on the device, for sampling between steps. */
  readonly weights: Weights;
  readonly #gradients: Weights;
  readonly #update: ReturnType<typeof bindUpdates>;
  readonly #device: Device;
  readonly #network: Network;
  readonly #data: TrainingData;
  readonly #memory: TrainingTensors;
  readonly #recipe: Recipe;
  #step = 0;
  /** the step told last */
  #reported = 0;
  #skippedInARow = 0;
  /** steps to queue before a read, as fast as they are */
  #windowSteps = 1;
  #recovered: boolean;
  /** where ranks share the steps */
  readonly #shared: SharedStep | undefined;

  /**
   * @param recovered the run already went back once with half the learning rate
   * @param ranks share the steps
   * @throws {MicrogptError} when the device's memory is short
   */
  constructor(
    device: Device,
    config: ModelConfig,
    data: TrainingData,
    recipe: Recipe,
    recovered = false,
    ranks?: Ranks,
  ) {
    this.#device = device;
    this.#network = networkOf(config);
    this.#data = data;
    this.#recipe = { ...recipe };
    this.#recovered = recovered;
    const lengths = ranks ? sharedBuffers(ranks, recipe.gradAccum, this.#network.layout.length) : [];
    this.#memory = allocateTraining(device, this.#network, data, recipe.optimizer, lengths);
    if (ranks) {
      this.#shared = new SharedStep(device, this.#network, ranks, this.#memory.shared, recipe.frozen);
      this.#memory.optimizer.gradients = this.#shared.gradients;
    }
    this.weights = this.#network.views(device, this.#memory.optimizer.work);
    this.#gradients = this.#network.views(device, this.#memory.optimizer.gradients);
    this.#update = bindUpdates(
      device,
      OPTIMIZERS[recipe.optimizer],
      this.#network.layout,
      this.#memory.optimizer,
      recipe.frozen,
    );
  }

  /** Steps done, of which the last may still be in flight. */
  get step(): number {
    return this.#step;
  }

  /** The base rate, halved when the run went back. */
  get learningRate(): number {
    return this.#recipe.learningRate;
  }

  /** Muon's base rate, halved likewise. */
  get muonLearningRate(): number {
    return this.#recipe.muonLearningRate;
  }

  /** Whether the run went back to an earlier state with half the learning rate. */
  get recovered(): boolean {
    return this.#recovered;
  }

  /** Where ranks share steps: the seconds of the gradients of one micro-batch. Changes nothing. */
  async timeMicroBatch(): Promise<number> {
    const { optimizer: { control }, ...memory } = this.#memory;
    return await this.#shared!.timeMicroBatch(this.#data, this.#step, this.weights, { ...memory, control });
  }

  /** Goes on from a state. */
  load(state: TrainingState): void {
    writeUpdateState(this.#device, this.#memory.optimizer, state);
    this.#step = state.step;
  }

  /** A copy of the state after the last step that was queued. */
  async snapshot(): Promise<TrainingState & { optimizer: OptimizerState }> {
    const step = this.#step; // later ones may be queued while this waits
    return { step, ...await readUpdateState(this.#device, this.#memory.optimizer) };
  }

  /** The same, to be read one parameter at a time for as long as no step is queued. */
  async current(): Promise<CurrentState & { step: number }> {
    return { step: this.#step, ...await currentState(this.#device, this.#memory.optimizer) };
  }

  /**
   * Trains up to step `until`. Between two events nothing runs ahead at a step that `pauseAt` names: there, and when the
   * generator ends, `snapshot` gives the state after the last step reported.
   * @param options.pauseAt whether to let the device catch up after a step; evaluations do in any case
   * @param options.signal ends the run after the steps in flight
   * @param options.lastGood the state to go back to when too many steps in a row are not finite
   * @throws {MicrogptError} when they are not finite a second time
   */
  async *run(until: number, options: {
    pauseAt?: (step: number) => boolean;
    signal?: AbortSignal;
    lastGood: () => Promise<TrainingState>;
  }): AsyncGenerator<TrainingEvent, void, void> {
    const { pauseAt = () => false, signal, lastGood } = options;
    const device = this.#device;
    const more = () => this.#step < until && !signal?.aborted;
    const inFlight: Window[] = []; // the oldest first
    const breather = new Breather(BREATHE_MS);
    try {
      while (more() || inFlight.length > 0) {
        const started = performance.now();
        const window = !more()
          ? undefined
          : this.#shared
          ? await this.#sharedWindow(this.#shared)
          : this.#queueWindow(until, pauseAt);
        if (window) inFlight.push(window);
        const ahead = window && !window.pauses && device.stepsInFlight > 1 ? 1 : 0;
        const done = inFlight.splice(0, inFlight.length - ahead);
        const metrics = await Promise.all(done.map((window) => window.metrics));
        if (window && !this.#shared) {
          window.milliseconds = (performance.now() - started) / window.steps.length;
          this.#windowSteps = nextWindowSteps(this.#windowSteps, window.milliseconds, device.stepsInFlight);
        }
        for (const [i, window] of done.entries()) yield* this.#events(window, metrics[i]!);
        if (this.#goesBack) {
          await Promise.all(inFlight.splice(0).map((window) => window.metrics)); // its steps are done again
          yield this.#goBack(await lastGood());
        } else if (window?.pauses && this.#evaluatesAt(this.#step)) {
          const evaluation = await this.evaluate(signal);
          if (evaluation) yield evaluation;
        }
        if (breather.due) await breather.take();
      }
    } finally {
      // who leaves the loop may close the device next
      await Promise.allSettled(inFlight.map((window) => window.metrics));
    }
  }

  /** Mean loss of the held-out documents under the current weights; undefined when `signal` came before the end. */
  async evaluate(signal?: AbortSignal): Promise<EvaluationEvent | undefined> {
    if (this.#shared) return await this.#evaluateShared(this.#shared.ranks);
    const device = this.#device;
    const { activations, batch, validation, optimizer: { control } } = this.#memory;
    const breather = new Breather(BREATHE_MS);
    const reads: Promise<Float32Array | Uint32Array>[] = [];
    let [batches, counted] = [0, 0];
    try {
      for (const documents of this.#data.validation()) {
        device.loadBatch(batch, documents);
        this.#network.forward(device, this.weights, activations, batch, 1, control);
        device.sumLoss(validation, 0, activations.losses, batches > 0);
        device.submit();
        counted += countedTargets(documents);
        // the read waits for what is queued, so that the signal need not wait for all batches
        if (++batches % this.#windowSteps === 0) reads.push(device.read(validation));
        if (breather.due) await breather.take();
        if (signal?.aborted) return undefined;
      }
      return this.#evaluation((await device.read(validation))[METRIC.loss]!, counted);
    } finally {
      await Promise.allSettled(reads);
    }
  }

  #evaluation(nats: number, counted: number): EvaluationEvent {
    const bitsPerByte = nats / (Math.LN2 * this.#data.validationBytes);
    return { type: "evaluation", step: this.#step, loss: nats / counted, bitsPerByte };
  }

  /** Each rank measures some of the batches; their losses are added up in one order, whoever measured them. */
  async #evaluateShared({ group }: Ranks): Promise<EvaluationEvent> {
    const device = this.#device;
    const { activations, batch, validation, optimizer: { control } } = this.#memory;
    const breather = new Breather(BREATHE_MS);
    const losses: number[] = [];
    let counted = 0;
    for (const documents of this.#data.validation()) {
      counted += countedTargets(documents);
      if (losses.length % group.size !== group.rank) {
        losses.push(0);
        continue;
      }
      device.loadBatch(batch, documents);
      this.#network.forward(device, this.weights, activations, batch, 1, control);
      device.sumLoss(validation, 0, activations.losses, false);
      losses.push((await device.read(validation))[METRIC.loss]!);
      if (breather.due) await breather.take();
    }
    return this.#evaluation(group.total(losses).reduce((sum, loss) => sum + loss, 0), counted);
  }

  #evaluatesAt(step: number): boolean {
    const { evalEvery } = this.#recipe;
    return this.#data.validationBytes > 0 && evalEvery > 0 && step % evalEvery === 0;
  }

  /** Queues the steps of a window, up to one that pauses. */
  #queueWindow(until: number, pauseAt: (step: number) => boolean): Window {
    const steps: Window["steps"] = [];
    let pauses = false;
    while (steps.length < this.#windowSteps && this.#step < until && !pauses) {
      steps.push(this.#queueStep());
      pauses = pauseAt(this.#step) || this.#evaluatesAt(this.#step);
    }
    return { steps, pauses, metrics: this.#device.read(this.#memory.metrics), milliseconds: 0 };
  }

  /** One step with the other ranks, which then agree whether to go on: none is a step ahead. */
  async #sharedWindow(shared: SharedStep): Promise<Window> {
    const { ranks } = shared;
    const { optimizer: { control, params }, metrics, ...memory } = this.#memory;
    const started = performance.now();
    const place = { metrics, slot: this.#step % metrics.rows };
    const { gradAccum } = this.#recipe;
    const tokens = await shared.run(
      this.#data,
      { step: this.#step, gradAccum },
      this.weights,
      { ...memory, control },
      place,
    );
    const step = this.#queueUpdate(place.slot, tokens);
    const read = await this.#device.read(metrics);
    const milliseconds = performance.now() - started;
    ranks.agreeToStop();
    if (this.#step % COMPARE_EVERY === 0 || ranks.signal.aborted) {
      checkWeights(ranks, await this.#device.read(params) as Float32Array, this.#step);
    }
    return { steps: [step], pauses: true, metrics: Promise.resolve(read), milliseconds };
  }

  /** One step: gradients of all its batches, the update. */
  #queueStep(): Window["steps"][number] {
    const device = this.#device;
    const { gradAccum, frozen } = this.#recipe;
    const { optimizer: { control }, activations, batch, metrics } = this.#memory;
    const slot = this.#step % metrics.rows;
    const first = this.#step * gradAccum;
    let documents = this.#data.batch(first);
    let [tokens, counted] = [documents.targets.length, countedTargets(documents)];
    for (let i = 1; i < gradAccum; i++) {
      documents = this.#data.batch(first + i);
      tokens += documents.targets.length;
      counted += countedTargets(documents);
    }
    for (let i = 0; i < gradAccum; i++) {
      if (gradAccum > 1) documents = this.#data.batch(first + i);
      device.loadBatch(batch, documents);
      this.#network.forwardBackward(
        device,
        this.weights,
        this.#gradients,
        activations,
        batch,
        1 / counted,
        control,
        i > 0,
        frozen,
      );
      device.sumLoss(metrics, slot, activations.losses, i > 0);
    }
    return this.#queueUpdate(slot, tokens);
  }

  /** The end of a step whose gradients are there. */
  #queueUpdate(slot: number, tokens: number): Window["steps"][number] {
    const recipe = this.#recipe;
    const rate = learningRate(this.#step, recipe);
    this.#update(this.#memory.metrics, slot, recipe.gradClip, {
      learningRate: rate,
      muonLearningRate: learningRate(this.#step, { ...recipe, learningRate: recipe.muonLearningRate }),
      weightDecay: recipe.weightDecay,
      cautious: recipe.cautiousDecay,
    });
    this.#device.submit();
    this.#step++;
    return { step: this.#step, learningRate: rate, tokens };
  }

  /** Whether enough steps in a row were skipped for the run to go back. */
  get #goesBack(): boolean {
    return this.#skippedInARow >= MAX_SKIPPED;
  }

  /**
   * What the steps of a window did, up to the one that sends the run back. Those queued behind it are as if they had
   * never been: how many there are depends on the window, and the outcome of a run must not.
   */
  *#events({ steps, milliseconds }: Window, metrics: Float32Array | Uint32Array): Generator<StepEvent> {
    const { rows, cols } = this.#memory.metrics;
    for (const { step, learningRate, tokens } of steps) {
      if (this.#goesBack) return;
      const row = ((step - 1) % rows) * cols;
      const applied = metrics[row + METRIC.applied] === 1;
      this.#skippedInARow = applied ? 0 : this.#skippedInARow + 1;
      this.#reported = step;
      const [loss, gradNorm] = [metrics[row + METRIC.loss]!, metrics[row + METRIC.gradNorm]!];
      yield { type: "step", step, loss, learningRate, gradNorm, tokens, milliseconds, applied };
    }
  }

  #goBack(state: TrainingState): RecoveryEvent {
    if (this.#recovered) {
      throw new MicrogptError(
        `training stopped at step ${this.#reported}: loss or gradient was not finite ${MAX_SKIPPED} steps in a row, ` +
          `again after going back with half the learning rate (now ${this.#recipe.learningRate})`,
        { hint: "lower `learningRate` further, set `gradClip`, or use `dtype` f32" },
      );
    }
    this.#recovered = true;
    this.#skippedInARow = 0;
    this.#recipe.learningRate /= 2;
    this.#recipe.muonLearningRate /= 2;
    // the loss scale of that time may be what failed: it starts over
    const { lossScale: _, goodSteps: __, ...rest } = state;
    this.load(rest);
    return { type: "recovery", step: state.step, learningRate: this.#recipe.learningRate };
  }
}
