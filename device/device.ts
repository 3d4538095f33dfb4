/**
 * What a device must be able to do: hold matrices and run the model's kernels on them. A network (`model/gpt.ts`) is
 * written once against this interface; `reference`, `cpu` and `webgpu` implement it and share one test suite.
 *
 * Letters in shapes: T tokens of all documents of a batch, end to end · E width of the residual stream · H heads of queries ·
 * Hkv heads of keys and values · D width of a head · F width of the MLP · V vocabulary · B block_size · N rows of a decoding
 * step.
 *
 * Calls only queue work, which runs in the order of the calls. Nothing waits but `read`.
 */

import type { NativeMemory } from "./group.ts";
import type { Regularization } from "./regularization.ts";

/** Type of the working weights and activations. Masters, gradients, moments and reductions are always f32. */
export type Dtype = "f32" | "bf16" | "f16";

/**
 * Type of weights that are only read, as in generating. q8 is ggml's Q8_0: 32 neighbours of a row share a scale in f16 and
 * have 8 bits each.
 */
export type WeightType = Dtype | "q8";

/** How files hold numbers: little endian, Q8_0 in blocks of a row, the scale and then 32 bytes. */
export type FileType = "F32" | "F16" | "BF16" | "Q8_0";

/** Element type of a tensor: `work` is the device's `workType`. */
export type ElementType = "f32" | "u32" | "work";

/** A row-major matrix on a device. `rows` says how many of its `capacity` rows are in use now; set it freely. */
export interface Tensor {
  readonly type: ElementType;
  readonly capacity: number;
  readonly cols: number;
  rows: number;
}

/** The documents of a batch, end to end without padding, on the host. Document d is tokens[starts[d] … starts[d+1]). */
export interface PackedDocuments {
  /** [T] input ids */
  tokens: Uint32Array;
  /** [T] the id that follows each input */
  targets: Uint32Array;
  /** [documents + 1] first token of each document, then T; positions count from 0 in each document */
  starts: Uint32Array;
  /** [T] how much each target counts in the loss, from 0; absent: all count once */
  weights?: Float32Array;
  /** where they are trained on */
  regularization?: Regularization;
}

/** Packed documents on a device, with whatever work lists its kernels want; filled by `loadBatch`. */
export interface Batch {
  readonly maxTokens: number;
  readonly maxDocuments: number;
  /** T of the documents loaded last */
  tokenCount: number;
  /** theirs */
  regularization: Regularization | undefined;
}

/**
 * Which operands of `out = a · b` are transposed. NT: a [M, K], b [N, K] (y = x · Wᵀ). NN: a [M, K], b [K, N]
 * (dx = dy · W). TN: a [K, M], b [K, N] (dW = dyᵀ · x). out is [M, N].
 */
export type MatmulForm = "NT" | "NN" | "TN";

/** What a matrix product does with its result before it is stored, in this order. */
export interface MatmulFusion {
  /** [M, N] added to the product; may be `out` itself, to accumulate */
  add?: Tensor;
  /** max(0, ·) */
  relu?: boolean;
  /** [M, N] the result becomes 0 where this is not positive: the backward of relu, given relu's output */
  reluMask?: Tensor;
  /** f32 operands are multiplied as they are, by a device too that rounds them to its dtype */
  exact?: boolean;
}

/**
 * The rows of one decoding step: row r feeds `tokens[r]` at `positions[r]` of cache line `sequences[r]`. All u32 [N,
 * 1]. Rows of one sequence are neighbours at consecutive positions: a prompt.
 */
export interface DecodeRows {
  tokens: Tensor;
  positions: Tensor;
  sequences: Tensor;
}

/**
 * In a decoding step of at most so many rows, a row's logits have the same bits however many others there are, on every
 * device.
 */
export const STEP_ROWS = 32;

/**
 * A smaller temperature is treated as 0: it is not a normal f32 number, so to some devices, which divide by it, it is
 * 0.
 */
export const LEAST_TEMPERATURE = 2 ** -126;

/**
 * How the next token is drawn from logits. NaN and −∞ are never drawn; where nothing else is left, id 0 is. +∞ always
 * is, the lowest id of several.
 */
