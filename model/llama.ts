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
 * position · theta^(−2j/D). Nothing has a bias.
 */
import type { Allocator, Batch, DecodeRows, Device, Tensor } from "../device/device.ts";
import {
  checkConfig,
  configOf,
  type LlamaConfig,
  metaOf,
  readConfig,
  ropeAngles,
  shapeOf,
} from "./llama_config.ts";
import { firstTrained, type Frozen } from "./freeze.ts";
import { forEachChunk, logitRows } from "./logit_chunks.ts";
import type { Activations, DecodeMemory, Network, NetworkKind } from "./network.ts";
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
  const norm = (layer: number, name: string): ParameterSpec[] => {
    return [{ name: `model.layers.${layer}.${name}.weight`, shape: [E], role: "norm", layer }];
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
    ]),
    ...layers.flatMap((layer) => [norm(layer, "input_layernorm"), norm(layer, "post_attention_layernorm")]),
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
  const embedding = view("model.embed_tokens");
  const firstNorm = layout.byName.get("model.layers.0.input_layernorm.weight")!.offset;
  return {
    embedding,
    lmHead: config.tie ? embedding : view("lm_head"),
    layers: Array.from({ length: L }, (_, i) => ({
      norm1: view(`model.layers.${i}.input_layernorm`),
      qkv: view(`model.layers.${i}.self_attn.q_proj`, (H + 2 * Hkv) * D),
      attnO: view(`model.layers.${i}.self_attn.o_proj`),
      norm2: view(`model.layers.${i}.post_attention_layernorm`),
      gateUp: view(`model.layers.${i}.mlp.gate_proj`, 2 * F),
      down: view(`model.layers.${i}.mlp.down_proj`),
    })),
    norm: view("model.norm"),
    norms: d.view(flat, firstNorm, 1, layout.length - firstNorm),
  };
}

/** Angles by position, [positions, D] f32; filled when first used, since who counts memory cannot write to it. */
interface Angles {
  table: Tensor;
  filled: boolean;
}

function filled(d: Device, angles: Angles, config: LlamaConfig): Tensor {
  if (!angles.filled) d.write(angles.table, ropeAngles(config, angles.table.capacity));
  angles.filled = true;
  return angles.table;
}

/** What forward leaves of a layer for backward. */
interface LayerActivations {
  /** [T, E] the residual stream before attention */
  xIn: Tensor;
  /** [T, E] norm(xIn) */
  norm1: Tensor;
  /** [T, (H + 2 Hkv)·D] queries and keys turned */
  qkv: Tensor;
  /** [T, H·D] the heads' outputs side by side */
  heads: Tensor;
  /** [T, H] log-sum-exp of each row of scores */
  lse: Tensor;
  /** [T, E] the residual stream before the MLP */
  xMid: Tensor;
  /** [T, E] norm(xMid) */
  norm2: Tensor;
  /** [T, 2F] gates, then ups */
  gateUp: Tensor;
  /** [T, F] silu(gate) ∘ up */
  hidden: Tensor;
}

/** What backward works in, a row a token. */
interface Gradients {
  /** [T, E] of the residual stream */
  dx: Tensor;
  /** [T, E] */
  dNorm: Tensor;
  /** [T, H·D] */
  dHeads: Tensor;
  /** [T, (H + 2 Hkv)·D] */
  dQkv: Tensor;
  /** [T, F] */
  dHidden: Tensor;
  /** [T, 2F] */
  dGateUp: Tensor;
}

/** All memory of a training step except weights and their like. */
export interface LlamaActivations extends Activations {
  layers: LayerActivations[];
  /** [T, E] the residual stream after the last layer */
  xOut: Tensor;
  /** [T, E] norm(xOut) */
  normOut: Tensor;
  /** [chunk, V] logits of some rows, then their gradient */
  logits: Tensor;
  /** [T, 1] */
  losses: Tensor;
  gradients: Gradients;
  angles: Angles;
}

