/**
 * Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019). Keeps two numbers per parameter: m
 * and v.
 */
import type { AdamState, Device, Tensor } from "../../device/device.ts";
import { isFrozen } from "../freeze.ts";
import { type ParameterEntry, type ParameterLayout, rangesOf } from "../parameters.ts";
import type { Optimizer, OptimizerMemory, UpdateSize } from "./optimizer.ts";

const CONSTANTS = { beta1: 0.85, beta2: 0.99, epsilon: 1e-8 };

/**
 * Binds Adam to the parameters that `includes` names: one kernel call per range of those that decay, or do not.
 * @returns a function that queues one update of them
 */
export function adamOf(
  device: Device,
  layout: ParameterLayout,
  { params, work, gradients, state, control }: OptimizerMemory,
  includes: (entry: ParameterEntry) => boolean,
): (size: UpdateSize) => void {
  const kindOf = (entry: ParameterEntry) =>
    includes(entry) ? (["norm", "bias"].includes(entry.role) ? "kept" : "decays") : "left out";
  const ranges = rangesOf(layout, kindOf).filter(({ key }) => key !== "left out");
  const parts = ranges.map(({ start, end, key }) => {
    const part = (flat: Tensor) => device.view(flat, start, 1, end - start);
    const masters = part(params);
    const tensors: AdamState = {
      params: masters,
      work: work === params ? masters : part(work),
      gradients: part(gradients),
      m: part(state.m),
      v: part(state.v),
      control,
    };
    return { tensors, decays: key === "decays" };
  });
  return ({ learningRate, weightDecay }) => {
    for (const { tensors, decays } of parts) {
      device.adam(tensors, { ...CONSTANTS, learningRate, weightDecay: decays ? weightDecay : 0 });
    }
  };
}

/** See `Optimizer`. */
export const adam: Optimizer = {
  name: "adam",
  bind: (device, layout, memory, frozen) =>
    adamOf(device, layout, memory, (entry) => !isFrozen(entry, frozen)),
};
