/**
 * The network: forward and backward, written once as a list of kernel calls. Everything is a matrix of one row a
 * token, all documents of a batch end to end; only attention knows where one ends.
 *
 *     x = rmsnorm(wte[token] + wpe[position])
 *     for each layer:
 *         x = x + attention(rmsnorm(x) · Wqkvᵀ) · Woᵀ
 *         x = x + relu(rmsnorm(x) · W1ᵀ) · W2ᵀ
 *     logits = x · lm_headᵀ
 *
 * rmsnorm has no weights, positions are learned, nothing has a bias.
 */
import {
  checkCounts,
  type ConfigNaming,
  LIMITS,
  type ModelConfig,
  readNumbers,
  type Shape,
} from "./config.ts";
import type { Allocator, Batch, DecodeRows, Device, Tensor } from "../device/device.ts";
import { MicrogptError } from "../device/errors.ts";
import { firstTrained, type Frozen } from "./freeze.ts";
import { addBranch, branchGradient, dropResidual } from "./dropout.ts";
import { forEachChunk, logitRows } from "./logit_chunks.ts";
import type { Activations, DecodeMemory, GradientsReady, Network, NetworkKind } from "./network.ts";
import {
  initialParameters,
  layOut,
  type ParameterLayout,
  type ParameterSpec,
  parameterView,
} from "./parameters.ts";

/** The config has no fields of its own. */
export interface GptConfig extends ModelConfig {
  /** absent in its `meta.json` */
  architecture?: "gpt";
}

/** As `meta.json` has them, in its order. */
const FIELDS = ["vocab_size", "n_embd", "n_head", "n_layer", "block_size"] as const;

/** See `NetworkKind.checkConfig`. */
function checkConfig(config: GptConfig, naming: ConfigNaming = {}): void {
  checkCounts(config, LIMITS, naming);
  if (config.n_embd % config.n_head === 0) return;
  const { name = (field) => field, usage = false } = naming;
  throw new MicrogptError(
    `${name("n_embd")} ${config.n_embd} is not divisible by ${name("n_head")} ${config.n_head}`,
    { hint: "each head works on an equal slice of the embedding; change one of the two", usage },
  );
}

/** Names, shapes and order of the parameters. Those of a block are neighbours: wq, wk, wv are one [3E, E] matrix. */
function parameterLayout(
  { vocab_size: V, n_embd: E, block_size: B, n_layer: L }: GptConfig,
): ParameterLayout {
  const matrix = (layer: number, name: string, rows: number, cols: number): ParameterSpec => {
    return { name: `layer${layer}.${name}`, shape: [rows, cols], role: "matrix", layer };
  };
  return layOut([
    [{ name: "wte", shape: [V, E], role: "embedding", perToken: true }],
    [{ name: "wpe", shape: [B, E], role: "embedding" }],
    [{ name: "lm_head", shape: [V, E], role: "head", perToken: true }],
    ...Array.from({ length: L }, (_, i) => [
      ["q", "k", "v"].map((part) => matrix(i, `attn_w${part}`, E, E)),
      [matrix(i, "attn_wo", E, E)],
      [matrix(i, "mlp_fc1", 4 * E, E)],
      [matrix(i, "mlp_fc2", E, 4 * E)],
    ]).flat(),
  ]);
}

/** The two projections of a layer that add to the residual stream. */
const addsToResidual = (name: string) => name.endsWith("attn_wo") || name.endsWith("mlp_fc2");

/** The weights of one layer. */
interface LayerWeights {
  /** [3E, E] */
  qkv: Tensor;
  /** [E, E] */
  attnWo: Tensor;
  /** [4E, E] */
  mlpFc1: Tensor;
  /** [E, 4E] */
  mlpFc2: Tensor;
}

/** The weights of the model, or their gradients. */
export interface GptWeights {
  /** [V, E] */
  wte: Tensor;
  /** [B, E] */
  wpe: Tensor;
  /** [V, E] */
  lmHead: Tensor;
  layers: LayerWeights[];
}

