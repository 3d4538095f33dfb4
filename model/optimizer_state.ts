/**
 * What an optimizer keeps besides the weights: named arrays, each in a layout. The trainer allocates them, the memory
 * plan counts them, and a checkpoint saves each as `optimizer_NAME.safetensors`.
 */
import type { ParameterLayout } from "./parameters.ts";

/** The optimizers by name: `model/train/` has them. */
export type OptimizerName = "adam" | "muon";

/** Names of state tensors, after which their files are named. */
export type StateName = "m" | "v";

/** An array that an optimizer keeps: f32, zero at the start. */
export interface StateTensor {
  name: StateName;
  /** the weights' layout, or one of the entries that it is kept for */
  layout: ParameterLayout;
}

/** What is in the state tensors, each [its layout's length]. */
export type OptimizerState = Record<StateName, Float32Array>;

const STATE: Record<OptimizerName, (layout: ParameterLayout) => StateTensor[]> = {
  adam: (layout) => [{ name: "m", layout }, { name: "v", layout }],
  // v is Adam's, of what is no matrix; it has the whole layout so that a run can change its optimizer
  muon: (layout) => [{ name: "m", layout }, { name: "v", layout }],
};

/**
 * What an optimizer keeps of the parameters of a layout.
 * @param optimizer default: adam, which checkpoints do not name
 */
export function stateTensors(layout: ParameterLayout, optimizer: OptimizerName = "adam"): StateTensor[] {
  return STATE[optimizer](layout);
}

/** Makes something of each state tensor, by name. */
export function mapState<T>(
  tensors: readonly StateTensor[],
  make: (tensor: StateTensor) => T,
): Record<StateName, T> {
  return Object.fromEntries(tensors.map((tensor) => [tensor.name, make(tensor)])) as Record<StateName, T>;
}

/** The state before the first step. */
export function emptyState(layout: ParameterLayout, optimizer?: OptimizerName): OptimizerState {
  return mapState(stateTensors(layout, optimizer), (tensor) => new Float32Array(tensor.layout.length));
}
