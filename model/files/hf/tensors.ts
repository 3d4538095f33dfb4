/** The tensors of a Llama by HuggingFace's names: what a file of such a model must hold. */
import type { LlamaConfig } from "../../llama_config.ts";

/** Names and shapes, matrices [out, in]. */
export function llamaTensors(config: LlamaConfig): Map<string, number[]> {
  const { vocab_size: V, n_embd: E, n_head, n_kv_head, head_dim: D, ffn: F } = config;
  const [Q, K] = [n_head * D, n_kv_head * D];
  const tensors = new Map([["model.embed_tokens.weight", [V, E]]]);
  for (let i = 0; i < config.n_layer; i++) {
    const add = (name: string, shape: number[]) => tensors.set(`model.layers.${i}.${name}`, shape);
    add("input_layernorm.weight", [E]);
    for (const [name, rows] of [["q", Q], ["k", K], ["v", K]] as const) {
      add(`self_attn.${name}_proj.weight`, [rows, E]);
      if (config.qkv_bias) add(`self_attn.${name}_proj.bias`, [rows]);
    }
    if (config.qk_norm) { for (const name of ["q", "k"]) add(`self_attn.${name}_norm.weight`, [D]); }
    add("self_attn.o_proj.weight", [E, Q]);
    add("post_attention_layernorm.weight", [E]);
    add("mlp.gate_proj.weight", [F, E]);
    add("mlp.up_proj.weight", [F, E]);
    add("mlp.down_proj.weight", [E, F]);
  }
  tensors.set("model.norm.weight", [E]);
  if (!config.tie) tensors.set("lm_head.weight", [V, E]);
  return tensors;
}

/** What old files hold besides and nobody reads: the rotary frequencies, which follow from the config. */
export function isIgnored(name: string, tied: boolean): boolean {
  return name.endsWith(".rotary_emb.inv_freq") || (tied && name === "lm_head.weight");
}
