/** Matrix products: chooses kernel and variant, and queues the calls. */
import type { MatmulForm, MatmulFusion } from "../device/device.ts";
import type { GpuTensor } from "./buffers.ts";
import { type KernelRunner, MAX_WORKGROUPS, workgroupGrid } from "./kernel_runner.ts";
import fusedSource from "./kernels/fused.wgsl" with { type: "text" };
import matmulSource from "./kernels/matmul.wgsl" with { type: "text" };
import matvecSource from "./kernels/matvec.wgsl" with { type: "text" };
import splitKSource from "./kernels/split_k.wgsl" with { type: "text" };
import { rmsNorm, type RowContext } from "./row_kernels.ts";
import type { BindingSpec, KernelSpec } from "./shader_source.ts";
import { type Hardware, K_STEP, MATVEC_ROWS, planTiles, type Tile, type TilePlan } from "./tiles.ts";

/** What the products need from their device. */
export interface MatmulContext {
  runner: KernelRunner;
  hardware: Hardware;
  /** an f32 tensor of at least `elements`, valid until the next call for the same purpose */
  scratch(elements: number, purpose: string): GpuTensor;
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
  /** of `a`'s rows; matvec.wgsl only */
  norm: boolean;
}

/** True when rows of `length` elements can be read four at a time. */
function isAligned(tensor: GpuTensor, length: number): boolean {
  return length % 4 === 0 && tensor.offset % 4 === 0;
}

function operand(tensor: GpuTensor, length: number, access: "read" | "write" = "read"): BindingSpec {
  return { format: tensor.format, access, aligned: isAligned(tensor, length) };
}

/** The properties of an operand that decide a kernel's variant, as part of its key. */
function variant(tensor: GpuTensor | undefined, length: number): string {
  if (!tensor) return "-";
  return isAligned(tensor, length) ? tensor.format : `${tensor.format}/1`;
}

/** Key of the variant of what is fused. */
function fusedVariant({ add, mask, accumulate, N }: Product): string {
  return `${accumulate ? "accumulate" : variant(add, N)} ${variant(mask, N)}`;
}

/** The bindings of what is fused, in the order of `withFused`. */
function fusedBindings({ add, mask, N }: Product): Record<string, BindingSpec> {
  return { ...(add && { add: operand(add, N) }), ...(mask && { mask: operand(mask, N) }) };
}

function withFused(tensors: GpuTensor[], { add, mask }: Product): GpuTensor[] {
  if (add) tensors.push(add);
  if (mask) tensors.push(mask);
  return tensors;
}

function fusedConstants({ add, mask, accumulate }: Product) {
  return { ADD: add !== undefined, ACCUMULATE: accumulate, MASK: mask !== undefined };
}

/**
 * out = a · b with what `fusion` adds, see `Device.matmul`.
 * @param plan how to cut the product; by default what we estimate to be best on this hardware
 * @throws {RangeError} when the shapes do not fit
 */
export function matmul(
  context: MatmulContext,
  out: GpuTensor,
  a: GpuTensor,
  b: GpuTensor,
  form: MatmulForm,
  fusion: MatmulFusion = {},
  plan?: TilePlan,
): void {
  const [M, K] = form === "TN" ? [a.cols, a.rows] : [a.rows, a.cols];
  const [N, bK] = form === "NT" ? [b.rows, b.cols] : [b.cols, b.rows];
  if (K !== bK || out.rows !== M || out.cols !== N) {
    throw new RangeError(
      `${form} product of [${a.rows}, ${a.cols}] and [${b.rows}, ${b.cols}] is not [${out.rows}, ${out.cols}]`,
    );
  }
  if (M === 0 || N === 0) return;
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
    norm: false,
  };
  if (!plan && form === "NT" && M <= MATVEC_ROWS) return runMatvec(context, product);
  const cut = plan ?? planTiles(M, N, K, context.hardware);
  if (cut.parts > 1) runSplit(context, product, cut);
  else runTiles(context, product, cut);
}

/**
 * See `Device.rmsNormMatmul`: in one call for few rows, else in two. In 16 bits always in two: the second would not
 * round the normalized rows, and a sample would depend on how many others are drawn with it.
 */
export function rmsNormMatmul(
  context: MatmulContext & RowContext,
  out: GpuTensor,
  x: GpuTensor,
  w: GpuTensor,
  norm: GpuTensor,
  relu: boolean,
): void {
  if (x.rows === 0) return;
  if (x.rows > MATVEC_ROWS || norm.format !== "f32") {
    rmsNorm(context, norm, x);
    return matmul(context, out, norm, w, "NT", { relu });
  }
  const [M, N, K] = [x.rows, w.rows, x.cols];
  const fused = { add: undefined, accumulate: false, relu, mask: undefined, norm: true };
  runMatvec(context, { out, a: x, b: w, M, N, K, form: "NT", ...fused });
}

