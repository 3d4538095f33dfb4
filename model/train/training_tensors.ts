/** What training allocates on a device. */
import type { Allocator, Batch, Device, Tensor } from "../../device/device.ts";
import type { Activations, Network } from "../network.ts";
import type { OptimizerName } from "../optimizer_state.ts";
import { adam } from "./adam.ts";
import { muon } from "./muon.ts";
import { allocateOptimizer, type Optimizer, type OptimizerMemory } from "./optimizer.ts";
import type { TrainingData } from "./trainer.ts";

/** The rules by which gradients change weights. */
export const OPTIMIZERS: Record<OptimizerName, Optimizer> = { adam, muon };

/** All memory that training takes on a device. */
export interface TrainingTensors {
  /** see SharedStep; none in a run of one process */
  shared: Tensor[];
  optimizer: OptimizerMemory;
  activations: Activations;
  batch: Batch;
  /** [ring, 4] a row a step in flight, see METRIC */
  metrics: Tensor;
  /** [1, 4] for evaluations */
  validation: Tensor;
}

/**
 * Allocates everything, or counts it when `allocator` is a counter.
 * @param optimizer the rule of the updates
 * @param sharedBuffers lengths of the buffers that gradients are added up in, where ranks share steps
 */
export function allocateTraining(
  allocator: Allocator & Pick<Device, "workType" | "stepsInFlight">,
  network: Network,
  data: Pick<TrainingData, "maxTokens" | "maxDocuments">,
  optimizer: OptimizerName,
  sharedBuffers: readonly number[] = [],
): TrainingTensors {
  const shared = sharedBuffers.map((length) => allocator.tensor("gradients", 1, length, "f32", "gradients"));
  return {
    shared,
    optimizer: allocateOptimizer(allocator, OPTIMIZERS[optimizer], network.layout, shared[0]),
    activations: network.allocateActivations(allocator, data.maxTokens),
    batch: allocator.createBatch(data.maxTokens, data.maxDocuments),
    metrics: allocator.tensor("metrics", 2 * allocator.stepsInFlight, 4),
    validation: allocator.tensor("validation metrics", 1, 4),
  };
}
