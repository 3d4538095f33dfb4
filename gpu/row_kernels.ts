/** Kernels with a workgroup for each row: embedding, normalization, cross-entropy, sampling. */
import type { GpuDecodeRows } from "./attention.ts";
import type { GpuBatch } from "./batch.ts";
import type { GpuTensor } from "./buffers.ts";
import { type KernelRunner, workgroupGrid } from "./kernel_runner.ts";
import crossEntropySource from "./kernels/cross_entropy.wgsl" with { type: "text" };
import embedSource from "./kernels/embed.wgsl" with { type: "text" };
import embedGatherSource from "./kernels/embed_gather.wgsl" with { type: "text" };
import randomSource from "./kernels/random.wgsl" with { type: "text" };
import reduceSource from "./kernels/reduce.wgsl" with { type: "text" };
import rmsNormSource from "./kernels/rmsnorm.wgsl" with { type: "text" };
import sampleSource from "./kernels/sample.wgsl" with { type: "text" };
import { bindingOf, F32, F32_WRITE, U32, U32_WRITE } from "./shader_source.ts";

/** What these kernels need from their device. */
export interface RowContext {
  runner: KernelRunner;
  subgroups: boolean;
  /** an f32 tensor of at least `elements`, valid until the next call for the same purpose */
  scratch(elements: number, purpose: string): GpuTensor;
}

/** Threads for a row of E. */
export const ROW_THREADS = 64;

/**
 * Threads for a row of the vocabulary: with few elements each, they would spend most of the time waiting for each
 * other.
 */
function vocabularyThreads(V: number): number {
  return V <= 1024 ? 64 : 256;
}

/** Rows of `cols` elements are read four at a time when all of them start at a multiple of four. */
export function isAligned(cols: number, ...tensors: GpuTensor[]): boolean {
  return cols % 4 === 0 && tensors.every((tensor) => tensor.offset % 4 === 0);
}

/** x[t] = rmsnorm(wte[tokens[t]] + wpe[positions[t]]) for the first `count` rows. */
export function embed(
  { runner, subgroups }: RowContext,
  x: GpuTensor,
  tokens: GpuTensor,
  positions: GpuTensor,
  count: number,
  wte: GpuTensor,
  wpe: GpuTensor,
): void {
  const aligned = isAligned(x.cols, x, wte, wpe);
  runner.run(
    `embed ${wte.format} ${aligned}`,
    () => ({
      source: reduceSource + embedSource,
      constants: { BACKWARD: false, THREADS: ROW_THREADS, SUBGROUPS: subgroups },
      params: { T: "u32", E: "u32" },
      bindings: {
        tokens: U32,
        positions: U32,
        wte: bindingOf(wte, "read", aligned),
        wpe: bindingOf(wpe, "read", aligned),
        x: bindingOf(x, "write", aligned),
      },
    }),
    [tokens, positions, wte, wpe, x],
    [count, x.cols],
    ...workgroupGrid(count),
  );
}

/** See `Device.embedBackward`: the gradient of each row's sum, then for each id in use the sum over its rows. */
export function embedBackward(
  { runner, subgroups, scratch }: RowContext,
  dWte: GpuTensor,
  dWpe: GpuTensor,
  dx: GpuTensor,
  batch: GpuBatch,
  wte: GpuTensor,
  wpe: GpuTensor,
): void {
  const E = dx.cols;
  const T = batch.tokenCount;
  const { sections } = batch;
  const ds = scratch(batch.maxTokens * E, "embedding");
  const aligned = isAligned(E, dx, wte, wpe);
  runner.run(
    `embed backward ${wte.format} ${aligned}`,
    () => ({
      source: reduceSource + embedSource,
      constants: { BACKWARD: true, THREADS: ROW_THREADS, SUBGROUPS: subgroups },
      params: { T: "u32", E: "u32" },
      bindings: {
        tokens: U32,
        positions: U32,
        wte: bindingOf(wte, "read", aligned),
        wpe: bindingOf(wpe, "read", aligned),
        dx: bindingOf(dx, "read", aligned),
        ds: bindingOf(ds, "write", aligned),
      },
    }),
    [sections.tokens, sections.positions, wte, wpe, dx, ds],
    [T, E],
    ...workgroupGrid(T),
  );
  gather(runner, dWte, ds, sections.tokenOrder, sections.tokenRuns, batch.tokenRunCount);
  gather(runner, dWpe, ds, sections.positionOrder, sections.positionRuns, batch.positionRunCount);
}

