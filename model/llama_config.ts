/** The config of a Llama: its numbers, what they must satisfy, and the table of angles that its positions turn by. */
import {
  checkCounts,
  type ConfigNaming,
  LIMITS,
  type ModelConfig,
  readNumbers,
  type Shape,
} from "./config.ts";
import { MicrogptError } from "../device/errors.ts";

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
  /** a norm of each head of queries and of keys, with one weight of [D] for all heads of a layer: Qwen 3 */
  qk_norm?: boolean;
  /** q, k and v have a bias: Qwen 2 */
  qkv_bias?: boolean;
}

/** As `meta.json` has them, in its order. */
const NUMBERS = [
  "vocab_size",
  "n_embd",
  "n_head",
  "n_kv_head",
  "head_dim",
  "n_layer",
  "ffn",
  "block_size",
  "rope_theta",
  "norm_eps",
] as const;

const SCALING = ["factor", "low_freq_factor", "high_freq_factor", "original_max_position"] as const;

const SWITCHES = ["tie", "qk_norm", "qkv_bias"] as const;

const COUNT_LIMITS = {
  ...LIMITS,
  n_kv_head: LIMITS.n_head,
  head_dim: 1 << 10,
  ffn: 1 << 17,
};

/** Epsilon of the norms of new models. */
const NORM_EPSILON = 1e-5;

/** MLPs of new models are so wide: SwiGLU's three matrices then have as many numbers as two of 4E. */
const FFN_FACTOR = 8 / 3;

/** A new model's MLP is a multiple of this: whole rows of any quantized format. */
const FFN_MULTIPLE = 32;

/** See `NetworkKind.configOf`. */
export function configOf(shape: Shape, vocabSize: number): LlamaConfig {
  const { nEmbd, nHead, nLayer, blockSize, nKvHead = 0, headDim = 0, ffn = 0 } = shape;
  const { tie = false, ropeTheta = 10_000 } = shape;
  return {
    architecture: "llama",
    vocab_size: vocabSize,
    n_embd: nEmbd,
    n_head: nHead,
    n_kv_head: nKvHead || nHead,
    head_dim: headDim || nEmbd / nHead,
    n_layer: nLayer,
    ffn: ffn || Math.ceil(nEmbd * FFN_FACTOR / FFN_MULTIPLE) * FFN_MULTIPLE,
    block_size: blockSize,
    rope_theta: ropeTheta,
    norm_eps: NORM_EPSILON,
    tie,
  };
}

/** See `Network.toShape`. */
export function shapeOf(config: LlamaConfig): Required<Shape> {
  return {
    arch: "llama",
    nEmbd: config.n_embd,
    nHead: config.n_head,
    nLayer: config.n_layer,
    blockSize: config.block_size,
    nKvHead: config.n_kv_head,
    headDim: config.head_dim,
    ffn: config.ffn,
    tie: config.tie,
    ropeTheta: config.rope_theta,
  };
}

/** See `Network.toMeta`. */
export function metaOf(config: LlamaConfig): Record<string, unknown> {
  const fields = [...NUMBERS, ...SWITCHES, "rope_scaling" as const].filter((name) =>
    config[name] !== undefined
  );
  return { architecture: "llama", ...Object.fromEntries(fields.map((name) => [name, config[name]])) };
}

/** See `NetworkKind.readConfig`. */
export function readConfig(meta: Record<string, unknown>): LlamaConfig {
  const { rope_scaling: scaling } = meta;
  const switches = SWITCHES.filter((name) => name === "tie" || meta[name] !== undefined).map((name) => {
    if (typeof meta[name] === "boolean") return [name, meta[name]];
    throw new MicrogptError(
      `${name} ${meta[name] === undefined ? "is missing" : "is neither true nor false"}`,
    );
  });
  if (scaling !== undefined && (typeof scaling !== "object" || scaling === null)) {
    throw new MicrogptError("rope_scaling is not an object");
  }
  return {
    architecture: "llama",
    ...readNumbers(meta, NUMBERS),
    ...Object.fromEntries(switches) as { tie: boolean },
    ...(scaling ? { rope_scaling: readNumbers(scaling as Record<string, unknown>, SCALING) } : {}),
  };
}

/** See `NetworkKind.checkConfig`. */
export function checkConfig(config: LlamaConfig, naming: ConfigNaming = {}): void {
  const { name = (field) => field, usage = false } = naming;
  const fail = (what: string, hint?: string) => {
    throw new MicrogptError(what, { usage, ...(hint ? { hint } : {}) });
  };
  const { n_embd: E, n_head: H, n_kv_head: Hkv, head_dim: D } = config;
  if (!Number.isInteger(D) && D === E / H) {
    const hint =
      "each head works on an equal slice of the embedding; change one of the two, or set the width of a head";
    fail(`${name("n_embd")} ${E} is not divisible by ${name("n_head")} ${H}`, hint);
  }
  checkCounts<keyof typeof COUNT_LIMITS>(config, COUNT_LIMITS, naming);
  if (H % Hkv !== 0) {
    const hint =
      "each head of keys and values serves an equal number of heads of queries; change one of the two";
    fail(`${name("n_head")} ${H} is not divisible by ${name("n_kv_head")} ${Hkv}`, hint);
  }
  if (D % 2 !== 0) {
    fail(
      `${name("head_dim")} ${D} is odd`,
      "positions turn the numbers of a head in pairs; choose an even width",
    );
  }
  const { rope_theta: theta, norm_eps: epsilon, rope_scaling: scaling } = config;
  if (!(theta >= 1 && theta <= 1e12)) fail(`${name("rope_theta")} must be from 1 to 1e12, got ${theta}`);
  if (!(epsilon > 0 && epsilon < 1)) fail(`${name("norm_eps")} must be above 0 and below 1, got ${epsilon}`);
  if (scaling && !isUsable(scaling)) fail(`rope_scaling is not usable: ${JSON.stringify(scaling)}`);
}

function isUsable(
  { factor, low_freq_factor, high_freq_factor, original_max_position }: RopeScaling,
): boolean {
  const all = [factor, low_freq_factor, high_freq_factor, original_max_position];
  return all.every((value) => Number.isFinite(value) && value > 0) && low_freq_factor < high_freq_factor;
}

/**
 * Angles of positions 0 … count − 1, [count, D]: cosines of the D / 2 pairs, then their sines. Pair j turns by
 * theta^(−2j / D) a position (Su et al. 2021), less with `rope_scaling`.
 */
export function ropeAngles(config: LlamaConfig, count: number): Float32Array {
  const { head_dim: D, rope_theta: theta, rope_scaling: scaling } = config;
  const angles = new Float32Array(count * D);
  for (let j = 0; j < D / 2; j++) {
    const speed = scaled(theta ** (-2 * j / D), scaling);
    for (let position = 0; position < count; position++) {
      angles[position * D + j] = Math.cos(position * speed);
      angles[position * D + D / 2 + j] = Math.sin(position * speed);
    }
  }
  return angles;
}

/** Radians a position after scaling; between the two factors it goes over smoothly (Llama 3.1). */
function scaled(speed: number, scaling: RopeScaling | undefined): number {
  if (!scaling) return speed;
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position } = scaling;
  const turns = original_max_position * speed / (2 * Math.PI);
  const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)));
  return kept * speed + (1 - kept) * speed / factor;
}
