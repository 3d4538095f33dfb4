/**
 * The network: forward and backward, written once as a list of kernel calls. Everything is a matrix of one row a
 * token, all documents of a batch end to end; only attention knows where one ends.
 *
 *     x = rmsnorm(wte[token] + wpe[position])
 *     for each layer:
 *         x = x + attention(rmsnorm(x) · Wqkvᵀ) · Woᵀ
 *         x = x + relu(rmsnorm(x) · W1ᵀ) · W2ᵀ
 *     logits = x · lm_headᵀ
 */
import type { ModelConfig } from "./config.ts";
import type { Allocator, Batch, DecodeRows, Device, Tensor } from "./device.ts";
import type { LayerWeights, Weights } from "./parameters.ts";

/** What forward leaves of a layer for backward. */
interface LayerActivations {
  /** [T, E] the residual stream before attention */
  xIn: Tensor;
  /** [T, E] rmsnorm(xIn) */
  norm1: Tensor;
  /** [T, 3E] */
  qkv: Tensor;
  /** [T, E] the heads' outputs side by side */
  heads: Tensor;
  /** [T, H] log-sum-exp of each row of scores */
  lse: Tensor;
  /** [T, E] the residual stream before the MLP */
  xMid: Tensor;
  /** [T, E] rmsnorm(xMid) */
  norm2: Tensor;
  /** [T, 4E] after relu */
  fc1: Tensor;
}

/** All memory of a training step except weights and their like. */
export interface Activations {
  layers: LayerActivations[];
  /** [T, E] the residual stream after the last layer */
  xOut: Tensor;
  /** [chunk, V] logits of some rows, then their gradient */
  logits: Tensor;
  /** [T, 1] */
  losses: Tensor;
  /** [T, E] gradient of the residual stream */
  dx: Tensor;
  /** [T, E] */
  dNorm: Tensor;
  /** [T, E] */
  dHeads: Tensor;
  /** [T, 3E] */
  dQkv: Tensor;
  /** [T, 4E] */
  dFc1: Tensor;
}

/** Logits exist for this many bytes of rows at a time: [T, V] at once would be the largest matrix by far. */
const LOGITS_BYTES = 8 << 20;

/** Allocates for at most `maxTokens` tokens a batch. */
export function allocateActivations(
  allocator: Allocator,
  config: ModelConfig,
  maxTokens: number,
): Activations {
  const { n_embd: E, n_head: H, n_layer: L, vocab_size: V } = config;
  const matrix = (name: string, cols: number, type: "f32" | "work") =>
    allocator.tensor(`activations ${name}`, maxTokens, cols, type);
  const chunk = Math.max(1, Math.min(maxTokens, Math.floor(LOGITS_BYTES / (4 * V))));
  return {
    layers: Array.from({ length: L }, (_, i) => ({
      xIn: matrix(`layer${i}.xIn`, E, "f32"),
      norm1: matrix(`layer${i}.norm1`, E, "work"),
      qkv: matrix(`layer${i}.qkv`, 3 * E, "work"),
      heads: matrix(`layer${i}.heads`, E, "work"),
      lse: matrix(`layer${i}.lse`, H, "f32"),
      xMid: matrix(`layer${i}.xMid`, E, "f32"),
      norm2: matrix(`layer${i}.norm2`, E, "work"),
      fc1: matrix(`layer${i}.fc1`, 4 * E, "work"),
    })),
    xOut: matrix("xOut", E, "f32"),
    logits: allocator.tensor("activations logits", chunk, V, "f32"),
    losses: matrix("losses", 1, "f32"),
    dx: matrix("dx", E, "f32"),
    dNorm: matrix("dNorm", E, "work"),
    dHeads: matrix("dHeads", E, "work"),
    dQkv: matrix("dQkv", 3 * E, "work"),
    dFc1: matrix("dFc1", 4 * E, "work"),
  };
}

/** Says how many tokens the coming batch has. */
function setTokenCount(a: Activations, tokens: number): void {
  for (const layer of a.layers) for (const tensor of Object.values(layer) as Tensor[]) tensor.rows = tokens;
  for (const tensor of [a.xOut, a.losses, a.dx, a.dNorm, a.dHeads, a.dQkv, a.dFc1]) tensor.rows = tokens;
}