export interface Sampling {
  /** below `LEAST_TEMPERATURE` (so at 0 or less too) takes the most probable token, the lowest id among equals */
  temperature: number;
  /** keep tokens whose logit is at least the k-th largest; 0 = all */
  topK: number;
  /** then keep the most probable tokens that together reach this mass, and all equal to the last of them; 1 = all */
  topP: number;
  /** then keep tokens at least this share as probable as the most probable one (Nguyen et al. 2024); 0 = all */
  minP: number;
  /** before all: positive logits of ids that were said are divided by it, others multiplied (Keskar et al. 2019); 1 = off */
  repetitionPenalty: number;
  /** then taken off a logit for each time that its id was drawn; 0 = off */
  frequencyPenalty: number;
  /** and taken off a logit whose id was drawn at all; 0 = off */
  presencePenalty: number;
  /** ids that are never drawn: at most 8 runs of neighbours */
  suppressed: readonly number[];
}

/** How the sequences of a decoder are drawn. */
export interface Draws {
  /** u32 [sequences, 1], as `mixSeed` makes them */
  seeds: Tensor;
  /** f32 [sequences, 24], rows as `samplingRow` makes them */
  settings: Tensor;
  /** u32 [sequences, V]: how often each id was drawn, with `IN_PROMPT`; [sequences, 1] where nobody has penalties */
  said: Tensor;
}

/** Set in an id's count of draws where the prompt has the id. */
export const IN_PROMPT = 0x8000_0000;

/** Everything Adam touches: arrays of one length, [1, n]. `work` is `params` itself where the device's `workType` is f32. */
export interface AdamState {
  params: Tensor;
  work: Tensor;
  gradients: Tensor;
  m: Tensor;
  v: Tensor;
  /** f32 [1, 4], see `CONTROL`; only read */
  control: Tensor;
}

/**
 * Columns of `control`, f32 [1, 4]: what steps leave for later ones. They stay on the device, because the host does not
 * wait to learn whether a step was skipped.
 */
export const CONTROL = {
  /**
   * steps that counted, including the current one once `decideStep` was called. An f32 counts to 2²⁴ and stays there:
   * the corrections, 1 − betaᵗ, will long have been 1 by then
   */
  adamStep: 0,
  /** factor on the loss gradient while it is in f16; 1 for other types */
  lossScale: 1,
  /** finite steps since `lossScale` changed */
  goodSteps: 2,
  /** what to multiply gradients by: clipping, and the loss scale undone. Negative: the step does not count */
  gradientFactor: 3,
} as const;

/** Columns of the metrics ring (f32 [ring, 4]), which has one row per step. */
export const METRIC = {
  /** mean negative log-likelihood of the step */
  loss: 0,
  /** global gradient norm before clipping */
  gradNorm: 1,
  /** 1 when the step changed the weights, 0 when it was skipped for a loss or norm that is not finite */
  applied: 2,
} as const;

export interface AdamHyper {
  learningRate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  /** decoupled: params −= learningRate · weightDecay · params (Loshchilov & Hutter 2019); 0 = off */
  weightDecay: number;
}

/** What an update made elsewhere changes: arrays of one shape. `work` is `params` itself where the device's `workType` is f32. */
export interface UpdateTarget {
  params: Tensor;
  work: Tensor;
  /** f32 [1, 4], see `CONTROL`; only read */
  control: Tensor;
}

/** How large an update is that was made elsewhere. */
export interface UpdateHyper {
  learningRate: number;
  /** decoupled, as Adam's; 0 = off */
  weightDecay: number;
  /** decay only weights that the update makes smaller too (Chen et al. 2025) */
  cautious: boolean;
}

/**
 * What memory is for: the memory plan groups by it, and errors know from it what would make it smaller. `moments` are
 * what an optimizer remembers of earlier gradients.
 */
export type Purpose = "weights" | "gradients" | "moments" | "activations" | "decoding";

/** The part of a device that gives out memory. A counter that implements it gives the memory plan. */
export interface Allocator {
  /**
   * A zeroed [rows, cols] matrix.
   * @param label names it in error messages and nowhere else
   * @param type default f32
   * @param purpose default: `activations`, which a step works in
   * @throws {MicrogptError} when memory is short
   */
  tensor(label: string, rows: number, cols: number, type?: ElementType, purpose?: Purpose): Tensor;
  /** A batch with room for `maxTokens` tokens and `maxDocuments` documents. */
  createBatch(maxTokens: number, maxDocuments: number): Batch;
}

