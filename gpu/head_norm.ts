/** The norm of each head of queries and keys, see `Device.headNorm`. */
import type { GpuTensor } from "./buffers.ts";
import headNormSource from "./kernels/head_norm.wgsl" with { type: "text" };
import headNormWeightSource from "./kernels/head_norm_weight.wgsl" with { type: "text" };
import reduceSource from "./kernels/reduce.wgsl" with { type: "text" };
import { workgroupGrid } from "./kernel_runner.ts";
import { isAligned, ROW_THREADS, type RowContext } from "./row_kernels.ts";
import { bindingOf, F32, F32_WRITE } from "./shader_source.ts";

/** Heads of queries and of keys; as many of values follow as of keys. */
export interface Heads {
  queries: number;
  keys: number;
}

/** See `Device.headNorm`. */
export function headNorm(
  { runner, subgroups }: RowContext,
  out: GpuTensor,
  qkv: GpuTensor,
  weights: GpuTensor,
  { queries, keys }: Heads,
  epsilon: number,
): void {
  const D = weights.cols;
  const heads = queries + 2 * keys;
  const count = qkv.rows * heads;
  const aligned = isAligned(D, out, qkv, weights);
  runner.run(
    `headNorm ${qkv.format} ${aligned}`,
    () => ({
      source: reduceSource + headNormSource,
      constants: { BACKWARD: false, THREADS: ROW_THREADS, SUBGROUPS: subgroups },
      params: { count: "u32", D: "u32", heads: "u32", queries: "u32", keys: "u32", epsilon: "f32" },
      bindings: {
        x: bindingOf(qkv, "read", aligned),
        w: bindingOf(weights, "read", aligned),
        out: bindingOf(out, "write", aligned),
      },
    }),
    [qkv, weights, out],
    [count, D, heads, queries, keys, epsilon],
    ...workgroupGrid(count),
  );
}

/** Tokens whose heads one thread adds up for the gradient of the weights. */
const BLOCK_TOKENS = 16;

/** See `Device.headNormBackward`. */
export function headNormBackward(
  { runner, subgroups, scratch }: RowContext,
  dx: GpuTensor,
  dWeights: GpuTensor,
  dy: GpuTensor,
  qkv: GpuTensor,
  weights: GpuTensor,
  { queries, keys }: Heads,
  epsilon: number,
): void {
  const { rows: T } = qkv;
  const D = weights.cols;
  const heads = queries + 2 * keys;
  const count = T * heads;
  const blocks = Math.ceil(T / BLOCK_TOKENS);
  const [reciprocals, partial] = [scratch(count, "norm rows"), scratch(blocks * 2 * D, "norm weights")];
  const aligned = isAligned(D, dx, dWeights, dy, qkv, weights);
  const formats = `${qkv.format} ${aligned}`;
  runner.run(
    `headNorm backward ${formats}`,
    () => ({
      source: reduceSource + headNormSource,
      constants: { BACKWARD: true, THREADS: ROW_THREADS, SUBGROUPS: subgroups },
      params: { count: "u32", D: "u32", heads: "u32", queries: "u32", keys: "u32", epsilon: "f32" },
      bindings: {
        x: bindingOf(qkv, "read", aligned),
        dy: bindingOf(dy, "read", aligned),
        w: bindingOf(weights, "read", aligned),
        dx: bindingOf(dx, "write", aligned),
        reciprocals: F32_WRITE,
      },
    }),
    [qkv, dy, weights, dx, reciprocals],
    [count, D, heads, queries, keys, epsilon],
    ...workgroupGrid(count),
  );
  const columns = Math.ceil(2 * Math.ceil(D / 4) / 64);
  runner.run(
    `headNorm weight sums ${formats}`,
    () => ({
      source: headNormWeightSource,
      constants: { TOTAL: false },
      params: { T: "u32", D: "u32", heads: "u32", queries: "u32", keys: "u32", tokens: "u32" },
      bindings: {
        x: bindingOf(qkv, "read", aligned),
        dy: bindingOf(dy, "read", aligned),
        reciprocals: F32,
        partial: bindingOf(partial, "write", aligned),
      },
    }),
    [qkv, dy, reciprocals, partial],
    [T, D, heads, queries, keys, BLOCK_TOKENS],
    columns,
    blocks,
  );
  runner.run(
    `headNorm weight total ${aligned}`,
    () => ({
      source: headNormWeightSource,
      constants: { TOTAL: true },
      params: { D: "u32", blocks: "u32" },
      bindings: {
        partial: bindingOf(partial, "read", aligned),
        dw: bindingOf(dWeights, "write", aligned),
      },
    }),
    [partial, dWeights],
    [D, blocks],
    columns,
  );
}