function weightViews(d: Device, flat: Tensor, layout: ParameterLayout, config: GptConfig): GptWeights {
  const view = (name: string, rows?: number) => parameterView(d, flat, layout, name, rows);
  return {
    wte: view("wte"),
    wpe: view("wpe"),
    lmHead: view("lm_head"),
    layers: Array.from({ length: config.n_layer }, (_, i) => ({
      qkv: view(`layer${i}.attn_wq`, 3 * config.n_embd),
      attnWo: view(`layer${i}.attn_wo`),
      mlpFc1: view(`layer${i}.mlp_fc1`),
      mlpFc2: view(`layer${i}.mlp_fc2`),
    })),
  };
}

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
export interface GptActivations extends Activations {
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

function allocateActivations(allocator: Allocator, config: GptConfig, maxTokens: number): GptActivations {
  const { n_embd: E, n_head: H, n_layer: L, vocab_size: V } = config;
  const matrix = (name: string, cols: number, type: "f32" | "work") =>
    allocator.tensor(`activations ${name}`, maxTokens, cols, type, "activations");
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
    logits: allocator.tensor("activations logits", logitRows(maxTokens, V), V, "f32", "activations"),
    losses: matrix("losses", 1, "f32"),
    dx: matrix("dx", E, "f32"),
    dNorm: matrix("dNorm", E, "work"),
    dHeads: matrix("dHeads", E, "work"),
    dQkv: matrix("dQkv", 3 * E, "work"),
    dFc1: matrix("dFc1", 4 * E, "work"),
  };
}

/** Says how many tokens the coming batch has. */
function setTokenCount(a: GptActivations, tokens: number): void {
  for (const layer of a.layers) for (const tensor of Object.values(layer) as Tensor[]) tensor.rows = tokens;
  for (const tensor of [a.xOut, a.losses, a.dx, a.dNorm, a.dHeads, a.dQkv, a.dFc1]) tensor.rows = tokens;
}

/** Layer i, forward: from a.xIn to xNext, both [T, E]. */
function layerForward(
  d: Device,
  xNext: Tensor,
  w: LayerWeights,
  a: LayerActivations,
  batch: Batch,
  H: number,
  i: number,
): void {
  d.rmsNorm(a.norm1, a.xIn); //                                  [T, E]
  d.matmul(a.qkv, a.norm1, w.qkv, "NT"); //                      [T, 3E]
  d.attention(a.heads, a.lse, a.qkv, batch, H); //               [T, E], [T, H]
  addBranch(d, a.xMid, a.xIn, a.heads, w.attnWo, batch, 2 * i); // [T, E] = xIn + heads · Woᵀ
  d.rmsNorm(a.norm2, a.xMid); //                                 [T, E]
  d.matmul(a.fc1, a.norm2, w.mlpFc1, "NT", { relu: true }); //   [T, 4E]
  addBranch(d, xNext, a.xMid, a.fc1, w.mlpFc2, batch, 2 * i + 1); // [T, E] = xMid + fc1 · W2ᵀ
}

/**
 * Layer i, backward: s.dx is the gradient of its output before, of its input after.
 * @param g absent: the layer is frozen
 */
function layerBackward(
  d: Device,
  s: GptActivations,
  w: LayerWeights,
  g: LayerWeights | undefined,
  a: LayerActivations,
  batch: Batch,
  H: number,
  i: number,
  accumulate: boolean,
): void {
  const into = (gradient: Tensor) => accumulate ? { add: gradient } : {};
  const dMlp = branchGradient(d, s.dx, s.dNorm, batch, 2 * i + 1); //    [T, E] dx, or what of it was not dropped
  if (g) d.matmul(g.mlpFc2, dMlp, a.fc1, "TN", into(g.mlpFc2)); //       dW2 = dMlpᵀ · fc1
  d.matmul(s.dFc1, dMlp, w.mlpFc2, "NN", { reluMask: a.fc1 }); //        [T, 4E]
  if (g) d.matmul(g.mlpFc1, s.dFc1, a.norm2, "TN", into(g.mlpFc1)); //   dW1 = dFc1ᵀ · norm2
  d.matmul(s.dNorm, s.dFc1, w.mlpFc1, "NN"); //                          [T, E]
  d.rmsNormBackward(s.dx, s.dNorm, a.xMid); //                           dx += …
  const dAttn = branchGradient(d, s.dx, s.dNorm, batch, 2 * i); //       [T, E]
  if (g) d.matmul(g.attnWo, dAttn, a.heads, "TN", into(g.attnWo)); //    dWo = dAttnᵀ · heads
  d.matmul(s.dHeads, dAttn, w.attnWo, "NN"); //                          [T, E]
  d.attentionBackward(s.dQkv, s.dHeads, a.heads, a.lse, a.qkv, batch, H); // [T, 3E]
  if (g) d.matmul(g.qkv, s.dQkv, a.norm1, "TN", into(g.qkv)); //         dWqkv = dQkvᵀ · norm1
  d.matmul(s.dNorm, s.dQkv, w.qkv, "NN"); //                             [T, E]
  d.rmsNormBackward(s.dx, s.dNorm, a.xIn); //                            dx += …
}