/** A matrix of a flat array of weights: rows · cols elements from `offset` on. */
export interface WeightMatrix {
  offset: number;
  rows: number;
  cols: number;
  /** q8 wants rows of whole blocks of 32 */
  type: WeightType;
}

/** Weights that are only read, in whatever form the device likes best for that. */
export interface HeldWeights {
  /**
   * [1, length], to be viewed and freed. A view is one whole matrix, for `rmsNormMatmul`, `embedRows`, `lookupRows` and `matmul` in the
   * form NT without mask, or lies between matrices and is f32.
   */
  readonly flat: Tensor;
  /**
   * Writes elements from `offset` on: whole rows of one matrix, or what lies between matrices.
   * @param bytes as a file of that type has them; rounded where the type is another than the matrix's
   * @returns the first element that is not finite or too large for the matrix's type, counted from `offset`; −1 when there is none
   */
  write(offset: number, type: FileType, bytes: Uint8Array<ArrayBuffer>): number;
}

export interface Device extends Allocator {
  readonly kind: "reference" | "cpu" | "webgpu";
  /** The hardware's own name, for people. */
  readonly name: string;
  readonly dtype: Dtype;
  /** How `work` tensors are held: in `dtype`, or in f32 by a device that rounds the operands of a product as it reads them. */
  readonly workType: Dtype;
  /** What a person should know before computing on it. */
  readonly warnings: string[];
  /** Most steps that the host may queue before it reads metrics; 1 where a read costs nothing. */
  readonly stepsInFlight: number;

  /** [rows, cols] of the same memory, from element `offset`. Shares, never copies; the parent must outlive it. */
  view(tensor: Tensor, offset: number, rows: number, cols: number): Tensor;
  /**
   * Memory for weights that are only read; a device that lacks this has no better form for them than `work`. A row of a
   * product with them has the same bits whatever the number of rows.
   * @param length of the flat array
   * @param matrices in the order of their offsets; what lies between them is f32
   * @throws {MicrogptError} when memory is short
   */
  holdWeights?(label: string, length: number, matrices: readonly WeightMatrix[]): HeldWeights;
  /** Frees a tensor's memory now (its views die with it). Does nothing the second time, or after `destroy`. */
  free(tensor: Tensor): void;
  /** Copies `data` to the elements from `offset` on; f32 data for a `work` tensor is rounded to its type. */
  write(tensor: Tensor, data: Float32Array | Uint32Array, offset?: number): void;
  /** The rows in use, as they are at this point of the queue. A Uint32Array for u32 tensors, else a Float32Array. */
  read(tensor: Tensor): Promise<Float32Array | Uint32Array>;
  /** Sets the rows in use to zero. */
  zero(tensor: Tensor): void;
  /**
   * out = from, for the rows in use: both of one shape and type, and not overlapping where both are views of one
   * tensor.
   */
  copy(out: Tensor, from: Tensor): void;
  /** out += a, the rows in use of f32 tensors of one shape. */
  add(out: Tensor, a: Tensor): void;
  /** Where the native library has the rows in use; a device that keeps its memory elsewhere lacks this. */
  nativeMemory?(tensor: Tensor): NativeMemory;
  loadBatch(batch: Batch, documents: PackedDocuments): void;
  /** Sends what is queued on its way; call once a step. */
  submit(): void;
  /**
   * Ends the device and frees all its memory; does nothing the second time. Every later call but `free` throws a
   * `MicrogptError`; a read still under way gives its numbers or rejects with the same error.
   */
  destroy(): void;

