/** Dropout on the GPU. */
import type { Drop } from "../device/regularization.ts";
import type { GpuTensor } from "./buffers.ts";
import { type KernelRunner, workgroupGrid } from "./kernel_runner.ts";
import dropoutSource from "./kernels/dropout.wgsl" with { type: "text" };
import randomSource from "./kernels/random.wgsl" with { type: "text" };
import { bindingOf } from "./shader_source.ts";

/** See `Device.dropout`. */
export function dropout(
  runner: KernelRunner,
  out: GpuTensor,
  x: GpuTensor,
  { key, threshold, scale }: Drop,
  add?: GpuTensor,
): void {
  const inPlace = x === out;
  const read = [...(inPlace ? [] : [x]), ...(add ? [add] : [])];
  const n = out.rows * out.cols;
  for (const { rows, cols, memory } of read) {
    if (rows !== out.rows || cols !== out.cols) {
      throw new RangeError(`"${memory.label}" and "${out.memory.label}" are not of one shape`);
    }
  }
  const aligned = n % 4 === 0 && [out, ...read].every(({ offset }) => offset % 4 === 0);
  runner.run(
    `dropout ${out.format} ${x.format} ${inPlace} ${add !== undefined} ${aligned}`,
    () => ({
      source: randomSource + dropoutSource,
      constants: { IN_PLACE: inPlace, ADD: add !== undefined },
      params: { n: "u32", key: "u32", threshold: "u32", scale: "f32" },
      bindings: {
        out: bindingOf(out, "write", aligned),
        ...(inPlace ? {} : { x: bindingOf(x, "read", aligned) }),
        ...(add ? { add: bindingOf(add, "read", aligned) } : {}),
      },
    }),
    [out, ...read],
    [n, key, threshold, scale],
    ...workgroupGrid(Math.ceil(n / (4 * 256))),
  );
}
