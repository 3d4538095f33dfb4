/** Sums of flat arrays on the GPU. */
import type { GpuTensor } from "./buffers.ts";
import { type KernelRunner, workgroupGrid } from "./kernel_runner.ts";
import addSource from "./kernels/add.wgsl" with { type: "text" };
import { slice, slices } from "./optimizer.ts";

/** See `Device.add`; the two lie in different buffers. */
export function add(
  { runner, maxBinding }: { runner: KernelRunner; maxBinding: number },
  out: GpuTensor,
  a: GpuTensor,
): void {
  const n = a.rows * a.cols;
  if (out.rows !== a.rows || out.cols !== a.cols || out.format !== "f32" || a.format !== "f32") {
    throw new RangeError(`"${a.memory.label}" and "${out.memory.label}" are not f32 of one shape`);
  }
  const aligned = n % 4 === 0 && out.offset % 4 === 0 && a.offset % 4 === 0;
  for (const [first, length] of slices(n, maxBinding)) {
    runner.run(
      `add ${aligned}`,
      () => ({
        source: addSource,
        constants: {},
        params: { n: "u32" },
        bindings: {
          out: { format: "f32", access: "write", aligned },
          a: { format: "f32", access: "read", aligned },
        },
      }),
      [slice(out, first, length), slice(a, first, length)],
      [length],
      ...workgroupGrid(Math.ceil(length / (4 * 256))),
    );
  }
}
