/** What a Llama works in beside its weights (model/llama.ts): activations of a training step, memory of decoding, constants. */
import type { Allocator, Device, Tensor } from "../device/device.ts";
import { type LlamaConfig, ropeAngles } from "./llama_config.ts";
import { logitRows } from "./logit_chunks.ts";
import type { Activations, DecodeMemory } from "./network.ts";

/** Numbers that never change; filled when first used, since who counts memory cannot write to it. */
export interface Constants {
  /** [positions, D] f32, angles by position */
  angles: Tensor;
  /** [T, 1] ones, whose product with a bias is that bias for each row */
  ones: Tensor | undefined;
  filled: boolean;
}

/** Fills them the first time. @returns the constants, `ones` for `rows` rows */
export function filled(d: Device, constants: Constants, config: LlamaConfig, rows: number): Constants {
  const { angles, ones } = constants;
  if (!constants.filled) {
    d.write(angles, ropeAngles(config, angles.capacity));
    if (ones) d.write(ones, new Float32Array(ones.capacity).fill(1));
  }
  constants.filled = true;
  if (ones) ones.rows = rows;
  return constants;
}

/** What forward leaves of a layer for backward. */
export interface LayerActivations {
  /** [T, E] the residual stream before attention */
  xIn: Tensor;
  /** [T, E] norm(xIn) */
  norm1: Tensor;
  /** [T, (H + 2 Hkv)·D] before the norm of heads */
  rawQkv?: Tensor;
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
export interface Gradients {
  /** [T, E] of the residual stream */
  dx: Tensor;
  /** [T, E] */
  dNorm: Tensor;
  /** [T, H·D] */
  dHeads: Tensor;
  /** [T, (H + 2 Hkv)·D] */
  dQkv: Tensor;
  /** [T, (H + 2 Hkv)·D] before the norm of heads */
  dRawQkv?: Tensor;
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
  constants: Constants;
}

/** See `Network.allocateActivations`. */
export function allocateActivations(
  allocator: Allocator,
  config: LlamaConfig,
  maxTokens: number,
): LlamaActivations {
  const { n_embd: E, n_head: H, n_kv_head: Hkv, head_dim: D, n_layer: L, ffn: F, vocab_size: V } = config;
  const tensor = (name: string, rows: number, cols: number, type: "f32" | "work") =>
    allocator.tensor(`activations ${name}`, rows, cols, type, "activations");
  const matrix = (name: string, cols: number, type: "f32" | "work") => tensor(name, maxTokens, cols, type);
  const Q = (H + 2 * Hkv) * D;
  return {
    layers: Array.from({ length: L }, (_, i) => ({
      xIn: matrix(`layer${i}.xIn`, E, "f32"),
      norm1: matrix(`layer${i}.norm1`, E, "work"),
      ...(config.qk_norm ? { rawQkv: matrix(`layer${i}.rawQkv`, Q, "work") } : {}),
      qkv: matrix(`layer${i}.qkv`, Q, "work"),
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
      dQkv: matrix("dQkv", Q, "work"),
      ...(config.qk_norm ? { dRawQkv: matrix("dRawQkv", Q, "work") } : {}),
      dHidden: matrix("dHidden", F, "work"),
      dGateUp: matrix("dGateUp", 2 * F, "work"),
    },
    constants: {
      angles: tensor("angles", Math.min(config.block_size, maxTokens), D, "f32"),
      ones: config.qkv_bias ? matrix("ones", 1, "f32") : undefined,
      filled: false,
    },
  };
}

/** Says how many tokens the coming batch has. */
export function setTokenCount(a: LlamaActivations, tokens: number): void {
  for (const group of [...a.layers, a.gradients]) {
    for (const tensor of Object.values(group) as Tensor[]) tensor.rows = tokens;
  }
  for (const tensor of [a.xOut, a.normOut, a.losses]) tensor.rows = tokens;
}

/** All memory of decoding except weights; a row of a cache is key, then value: [sequences · B, 2 Hkv·D], a layer each. */
export interface LlamaDecodeMemory extends DecodeMemory {
  scratch: {
    /** [N, E] the residual stream */
    x: Tensor;
    /** [N, E] */
    norm: Tensor;
    /** [N, (H + 2 Hkv)·D] before the norm of heads, where there is one */
    rawQkv?: Tensor;
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
    /** [N, 1], where there are biases */
    ones?: Tensor;
  };
  constants: Constants;
}

/** See `Network.allocateDecodeMemory`. */
export function allocateDecodeMemory(
  allocator: Allocator,
  config: LlamaConfig,
  maxRows: number,
  sequences: number,
  contextLength: number,
): LlamaDecodeMemory {
  const { n_embd: E, n_head: H, n_kv_head: Hkv, head_dim: D, n_layer: L, ffn: F, vocab_size: V } = config;
  const tensor = (label: string, rows: number, cols: number, type: "f32" | "work") =>
    allocator.tensor(label, rows, cols, type, "decoding");
  const Q = (H + 2 * Hkv) * D;
  const angles = tensor("decoding angles", contextLength, D, "f32");
  const ones = config.qkv_bias ? tensor("decoding ones", maxRows, 1, "f32") : undefined;
  return {
    scratch: {
      x: tensor("decoding x", maxRows, E, "f32"),
      norm: tensor("decoding norm", maxRows, E, "work"),
      ...(config.qk_norm ? { rawQkv: tensor("decoding rawQkv", maxRows, Q, "work") } : {}),
      qkv: tensor("decoding qkv", maxRows, Q, "work"),
      heads: tensor("decoding heads", maxRows, H * D, "work"),
      gateUp: tensor("decoding gateUp", maxRows, 2 * F, "work"),
      hidden: tensor("decoding hidden", maxRows, F, "work"),
      angles,
      ...(ones ? { ones } : {}),
    },
    logits: tensor("decoding logits", sequences, V, "f32"),
    caches: Array.from({ length: L }, (_, i) => {
      return tensor(`key-value cache of layer ${i}`, sequences * contextLength, 2 * Hkv * D, "work");
    }),
    constants: { angles, ones, filled: false },
  };
}
