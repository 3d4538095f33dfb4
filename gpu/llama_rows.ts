/** Kernels that only the Llama family calls: lookup, the norm with weights, rotary positions, SwiGLU. */
import { MicrogptError } from "../device/errors.ts";
import type { GpuBatch } from "./batch.ts";
import type { GpuTensor } from "./buffers.ts";
import { workgroupGrid } from "./kernel_runner.ts";
import lookupSource from "./kernels/lookup.wgsl" with { type: "text" };
import reduceSource from "./kernels/reduce.wgsl" with { type: "text" };
import ropeSource from "./kernels/rope.wgsl" with { type: "text" };
import scaledNormSource from "./kernels/scaled_norm.wgsl" with { type: "text" };
import scaledNormWeightSource from "./kernels/scaled_norm_weight.wgsl" with { type: "text" };
import swigluSource from "./kernels/swiglu.wgsl" with { type: "text" };
import { gather, isAligned, ROW_THREADS, type RowContext } from "./row_kernels.ts";
import { bindingOf, F32, F32_WRITE, U32 } from "./shader_source.ts";

/** x[t] = table[tokens[t]] for the first `count` rows. */
export function lookup(
  { runner }: RowContext,
  x: GpuTensor,
  tokens: GpuTensor,
  count: number,
  table: GpuTensor,
): void {
  const aligned = isAligned(x.cols, x, table);
  runner.run(
    `lookup ${table.format} ${aligned}`,
    () => ({
      source: lookupSource,
      constants: {},
      params: { T: "u32", E: "u32" },
      bindings: {
        tokens: U32,
        table: bindingOf(table, "read", aligned),
        x: bindingOf(x, "write", aligned),
      },
    }),
    [tokens, table, x],
    [count, x.cols],
    ...workgroupGrid(count),
  );
}

/** See `Device.lookupBackward`. */
export function lookupBackward(
  { runner }: RowContext,
  dTable: GpuTensor,
  dx: GpuTensor,
  batch: GpuBatch,
): void {
  gather(runner, dTable, dx, batch.sections.tokenOrder, batch.sections.tokenRuns, batch.tokenRunCount);
}

/** See `Device.scaledRmsNorm`. */
export function scaledRmsNorm(
  { runner, subgroups }: RowContext,
  out: GpuTensor,
  x: GpuTensor,
  weight: GpuTensor,
  epsilon: number,
): void {
  const aligned = isAligned(x.cols, out, x, weight);
  runner.run(
    `scaledRmsNorm ${x.format} ${weight.format} ${out.format} ${aligned}`,
    () => ({
      source: reduceSource + scaledNormSource,
      constants: { BACKWARD: false, THREADS: ROW_THREADS, SUBGROUPS: subgroups },
      params: { T: "u32", E: "u32", epsilon: "f32" },
      bindings: {
        x: bindingOf(x, "read", aligned),
        w: bindingOf(weight, "read", aligned),
        out: bindingOf(out, "write", aligned),
      },
    }),
    [x, weight, out],
    [x.rows, x.cols, epsilon],
    ...workgroupGrid(x.rows),
  );
}

/** Rows that one thread adds up for the gradient of a norm's weights. */
const BLOCK_ROWS = 64;