/** From tokens to a.xOut [T, E]. */
function trunkForward(d: Device, config: GptConfig, w: GptWeights, a: GptActivations, batch: Batch): void {
  setTokenCount(a, batch.tokenCount);
  d.embed(a.layers[0]!.xIn, batch, w.wte, w.wpe);
  dropResidual(d, a.layers[0]!.xIn, batch, 2 * config.n_layer);
  a.layers.forEach((layer, i) => {
    layerForward(d, a.layers[i + 1]?.xIn ?? a.xOut, w.layers[i]!, layer, batch, config.n_head, i);
  });
}

/** See `Network.forward`. */
function forward(
  d: Device,
  config: GptConfig,
  w: GptWeights,
  a: GptActivations,
  batch: Batch,
  scale: number,
  control: Tensor,
): void {
  trunkForward(d, config, w, a, batch);
  forEachChunk(a.logits, batch.tokenCount, (firstRow, rows) => {
    d.matmul(a.logits, d.view(a.xOut, firstRow * config.n_embd, rows, config.n_embd), w.lmHead, "NT");
    d.crossEntropy(a.logits, a.losses, batch, firstRow, scale, control);
  });
}

/** See `Network.forwardBackward`. */
function forwardBackward(
  d: Device,
  config: GptConfig,
  w: GptWeights,
  g: GptWeights,
  a: GptActivations,
  batch: Batch,
  scale: number,
  control: Tensor,
  accumulate: boolean,
  frozen?: Frozen,
  ready: GradientsReady = () => {},
): void {
  const E = config.n_embd;
  trunkForward(d, config, w, a, batch);
  forEachChunk(a.logits, batch.tokenCount, (firstRow, rows) => {
    const x = d.view(a.xOut, firstRow * E, rows, E);
    d.matmul(a.logits, x, w.lmHead, "NT"); //                            [rows, V]
    d.crossEntropy(a.logits, a.losses, batch, firstRow, scale, control); // logits are dLogits from here
    d.matmul(d.view(a.dx, firstRow * E, rows, E), a.logits, w.lmHead, "NN");
    d.matmul(g.lmHead, a.logits, x, "TN", accumulate || firstRow > 0 ? { add: g.lmHead } : {});
  });
  ready([g.lmHead]);
  const first = firstTrained(frozen, config.n_layer);
  for (let i = config.n_layer - 1; i >= first; i--) {
    const gradients = frozen?.layers.has(i) ? undefined : g.layers[i]!;
    layerBackward(d, a, w.layers[i]!, gradients, a.layers[i]!, batch, config.n_head, i, accumulate);
    if (gradients) ready(Object.values(gradients));
  }
  if (frozen?.embeddings) return;
  if (!accumulate) {
    d.zero(g.wte);
    d.zero(g.wpe);
  }
  dropResidual(d, a.dx, batch, 2 * config.n_layer);
  d.embedBackward(g.wte, g.wpe, a.dx, batch, w.wte, w.wpe);
}

/** All memory of decoding except weights; a row of a cache is key, then value: [sequences · B, 2E], a layer each. */
export interface GptDecodeMemory extends DecodeMemory {
  scratch: {
    /** [N, E] the residual stream */
    x: Tensor;
    /** [N, E] */
    norm: Tensor;
    /** [N, 3E] */
    qkv: Tensor;
    /** [N, E] */
    heads: Tensor;
    /** [N, 4E] */
    fc1: Tensor;
  };
}

