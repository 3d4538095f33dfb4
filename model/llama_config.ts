/** The config of a Llama: its numbers, what they must satisfy, and the table of angles that its positions turn by. */
import type { ModelConfig } from "./config.ts";

/**
 * Slows the rotation of pairs that turn slower than once in `original_max_position` positions (`rope_type: "llama3"` in
 * config.json): all of those beyond `low_freq_factor` by `factor`, those beyond `high_freq_factor` not at all.
 */
export interface RopeScaling {
  factor: number;
  low_freq_factor: number;
  high_freq_factor: number;
  /** positions that the model was first trained for */
  original_max_position: number;
}

/** Beside what every config has. In config.json: hidden_size, num_attention_heads, num_hidden_layers, max_position_embeddings. */
export interface LlamaConfig extends ModelConfig {
  architecture: "llama";
  /** Hkv, a divisor of H: heads of keys and values, each shared by H / Hkv heads of queries (num_key_value_heads) */
  n_kv_head: number;
  /** D, even; H · D need not be E (head_dim) */
  head_dim: number;
  /** F, width of the MLP (intermediate_size) */
  ffn: number;
  /** pair j of D / 2 turns by rope_theta^(−2j / D) a position */
  rope_theta: number;
  rope_scaling?: RopeScaling;
  /** added to the mean square in every norm (rms_norm_eps) */
  norm_eps: number;
  /** the embedding is the head, too (tie_word_embeddings) */
  tie: boolean;
  /** a norm of each head of queries and keys, with one weight of [D] for all heads of a layer: Qwen 3 */
  qk_norm?: boolean;
  /** q, k and v have a bias: Qwen 2 */
  qkv_bias?: boolean;
}
