import type { ModelConfig } from "../config.ts";
import type { Allocator, Batch, Device, Dtype, ElementType, Purpose, Tensor } from "../../device/device.ts";
import { networkOf } from "../networks.ts";
import type { OptimizerName } from "../optimizer_state.ts";
import type { TrainingData } from "./trainer.ts";
import { allocateTraining } from "./training_tensors.ts";

/** Bytes that training takes on the device, by purpose. What a device takes for its own work is not included. */
export interface MemoryPlan {
  /** masters, and the working copy of another type */
  weights: number;
  /** as many elements as there are weights */
  gradients: number;
  /** what the optimizer keeps */
  moments: number;
  /** when every document of a batch is as long as the longest; a shorter batch touches less */
  activations: number;
  /** tokens, targets and their weights, positions and document starts of a batch */
  batch: number;
  /** all of it */
  total: number;
}

/** An allocator that only counts: the plan comes from the code that allocates, so the two cannot disagree. */
class CountingAllocator implements Allocator {
  readonly plan: MemoryPlan = { weights: 0, gradients: 0, moments: 0, activations: 0, batch: 0, total: 0 };
  constructor(readonly workType: Dtype, readonly stepsInFlight: number) {}

  tensor(
    _label: string,
    rows: number,
    cols: number,
    type: ElementType = "f32",
    purpose: Purpose = "activations",
  ): Tensor {
    const bytes = rows * cols * (type === "work" && this.workType !== "f32" ? 2 : 4);
    this.#count(purpose === "decoding" ? "activations" : purpose, bytes);
    return { type, capacity: rows, cols, rows };
  }

  createBatch(maxTokens: number, maxDocuments: number): Batch {
    this.#count("batch", 4 * (4 * maxTokens + maxDocuments + 1));
    return { maxTokens, maxDocuments, tokenCount: 0, regularization: undefined };
  }

  #count(part: Exclude<keyof MemoryPlan, "total">, bytes: number): void {
    this.plan[part] += bytes;
    this.plan.total += bytes;
  }
}

/** What `train` with `from` would take, whatever the data. */
export interface TrainingMemory {
  /** bytes of weights, gradients and moments in f32 */
  state: number;
  /** bytes that every 1,024 tokens of a batch take */
  activations: number;
}

/**
 * Says what training a model takes on the CPU in f32 with Adam, all parameters trained.
 *
 * @example
 * ```ts
 * import { trainingMemory } from "../../mod.ts";
 *
 * const { state, activations } = trainingMemory({ vocab_size: 300, n_embd: 32, n_head: 4, n_layer: 2, block_size: 64 });
 * console.log(`${(state + activations) / 1e6} MB for 1,024 tokens a step`);
 * ```
 */
export function trainingMemory(config: ModelConfig): TrainingMemory {
  const device = { workType: "f32", stepsInFlight: 1 } as const;
  const { total, activations, batch } = memoryPlan(device, config, { maxTokens: 1024, maxDocuments: 1 });
  return { state: total - activations - batch, activations: activations + batch };
}

/** What training a model would allocate, without allocating it. */
export function memoryPlan(
  device: Pick<Device, "workType" | "stepsInFlight">,
  config: ModelConfig,
  data: Pick<TrainingData, "maxTokens" | "maxDocuments">,
  optimizer: OptimizerName = "adam",
  sharedBuffers: readonly number[] = [],
): MemoryPlan {
  const allocator = new CountingAllocator(device.workType, device.stepsInFlight);
  allocateTraining(allocator, networkOf(config), data, optimizer, sharedBuffers);
  return allocator.plan;
}
