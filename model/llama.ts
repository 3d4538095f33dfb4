/**
 * The network of the Llama family (Touvron et al. 2023): forward and backward, written once as a list of kernel calls, with the
 * parameter names of HuggingFace's `LlamaForCausalLM`. Everything is a matrix of one row a token, all documents of a
 * batch end to end.
 *
 *     x = embed_tokens[token]
 *     for each layer:
 *         q, k, v = norm(x) · (Wq, Wk, Wv)ᵀ          H heads of queries, Hkv of keys and values, each D wide
 *         x = x + attention(rope(q), rope(k), v) · Woᵀ
 *         x = x + (silu(norm(x) · Wgateᵀ) ∘ norm(x) · Wupᵀ) · Wdownᵀ
 *     logits = norm(x) · lm_headᵀ                    lm_head is embed_tokens where the two are tied
 *
 * norm is w ∘ x / sqrt(mean(x²) + ε), each with its own w. rope turns numbers j and j + D/2 of a head by the angle
 * position · theta^(−2j/D). Nothing has a bias. Qwen 2 and 3 are the same but for a flag: `qkv_bias` adds a bias to q, k
 * and v; `qk_norm` norms each head of q and k before rope.
 */
import type { Batch, DecodeRows, Device, Tensor } from "../device/device.ts";
import { checkConfig, configOf, type LlamaConfig, metaOf, readConfig, shapeOf } from "./llama_config.ts";
import { firstTrained, type Frozen } from "./freeze.ts";
import {
  allocateActivations,
  allocateDecodeMemory,
  type Constants,
  filled,
  type Gradients,
  type LayerActivations,
  type LlamaActivations,
  type LlamaDecodeMemory,
  setTokenCount,
} from "./llama_memory.ts";
import { addBranch, branchGradient, dropResidual } from "./dropout.ts";
import { forEachChunk } from "./logit_chunks.ts";
import type { GradientsReady, Network, NetworkKind } from "./network.ts";
import {
  initialParameters,
  layOut,
  type ParameterLayout,
  type ParameterSpec,
  parameterView,
} from "./parameters.ts";

/** Names, shapes and order of the parameters: q, k, v of a layer are one matrix, gate and up are one, norms come last. */
function parameterLayout(config: LlamaConfig): ParameterLayout {
  const { vocab_size: V, n_embd: E, n_head: H, n_kv_head: Hkv, head_dim: D, n_layer: L, ffn: F } = config;
  const table = (name: string, role: "embedding" | "head"): ParameterSpec => ({
    name,
    shape: [V, E],
    role,
    perToken: true,
  });
  const matrix = (layer: number, name: string, rows: number, cols: number): ParameterSpec => {
    return { name: `model.layers.${layer}.${name}.weight`, shape: [rows, cols], role: "matrix", layer };
  };
  const norm = (layer: number, name: string, size = E): ParameterSpec => {
    return { name: `model.layers.${layer}.${name}.weight`, shape: [size], role: "norm", layer };
  };
  const bias = (layer: number, name: string, size: number): ParameterSpec => {
    return { name: `model.layers.${layer}.${name}.bias`, shape: [size], role: "bias", layer };
  };
  const layers = Array.from({ length: L }, (_, i) => i);
  return layOut([
    [table("model.embed_tokens.weight", "embedding")],
    ...(config.tie ? [] : [[table("lm_head.weight", "head")]]),
    ...layers.flatMap((layer) => [
      [
        matrix(layer, "self_attn.q_proj", H * D, E),
        matrix(layer, "self_attn.k_proj", Hkv * D, E),
        matrix(layer, "self_attn.v_proj", Hkv * D, E),
      ],
      [matrix(layer, "self_attn.o_proj", E, H * D)],
      [matrix(layer, "mlp.gate_proj", F, E), matrix(layer, "mlp.up_proj", F, E)],
      [matrix(layer, "mlp.down_proj", E, F)],
      ...(config.qkv_bias
        ? [[
          bias(layer, "self_attn.q_proj", H * D),
          bias(layer, "self_attn.k_proj", Hkv * D),
          bias(layer, "self_attn.v_proj", Hkv * D),
        ]]
        : []),
    ]),
    ...layers.flatMap((layer) => [
      [norm(layer, "input_layernorm")],
      ...(config.qk_norm ? [[norm(layer, "self_attn.q_norm", D), norm(layer, "self_attn.k_norm", D)]] : []),
      [norm(layer, "post_attention_layernorm")],
    ]),
    [{ name: "model.norm.weight", shape: [E], role: "norm" }],
  ]);
}

