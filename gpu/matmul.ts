/** Matrix products: chooses kernel and variant, and queues the calls. */
import type { MatmulForm, MatmulFusion } from "../model/device.ts";
import type { GpuTensor } from "./buffers.ts";
import type { KernelRunner } from "./kernel_runner.ts";
import matmulSource from "./kernels/matmul.wgsl" with { type: "text" };
import matvecSource from "./kernels/matvec.wgsl" with { type: "text" };
import splitKSource from "./kernels/split_k.wgsl" with { type: "text" };
import type { BindingSpec } from "./shader_source.ts";
import { type AdapterClass, MATVEC_ROWS, planTiles, type TilePlan } from "./tiles.ts";

/** What the products need from their device. */
export interface MatmulContext {
  runner: KernelRunner;
  adapterClass: AdapterClass;
  /** an f32 tensor of at least so many elements, good until the next call that asks for it */
  scratch(elements: number): GpuTensor;
}

/** One product, its operands and its variant. */
interface Product {
  out: GpuTensor;
  a: GpuTensor;
  b: GpuTensor;
  M: number;
  N: number;
  K: number;
  form: MatmulForm;
  add: GpuTensor | undefined;
  accumulate: boolean;
  relu: boolean;
  mask: GpuTensor | undefined;
}

/** True when rows of `length` elements can be read four at a time. */
function isAligned(tensor: GpuTensor, length: number): boolean {
  return length % 4 === 0 && tensor.offset % 4 === 0;
}

function operand(tensor: GpuTensor, length: number, access: "read" | "write" = "read"): BindingSpec {
  return { format: tensor.format, access, aligned: isAligned(tensor, length) };
}

/** The part of a variant's key that a binding accounts for. */
function variant({ format, aligned }: BindingSpec): string {
  return aligned ? `${format}x4` : format;
}

/** Bindings and tensors of what is fused, in the order in which the kernels declare them. */
function fusedBindings(
  { add, mask, N }: Product,
): { bindings: Record<string, BindingSpec>; tensors: GpuTensor[] } {
  return {
    bindings: { ...(add && { add: operand(add, N) }), ...(mask && { mask: operand(mask, N) }) },
    tensors: [...(add ? [add] : []), ...(mask ? [mask] : [])],
  };
}

function describe(
  bindings: Record<string, BindingSpec>,
  constants: Record<string, number | boolean>,
): string {
  const parts = Object.entries(bindings).map(([name, binding]) => `${name}:${variant(binding)}`);
  const flags = Object.entries(constants).map(([name, value]) =>
    value === true ? name : value ? `${name}=${value}` : ""
  );
  return [...parts, ...flags.filter(Boolean)].join(" ");
}

/**
 * out = a · b with what `fusion` adds, see `Device.matmul`.
 * @throws {RangeError} when the shapes do not fit
 */
export function matmul(
  context: MatmulContext,
  out: GpuTensor,
  a: GpuTensor,
  b: GpuTensor,
  form: MatmulForm,
  fusion: MatmulFusion = {},
): void {
  const [M, K] = form === "TN" ? [a.cols, a.rows] : [a.rows, a.cols];
  const [N, bK] = form === "NT" ? [b.rows, b.cols] : [b.cols, b.rows];
  if (K !== bK || out.rows !== M || out.cols !== N) {
    throw new RangeError(
      `${form} product of [${a.rows}, ${a.cols}] and [${b.rows}, ${b.cols}] is not [${out.rows}, ${out.cols}]`,
    );
  }
  const add = fusion.add as GpuTensor | undefined;
  const accumulate = add !== undefined && add.memory === out.memory && add.offset === out.offset;
  const product: Product = {
    out,
    a,
    b,
    M,
    N,
    K,
    form,
    add: accumulate ? undefined : add,
    accumulate,
    relu: fusion.relu ?? false,
    mask: fusion.reluMask as GpuTensor | undefined,
  };
  if (form === "NT" && M <= MATVEC_ROWS) return runMatvec(context, product);
  const plan = planTiles(M, N, K, context.adapterClass);
  if (plan.parts > 1) runSplit(context, product, plan);
  else runTiles(context, product, plan);
}

