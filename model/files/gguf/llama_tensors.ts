/** The tensors of a Llama in a GGUF file: their names, the order of their rows, and how they are read. */
import { MicrogptError } from "../../../device/errors.ts";
import type { LlamaConfig } from "../../llama_config.ts";
import type { ParameterLayout } from "../../parameters.ts";
import { printable } from "../directory.ts";
import { llamaTensors } from "../hf/tensors.ts";
import { ROPE_FACTORS } from "./llama_config.ts";
import type { GgufTensors } from "./read.ts";
import { interleavedToHalves } from "./rope_order.ts";
import { readTensor } from "./tensor_values.ts";

/** Parts of a layer, HuggingFace's names to llama.cpp's. */
const PARTS = new Map([
  ["input_layernorm", "attn_norm"],
  ["self_attn.q_proj", "attn_q"],
  ["self_attn.k_proj", "attn_k"],
  ["self_attn.v_proj", "attn_v"],
  ["self_attn.o_proj", "attn_output"],
  ["self_attn.q_norm", "attn_q_norm"],
  ["self_attn.k_norm", "attn_k_norm"],
  ["post_attention_layernorm", "ffn_norm"],
  ["mlp.gate_proj", "ffn_gate"],
  ["mlp.up_proj", "ffn_up"],
  ["mlp.down_proj", "ffn_down"],
]);

/** llama.cpp's name of a tensor. @param name HuggingFace's */
export function ggufName(name: string): string {
  const layer = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name);
  const part = layer && PARTS.get(layer[2]!);
  if (part) return `blk.${layer[1]}.${part}.${layer[3]}`;
  const outside: Record<string, string> = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
  };
  const found = outside[name];
  if (!found) throw new RangeError(`${name} is no tensor of a Llama`);
  return found;
}

/**
 * Whether the rows of a tensor lie in the interleaved order in a file: those of q and k in architecture llama, while the
 * Qwens' lie as HuggingFace has them.
 */
export function isInterleaved(name: string, { qk_norm, qkv_bias }: LlamaConfig): boolean {
  return !qk_norm && !qkv_bias && /\.self_attn\.[qk]_proj\./.test(name);
}

/**
 * Checks that a file holds the tensors of its config; reads no values.
 * @throws {MicrogptError} for a tensor that is missing, of another shape, or of another network
 */
export function checkGgufTensors({ path, byName }: GgufTensors, config: LlamaConfig): void {
  const expected = new Map([...llamaTensors(config)].map(([name, shape]) => [ggufName(name), shape]));
  for (const [name, shape] of expected) {
    const found = byName.get(name)?.shape;
    if (!found) throw new MicrogptError(`${path}: there is no tensor ${name}`);
    if (found.length !== shape.length || found.some((n, i) => n !== shape[i])) {
      throw new MicrogptError(
        `${path}: tensor ${name} has shape [${found.join(", ")}], the metadata asks for [${
          shape.join(", ")
        }]`,
      );
    }
  }
  for (const name of byName.keys()) {
    if (expected.has(name) || name === ROPE_FACTORS) continue;
    throw new MicrogptError(
      `${path}: tensor ${printable(name)} is no part of the network that the metadata describes`,
    );
  }
}

/**
 * Reads all weights, dequantized, each straight to its place in the flat array.
 * @param layout of HuggingFace's names and the config's shapes
 * @param flat [layout.length], zeros where nothing is read
 * @throws {MicrogptError} when the file shrank, or holds a value that is not finite
 */
export async function readGgufWeights(
  gguf: GgufTensors,
  config: LlamaConfig,
  layout: ParameterLayout,
  flat: Float32Array<ArrayBuffer>,
): Promise<void> {
  for (const { name, offset, rows, cols, shape } of layout.entries) {
    const tensor = gguf.byName.get(ggufName(name));
    if (!tensor) throw new RangeError(`${gguf.path} has no tensor for ${name}`);
    const values = flat.subarray(offset, offset + rows * cols);
    await readTensor(gguf, tensor, values);
    // a bias is a column of rows of one
    if (isInterleaved(name, config)) {
      interleavedToHalves(values, config.head_dim, shape.length === 1 ? 1 : cols);
    }
  }
}