  /** x[t] = rmsnorm(wte[token] + wpe[position]).  x: [T, E] f32 */
  embed(x: Tensor, batch: Batch, wte: Tensor, wpe: Tensor): void;
  /** Adds to dWte [V, E] and dWpe [B, E] the gradient of `embed`, each row in the order of its tokens in the batch. */
  embedBackward(dWte: Tensor, dWpe: Tensor, dx: Tensor, batch: Batch, wte: Tensor, wpe: Tensor): void;
  /** x[t] = table[token].  x: [T, E] f32   table: [V, E] */
  lookup(x: Tensor, batch: Batch, table: Tensor): void;
  /** Adds to dTable [V, E] the gradient of `lookup`, each row in the order of its tokens in the batch. */
  lookupBackward(dTable: Tensor, dx: Tensor, batch: Batch): void;
  /** out = x / sqrt(mean(x²) + 1e-5), row by row.  out, x: [T, E] */
  rmsNorm(out: Tensor, x: Tensor): void;
  /** dx += rmsnorm's gradient at x for dy.  all [T, E] */
  rmsNormBackward(dx: Tensor, dy: Tensor, x: Tensor): void;
  /** out = weight ∘ x / sqrt(mean(x²) + epsilon), row by row.  out, x: [T, E]   weight: [1, E] work */
  scaledRmsNorm(out: Tensor, x: Tensor, weight: Tensor, epsilon: number): void;
  /** dx [T, E] += and dWeight [1, E] += the gradients of `scaledRmsNorm` at x for dy; dWeight in the order of the rows, or of fixed blocks. */
  scaledRmsNormBackward(
    dx: Tensor,
    dWeight: Tensor,
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    epsilon: number,
  ): void;
  /**
   * out = qkv with each head of queries and keys made weight ∘ x / sqrt(mean(x²) + epsilon) over its D numbers; values are
   * copied (Dehghani et al. 2023).  out, qkv: [T, (H + 2 Hkv)·D]   weights: [2, D] work, of queries, then of keys
   */
  headNorm(
    out: Tensor,
    qkv: Tensor,
    weights: Tensor,
    nHead: number,
    nKvHead: number,
    epsilon: number,
  ): void;
  /** dQkv, of qkv's shape, = the gradient of `headNorm` at qkv for dOut; dWeights [2, D] += theirs. */
  headNormBackward(
    dQkv: Tensor,
    dWeights: Tensor,
    dOut: Tensor,
    qkv: Tensor,
    weights: Tensor,
    nHead: number,
    nKvHead: number,
    epsilon: number,
  ): void;
  /**
   * Turns, in place, each pair (j, j + D/2) of the first `heads` heads of a row by its position's angles: (a, b) becomes
   * (a·cos − b·sin, b·cos + a·sin). Su et al. 2021.
   * @param x [T, at least heads · D]
   * @param angles [positions, D] f32: cosines of the D/2 pairs, then their sines
   * @param back the gradient: turns back
   */
  rope(x: Tensor, angles: Tensor, batch: Batch, heads: number, back?: boolean): void;
  /** out = silu(gate) ∘ up, with silu(g) = g · σ(g).  out: [T, F]   gateUp: [T, 2F], gates then ups */
  swiglu(out: Tensor, gateUp: Tensor): void;
  /** dGateUp [T, 2F] = the gradient of `swiglu` at gateUp for dOut [T, F]. */
  swigluBackward(dGateUp: Tensor, dOut: Tensor, gateUp: Tensor): void;
  /**
   * out = add + x ∘ kept / (1 − rate) (Srivastava et al. 2014): what is kept at a place of the network is drawn, see `dropAt`; a
   * gradient is dropped by the same call.  out, x: [T, E], `x` may be `out`   add: [T, E] f32, absent: 0
   * @throws {RangeError} for a batch without dropout
   */
  dropout(out: Tensor, x: Tensor, batch: Batch, place: number, add?: Tensor): void;
  /** out = a · b in one of three forms, with what `fusion` adds. */
  matmul(out: Tensor, a: Tensor, b: Tensor, form: MatmulForm, fusion?: MatmulFusion): void;
  /**
   * out = rmsnorm(x) · wᵀ, with `relu` max(0, ·); meant for the few rows of decoding.  out: [N, M]   x: [N, E] f32   w: [M, E]
   * @param norm [N, E] memory for rmsnorm(x), which a device need not use
   */
  rmsNormMatmul(out: Tensor, x: Tensor, w: Tensor, norm: Tensor, relu?: boolean): void;
  /**
   * Causal attention within each document. H / Hkv heads of queries share a head of keys and values (Ainslie et al. 2023).
   * out: [T, H·D]   lse: [T, H] f32, log-sum-exp of the scaled scores   qkv: [T, (H + 2 Hkv)·D], queries, keys, values
   * @param nKvHead Hkv, a divisor of H; default: H
   */
  attention(out: Tensor, lse: Tensor, qkv: Tensor, batch: Batch, nHead: number, nKvHead?: number): void;
  /** dQkv, of qkv's shape, from dOut [T, H·D] and what `attention` left. */
  attentionBackward(
    dQkv: Tensor,
    dOut: Tensor,
    out: Tensor,
    lse: Tensor,
    qkv: Tensor,
    batch: Batch,
    nHead: number,
    nKvHead?: number,
  ): void;
  /**
   * For the rows t = firstRow … firstRow + logits.rows of the batch: losses[t] = scale · weight · −log softmax(logits)[target],
   * and logits become their own gradient, scale · weight · lossScale · (softmax − onehot), with 2 · zLoss · logZ · softmax
   * more where the batch has a z-loss (Chowdhery et al. 2022), which the losses leave out. Where a target's weight is 0 both
   * are 0, whatever the logits were.  logits: [rows, V] f32   losses: [T, 1] f32
   */
  crossEntropy(
    logits: Tensor,
    losses: Tensor,
    batch: Batch,
    firstRow: number,
    scale: number,
    control: Tensor,
  ): void;
  /** metrics[slot].loss = Σ losses, or += with `accumulate`. */
  sumLoss(metrics: Tensor, slot: number, losses: Tensor, accumulate: boolean): void;
  /** metrics[slot].gradNorm = sqrt(Σ g²) / lossScale over all gradients. */
  gradNorm(metrics: Tensor, slot: number, gradients: Tensor, control: Tensor): void;
  /**
   * Decides whether the step counts, that is, whether metrics[slot].loss and .gradNorm are finite. Sets
   * metrics[slot].applied and the control values, from which the updates that follow read what to multiply gradients
   * by, or that they must do nothing.
   * @param gradClip largest global gradient norm; 0 = off
   */
  decideStep(metrics: Tensor, slot: number, control: Tensor, gradClip: number): void;
  /** One Adam update (Kingma & Ba 2015) of params and their working copy, if the step counts. */
  adam(state: AdamState, hyper: AdamHyper): void;
  /**
   * Nesterov momentum of arrays of one shape, all f32, with g the gradients times the factor in `control`: m = beta·m +
   * (1 − beta)·g, out = beta·m + (1 − beta)·g. Where the step does not count, m stays and out is 0.
   */
  momentum(out: Tensor, m: Tensor, gradients: Tensor, control: Tensor, beta: number): void;
  /**
   * out = s · (c₀·I + c₁·s²·a + c₂·s⁴·a²), a polynomial of a symmetric matrix; all f32 [n, n].
   * @param square a²
   * @param normalize s = 1 / (sqrt(trace(a)) + 1e-7), else s = 1: with a = U·Uᵀ, out · U is the polynomial of U / ‖U‖
   */
  matrixPolynomial(
    out: Tensor,
    a: Tensor,
    square: Tensor,
    coefficients: readonly [number, number, number],
    normalize: boolean,
  ): void;
  /** params −= learningRate · (update + weightDecay · params) and their working copy, if the step counts. */
  applyUpdate(target: UpdateTarget, update: Tensor, hyper: UpdateHyper): void;