function runMatvec({ runner }: MatmulContext, product: Product): void {
  const { out, a, b, M, N, K, accumulate, relu, mask, add } = product;
  const fused = fusedBindings(product);
  const bindings = {
    a: operand(a, K),
    b: operand(b, K),
    out: operand(out, N, "write"),
    ...fused.bindings,
  };
  const rows = M <= 2 ? M : M <= 4 ? 4 : 8;
  const constants = { ROWS: rows, ADD: add !== undefined, ACCUMULATE: accumulate, MASK: mask !== undefined };
  runner.run(
    `matvec ${describe(bindings, constants)}`,
    () => ({
      source: matvecSource,
      constants,
      params: { M: "u32", N: "u32", K: "u32", relu: "u32" },
      bindings,
    }),
    [a, b, out, ...fused.tensors],
    [M, N, K, Number(relu)],
    Math.ceil(N / 8),
  );
}

function tileConstants({ form, accumulate, add, mask }: Product, { tile }: TilePlan) {
  return {
    BM: tile.bm,
    BN: tile.bn,
    GROUPS_M: tile.groupsM,
    GROUPS_N: tile.groupsN,
    THREADS: tile.threads,
    SHARED_LOAD: tile.sharedLoad,
    A_ALONG_K: form !== "TN",
    B_ALONG_K: form === "NT",
    SPLIT: false,
    ADD: add !== undefined,
    ACCUMULATE: accumulate,
    MASK: mask !== undefined,
  };
}

function runTiles({ runner }: MatmulContext, product: Product, plan: TilePlan): void {
  const { out, a, b, M, N, K, form, relu } = product;
  const fused = fusedBindings(product);
  const bindings = {
    a: operand(a, form === "TN" ? M : K),
    b: operand(b, form === "NT" ? K : N),
    out: operand(out, N, "write"),
    ...fused.bindings,
  };
  const constants = tileConstants(product, plan);
  runner.run(
    `matmul ${describe(bindings, constants)}`,
    () => ({
      source: matmulSource,
      constants,
      params: { M: "u32", N: "u32", K: "u32", part: "u32", relu: "u32" },
      bindings,
    }),
    [a, b, out, ...fused.tensors],
    [M, N, K, plan.part, Number(relu)],
    plan.tilesN,
    plan.tilesM,
    plan.parts,
  );
}

/** Each part of K into scratch memory, then their sum with what is fused. */
function runSplit(context: MatmulContext, product: Product, plan: TilePlan): void {
  const { out, a, b, M, N, K, form, accumulate, relu, add, mask } = product;
  const parts = context.scratch(plan.parts * M * N);
  const bindings = {
    a: operand(a, form === "TN" ? M : K),
    b: operand(b, form === "NT" ? K : N),
    out: operand(parts, N, "write"),
  };
  const constants = {
    ...tileConstants(product, plan),
    SPLIT: true,
    ADD: false,
    ACCUMULATE: false,
    MASK: false,
  };
  context.runner.run(
    `matmul ${describe(bindings, constants)}`,
    () => ({
      source: matmulSource,
      constants,
      params: { M: "u32", N: "u32", K: "u32", part: "u32", relu: "u32" },
      bindings,
    }),
    [a, b, parts],
    [M, N, K, plan.part, 0],
    plan.tilesN,
    plan.tilesM,
    plan.parts,
  );
  const fused = fusedBindings(product);
  const sumBindings = { parts: operand(parts, N), out: operand(out, N, "write"), ...fused.bindings };
  const sumConstants = { ADD: add !== undefined, ACCUMULATE: accumulate, MASK: mask !== undefined };
  context.runner.run(
    `split_k ${describe(sumBindings, sumConstants)}`,
    () => ({
      source: splitKSource,
      constants: sumConstants,
      params: { M: "u32", N: "u32", parts: "u32", relu: "u32" },
      bindings: sumBindings,
    }),
    [parts, out, ...fused.tensors],
    [M, N, plan.parts, Number(relu)],
    Math.ceil(N / 256),
    M,
  );
}