/** One layer, forward: from a.xIn to xNext, both [T, E]. */
function layerForward(
  d: Device,
  xNext: Tensor,
  w: LayerWeights,
  a: LayerActivations,
  batch: Batch,
  H: number,
): void {
  d.rmsNorm(a.norm1, a.xIn); //                                  [T, E]
  d.matmul(a.qkv, a.norm1, w.qkv, "NT"); //                      [T, 3E]
  d.attention(a.heads, a.lse, a.qkv, batch, H); //               [T, E], [T, H]
  d.matmul(a.xMid, a.heads, w.attnWo, "NT", { add: a.xIn }); //  [T, E] = xIn + heads · Woᵀ
  d.rmsNorm(a.norm2, a.xMid); //                                 [T, E]
  d.matmul(a.fc1, a.norm2, w.mlpFc1, "NT", { relu: true }); //   [T, 4E]
  d.matmul(xNext, a.fc1, w.mlpFc2, "NT", { add: a.xMid }); //    [T, E] = xMid + fc1 · W2ᵀ
}

/** One layer, backward: s.dx is the gradient of its output before, of its input after. */
function layerBackward(
  d: Device,
  s: Activations,
  w: LayerWeights,
  g: LayerWeights,
  a: LayerActivations,
  batch: Batch,
  H: number,
  accumulate: boolean,
): void {
  const into = (gradient: Tensor) => accumulate ? { add: gradient } : {};
  d.matmul(g.mlpFc2, s.dx, a.fc1, "TN", into(g.mlpFc2)); //              dW2 = dxᵀ · fc1
  d.matmul(s.dFc1, s.dx, w.mlpFc2, "NN", { reluMask: a.fc1 }); //        [T, 4E]
  d.matmul(g.mlpFc1, s.dFc1, a.norm2, "TN", into(g.mlpFc1)); //          dW1 = dFc1ᵀ · norm2
  d.matmul(s.dNorm, s.dFc1, w.mlpFc1, "NN"); //                          [T, E]
  d.rmsNormBackward(s.dx, s.dNorm, a.xMid); //                           dx += …
  d.matmul(g.attnWo, s.dx, a.heads, "TN", into(g.attnWo)); //            dWo = dxᵀ · heads
  d.matmul(s.dHeads, s.dx, w.attnWo, "NN"); //                           [T, E]
  d.attentionBackward(s.dQkv, s.dHeads, a.heads, a.lse, a.qkv, batch, H); // [T, 3E]
  d.matmul(g.qkv, s.dQkv, a.norm1, "TN", into(g.qkv)); //                dWqkv = dQkvᵀ · norm1
  d.matmul(s.dNorm, s.dQkv, w.qkv, "NN"); //                             [T, E]
  d.rmsNormBackward(s.dx, s.dNorm, a.xIn); //                            dx += …
}

/** From tokens to a.xOut [T, E]. */
function trunkForward(d: Device, config: ModelConfig, w: Weights, a: Activations, batch: Batch): void {
  setTokenCount(a, batch.tokenCount);
  d.embed(a.layers[0]!.xIn, batch, w.wte, w.wpe);
  a.layers.forEach((layer, i) => {
    layerForward(d, a.layers[i + 1]?.xIn ?? a.xOut, w.layers[i]!, layer, batch, config.n_head);
  });
}

/** Calls `visit` for the rows of the batch, as many at a time as `a.logits` holds. */
function forEachChunk(a: Activations, tokens: number, visit: (firstRow: number, rows: number) => void): void {
  for (let row = 0; row < tokens; row += a.logits.capacity) {
    visit(row, Math.min(a.logits.capacity, tokens - row));
  }
}

/** Forward only: a.losses [T, 1] become scale · −log p(target). `control` belongs to the optimizer (see `crossEntropy`). */
export function forward(
  d: Device,
  config: ModelConfig,
  w: Weights,
  a: Activations,
  batch: Batch,
  scale: number,
  control: Tensor,
): void {
  trunkForward(d, config, w, a, batch);
  forEachChunk(a, batch.tokenCount, (firstRow, rows) => {
    a.logits.rows = rows;
    d.matmul(a.logits, d.view(a.xOut, firstRow * config.n_embd, rows, config.n_embd), w.lmHead, "NT");
    d.crossEntropy(a.logits, a.losses, batch, firstRow, scale, control);
  });
}