function allocateDecodeMemory(
  allocator: Allocator,
  { n_embd: E, n_layer: L, vocab_size: V }: GptConfig,
  maxRows: number,
  sequences: number,
  contextLength: number,
): GptDecodeMemory {
  const tensor = (label: string, rows: number, cols: number, type: "f32" | "work") =>
    allocator.tensor(label, rows, cols, type, "decoding");
  return {
    scratch: {
      x: tensor("decoding x", maxRows, E, "f32"),
      norm: tensor("decoding norm", maxRows, E, "work"),
      qkv: tensor("decoding qkv", maxRows, 3 * E, "work"),
      heads: tensor("decoding heads", maxRows, E, "work"),
      fc1: tensor("decoding fc1", maxRows, 4 * E, "work"),
    },
    logits: tensor("decoding logits", sequences, V, "f32"),
    caches: Array.from({ length: L }, (_, i) => {
      return tensor(`key-value cache of layer ${i}`, sequences * contextLength, 2 * E, "work");
    }),
  };
}

/** See `Network.decodeStep`. */
function decodeStep(
  d: Device,
  config: GptConfig,
  w: GptWeights,
  { logits, caches, scratch }: GptDecodeMemory,
  rows: DecodeRows,
  contextLength: number,
  logitRows: number,
): void {
  const { x, norm, qkv, heads, fc1 } = scratch;
  const n = rows.tokens.rows;
  for (const tensor of [x, norm, qkv, heads, fc1]) tensor.rows = n;
  d.embedRows(x, rows, w.wte, w.wpe);
  w.layers.forEach((layer, i) => {
    d.rmsNormMatmul(qkv, x, layer.qkv, norm);
    d.attentionCached(heads, qkv, caches[i]!, rows, contextLength, config.n_head);
    if (logitRows === 0 && i === w.layers.length - 1) return; // its keys and values are kept: nobody needs more
    d.matmul(x, heads, layer.attnWo, "NT", { add: x });
    d.rmsNormMatmul(fc1, x, layer.mlpFc1, norm, true);
    d.matmul(x, fc1, layer.mlpFc2, "NT", { add: x });
  });
  if (logitRows === 0) return;
  logits.rows = logitRows;
  const E = config.n_embd;
  d.matmul(logits, d.view(x, (n - logitRows) * E, logitRows, E), w.lmHead, "NT");
}

/** The network, with what only tests and benchmarks look into: its weights, activations and decoding memory. */
export type GptNetwork = Network<GptWeights, GptActivations, GptDecodeMemory>;

/** The network of a config. */
export function gptNetwork(config: GptConfig): GptNetwork {
  const { n_embd: E, n_head: H, n_layer: L } = config;
  const layout = parameterLayout(config);
  return {
    config,
    layout,
    cacheWidth: L * 2 * E,
    toMeta: () => Object.fromEntries(FIELDS.map((field) => [field, config[field]])),
    toShape: () => ({ arch: "gpt", nEmbd: E, nHead: H, nLayer: L, blockSize: config.block_size }),
    describe: () => `${L} layers, ${H} heads, width ${E}`,
    initialParameters: (...drawn) => initialParameters(layout, L, addsToResidual, ...drawn),
    views: (d, flat) => weightViews(d, flat, layout, config),
    allocateActivations: (allocator, maxTokens) => allocateActivations(allocator, config, maxTokens),
    forward: (d, ...rest) => forward(d, config, ...rest),
    forwardBackward: (d, ...rest) => forwardBackward(d, config, ...rest),
    allocateDecodeMemory: (allocator, ...sizes) => allocateDecodeMemory(allocator, config, ...sizes),
    decodeStep: (d, ...rest) => decodeStep(d, config, ...rest),
  };
}

/** See `NetworkKind`. */
export const gpt: NetworkKind<GptConfig> = {
  configOf: ({ nEmbd, nHead, nLayer, blockSize }: Shape, vocabSize) => ({
    vocab_size: vocabSize,
    n_embd: nEmbd,
    n_head: nHead,
    n_layer: nLayer,
    block_size: blockSize,
  }),
  readConfig: (meta) => readNumbers(meta, FIELDS),
  checkConfig,
  create: gptNetwork,
};
