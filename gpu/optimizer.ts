/** The end of a step on the GPU: loss, gradient norm, whether it counts, Adam. */
import { type AdamHyper, type Dtype, METRIC } from "../device/device.ts";
import { GpuTensor } from "./buffers.ts";
import { type KernelRunner, workgroupGrid } from "./kernel_runner.ts";
import adamSource from "./kernels/adam.wgsl" with { type: "text" };
import decideStepSource from "./kernels/decide_step.wgsl" with { type: "text" };
import metricsSource from "./kernels/metrics.wgsl" with { type: "text" };
import reduceSource from "./kernels/reduce.wgsl" with { type: "text" };
import { bindingOf, F32, F32_WRITE } from "./shader_source.ts";

/** What these kernels need from their device. */
export interface OptimizerContext {
  runner: KernelRunner;
  subgroups: boolean;
  dtype: Dtype;
  /** bytes that one binding can hold */
  maxBinding: number;
  /** an f32 tensor of at least `elements`, valid until the next call for the same purpose */
  scratch(elements: number, purpose: string): GpuTensor;
}

/** `AdamState` with tensors of this device. */
export interface GpuAdamState {
  params: GpuTensor;
  work: GpuTensor;
  gradients: GpuTensor;
  m: GpuTensor;
  v: GpuTensor;
  control: GpuTensor;
}

const THREADS = 256;
/** Most workgroups that share the squares of one slice; each leaves one partial sum. */
const NORM_WORKGROUPS = 256;

/** Stretches of n elements that one binding can hold, in whole multiples of 128 elements. */
export function slices(n: number, maxBinding: number): [first: number, length: number][] {
  const most = Math.floor((maxBinding - 256) / 512) * 128;
  const out: [number, number][] = [];
  for (let first = 0; first < n; first += most) out.push([first, Math.min(most, n - first)]);
  return out;
}

/** Part of a flat array. */
export function slice({ memory, type, format, offset }: GpuTensor, first: number, length: number): GpuTensor {
  return new GpuTensor(memory, type, format, offset + first, 1, length);
}

/** See `Device.sumLoss`. */
export function sumLoss(
  { runner, subgroups }: OptimizerContext,
  metrics: GpuTensor,
  slot: number,
  losses: GpuTensor,
  accumulate: boolean,
): void {
  runner.run(
    "sumLoss",
    () => ({
      source: reduceSource + metricsSource,
      constants: { SUM_LOSS: true, SQUARES: false, FINISH_NORM: false, THREADS, SUBGROUPS: subgroups },
      params: { n: "u32", place: "u32", accumulate: "u32" },
      bindings: { losses: F32, metrics: F32_WRITE },
    }),
    [losses, metrics],
    [losses.rows, slot * metrics.cols + METRIC.loss, Number(accumulate)],
    1,
  );
}

/** See `Device.gradNorm`. Two passes: partial sums, then their sum. */
export function gradNorm(
  { runner, subgroups, maxBinding, scratch }: OptimizerContext,
  metrics: GpuTensor,
  slot: number,
  gradients: GpuTensor,
  control: GpuTensor,
): void {
  const n = gradients.rows * gradients.cols;
  const parts = slices(n, maxBinding);
  const partial = scratch(parts.length * NORM_WORKGROUPS, "norm");
  const aligned = n % 4 === 0 && gradients.offset % 4 === 0;
  let partials = 0;
  for (const [first, length] of parts) {
    // Eight quads keep a thread busy; there are fewer workgroups only where n is small.
    const workgroups = Math.min(NORM_WORKGROUPS, Math.ceil(length / (THREADS * 4 * 8)));
    runner.run(
      `gradNorm squares ${aligned}`,
      () => ({
        source: reduceSource + metricsSource,
        constants: { SUM_LOSS: false, SQUARES: true, FINISH_NORM: false, THREADS, SUBGROUPS: subgroups },
        params: { n: "u32", first: "u32" },
        bindings: { gradients: bindingOf(gradients, "read", aligned), partial: F32_WRITE },
      }),
      [slice(gradients, first, length), partial],
      [length, partials],
      workgroups,
    );
    partials += workgroups;
  }
  runner.run(
    "gradNorm",
    () => ({
      source: reduceSource + metricsSource,
      constants: { SUM_LOSS: false, SQUARES: false, FINISH_NORM: true, THREADS, SUBGROUPS: subgroups },
      params: { n: "u32", place: "u32" },
      bindings: { partial: F32, control: F32, metrics: F32_WRITE },
    }),
    [partial, control, metrics],
    [partials, slot * metrics.cols + METRIC.gradNorm],
    1,
  );
}

/** See `Device.decideStep`. */
export function decideStep(
  { runner, dtype }: OptimizerContext,
  metrics: GpuTensor,
  slot: number,
  control: GpuTensor,
  gradClip: number,
): void {
  runner.run(
    "decideStep",
    () => ({
      source: decideStepSource,
      constants: {},
      params: { place: "u32", clip: "f32", scales: "u32" },
      bindings: { metrics: F32_WRITE, control: F32_WRITE },
    }),
    [metrics, control],
    [slot * metrics.cols, gradClip, Number(dtype === "f16")],
    1,
  );
}

/** See `Device.adam`. */
export function adam(context: OptimizerContext, state: GpuAdamState, hyper: AdamHyper): void {
  const { runner, maxBinding, scratch } = context;
  const { params, work, gradients, m, v, control } = state;
  const n = params.rows * params.cols;
  const coefficients = scratch(4, "adam");
  runner.run(
    "adam prepare",
    () => ({
      source: adamSource,
      constants: { PREPARE: true },
      params: { beta1: "f32", beta2: "f32" },
      bindings: { control: F32, coefficients: F32_WRITE },
    }),
    [control, coefficients],
    [hyper.beta1, hyper.beta2],
    1,
  );
  const separate = work.memory !== params.memory;
  const tensors = separate ? [gradients, m, v, params, work] : [gradients, m, v, params];
  const aligned = n % 4 === 0 && tensors.every((tensor) => tensor.offset % 4 === 0);
  for (const [first, length] of slices(n, maxBinding)) {
    runner.run(
      `adam ${separate ? work.format : ""} ${aligned}`,
      () => ({
        source: adamSource,
        constants: { PREPARE: false, WORK: separate },
        params: {
          n: "u32",
          learning_rate: "f32",
          beta1: "f32",
          beta2: "f32",
          rest1: "f32",
          rest2: "f32",
          epsilon: "f32",
          decay: "f32",
        },
        bindings: {
          coefficients: F32,
          gradients: bindingOf(gradients, "read", aligned),
          m: bindingOf(m, "write", aligned),
          v: bindingOf(v, "write", aligned),
          params: bindingOf(params, "write", aligned),
          ...(separate && { work: bindingOf(work, "write", aligned) }),
        },
      }),
      [coefficients, ...tensors.map((tensor) => slice(tensor, first, length))],
      [
        length,
        hyper.learningRate,
        hyper.beta1,
        hyper.beta2,
        1 - hyper.beta1,
        1 - hyper.beta2,
        hyper.epsilon,
        hyper.weightDecay,
      ],
      ...workgroupGrid(Math.ceil(length / (4 * 256))),
    );
  }
}