/** The two projections of a layer that add to the residual stream. */
const addsToResidual = (name: string) => name.endsWith("o_proj.weight") || name.endsWith("down_proj.weight");

/** The weights of one layer. */
interface LayerWeights {
  /** [1, E] */
  norm1: Tensor;
  /** [(H + 2 Hkv)·D, E] */
  qkv: Tensor;
  /** [1, (H + 2 Hkv)·D] */
  qkvBias: Tensor | undefined;
  /** [2, D] of queries, then of keys */
  headNorms: Tensor | undefined;
  /** [E, H·D] */
  attnO: Tensor;
  /** [1, E] */
  norm2: Tensor;
  /** [2F, E] gates, then ups */
  gateUp: Tensor;
  /** [E, F] */
  down: Tensor;
}

/** The weights of the model, or their gradients. */
export interface LlamaWeights {
  /** [V, E] */
  embedding: Tensor;
  /** [V, E]; the embedding itself where the two are tied */
  lmHead: Tensor;
  layers: LayerWeights[];
  /** [1, E] */
  norm: Tensor;
  /** [1, all weights of norms], the gaps between them counted in */
  norms: Tensor;
}

function weightViews(d: Device, flat: Tensor, layout: ParameterLayout, config: LlamaConfig): LlamaWeights {
  const { n_head: H, n_kv_head: Hkv, head_dim: D, n_layer: L, ffn: F } = config;
  const view = (name: string, rows?: number) => parameterView(d, flat, layout, `${name}.weight`, rows);
  const bias = (name: string) =>
    d.view(flat, layout.byName.get(`${name}.bias`)!.offset, 1, (H + 2 * Hkv) * D);
  const embedding = view("model.embed_tokens");
  const firstNorm = layout.byName.get("model.layers.0.input_layernorm.weight")!.offset;
  return {
    embedding,
    lmHead: config.tie ? embedding : view("lm_head"),
    layers: Array.from({ length: L }, (_, i) => ({
      norm1: view(`model.layers.${i}.input_layernorm`),
      qkv: view(`model.layers.${i}.self_attn.q_proj`, (H + 2 * Hkv) * D),
      qkvBias: config.qkv_bias ? bias(`model.layers.${i}.self_attn.q_proj`) : undefined,
      headNorms: config.qk_norm ? view(`model.layers.${i}.self_attn.q_norm`, 2) : undefined,
      attnO: view(`model.layers.${i}.self_attn.o_proj`),
      norm2: view(`model.layers.${i}.post_attention_layernorm`),
      gateUp: view(`model.layers.${i}.mlp.gate_proj`, 2 * F),
      down: view(`model.layers.${i}.mlp.down_proj`),
    })),
    norm: view("model.norm"),
    norms: d.view(flat, firstNorm, 1, layout.length - firstNorm),
  };
}

/** out = x · qkvᵀ and its bias, both [T, any].  `raw` is memory of out's shape, where the norm of heads finds its input. */
function projectQkv(
  d: Device,
  { n_head: H, n_kv_head: Hkv, norm_eps: epsilon }: LlamaConfig,
  out: Tensor,
  raw: Tensor | undefined,
  x: Tensor,
  { qkv, qkvBias, headNorms }: LayerWeights,
  { ones }: Constants,
): void {
  const product = raw ?? out;
  if (qkvBias) d.matmul(product, ones!, qkvBias, "NN");
  d.matmul(product, x, qkv, "NT", qkvBias ? { add: product } : {});
  if (headNorms) d.headNorm(out, product, headNorms, H, Hkv, epsilon);
}

