/** The element-wise part of Muon on the GPU, see `Device.momentum`, `matrixPolynomial` and `applyUpdate`. */
import type { UpdateHyper } from "../device/device.ts";
import type { GpuTensor } from "./buffers.ts";
import { workgroupGrid } from "./kernel_runner.ts";
import muonSource from "./kernels/muon.wgsl" with { type: "text" };
import reduceSource from "./kernels/reduce.wgsl" with { type: "text" };
import { type OptimizerContext, slice, slices } from "./optimizer.ts";
import { bindingOf, F32, type KernelSpec } from "./shader_source.ts";

const THREADS = 256;

/** `UpdateTarget` with tensors of this device. */
export interface GpuUpdateTarget {
  params: GpuTensor;
  work: GpuTensor;
  control: GpuTensor;
}

/** The kernel that does `part`; the others are left out of it. */
function specOf(
  part: "MOMENTUM" | "POLYNOMIAL" | "UPDATE",
  subgroups: boolean,
  constants: KernelSpec["constants"],
  params: KernelSpec["params"],
  bindings: KernelSpec["bindings"],
): KernelSpec {
  return {
    source: reduceSource + muonSource,
    constants: {
      ...{ MOMENTUM: false, POLYNOMIAL: false, UPDATE: false, [part]: true },
      ...constants,
      THREADS,
      SUBGROUPS: subgroups,
    },
    params,
    bindings,
  };
}

/** Whether all quads of flat arrays can be read at once. */
function areAligned(n: number, ...tensors: GpuTensor[]): boolean {
  return n % 4 === 0 && tensors.every((tensor) => tensor.offset % 4 === 0);
}

/** See `Device.momentum`. */
export function momentum(
  { runner, maxBinding, subgroups }: OptimizerContext,
  out: GpuTensor,
  m: GpuTensor,
  gradients: GpuTensor,
  control: GpuTensor,
  beta: number,
): void {
  const n = out.rows * out.cols;
  const aligned = areAligned(n, out, m, gradients);
  for (const [first, length] of slices(n, maxBinding)) {
    runner.run(
      `momentum ${aligned}`,
      () =>
        specOf("MOMENTUM", subgroups, {}, { n: "u32", beta: "f32", rest: "f32" }, {
          gradients: bindingOf(gradients, "read", aligned),
          m: bindingOf(m, "write", aligned),
          out: bindingOf(out, "write", aligned),
          control: F32,
        }),
      [...[gradients, m, out].map((tensor) => slice(tensor, first, length)), control],
      [length, beta, 1 - beta],
      ...workgroupGrid(Math.ceil(length / (4 * THREADS))),
    );
  }
}

/** See `Device.matrixPolynomial`. */
export function matrixPolynomial(
  { runner, subgroups }: OptimizerContext,
  out: GpuTensor,
  a: GpuTensor,
  square: GpuTensor,
  [c0, c1, c2]: readonly [number, number, number],
  normalize: boolean,
): void {
  const n = a.cols;
  const aligned = areAligned(n * n, out, a, square);
  runner.run(
    `matrix polynomial ${aligned}`,
    () =>
      specOf(
        "POLYNOMIAL",
        subgroups,
        {},
        { n: "u32", c0: "f32", c1: "f32", c2: "f32", normalize: "u32" },
        {
          diagonal: F32,
          a: bindingOf(a, "read", aligned),
          square: bindingOf(square, "read", aligned),
          out: bindingOf(out, "write", aligned),
        },
      ),
    [a, a, square, out],
    [n, c0, c1, c2, Number(normalize)],
    ...workgroupGrid(Math.ceil(n * n / (4 * THREADS))),
  );
}

/** See `Device.applyUpdate`. */
export function applyUpdate(
  { runner, maxBinding, subgroups }: OptimizerContext,
  { params, work, control }: GpuUpdateTarget,
  update: GpuTensor,
  { learningRate, weightDecay, cautious }: UpdateHyper,
): void {
  const n = params.rows * params.cols;
  const separate = work.memory !== params.memory;
  const tensors = separate ? [update, params, work] : [update, params];
  const aligned = areAligned(n, ...tensors);
  for (const [first, length] of slices(n, maxBinding)) {
    runner.run(
      `apply update ${separate ? work.format : ""} ${aligned}`,
      () =>
        specOf(
          "UPDATE",
          subgroups,
          { WORK: separate },
          { n: "u32", learning_rate: "f32", decay: "f32", cautious: "u32" },
          {
            control: F32,
            update: bindingOf(update, "read", aligned),
            params: bindingOf(params, "write", aligned),
            ...(separate && { work: bindingOf(work, "write", aligned) }),
          },
        ),
      [control, ...tensors.map((tensor) => slice(tensor, first, length))],
      [length, learningRate, weightDecay, Number(cautious)],
      ...workgroupGrid(Math.ceil(length / (4 * THREADS))),
    );
  }
}