/** table[id] += the rows of ds that used id, in their order. */
export function gather(
  runner: KernelRunner,
  table: GpuTensor,
  ds: GpuTensor,
  order: GpuTensor,
  runs: GpuTensor,
  runCount: number,
): void {
  const aligned = isAligned(table.cols, table, ds);
  runner.run(
    `embed gather ${aligned}`,
    () => ({
      source: embedGatherSource,
      constants: {},
      params: { runs: "u32", E: "u32" },
      bindings: {
        order: U32,
        runs: U32,
        ds: bindingOf(ds, "read", aligned),
        table: bindingOf(table, "write", aligned),
      },
    }),
    [order, runs, ds, table],
    [runCount, table.cols],
    ...workgroupGrid(runCount),
  );
}

/** See `Device.rmsNorm`. */
export function rmsNorm({ runner, subgroups }: RowContext, out: GpuTensor, x: GpuTensor): void {
  const aligned = isAligned(x.cols, out, x);
  runner.run(
    `rmsNorm ${x.format} ${out.format} ${aligned}`,
    () => ({
      source: reduceSource + rmsNormSource,
      constants: { BACKWARD: false, THREADS: ROW_THREADS, SUBGROUPS: subgroups },
      params: { T: "u32", E: "u32" },
      bindings: { x: bindingOf(x, "read", aligned), out: bindingOf(out, "write", aligned) },
    }),
    [x, out],
    [x.rows, x.cols],
    ...workgroupGrid(x.rows),
  );
}

/** See `Device.rmsNormBackward`. */
export function rmsNormBackward(
  { runner, subgroups }: RowContext,
  dx: GpuTensor,
  dy: GpuTensor,
  x: GpuTensor,
): void {
  const aligned = isAligned(x.cols, dx, dy, x);
  runner.run(
    `rmsNorm backward ${x.format} ${dy.format} ${aligned}`,
    () => ({
      source: reduceSource + rmsNormSource,
      constants: { BACKWARD: true, THREADS: ROW_THREADS, SUBGROUPS: subgroups },
      params: { T: "u32", E: "u32" },
      bindings: {
        x: bindingOf(x, "read", aligned),
        dy: bindingOf(dy, "read", aligned),
        dx: bindingOf(dx, "write", aligned),
      },
    }),
    [x, dy, dx],
    [x.rows, x.cols],
    ...workgroupGrid(x.rows),
  );
}

/** See `Device.crossEntropy`. */
export function crossEntropy(
  { runner, subgroups }: RowContext,
  logits: GpuTensor,
  losses: GpuTensor,
  batch: GpuBatch,
  firstRow: number,
  scale: number,
  control: GpuTensor,
): void {
  const aligned = isAligned(logits.cols, logits);
  const threads = vocabularyThreads(logits.cols);
  runner.run(
    `crossEntropy ${threads} ${aligned}`,
    () => ({
      source: reduceSource + crossEntropySource,
      constants: { THREADS: threads, SUBGROUPS: subgroups },
      params: { rows: "u32", V: "u32", first_row: "u32", scale: "f32", z_loss: "f32" },
      bindings: {
        logits: bindingOf(logits, "write", aligned),
        losses: F32_WRITE,
        targets: U32,
        weights: U32,
        control: F32,
      },
    }),
    [logits, losses, batch.sections.targets, batch.sections.weights, control],
    [logits.rows, logits.cols, firstRow, scale, batch.regularization?.zLoss ?? 0],
    ...workgroupGrid(logits.rows),
  );
}

/** See `Device.sample`. */
export function sample(
  { runner, subgroups }: RowContext,
  rows: GpuDecodeRows,
  logits: GpuTensor,
  output: GpuTensor,
  step: number,
  { seeds, settings, said }: { seeds: GpuTensor; settings: GpuTensor; said: GpuTensor },
): void {
  const threads = vocabularyThreads(logits.cols);
  const penalties = said.cols === logits.cols;
  runner.run(
    `sample ${threads} ${penalties}`,
    () => ({
      source: reduceSource + randomSource + sampleSource,
      constants: { THREADS: threads, SUBGROUPS: subgroups, PENALTIES: penalties },
      params: {
        N: "u32",
        V: "u32",
        stride: "u32",
        step: "u32",
      },
      bindings: {
        logits: F32,
        seeds: U32,
        settings: F32,
        sequences: U32,
        tokens: U32_WRITE,
        positions: U32_WRITE,
        output: U32_WRITE,
        ...(penalties ? { said: U32_WRITE } : {}),
      },
    }),
    [
      logits,
      seeds,
      settings,
      rows.sequences,
      rows.tokens,
      rows.positions,
      output,
      ...(penalties ? [said] : []),
    ],
    [logits.rows, logits.cols, output.cols, step],
    ...workgroupGrid(logits.rows),
  );
}