/** Layer i, forward: from a.xIn to xNext, both [T, E]. */
function layerForward(
  d: Device,
  config: LlamaConfig,
  xNext: Tensor,
  w: LayerWeights,
  a: LayerActivations,
  batch: Batch,
  constants: Constants,
  i: number,
): void {
  const { n_head: H, n_kv_head: Hkv, norm_eps: epsilon } = config;
  d.scaledRmsNorm(a.norm1, a.xIn, w.norm1, epsilon); //          [T, E]
  projectQkv(d, config, a.qkv, a.rawQkv, a.norm1, w, constants); // [T, (H + 2 Hkv)·D]
  d.rope(a.qkv, constants.angles, batch, H + Hkv); //            queries and keys
  d.attention(a.heads, a.lse, a.qkv, batch, H, Hkv); //          [T, H·D], [T, H]
  addBranch(d, a.xMid, a.xIn, a.heads, w.attnO, batch, 2 * i); // [T, E] = xIn + heads · Woᵀ
  d.scaledRmsNorm(a.norm2, a.xMid, w.norm2, epsilon); //         [T, E]
  d.matmul(a.gateUp, a.norm2, w.gateUp, "NT"); //                [T, 2F]
  d.swiglu(a.hidden, a.gateUp); //                               [T, F]
  addBranch(d, xNext, a.xMid, a.hidden, w.down, batch, 2 * i + 1); // [T, E] = xMid + hidden · Wdownᵀ
}

/**
 * Layer i, backward: s.dx is the gradient of its output before, of its input after.
 * @param frozen leaves the layer's gradients at 0
 */
function layerBackward(
  d: Device,
  { n_head: H, n_kv_head: Hkv, norm_eps: epsilon }: LlamaConfig,
  s: Gradients,
  w: LayerWeights,
  g: LayerWeights,
  a: LayerActivations,
  batch: Batch,
  { angles, ones }: Constants,
  i: number,
  accumulate: boolean,
  frozen: boolean,
): void {
  const into = (gradient: Tensor) => accumulate ? { add: gradient } : {};
  const dMlp = branchGradient(d, s.dx, s.dNorm, batch, 2 * i + 1); //    [T, E] dx, or what of it was not dropped
  if (!frozen) d.matmul(g.down, dMlp, a.hidden, "TN", into(g.down)); //  dWdown = dMlpᵀ · hidden
  d.matmul(s.dHidden, dMlp, w.down, "NN"); //                            [T, F]
  d.swigluBackward(s.dGateUp, s.dHidden, a.gateUp); //                   [T, 2F]
  if (!frozen) d.matmul(g.gateUp, s.dGateUp, a.norm2, "TN", into(g.gateUp)); // dWgateUp = dGateUpᵀ · norm2
  d.matmul(s.dNorm, s.dGateUp, w.gateUp, "NN"); //                       [T, E]
  d.scaledRmsNormBackward(s.dx, g.norm2, s.dNorm, a.xMid, w.norm2, epsilon); // dx += …
  const dAttn = branchGradient(d, s.dx, s.dNorm, batch, 2 * i); //       [T, E]
  if (!frozen) d.matmul(g.attnO, dAttn, a.heads, "TN", into(g.attnO)); // dWo = dAttnᵀ · heads
  d.matmul(s.dHeads, dAttn, w.attnO, "NN"); //                           [T, H·D]
  d.attentionBackward(s.dQkv, s.dHeads, a.heads, a.lse, a.qkv, batch, H, Hkv); // [T, (H + 2 Hkv)·D]
  d.rope(s.dQkv, angles, batch, H + Hkv, true); //                       turned back
  const dQkv = s.dRawQkv ?? s.dQkv;
  if (w.headNorms) {
    d.headNormBackward(dQkv, g.headNorms!, s.dQkv, a.rawQkv!, w.headNorms, H, Hkv, epsilon); // dHeadNorms += …
  }
  if (g.qkvBias && !frozen) d.matmul(g.qkvBias, ones!, dQkv, "TN", into(g.qkvBias)); // the sum over the rows
  if (!frozen) d.matmul(g.qkv, dQkv, a.norm1, "TN", into(g.qkv)); //     dWqkv = dQkvᵀ · norm1
  d.matmul(s.dNorm, dQkv, w.qkv, "NN"); //                               [T, E]
  d.scaledRmsNormBackward(s.dx, g.norm1, s.dNorm, a.xIn, w.norm1, epsilon); // dx += …
  if (frozen) { for (const norm of [g.norm1, g.norm2, ...(g.headNorms ? [g.headNorms] : [])]) d.zero(norm); }
}

