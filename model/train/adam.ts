/**
 * Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019). Keeps two numbers per parameter: m
 * and v.
 */
import type { AdamState, Tensor } from "../../device/device.ts";
import { isFrozen } from "../freeze.ts";
import { rangesOf } from "../parameters.ts";
import type { Optimizer } from "./optimizer.ts";

const CONSTANTS = { beta1: 0.85, beta2: 0.99, epsilon: 1e-8 };

/** See `Optimizer`. One kernel call per range of parameters that decay, or do not. */
export const adam: Optimizer = {
  name: "adam",
  bind(device, layout, { params, work, gradients, state, control }, frozen) {
    const ranges = rangesOf(layout, (entry) => isFrozen(entry, frozen) ? "frozen" : entry.role === "norm");
    const parts = ranges.filter(({ key }) => key !== "frozen").map(({ start, end, key: isNorm }) => {
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
      return { tensors, decays: !isNorm };
    });
    return ({ learningRate, weightDecay }) => {
      for (const { tensors, decays } of parts) {
        device.adam(tensors, { ...CONSTANTS, learningRate, weightDecay: decays ? weightDecay : 0 });
      }
    };
  },
};