function allocateActivations(allocator: Allocator, config: LlamaConfig, maxTokens: number): LlamaActivations {
  const { n_embd: E, n_head: H, n_kv_head: Hkv, head_dim: D, n_layer: L, ffn: F, vocab_size: V } = config;
  const tensor = (name: string, rows: number, cols: number, type: "f32" | "work") =>
    allocator.tensor(`activations ${name}`, rows, cols, type, "activations");
  const matrix = (name: string, cols: number, type: "f32" | "work") => tensor(name, maxTokens, cols, type);
  return {
    layers: Array.from({ length: L }, (_, i) => ({
      xIn: matrix(`layer${i}.xIn`, E, "f32"),
      norm1: matrix(`layer${i}.norm1`, E, "work"),
      qkv: matrix(`layer${i}.qkv`, (H + 2 * Hkv) * D, "work"),
      heads: matrix(`layer${i}.heads`, H * D, "work"),
      lse: matrix(`layer${i}.lse`, H, "f32"),
      xMid: matrix(`layer${i}.xMid`, E, "f32"),
      norm2: matrix(`layer${i}.norm2`, E, "work"),
      gateUp: matrix(`layer${i}.gateUp`, 2 * F, "work"),
      hidden: matrix(`layer${i}.hidden`, F, "work"),
    })),
    xOut: matrix("xOut", E, "f32"),
    normOut: matrix("normOut", E, "work"),
    logits: tensor("logits", logitRows(maxTokens, V), V, "f32"),
    losses: matrix("losses", 1, "f32"),
    gradients: {
      dx: matrix("dx", E, "f32"),
      dNorm: matrix("dNorm", E, "work"),
      dHeads: matrix("dHeads", H * D, "work"),
      dQkv: matrix("dQkv", (H + 2 * Hkv) * D, "work"),
      dHidden: matrix("dHidden", F, "work"),
      dGateUp: matrix("dGateUp", 2 * F, "work"),
    },
    angles: { table: tensor("angles", Math.min(config.block_size, maxTokens), D, "f32"), filled: false },
  };
}

/** Says how many tokens the coming batch has. */
function setTokenCount(a: LlamaActivations, tokens: number): void {
  for (const group of [...a.layers, a.gradients]) {
    for (const tensor of Object.values(group) as Tensor[]) tensor.rows = tokens;
  }
  for (const tensor of [a.xOut, a.normOut, a.losses]) tensor.rows = tokens;
}

/** One layer, forward: from a.xIn to xNext, both [T, E]. */
function layerForward(
  d: Device,
  { n_head: H, n_kv_head: Hkv, norm_eps: epsilon }: LlamaConfig,
  xNext: Tensor,
  w: LayerWeights,
  a: LayerActivations,
  batch: Batch,
  angles: Tensor,
): void {
  d.scaledRmsNorm(a.norm1, a.xIn, w.norm1, epsilon); //          [T, E]
  d.matmul(a.qkv, a.norm1, w.qkv, "NT"); //                      [T, (H + 2 Hkv)·D]
  d.rope(a.qkv, angles, batch, H + Hkv); //                      queries and keys
  d.attention(a.heads, a.lse, a.qkv, batch, H, Hkv); //          [T, H·D], [T, H]
  d.matmul(a.xMid, a.heads, w.attnO, "NT", { add: a.xIn }); //   [T, E] = xIn + heads · Woᵀ
  d.scaledRmsNorm(a.norm2, a.xMid, w.norm2, epsilon); //         [T, E]
  d.matmul(a.gateUp, a.norm2, w.gateUp, "NT"); //                [T, 2F]
  d.swiglu(a.hidden, a.gateUp); //                               [T, F]
  d.matmul(xNext, a.hidden, w.down, "NT", { add: a.xMid }); //   [T, E] = xMid + hidden · Wdownᵀ
}