/** From tokens to a.normOut [T, E]. */
function trunkForward(
  d: Device,
  config: LlamaConfig,
  w: LlamaWeights,
  a: LlamaActivations,
  batch: Batch,
): void {
  setTokenCount(a, batch.tokenCount);
  const constants = filled(d, a.constants, config, batch.tokenCount);
  d.lookup(a.layers[0]!.xIn, batch, w.embedding);
  dropResidual(d, a.layers[0]!.xIn, batch, 2 * config.n_layer);
  a.layers.forEach((layer, i) => {
    layerForward(d, config, a.layers[i + 1]?.xIn ?? a.xOut, w.layers[i]!, layer, batch, constants, i);
  });
  d.scaledRmsNorm(a.normOut, a.xOut, w.norm, config.norm_eps);
}

/** See `Network.forward`. */
function forward(
  d: Device,
  config: LlamaConfig,
  w: LlamaWeights,
  a: LlamaActivations,
  batch: Batch,
  scale: number,
  control: Tensor,
): void {
  const E = config.n_embd;
  trunkForward(d, config, w, a, batch);
  forEachChunk(a.logits, batch.tokenCount, (firstRow, rows) => {
    d.matmul(a.logits, d.view(a.normOut, firstRow * E, rows, E), w.lmHead, "NT");
    d.crossEntropy(a.logits, a.losses, batch, firstRow, scale, control);
  });
}

/** See `Network.forwardBackward`. Where embedding and head are tied, both add to one gradient. */
function forwardBackward(
  d: Device,
  config: LlamaConfig,
  w: LlamaWeights,
  g: LlamaWeights,
  a: LlamaActivations,
  batch: Batch,
  scale: number,
  control: Tensor,
  accumulate: boolean,
  frozen?: Frozen,
  ready: GradientsReady = () => {},
): void {
  const E = config.n_embd;
  const s = a.gradients;
  const headTrains = !(config.tie && frozen?.embeddings);
  trunkForward(d, config, w, a, batch);
  if (!accumulate) d.zero(g.norms);
  forEachChunk(a.logits, batch.tokenCount, (firstRow, rows) => {
    const norm = d.view(a.normOut, firstRow * E, rows, E);
    d.matmul(a.logits, norm, w.lmHead, "NT"); //                         [rows, V]
    d.crossEntropy(a.logits, a.losses, batch, firstRow, scale, control); // logits are dLogits from here
    d.matmul(d.view(s.dNorm, firstRow * E, rows, E), a.logits, w.lmHead, "NN");
    if (headTrains) {
      d.matmul(g.lmHead, a.logits, norm, "TN", accumulate || firstRow > 0 ? { add: g.lmHead } : {});
    }
  });
  d.zero(s.dx);
  d.scaledRmsNormBackward(s.dx, g.norm, s.dNorm, a.xOut, w.norm, config.norm_eps);
  const constants = filled(d, a.constants, config, batch.tokenCount);
  if (!config.tie) ready([g.lmHead]);
  for (let i = config.n_layer - 1; i >= firstTrained(frozen, config.n_layer); i--) {
    const isFrozen = frozen?.layers.has(i) ?? false;
    layerBackward(
      d,
      config,
      s,
      w.layers[i]!,
      g.layers[i]!,
      a.layers[i]!,
      batch,
      constants,
      i,
      accumulate,
      isFrozen,
    );
    const { qkv, attnO, gateUp, down, qkvBias } = g.layers[i]!;
    if (!isFrozen) ready([qkv, attnO, gateUp, down, ...qkvBias ? [qkvBias] : []]);
  }
  if (frozen?.embeddings) return;
  if (!accumulate && !config.tie) d.zero(g.embedding);
  dropResidual(d, s.dx, batch, 2 * config.n_layer);
  d.lookupBackward(g.embedding, s.dx, batch);
}

