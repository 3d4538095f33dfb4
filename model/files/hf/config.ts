/** `config.json` of a HuggingFace directory and `LlamaConfig`, both ways. */
import { MicrogptError } from "../../../device/errors.ts";
import { checkConfig, type LlamaConfig, type RopeScaling } from "../../llama_config.ts";
import { printable } from "../directory.ts";

type Json = Record<string, unknown>;

/** What each model type is: Mistral is Llama's network where its window is off, the Qwens are Llama's with a flag. */
const MODEL_TYPES: Record<string, { qk_norm?: true; qkv_bias?: true }> = {
  llama: {},
  mistral: {},
  qwen2: { qkv_bias: true },
  qwen3: { qk_norm: true },
};

/** Fields that would make another network of it, and the values that leave it Llama's. */
const MUST_BE: Record<string, readonly unknown[]> = {
  hidden_act: ["silu", "swish"],
  mlp_bias: [false],
  partial_rotary_factor: [1],
  num_local_experts: [0],
  num_experts: [0],
  quantization_config: [],
  sliding_window_pattern: [],
  no_rope_layers: [],
};

/** How a file's fields are spoken of in errors. */
class Fields {
  constructor(readonly json: Json, readonly path: string) {}

  error(what: string, hint?: string): MicrogptError {
    return new MicrogptError(`${this.path}: ${what}`, hint === undefined ? {} : { hint });
  }

  /** A finite number; null counts as missing. */
  number(name: string, fallback?: number, from: Json = this.json): number {
    const value = from[name] ?? fallback;
    if (typeof value === "number" && Number.isFinite(value)) return value;
    throw this.error(value === undefined ? `${name} is missing` : `${name} is ${shown(value)}, not a number`);
  }
}

function shown(value: unknown): string {
  return printable(JSON.stringify(value) ?? "none");
}

/**
 * The Llama that a parsed `config.json` describes.
 * @param path what error messages call the file
 * @throws {MicrogptError} for another network, a field that is missing or absurd, and fields that contradict each other
 */
export function llamaOfHf(json: Json, path: string): LlamaConfig {
  const fields = new Fields(json, path);
  const type = json.model_type;
  if (typeof type !== "string" || !Object.hasOwn(MODEL_TYPES, type)) {
    throw fields.error(
      `model_type is ${shown(type)}; ${Object.keys(MODEL_TYPES).join(", ")} are read`,
      "take a model of the Llama family",
    );
  }
  checkIsLlama(fields, type);
  const n_head = fields.number("num_attention_heads");
  const n_embd = fields.number("hidden_size");
  const tie = json.tie_word_embeddings ?? false;
  if (typeof tie !== "boolean") throw fields.error(`tie_word_embeddings is ${shown(tie)}, not true or false`);
  const scaling = ropeScaling(fields);
  const config: LlamaConfig = {
    architecture: "llama",
    vocab_size: fields.number("vocab_size"),
    n_embd,
    n_head,
    n_kv_head: fields.number("num_key_value_heads", n_head),
    head_dim: fields.number("head_dim", n_embd / n_head),
    n_layer: fields.number("num_hidden_layers"),
    ffn: fields.number("intermediate_size"),
    block_size: fields.number("max_position_embeddings"),
    rope_theta: ropeTheta(fields),
    ...(scaling ? { rope_scaling: scaling } : {}),
    norm_eps: fields.number("rms_norm_eps", 1e-6),
    tie,
    ...MODEL_TYPES[type],
  };
  checkLlama(config, path);
  return config;
}

/**
 * Checks the numbers of a Llama from a file.
 * @param path what error messages call the file
 * @throws {MicrogptError} for a number out of range, and numbers that do not go together
 */
export function checkLlama(config: LlamaConfig, path: string): void {
  try {
    checkConfig(config);
  } catch (error) {
    if (error instanceof MicrogptError) throw new MicrogptError(`${path}: ${error.message}`);
    throw error;
  }
}

/** @throws {MicrogptError} for a field by which it is another network */
function checkIsLlama(fields: Fields, type: string): void {
  const { json } = fields;
  const refuse = (name: string) =>
    fields.error(`${name} ${shown(json[name])} makes another network than Llama's, which is not read`);
  for (const [name, allowed] of Object.entries(MUST_BE)) {
    if (json[name] !== undefined && json[name] !== null && !allowed.includes(json[name])) throw refuse(name);
  }
  // Qwen2's biases are not on the output, Llama's are
  if (json.attention_bias === true && type !== "qwen2") throw refuse("attention_bias");
  const windowOff = json.use_sliding_window === false;
  if (json.sliding_window && !windowOff) throw refuse("sliding_window");
  const layers = json.layer_types;
  if (Array.isArray(layers) && layers.some((kind) => kind !== "full_attention")) throw refuse("layer_types");
}

/** rope_theta (transformers 4) and rope_parameters.rope_theta (transformers 5); where both are there they must agree. */
function ropeTheta(fields: Fields): number {
  const inner = ropeParameters(fields);
  const [old, recent] = [fields.json.rope_theta, inner.rope_theta];
  if (old !== undefined && recent !== undefined && old !== recent) {
    throw fields.error(`rope_theta is ${shown(old)}, rope_parameters has ${shown(recent)}`);
  }
  return recent === undefined
    ? fields.number("rope_theta", 10000)
    : fields.number("rope_theta", undefined, inner);
}