/**
 * One layer, backward: s.dx is the gradient of its output before, of its input after.
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
  angles: Tensor,
  accumulate: boolean,
  frozen: boolean,
): void {
  const into = (gradient: Tensor) => accumulate ? { add: gradient } : {};
  if (!frozen) d.matmul(g.down, s.dx, a.hidden, "TN", into(g.down)); //  dWdown = dxᵀ · hidden
  d.matmul(s.dHidden, s.dx, w.down, "NN"); //                            [T, F]
  d.swigluBackward(s.dGateUp, s.dHidden, a.gateUp); //                   [T, 2F]
  if (!frozen) d.matmul(g.gateUp, s.dGateUp, a.norm2, "TN", into(g.gateUp)); // dWgateUp = dGateUpᵀ · norm2
  d.matmul(s.dNorm, s.dGateUp, w.gateUp, "NN"); //                       [T, E]
  d.scaledRmsNormBackward(s.dx, g.norm2, s.dNorm, a.xMid, w.norm2, epsilon); // dx += …
  if (!frozen) d.matmul(g.attnO, s.dx, a.heads, "TN", into(g.attnO)); // dWo = dxᵀ · heads
  d.matmul(s.dHeads, s.dx, w.attnO, "NN"); //                            [T, H·D]
  d.attentionBackward(s.dQkv, s.dHeads, a.heads, a.lse, a.qkv, batch, H, Hkv); // [T, (H + 2 Hkv)·D]
  d.rope(s.dQkv, angles, batch, H + Hkv, true); //                       turned back
  if (!frozen) d.matmul(g.qkv, s.dQkv, a.norm1, "TN", into(g.qkv)); //   dWqkv = dQkvᵀ · norm1
  d.matmul(s.dNorm, s.dQkv, w.qkv, "NN"); //                             [T, E]
  d.scaledRmsNormBackward(s.dx, g.norm1, s.dNorm, a.xIn, w.norm1, epsilon); // dx += …
  if (frozen) { for (const norm of [g.norm1, g.norm2]) d.zero(norm); }
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
  const angles = filled(d, a.angles, config);
  d.lookup(a.layers[0]!.xIn, batch, w.embedding);
  a.layers.forEach((layer, i) => {
    layerForward(d, config, a.layers[i + 1]?.xIn ?? a.xOut, w.layers[i]!, layer, batch, angles);
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
  const angles = filled(d, a.angles, config);
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
      angles,
      accumulate,
      isFrozen,
    );
  }
  if (frozen?.embeddings) return;
  if (!accumulate && !config.tie) d.zero(g.embedding);
  d.lookupBackward(g.embedding, s.dx, batch);
}

/** All memory of decoding except weights; a row of a cache is key, then value: [sequences · B, 2 Hkv·D], a layer each. */
export interface LlamaDecodeMemory extends DecodeMemory {
  scratch: {
    /** [N, E] the residual stream */
    x: Tensor;
    /** [N, E] */
    norm: Tensor;
    /** [N, (H + 2 Hkv)·D] */
    qkv: Tensor;
    /** [N, H·D] */
    heads: Tensor;
    /** [N, 2F] */
    gateUp: Tensor;
    /** [N, F] */
    hidden: Tensor;
    /** [positions, D] */
    angles: Tensor;
  };
  angles: Angles;
}

function allocateDecodeMemory(
  allocator: Allocator,
  config: LlamaConfig,
  maxRows: number,
  sequences: number,
  contextLength: number,
): LlamaDecodeMemory {
  const { n_embd: E, n_head: H, n_kv_head: Hkv, head_dim: D, n_layer: L, ffn: F, vocab_size: V } = config;
  const tensor = (label: string, rows: number, cols: number, type: "f32" | "work") =>
    allocator.tensor(label, rows, cols, type, "decoding");
  const table = tensor("decoding angles", contextLength, D, "f32");
  return {
    scratch: {
      x: tensor("decoding x", maxRows, E, "f32"),
      norm: tensor("decoding norm", maxRows, E, "work"),
      qkv: tensor("decoding qkv", maxRows, (H + 2 * Hkv) * D, "work"),
      heads: tensor("decoding heads", maxRows, H * D, "work"),
      gateUp: tensor("decoding gateUp", maxRows, 2 * F, "work"),
      hidden: tensor("decoding hidden", maxRows, F, "work"),
      angles: table,
    },
    logits: tensor("decoding logits", sequences, V, "f32"),
    caches: Array.from({ length: L }, (_, i) => {
      return tensor(`key-value cache of layer ${i}`, sequences * contextLength, 2 * Hkv * D, "work");
    }),
    angles: { table, filled: false },
  };
}

/** See `Network.decodeStep`. */
function decodeStep(
  d: Device,
  config: LlamaConfig,
  w: LlamaWeights,
  { logits, caches, scratch, angles }: LlamaDecodeMemory,
  rows: DecodeRows,
  contextLength: number,
  logitRows: number,
): void {
  const { x, norm, qkv, heads, gateUp, hidden } = scratch;
  const { n_embd: E, n_head: H, n_kv_head: Hkv, norm_eps: epsilon } = config;
  const n = rows.tokens.rows;
  for (const tensor of [x, norm, qkv, heads, gateUp, hidden]) tensor.rows = n;
  const table = filled(d, angles, config);
  d.lookupRows(x, rows, w.embedding);
  w.layers.forEach((layer, i) => {
    d.scaledRmsNorm(norm, x, layer.norm1, epsilon);
    d.matmul(qkv, norm, layer.qkv, "NT");
    d.ropeRows(qkv, table, rows, H + Hkv);
    d.attentionCached(heads, qkv, caches[i]!, rows, contextLength, H, Hkv);
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
      return `Llama, ${L} layers, ${H} heads${shared} of ${D}, width ${config.n_embd}, MLP ${config.ffn}`;
    },
    initialParameters: (seed, std) => initialParameters(layout, L, addsToResidual, seed, std),
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