/**
 * Forward and backward: a.losses as `forward` leaves them, and the gradient of their sum in `g`.
 * @param accumulate add to the gradients of `g` instead of replacing them
 */
export function forwardBackward(
  d: Device,
  config: ModelConfig,
  w: Weights,
  g: Weights,
  a: Activations,
  batch: Batch,
  scale: number,
  control: Tensor,
  accumulate: boolean,
): void {
  const E = config.n_embd;
  trunkForward(d, config, w, a, batch);
  forEachChunk(a, batch.tokenCount, (firstRow, rows) => {
    const x = d.view(a.xOut, firstRow * E, rows, E);
    a.logits.rows = rows;
    d.matmul(a.logits, x, w.lmHead, "NT"); //                            [rows, V]
    d.crossEntropy(a.logits, a.losses, batch, firstRow, scale, control); // logits are dLogits from here
    d.matmul(d.view(a.dx, firstRow * E, rows, E), a.logits, w.lmHead, "NN");
    d.matmul(g.lmHead, a.logits, x, "TN", accumulate || firstRow > 0 ? { add: g.lmHead } : {});
  });
  for (let i = config.n_layer - 1; i >= 0; i--) {
    layerBackward(d, a, w.layers[i]!, g.layers[i]!, a.layers[i]!, batch, config.n_head, accumulate);
  }
  if (!accumulate) {
    d.zero(g.wte);
    d.zero(g.wpe);
  }
  d.embedBackward(g.wte, g.wpe, a.dx, batch, w.wte, w.wpe);
}

/** All memory of decoding except weights: scratch for N rows, and keys and values of every position. */
export interface DecodeMemory {
  /** [N, E] */
  x: Tensor;
  norm: Tensor;
  /** [N, 3E] */
  qkv: Tensor;
  heads: Tensor;
  /** [N, 4E] */
  fc1: Tensor;
  /** [N, V] */
  logits: Tensor;
  /** a layer each, [sequences · B, 2E]: key, then value */
  caches: Tensor[];
}

/** Allocates decoding memory for at most `maxRows` rows a step and `sequences` sequences of `blockSize` positions. */
export function allocateDecodeMemory(
  allocator: Allocator,
  config: ModelConfig,
  maxRows: number,
  sequences: number,
  blockSize: number,
): DecodeMemory {
  const { n_embd: E, n_layer: L, vocab_size: V } = config;
  const matrix = (name: string, cols: number, type: "f32" | "work") =>
    allocator.tensor(`decoding ${name}`, maxRows, cols, type);
  return {
    x: matrix("x", E, "f32"),
    norm: matrix("norm", E, "work"),
    qkv: matrix("qkv", 3 * E, "work"),
    heads: matrix("heads", E, "work"),
    fc1: matrix("fc1", 4 * E, "work"),
    logits: allocator.tensor("decoding logits", sequences, V, "f32"),
    caches: Array.from(
      { length: L },
      (_, i) => allocator.tensor(`key-value cache of layer ${i}`, sequences * blockSize, 2 * E, "work"),
    ),
  };
}

/**
 * One decoding step: feeds a token a row, stores its key and value, and leaves the logits of the last `logitRows`
 * rows in m.logits. See `DecodeRows` for their order.
 */
export function decodeStep(
  d: Device,
  config: ModelConfig,
  w: Weights,
  m: DecodeMemory,
  rows: DecodeRows,
  blockSize: number,
  logitRows: number,
): void {
  const n = rows.tokens.rows;
  for (const tensor of [m.x, m.norm, m.qkv, m.heads, m.fc1]) tensor.rows = n;
  d.embedRows(m.x, rows, w.wte, w.wpe);
  w.layers.forEach((layer, i) => {
    d.rmsNormMatmul(m.qkv, m.x, layer.qkv, m.norm);
    d.attentionCached(m.heads, m.qkv, m.caches[i]!, rows, blockSize, config.n_head);
    d.matmul(m.x, m.heads, layer.attnWo, "NT", { add: m.x });
    d.rmsNormMatmul(m.fc1, m.x, layer.mlpFc1, m.norm, true);
    d.matmul(m.x, m.fc1, layer.mlpFc2, "NT", { add: m.x });
  });
  if (logitRows === 0) return;
  m.logits.rows = logitRows;
  const E = config.n_embd;
  d.matmul(m.logits, d.view(m.x, (n - logitRows) * E, logitRows, E), w.lmHead, "NT");
}