/** See `Device.scaledRmsNormBackward`. */
export function scaledRmsNormBackward(
  { runner, subgroups, scratch }: RowContext,
  dx: GpuTensor,
  dWeight: GpuTensor,
  dy: GpuTensor,
  x: GpuTensor,
  weight: GpuTensor,
  epsilon: number,
): void {
  const { rows: T, cols: E } = x;
  const blocks = Math.ceil(T / BLOCK_ROWS);
  const [reciprocals, partial] = [scratch(T, "norm rows"), scratch(blocks * E, "norm weights")];
  const aligned = isAligned(E, dx, dWeight, dy, x, weight);
  const formats = `${x.format} ${dy.format} ${weight.format} ${aligned}`;
  runner.run(
    `scaledRmsNorm backward ${formats}`,
    () => ({
      source: reduceSource + scaledNormSource,
      constants: { BACKWARD: true, THREADS: ROW_THREADS, SUBGROUPS: subgroups },
      params: { T: "u32", E: "u32", epsilon: "f32" },
      bindings: {
        x: bindingOf(x, "read", aligned),
        dy: bindingOf(dy, "read", aligned),
        w: bindingOf(weight, "read", aligned),
        dx: bindingOf(dx, "write", aligned),
        reciprocals: F32_WRITE,
      },
    }),
    [x, dy, weight, dx, reciprocals],
    [T, E, epsilon],
    ...workgroupGrid(T),
  );
  const columns = Math.ceil(E / (4 * 64));
  runner.run(
    `scaledRmsNorm weight sums ${formats}`,
    () => ({
      source: scaledNormWeightSource,
      constants: { TOTAL: false },
      params: { T: "u32", E: "u32", rows: "u32" },
      bindings: {
        x: bindingOf(x, "read", aligned),
        dy: bindingOf(dy, "read", aligned),
        reciprocals: F32,
        partial: bindingOf(partial, "write", aligned),
      },
    }),
    [x, dy, reciprocals, partial],
    [T, E, BLOCK_ROWS],
    columns,
    blocks,
  );
  runner.run(
    `scaledRmsNorm weight total ${aligned}`,
    () => ({
      source: scaledNormWeightSource,
      constants: { TOTAL: true },
      params: { E: "u32", blocks: "u32" },
      bindings: {
        partial: bindingOf(partial, "read", aligned),
        dw: bindingOf(dWeight, "write", aligned),
      },
    }),
    [partial, dWeight],
    [E, blocks],
    columns,
  );
}

/** Turns the first `heads` heads of the first `count` rows of x by their positions; see `Device.rope`. */
export function rope(
  { runner }: RowContext,
  x: GpuTensor,
  angles: GpuTensor,
  positions: GpuTensor,
  count: number,
  heads: number,
  back: boolean,
): void {
  const D = angles.cols;
  if (x.format === "bf16" && D % 4 !== 0) {
    throw new MicrogptError(
      `half a head of ${D} numbers cannot be turned in bf16 on the GPU, which packs two in a word`,
      { hint: "choose a width of heads that is a multiple of four, or use `dtype` f32", usage: true },
    );
  }
  const aligned = isAligned(D / 2, x, angles) && x.cols % 4 === 0;
  runner.run(
    `rope ${x.format} ${aligned} D=${D}`,
    () => ({
      source: ropeSource,
      constants: { D },
      params: { T: "u32", cols: "u32", heads: "u32", sign: "f32" },
      bindings: {
        positions: U32,
        angles: bindingOf(angles, "read", aligned),
        x: bindingOf(x, "write", aligned),
      },
    }),
    [positions, angles, x],
    [count, x.cols, heads, back ? -1 : 1],
    ...workgroupGrid(count),
  );
}

/** See `Device.swiglu`. */
export function swiglu({ runner }: RowContext, out: GpuTensor, gateUp: GpuTensor): void {
  const aligned = isAligned(out.cols, out, gateUp);
  runner.run(
    `swiglu ${out.format} ${aligned}`,
    () => ({
      source: swigluSource,
      constants: { BACKWARD: false },
      params: { T: "u32", F: "u32" },
      bindings: { gate_up: bindingOf(gateUp, "read", aligned), out: bindingOf(out, "write", aligned) },
    }),
    [gateUp, out],
    [out.rows, out.cols],
    ...workgroupGrid(out.rows),
  );
}

/** See `Device.swigluBackward`. */
export function swigluBackward(
  { runner }: RowContext,
  dGateUp: GpuTensor,
  dOut: GpuTensor,
  gateUp: GpuTensor,
): void {
  const aligned = isAligned(dOut.cols, dGateUp, dOut, gateUp);
  runner.run(
    `swiglu backward ${gateUp.format} ${aligned}`,
    () => ({
      source: swigluSource,
      constants: { BACKWARD: true },
      params: { T: "u32", F: "u32" },
      bindings: {
        gate_up: bindingOf(gateUp, "read", aligned),
        d_out: bindingOf(dOut, "read", aligned),
        d_gate_up: bindingOf(dGateUp, "write", aligned),
      },
    }),
    [gateUp, dOut, dGateUp],
    [dOut.rows, dOut.cols],
    ...workgroupGrid(dOut.rows),
  );
}