/** See `Network.decodeStep`. */
function decodeStep(
  d: Device,
  config: LlamaConfig,
  w: LlamaWeights,
  { logits, caches, scratch, constants }: LlamaDecodeMemory,
  rows: DecodeRows,
  contextLength: number,
  logitRows: number,
): void {
  const { x, norm, qkv, rawQkv, heads, gateUp, hidden } = scratch;
  const { n_embd: E, n_head: H, n_kv_head: Hkv, norm_eps: epsilon } = config;
  const n = rows.tokens.rows;
  for (const tensor of [x, norm, qkv, heads, gateUp, hidden, ...(rawQkv ? [rawQkv] : [])]) tensor.rows = n;
  filled(d, constants, config, n);
  d.lookupRows(x, rows, w.embedding);
  w.layers.forEach((layer, i) => {
    d.scaledRmsNorm(norm, x, layer.norm1, epsilon);
    projectQkv(d, config, qkv, rawQkv, norm, layer, constants);
    d.ropeRows(qkv, constants.angles, rows, H + Hkv);
    d.attentionCached(heads, qkv, caches[i]!, rows, contextLength, H, Hkv);
    if (logitRows === 0 && i === w.layers.length - 1) return; // its keys and values are kept: nobody needs more
    d.matmul(x, heads, layer.attnO, "NT", { add: x });
    d.scaledRmsNorm(norm, x, layer.norm2, epsilon);
    d.matmul(gateUp, norm, layer.gateUp, "NT");
    d.swiglu(hidden, gateUp);
    d.matmul(x, hidden, layer.down, "NT", { add: x });
  });
  if (logitRows === 0) return;
  logits.rows = logitRows;
  const first = (n - logitRows) * E;
  const last = d.view(norm, first, logitRows, E);
  d.scaledRmsNorm(last, d.view(x, first, logitRows, E), w.norm, epsilon);
  d.matmul(logits, last, w.lmHead, "NT");
}

/** The network, with what only tests and benchmarks look into: its weights, activations and decoding memory. */
export type LlamaNetwork = Network<LlamaWeights, LlamaActivations, LlamaDecodeMemory>;

/** The network of a config. */
export function llamaNetwork(config: LlamaConfig): LlamaNetwork {
  const { n_head: H, n_kv_head: Hkv, head_dim: D, n_layer: L } = config;
  const layout = parameterLayout(config);
  return {
    config,
    layout,
    cacheWidth: L * 2 * Hkv * D,
    toMeta: () => metaOf(config),
    toShape: () => shapeOf(config),
    describe: () => {
      const shared = Hkv === H ? "" : ` (${Hkv} of keys and values)`;
      const family = config.qk_norm ? "Qwen 3" : config.qkv_bias ? "Qwen 2" : "Llama";
      return `${family}, ${L} layers, ${H} heads${shared} of ${D}, width ${config.n_embd}, MLP ${config.ffn}`;
    },
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
export const llama: NetworkKind<LlamaConfig> = { configOf, readConfig, checkConfig, create: llamaNetwork };
