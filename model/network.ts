/**
 * What the rest of the house knows about a network. A network is one file (`model/gpt.ts`): its config, its parameters,
 * its forward and backward pass and its decoding step as calls on a `Device`. Everybody else holds what a network
 * allocates without looking inside. `model/networks.ts` picks a config's network.
 */
import type { ConfigNaming, ModelConfig, Shape } from "./config.ts";
import type { Allocator, Batch, DecodeRows, Device, Tensor } from "../device/device.ts";
import type { Frozen } from "./freeze.ts";
import type { ParameterLayout } from "./parameters.ts";

/** The parameters of a model (or their gradients) as a network's own views of the flat array. */
export type Weights = object;

/**
 * Told during backward that the gradients of some weights are complete: views as `Network.views` gives them. It is told of the
 * upper layers' first; of those that are complete only at the end it is not told.
 */
export type GradientsReady = (gradients: readonly Tensor[]) => void;

/** All memory of a training step except weights and their like; what else is in it is the network's own affair. */
export interface Activations {
  /** [T, 1] scale · −log p(target) of each token */
  losses: Tensor;
}

/** All memory of decoding except weights. */
export interface DecodeMemory {
  /** [sequences, V] */
  logits: Tensor;
  /**
   * keys and values: matrices of [sequences · contextLength, any], row s · contextLength + p for position p of sequence
   * s
   */
  caches: Tensor[];
  /** what a step computes on its way, [N, any] */
  scratch: Record<string, Tensor>;
}

/** An architecture before its numbers are known. */
export interface NetworkKind<C extends ModelConfig = ModelConfig> {
  /** The config of a new model. */
  configOf(shape: Shape, vocabSize: number): C;
  /**
   * The config that a parsed `meta.json` holds, unchecked.
   * @throws {MicrogptError} for a field that is missing or of another type
   */
  readConfig(meta: Record<string, unknown>): C;
  /**
   * Checks a config before memory is asked for.
   * @throws {MicrogptError} for a number out of range, or numbers that do not go together
   */
  checkConfig(config: C, naming?: ConfigNaming): void;
  /** The network of a config. */
  create(config: C): Network;
}

/** A network of a certain size. Letters in shapes as in `device/device.ts`. */
export interface Network<
  W extends Weights = Weights,
  A extends Activations = Activations,
  M extends DecodeMemory = DecodeMemory,
> {
  readonly config: ModelConfig;
  /** names, shapes and places of the parameters: names and shapes are the file format's */
  readonly layout: ParameterLayout;
  /** what a position of a sequence keeps for later ones, in numbers over all layers */
  readonly cacheWidth: number;

  /** The config as `meta.json` has it. */
  toMeta(): Record<string, unknown>;
  /** The config as settings. */
  toShape(): Shape;
  /** Layers, heads and width, for people. */
  describe(): string;

  /**
   * Draws initial weights.
   * @param std standard deviation; default: the network's own choice
   * @param zero what adds to the residual stream, and the head, begin at 0
   * @returns the flat array, [layout.length]; zeros between blocks
   */
  initialParameters(seed: number, std?: number, zero?: boolean): Float32Array<ArrayBuffer>;
  /** Views of `flat` [1, layout.length] as what forward and backward take. */
  views(device: Device, flat: Tensor): W;

  /** Allocates for at most `maxTokens` tokens a batch. */
  allocateActivations(allocator: Allocator, maxTokens: number): A;
  /** Forward only: a.losses become scale · −log p(target). `control` belongs to the optimizer (see `crossEntropy`). */
  forward(d: Device, w: W, a: A, batch: Batch, scale: number, control: Tensor): void;
  /**
   * Forward and backward: a.losses as `forward` leaves them, and the gradient of their sum in `g`.
   * @param accumulate add to the gradients of `g` instead of replacing them
   * @param frozen parameters whose gradients are 0 in `g` and stay so
   * @param ready called as soon as calls that complete some gradients are queued
   */
  forwardBackward(
    d: Device,
    w: W,
    g: W,
    a: A,
    batch: Batch,
    scale: number,
    control: Tensor,
    accumulate: boolean,
    frozen?: Frozen,
    ready?: GradientsReady,
  ): void;

  /**
   * Allocates decoding memory for at most `maxRows` rows a step and `sequences` sequences of `contextLength` positions.
   */
  allocateDecodeMemory(
    allocator: Allocator,
    maxRows: number,
    sequences: number,
    contextLength: number,
  ): M;
  /**
   * One decoding step: feeds one token per row, stores what later positions need of it, and leaves the logits of the
   * last `logitRows` rows in m.logits. See `DecodeRows` for their order.
   */
  decodeStep(d: Device, w: W, m: M, rows: DecodeRows, contextLength: number, logitRows: number): void;
}

/** Frees decoding memory on the device. */
export function freeDecodeMemory(device: Device, { logits, caches, scratch }: DecodeMemory): void {
  for (const tensor of [logits, ...caches, ...Object.values(scratch)]) device.free(tensor);
}
