/**
 * The end of a training step: from gradients to changed weights. Whether the step counts, how far gradients are clipped
 * and how they are scaled in f16 is the same for every optimizer and decided here, on the device; the rule that makes
 * an update of a gradient is the optimizer's (`adam.ts`).
 */
import { type Allocator, CONTROL, type Device, type Tensor } from "../../device/device.ts";
import type { Frozen } from "../freeze.ts";
import type { EntryReader } from "../files/safetensors.ts";
import {
  mapState,
  type OptimizerName,
  type OptimizerState,
  type StateName,
  stateTensors,
} from "../optimizer_state.ts";
import { flatTensor, type ParameterLayout } from "../parameters.ts";

/** How large an update is; the constants of its rule are the optimizer's own. */
export interface UpdateSize {
  /** of this step, after warmup and decay */
  learningRate: number;
  /** decoupled; 0 = off. Factors of norms do not decay */
  weightDecay: number;
  /** of matrices, where the optimizer has a rate of their own */
  muonLearningRate: number;
  /** decay only what the update makes smaller too, where the optimizer can */
  cautious: boolean;
}

/** A rule by which gradients change weights. */
export interface Optimizer {
  /** also says what it keeps, see `stateTensors` */
  readonly name: OptimizerName;
  /**
   * Binds the rule to the memory of a run. It may treat entries of the layout differently, by their roles.
   * @param frozen parameters that it leaves as they are
   * @returns a function that queues one update, which reads from `control` whether the step counts
   */
  bind(
    device: Device,
    layout: ParameterLayout,
    memory: OptimizerMemory,
    frozen?: Frozen,
  ): (size: UpdateSize) => void;
  /** Memory that an update works in and nobody else reads. */
  allocateScratch?(allocator: Allocator, layout: ParameterLayout): Record<string, Tensor>;
}

/** What an optimizer works on; all but `control` f32 [1, length of a layout]. */
export interface OptimizerMemory {
  /** the masters of the weights */
  params: Tensor;
  /** their copy in the device's `workType`, which the network reads; `params` itself where that is f32 */
  work: Tensor;
  gradients: Tensor;
  /** what the optimizer remembers of earlier gradients, by name */
  state: Record<StateName, Tensor>;
  /** [1, 4], see `CONTROL` */
  control: Tensor;
  /** what the optimizer works in, by its own names */
  scratch: Record<string, Tensor>;
}

/** Allocates for parameters of a layout; `shared` is memory for gradients that is there. */
export function allocateOptimizer(
  allocator: Allocator & Pick<Device, "workType">,
  { name, allocateScratch }: Optimizer,
  layout: ParameterLayout,
  shared?: Tensor,
): OptimizerMemory {
  const params = flatTensor(allocator, "weights", layout, "f32");
  return {
    params,
    work: allocator.workType === "f32" ? params : flatTensor(allocator, "working weights", layout, "work"),
    gradients: shared ?? flatTensor(allocator, "gradients", layout, "f32", "gradients"),
    state: mapState(stateTensors(layout, name), (tensor) => {
      return flatTensor(allocator, `moments ${tensor.name}`, tensor.layout, "f32", "moments");
    }),
    control: allocator.tensor("control", 1, 4),
    scratch: allocateScratch?.(allocator, layout) ?? {},
  };
}

/** On the host: the weights, and everything that the next update depends on. */
export interface UpdateState {
  /** updates applied: steps done less the skipped ones */
  adamStep: number;
  /** [layout.length] */
  params: Float32Array;
  /** absent: nothing is remembered yet */
  optimizer?: OptimizerState;
  /** f16 only, see `CONTROL`; if left out, the scale starts over */
  lossScale?: number;
  goodSteps?: number;
}

/** What the loss gradient is multiplied by in f16, before the steps show what fits. */
const FIRST_LOSS_SCALE = 2 ** 15;

/** Puts a state on the device. */
export function writeUpdateState(device: Device, memory: OptimizerMemory, from: UpdateState): void {
  const { params, work, state, control } = memory;
  device.write(params, from.params);
  if (work !== params) device.write(work, from.params);
  for (const [name, tensor] of Object.entries(state)) {
    const kept = from.optimizer?.[name as StateName];
    if (kept) device.write(tensor, kept);
    else device.zero(tensor);
  }
  const scaled = device.dtype === "f16";
  const values = new Float32Array(4);
  values[CONTROL.adamStep] = from.adamStep;
  values[CONTROL.lossScale] = scaled ? from.lossScale ?? FIRST_LOSS_SCALE : 1;
  values[CONTROL.goodSteps] = scaled ? from.goodSteps ?? 0 : 0;
  device.write(control, values);
}

/** An `UpdateState` whose arrays are read one parameter at a time. */
export type CurrentState = Omit<UpdateState, "params" | "optimizer"> & {
  params: EntryReader;
  optimizer: Record<StateName, EntryReader>;
};

/** The state after everything that was queued, to be read for as long as no more is. */
export async function currentState(device: Device, memory: OptimizerMemory): Promise<CurrentState> {
  const reader = (tensor: Tensor): EntryReader => async ({ offset, rows, cols }) => {
    return await device.read(device.view(tensor, offset, 1, rows * cols)) as Float32Array;
  };
  const { params, state, control } = memory;
  const kept = Object.entries(state).map(([name, tensor]) => [name, reader(tensor)]);
  return {
    ...counted(device, await device.read(control)),
    params: reader(params),
    optimizer: Object.fromEntries(kept) as Record<StateName, EntryReader>,
  };
}

/** What `control` says of earlier steps. */
function counted(device: Device, control: Float32Array | Uint32Array): Omit<UpdateState, "params"> {
  return {
    adamStep: control[CONTROL.adamStep]!,
    ...(device.dtype === "f16"
      ? { lossScale: control[CONTROL.lossScale]!, goodSteps: control[CONTROL.goodSteps]! }
      : {}),
  };
}

/** A copy of the state after everything that was queued. */
export async function readUpdateState(
  device: Device,
  { params, state, control }: OptimizerMemory,
): Promise<Required<Pick<UpdateState, "optimizer">> & UpdateState> {
  const names = Object.keys(state) as StateName[];
  // all are requested before the first is awaited, so that they share one wait
  const [values, weights, ...kept] = await Promise.all(
    [control, params, ...names.map((name) => state[name])].map((tensor) => device.read(tensor)),
  ) as Float32Array[];
  return {
    ...counted(device, values!),
    params: weights!,
    optimizer: Object.fromEntries(names.map((name, i) => [name, kept[i]!])) as OptimizerState,
  };
}

/**
 * The end of a step, bound to the memory of a run.
 * @returns a function that queues it: the norm of all gradients, whether the step counts, the update
 */
export function bindUpdates(
  device: Device,
  optimizer: Optimizer,
  layout: ParameterLayout,
  memory: OptimizerMemory,
  frozen?: Frozen,
): (metrics: Tensor, slot: number, gradClip: number, size: UpdateSize) => void {
  const { gradients, control } = memory;
  const update = optimizer.bind(device, layout, memory, frozen);
  return (metrics, slot, gradClip, size) => {
    device.gradNorm(metrics, slot, gradients, control);
    device.decideStep(metrics, slot, control, gradClip);
    update(size);
  };
}