/** rope_parameters, or rope_scaling before transformers 5; where both are there they must agree. */
function ropeParameters(fields: Fields): Json {
  const { rope_parameters: recent, rope_scaling: old } = fields.json;
  for (const [name, value] of Object.entries({ rope_parameters: recent, rope_scaling: old })) {
    if ((value ?? undefined) !== undefined && (typeof value !== "object" || Array.isArray(value))) {
      throw fields.error(`${name} is ${shown(value)}, not an object`);
    }
  }
  const [found, other] = [(recent ?? old ?? {}) as Json, (old ?? {}) as Json];
  const told = (json: Json): Json => ({ ...json, rope_type: json.rope_type ?? json.type, type: undefined });
  for (const [name, value] of Object.entries(told(other))) {
    const stands = told(found)[name];
    if (value === undefined || JSON.stringify(stands) === JSON.stringify(value)) continue;
    throw fields.error(`rope_scaling has ${name} ${shown(value)}, rope_parameters has ${shown(stands)}`);
  }
  if ((found.partial_rotary_factor ?? 1) !== 1) {
    throw fields.error(
      `partial_rotary_factor ${shown(found.partial_rotary_factor)} makes another network than Llama's, ` +
        "which is not read",
    );
  }
  return found;
}

function ropeScaling(fields: Fields): RopeScaling | undefined {
  const found = ropeParameters(fields);
  const type = found.rope_type ?? found.type ?? "default";
  if (type === "default") return undefined;
  if (type !== "llama3") {
    throw fields.error(`the rotary positions are scaled by ${shown(type)}; none and llama3 are read`);
  }
  const scaling = {
    factor: fields.number("factor", undefined, found),
    low_freq_factor: fields.number("low_freq_factor", undefined, found),
    high_freq_factor: fields.number("high_freq_factor", undefined, found),
    original_max_position: fields.number("original_max_position_embeddings", undefined, found),
  };
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position: original } = scaling;
  if (!(factor >= 1 && low > 0 && high > low && original >= 1)) {
    throw fields.error(`the rotary positions are scaled by ${shown(scaling)}, which is not possible`);
  }
  return scaling;
}

/** Ids of the tokens that begin and end texts, as `config.json` and `generation_config.json` have them. */
export interface EndIds {
  bos?: number;
  /** any of them ends an answer */
  eos: number[];
  pad?: number;
}

/**
 * The end tokens of a directory: `generation_config.json` counts before `config.json`.
 * @throws {MicrogptError} for ids outside the vocabulary
 */
export function endIds(config: Json, generation: Json, vocabulary: number, path: string): EndIds {
  const ids = (name: string): number[] => {
    const value = generation[name] ?? config[name] ?? [];
    const list = Array.isArray(value) ? value : [value];
    for (const id of list) {
      if (Number.isInteger(id) && id >= 0 && id < vocabulary) continue;
      throw new MicrogptError(`${path}: ${name} ${shown(id)} is no token of a vocabulary of ${vocabulary}`);
    }
    return list;
  };
  const [[bos], eos, [pad]] = [ids("bos_token_id"), ids("eos_token_id"), ids("pad_token_id")];
  return { ...(bos === undefined ? {} : { bos }), eos, ...(pad === undefined ? {} : { pad }) };
}

/** `config.json` of a Llama, complete for transformers 4 and 5, MLX, vLLM and converters to GGUF. */
export function hfConfig(config: LlamaConfig, { bos, eos, pad }: EndIds, dtype: string): Json {
  if (config.qk_norm && config.qkv_bias) {
    throw new MicrogptError("no model of transformers has both norms and biases of q and k");
  }
  const [type, name] = config.qk_norm
    ? ["qwen3", "Qwen3ForCausalLM"]
    : config.qkv_bias
    ? ["qwen2", "Qwen2ForCausalLM"]
    : ["llama", "LlamaForCausalLM"];
  const scaling = config.rope_scaling;
  const rope = scaling
    ? {
      rope_type: "llama3",
      factor: scaling.factor,
      low_freq_factor: scaling.low_freq_factor,
      high_freq_factor: scaling.high_freq_factor,
      original_max_position_embeddings: scaling.original_max_position,
    }
    : { rope_type: "default" };
  return {
    architectures: [name],
    model_type: type,
    vocab_size: config.vocab_size,
    hidden_size: config.n_embd,
    intermediate_size: config.ffn,
    num_hidden_layers: config.n_layer,
    num_attention_heads: config.n_head,
    num_key_value_heads: config.n_kv_head,
    head_dim: config.head_dim,
    hidden_act: "silu",
    max_position_embeddings: config.block_size,
    rms_norm_eps: config.norm_eps,
    attention_bias: type === "qwen2",
    mlp_bias: false,
    attention_dropout: 0,
    tie_word_embeddings: config.tie,
    ...(bos === undefined ? {} : { bos_token_id: bos }),
    eos_token_id: eos.length === 1 ? eos[0] : eos,
    ...(pad === undefined ? {} : { pad_token_id: pad }),
    torch_dtype: dtype,
    dtype,
    rope_theta: config.rope_theta,
    ...(scaling ? { rope_scaling: rope } : {}),
    rope_parameters: { ...rope, rope_theta: config.rope_theta },
  };
}
