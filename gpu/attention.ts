/** Attention on the GPU: forward, backward, and of a decoding step. */
import { MicrogptError } from "../device/errors.ts";
import type { GpuBatch } from "./batch.ts";
import type { GpuTensor } from "./buffers.ts";
import { type KernelRunner, workgroupGrid } from "./kernel_runner.ts";
import attentionSource from "./kernels/attention.wgsl" with { type: "text" };
import backwardSource from "./kernels/attention_backward.wgsl" with { type: "text" };
import cachedSource from "./kernels/attention_cached.wgsl" with { type: "text" };
import tilesSource from "./kernels/attention_tiles.wgsl" with { type: "text" };
import reduceSource from "./kernels/reduce.wgsl" with { type: "text" };
import { type BindingSpec, F32, F32_WRITE, U32 } from "./shader_source.ts";

/** What attention needs from its device. */
export interface AttentionContext {
  runner: KernelRunner;
  subgroups: boolean;
  /** bytes of workgroup memory that a kernel may have */
  workgroupMemory: number;
  /** an f32 tensor of at least `elements`, valid until the next call for the same purpose */
  scratch(elements: number, purpose: string): GpuTensor;
}

/** Partial sums of a decoding workgroup, in vec4: 16 KiB where there is room for that and 3 KiB more, else 8 KiB. */
function partialQuads(workgroupMemory: number): number {
  return workgroupMemory >= 20 << 10 ? 1024 : 512;
}

/** A query and its sum live in registers; a decoding workgroup has at least one thread per quad. */
function maxHeadDim(workgroupMemory: number): number {
  return workgroupMemory >= 20 << 10 ? 128 : 64;
}

/** Width of a head of E = H·D numbers, checked. */
function headDim(E: number, nHead: number, format: string, workgroupMemory: number): number {
  const D = E / nHead;
  if (!Number.isInteger(D)) throw new RangeError(`${nHead} heads do not divide ${E}`);
  const widest = maxHeadDim(workgroupMemory);
  if (D > widest) {
    throw new MicrogptError(
      `a head of ${D} numbers is too wide for the GPU kernels, which hold at most ${widest}`,
      {
        hint: "choose a larger `nHead`, or use `device` cpu",
        usage: true,
      },
    );
  }
  if (format === "bf16" && D % 2 === 1) {
    throw new MicrogptError(
      `a head of ${D} numbers cannot be stored in bf16 on the GPU, which packs two in a word`,
      {
        hint: "choose `nHead` so that n_embd / n_head is even, or use `dtype` f32",
        usage: true,
      },
    );
  }
  return D;
}

/** How attention_tiles.wgsl divides a head: PARTS times DEPTH numbers for the scores, PARTS times 32 for the sums. */
function headConstants(D: number): Record<string, number> {
  const PARTS = Math.ceil(D / 32);
  return { D, QUADS: Math.ceil(D / 4), PARTS, DEPTH: Math.ceil(D / PARTS / 4) * 4 };
}

/** Workgroups of rows, or of blocks of rows, and heads: heads are few and take y, so rows have x and z. */
function rowsAndHeads(rows: number, nHead: number): [number, number, number] {
  const [x, z] = workgroupGrid(rows);
  return [x, nHead, z];
}

function isAligned(D: number, ...tensors: GpuTensor[]): boolean {
  return D % 4 === 0 && tensors.every((tensor) => tensor.offset % 4 === 0);
}

const PARAMS = { T: "u32", E: "u32", H: "u32", blocks: "u32", scale: "f32" } as const;

/** See `Device.attention`. */
export function attention(
  { runner, workgroupMemory }: AttentionContext,
  out: GpuTensor,
  lse: GpuTensor,
  qkv: GpuTensor,
  batch: GpuBatch,
  nHead: number,
  nKvHead: number,
): void {
  const E = out.cols;
  const D = headDim(E, nHead, qkv.format, workgroupMemory);
  const GROUP = nHead / nKvHead;
  const aligned = isAligned(D, out, qkv);
  const { positions, forwardItems } = batch.sections;
  runner.run(
    `attention ${qkv.format} ${aligned} D=${D} G=${GROUP}`,
    () => ({
      source: tilesSource + attentionSource,
      constants: { ...headConstants(D), GROUP, BACKWARD: false },
      params: PARAMS,
      bindings: {
        qkv: { format: qkv.format, access: "read", aligned },
        out: { format: out.format, access: "write", aligned },
        lse: F32_WRITE,
        positions: U32,
        items: U32,
      },
    }),
    [qkv, out, lse, positions, forwardItems],
    [batch.tokenCount, E, nHead, batch.blockCount, 1 / Math.sqrt(D)],
    ...rowsAndHeads(batch.blockCount, nHead),
  );
}