function runMatvec({ runner }: MatmulContext, product: Product): void {
  const { out, a, b, M, N, K, relu, norm } = product;
  const rows = M <= 2 ? M : M <= 4 ? 4 : 8;
  runner.run(
    `matvec ${rows} ${norm} ${variant(a, K)} ${variant(b, K)} ${variant(out, N)} ${fusedVariant(product)}`,
    () => ({
      source: fusedSource + matvecSource,
      constants: { ROWS: rows, NORM: norm, ...fusedConstants(product) },
      params: { M: "u32", N: "u32", K: "u32", relu: "u32" },
      bindings: {
        a: operand(a, K),
        b: operand(b, K),
        out: operand(out, N, "write"),
        ...fusedBindings(product),
      },
    }),
    withFused([a, b, out], product),
    [M, N, K, Number(relu)],
    ...workgroupGrid(Math.ceil(N / 8)),
    Math.ceil(M / rows),
  );
}

/** matmul.wgsl on a product whose `out` may be scratch memory for parts of K. */
function runTiles({ runner }: MatmulContext, product: Product, plan: TilePlan): void {
  const { out, a, b, M, N, K, form, relu } = product;
  const { tile, part, parts } = plan;
  const lengthA = form === "TN" ? M : K;
  const lengthB = form === "NT" ? K : N;
  const fused = fusedVariant(product);
  const whole = K > 0 && K % K_STEP === 0;
  const key = `matmul ${form} ${tile.name} ${whole} ${variant(a, lengthA)} ${variant(b, lengthB)} ${
    variant(out, N)
  } ${fused}`;
  const specify = (): KernelSpec => ({
    source: fusedSource + matmulSource,
    constants: { ...tileConstants(tile, form), WHOLE: whole, ...fusedConstants(product) },
    params: {
      M: "u32",
      N: "u32",
      K: "u32",
      part: "u32",
      relu: "u32",
      first_tile_n: "u32",
      first_tile_m: "u32",
    },
    bindings: {
      a: operand(a, lengthA),
      b: operand(b, lengthB),
      out: operand(out, N, "write"),
      ...fusedBindings(product),
    },
  });
  const tensors = withFused([a, b, out], product);
  for (const [firstM, tilesM] of stretches(plan.tilesM)) {
    for (const [firstN, tilesN] of stretches(plan.tilesN)) {
      const values = [M, N, K, part, Number(relu), firstN, firstM];
      runner.run(key, specify, tensors, values, tilesN, tilesM, parts);
    }
  }
}

function tileConstants(tile: Tile, form: MatmulForm) {
  return {
    BM: tile.bm,
    BN: tile.bn,
    GROUPS_M: tile.groupsM,
    GROUPS_N: tile.groupsN,
    THREADS: tile.threads,
    SHARED_LOAD: tile.sharedLoad,
    A_ALONG_K: form !== "TN",
    B_ALONG_K: form === "NT",
  };
}

/** The calls for n tiles along one dimension, at most `most` in a call: (first tile, tiles), nearly always just one. */
export function stretches(n: number, most = MAX_WORKGROUPS): [first: number, count: number][] {
  const calls = Math.ceil(n / most);
  return Array.from({ length: calls }, (_, i) => [i * most, Math.min(most, n - i * most)]);
}

/**
 * Puts each part of K into scratch memory, then adds them up with what is fused. Each form has its own scratch: the
 * gradients of weights and of activations are neighbours in the queue, and calls that share no buffer may overlap on
 * the GPU.
 */
function runSplit(context: MatmulContext, product: Product, plan: TilePlan): void {
  const { out, M, N, relu } = product;
  const sums = context.scratch(plan.parts * M * N, `parts of a product ${product.form}`);
  runTiles(context, {
    ...product,
    out: sums,
    add: undefined,
    mask: undefined,
    accumulate: false,
    relu: false,
  }, plan);
  context.runner.run(
    `split_k ${variant(sums, N)} ${variant(out, N)} ${fusedVariant(product)}`,
    () => ({
      source: fusedSource + splitKSource,
      constants: fusedConstants(product),
      params: { M: "u32", N: "u32", parts: "u32", relu: "u32" },
      bindings: { parts: operand(sums, N), out: operand(out, N, "write"), ...fusedBindings(product) },
    }),
    withFused([sums, out], product),
    [M, N, plan.parts, Number(relu)],
    ...workgroupGrid(Math.ceil(N / 256) * M),
  );
}
