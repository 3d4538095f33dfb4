/** The part of a step that ranks share: gradients of this rank's micro-batches, added up in a tree and over all ranks. */
import { countedTargets } from "../../data/batches.ts";
import type { Batch, Device, PackedDocuments, Tensor } from "../../device/device.ts";
import type { Activations, GradientsReady, Network, Weights } from "../network.ts";
import type { Frozen } from "../freeze.ts";
import { dealtBatches } from "./dealing.ts";
import { gradientBuffers, GradientSum, ownMicroBatches, sumOverRanks } from "./gradient_sum.ts";
import { canOverlap, OverlappedSum } from "./overlapped_sum.ts";
import type { Ranks } from "./ranks.ts";
import type { TrainingData } from "./trainer.ts";

/** Elements before the gradients; the first is their loss, which is added up with them. Keeps the alignment of blocks. */
const HEAD = 128;

/** A document of so many widths of the network costs as much in attention as in everything else, about. */
const ATTENTION_WIDTHS = 6;

/** Lengths of the buffers of gradients that a rank needs. */
export function sharedBuffers({ group }: Ranks, gradAccum: number, length: number): number[] {
  return Array(gradientBuffers(ownMicroBatches(group, gradAccum).count)).fill(HEAD + length);
}

/** What a micro-batch is computed in. */
interface StepMemory {
  activations: Activations;
  batch: Batch;
  /** [1, 4] */
  control: Tensor;
}

/** Bound to the buffers of a run. */
export class SharedStep {
  /** of all micro-batches of all ranks, f32 [1, length of the layout] */
  readonly gradients: Tensor;
  readonly #sum: GradientSum;
  /** of each buffer: the gradients by name, and its head as a row of metrics */
  readonly #views: { gradients: Weights; loss: Tensor }[];
  readonly #total: Tensor;

  constructor(
    readonly device: Device,
    readonly network: Network,
    readonly ranks: Ranks,
    buffers: readonly Tensor[],
    readonly frozen?: Frozen,
  ) {
    const { length } = network.layout;
    this.#sum = new GradientSum(device, buffers);
    this.#views = buffers.map((buffer) => ({
      gradients: network.views(device, device.view(buffer, HEAD, 1, length)),
      loss: device.view(buffer, 0, 1, 4),
    }));
    this.gradients = device.view(buffers[0]!, HEAD, 1, length);
    this.#total = device.view(buffers[0]!, 0, 1, 1);
  }

  /** Computes a micro-batch twice, to no effect. @returns the seconds of the second time */
  async timeMicroBatch(
    data: TrainingData,
    step: number,
    weights: Weights,
    { activations, batch, control }: StepMemory,
  ): Promise<number> {
    const { device, network } = this;
    let seconds = 0;
    for (let i = 0; i < 2; i++) {
      const started = performance.now();
      const documents = data.batch(step);
      const scale = 1 / documents.targets.length;
      const { gradients } = this.#views[0]!;
      device.loadBatch(batch, documents);
      network.forwardBackward(
        device,
        weights,
        gradients,
        activations,
        batch,
        scale,
        control,
        false,
        this.frozen,
      );
      await device.read(this.#total); // when all of that is computed
      seconds = (performance.now() - started) / 1000;
    }
    return seconds;
  }

  /**
   * Leaves the gradients of a step in `gradients`, and its loss in a row of the metrics.
   * @returns the tokens of the step
   */
  async run(
    data: TrainingData,
    { step, gradAccum }: { step: number; gradAccum: number },
    weights: Weights,
    { activations, batch, control }: StepMemory,
    { metrics, slot }: { metrics: Tensor; slot: number },
  ): Promise<number> {
    const started = performance.now();
    const { device, network, ranks: { group } } = this;
    const own = dealtBatches(
      { microBatches: gradAccum, ...ownMicroBatches(group, gradAccum) },
      (i) => data.batch(step * gradAccum + i),
      (length) => length * (1 + length / (ATTENTION_WIDTHS * network.config.n_embd)),
    );
    const [tokens, counted] = group.total([
      own.reduce((sum, { targets }) => sum + targets.length, 0),
      own.reduce((sum, documents) => sum + countedTargets(documents), 0),
    ]);
    const backward = (documents: PackedDocuments, ready?: GradientsReady) => {
      device.loadBatch(batch, documents);
      const { gradients, loss } = this.#views[this.#sum.next]!;
      network.forwardBackward(
        device,
        weights,
        gradients,
        activations,
        batch,
        1 / counted!,
        control,
        false,
        this.frozen,
        ready,
      );
      device.sumLoss(loss, 0, activations.losses, false);
    };
    for (const documents of own.slice(0, -1)) {
      backward(documents);
      this.#sum.take();
    }
    const last = own.at(-1)!;
    let waits: number;
    if (canOverlap(device, group)) {
      const overlapped = new OverlappedSum(device, group, this.#sum, HEAD + network.layout.length);
      backward(last, (gradients) => overlapped.ready(gradients));
      waits = performance.now();
      overlapped.finish();
    } else {
      backward(last);
      this.#sum.take();
      const sum = this.#sum.finish();
      await device.read(this.#total); // a GPU has computed only then: what follows is waiting for others
      waits = performance.now();
      await sumOverRanks(group, device, sum);
    }
    const ended = performance.now();
    this.ranks.noteStep(ended - started, ended - waits);
    device.sumLoss(metrics, slot, this.#total, false);
    return tokens!;
  }
}