/** See `Device.attentionBackward`. */
export function attentionBackward(
  { runner, scratch, workgroupMemory }: AttentionContext,
  dQkv: GpuTensor,
  dOut: GpuTensor,
  out: GpuTensor,
  lse: GpuTensor,
  qkv: GpuTensor,
  batch: GpuBatch,
  nHead: number,
  nKvHead: number,
): void {
  const E = out.cols;
  const D = headDim(E, nHead, qkv.format, workgroupMemory);
  const GROUP = nHead / nKvHead;
  const aligned = isAligned(D, dQkv, dOut, out, qkv);
  const delta = scratch(qkv.rows * nHead, "attention");
  const { positions, forwardItems, backwardItems } = batch.sections;
  const read = ({ format }: GpuTensor): BindingSpec => ({ format, access: "read", aligned });
  const shared = { qkv: read(qkv), d_out: read(dOut), lse: F32, positions: U32, items: U32 };
  const dqkv: BindingSpec = { format: dQkv.format, access: "write", aligned };
  const constants = { ...headConstants(D), GROUP, BACKWARD: true };
  const values = [batch.tokenCount, E, nHead, batch.blockCount, 1 / Math.sqrt(D)];
  runner.run(
    `attention backward, queries ${qkv.format} ${aligned} D=${D} G=${GROUP}`,
    () => ({
      source: tilesSource + backwardSource,
      constants: { ...constants, QUERIES: true },
      params: PARAMS,
      bindings: { ...shared, out: read(out), dqkv, delta: F32_WRITE },
    }),
    [qkv, dOut, lse, positions, forwardItems, out, dQkv, delta],
    values,
    ...rowsAndHeads(batch.blockCount, nHead),
  );
  runner.run(
    `attention backward, keys ${qkv.format} ${aligned} D=${D} G=${GROUP}`,
    () => ({
      source: tilesSource + backwardSource,
      constants: { ...constants, QUERIES: false },
      params: PARAMS,
      bindings: { ...shared, delta: F32, dqkv },
    }),
    [qkv, dOut, lse, positions, backwardItems, delta, dQkv],
    values,
    ...rowsAndHeads(batch.blockCount, nKvHead),
  );
}

/** Rows of a decoding step, as tensors of this device. */
export interface GpuDecodeRows {
  tokens: GpuTensor;
  positions: GpuTensor;
  sequences: GpuTensor;
}

/** See `Device.attentionCached`. */
export function attentionCached(
  { runner, subgroups, workgroupMemory }: AttentionContext,
  out: GpuTensor,
  qkv: GpuTensor,
  cache: GpuTensor,
  rows: GpuDecodeRows,
  blockSize: number,
  nHead: number,
  nKvHead: number,
): void {
  const E = out.cols;
  const D = headDim(E, nHead, qkv.format, workgroupMemory);
  const GROUP = nHead / nKvHead;
  const quads = Math.ceil(D / 4);
  const aligned = isAligned(D, out, qkv, cache);
  const threads = Math.max(
    16,
    Math.min(128, 2 ** Math.floor(Math.log2(partialQuads(workgroupMemory) / quads))),
  );
  runner.run(
    `attention cached ${qkv.format} ${aligned} D=${D} G=${GROUP} ${threads}`,
    () => ({
      source: reduceSource + cachedSource,
      constants: { D, GROUP, QUADS: quads, THREADS: threads, SUBGROUPS: subgroups },
      params: { N: "u32", E: "u32", B: "u32", scale: "f32" },
      bindings: {
        qkv: { format: qkv.format, access: "read", aligned },
        positions: U32,
        sequences: U32,
        cache: { format: cache.format, access: "write", aligned },
        out: { format: out.format, access: "write", aligned },
      },
    }),
    [qkv, rows.positions, rows.sequences, cache, out],
    [qkv.rows, E, blockSize, 1 / Math.sqrt(D)],
    ...rowsAndHeads(qkv.rows, nHead),
  );
}