  /** `embed` for decoding: x [N, E] from rows' tokens and positions. */
  embedRows(x: Tensor, rows: DecodeRows, wte: Tensor, wpe: Tensor): void;
  /** `lookup` for decoding: x [N, E] from rows' tokens. */
  lookupRows(x: Tensor, rows: DecodeRows, table: Tensor): void;
  /** `rope` for decoding, by rows' positions. */
  ropeRows(x: Tensor, angles: Tensor, rows: DecodeRows, heads: number): void;
  /**
   * Stores each row's key and value at its place in the cache, then attends from each row to positions 0 … its own of its
   * sequence.  out: [N, H·D]   qkv: [N, (H + 2 Hkv)·D]   cache: [sequences · B, 2 Hkv·D], row s·B + p holds key then value of
   * position p
   */
  attentionCached(
    out: Tensor,
    qkv: Tensor,
    cache: Tensor,
    rows: DecodeRows,
    blockSize: number,
    nHead: number,
    nKvHead?: number,
  ): void;
  /**
   * Draws the next token of each row: rows.tokens[r] and output[step, r] become it, rows.positions[r] grows by one, and
   * so does its count in `draws.said`. What is drawn depends on the logits, what was said, seeds[sequence] and the
   * position (see `uniform` in device/random.ts).
   * logits: [N, V] f32   output: u32 [steps, N]
   */
  sample(
    rows: DecodeRows,
    logits: Tensor,
    output: Tensor,
    step: number,
    draws: Draws,
  ): void;
}
