/** A GGUF file's metadata and `LlamaConfig`, both ways. Keys as in llama.cpp's src/llama-arch.cpp. */
import { MicrogptError } from "../../../device/errors.ts";
import type { LlamaConfig, RopeScaling } from "../../llama_config.ts";
import { printable } from "../directory.ts";
import { checkLlama } from "../hf/config.ts";
import type { GgufFile } from "./read.ts";
import { readTensor } from "./tensor_values.ts";
import type { GgufValue } from "./types.ts";

/** What is read: `general.architecture`, and the flag that it stands for. */
const ARCHITECTURES: Record<string, { qk_norm?: true; qkv_bias?: true }> = {
  llama: {},
  qwen2: { qkv_bias: true },
  qwen3: { qk_norm: true },
};

/** Factors of the rotary wavelengths, [D / 2], where Llama 3's scaling is on. */
export const ROPE_FACTORS = "rope_freqs.weight";

/** Llama 3's scalings: a file has only the factors that follow from them. Of Llama 3.1, and of 3.2 and 3.3's small ones. */
const KNOWN_SCALINGS: RopeScaling[] = [8, 32, 16].map((factor) => ({
  factor,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position: 8192,
}));

/**
 * Checks that a file can say how the rotary positions are scaled.
 * @throws {MicrogptError} for a scaling that cannot be told from its factors when it is read
 */
export function checkScaling({ rope_scaling: scaling }: LlamaConfig): void {
  if (!scaling) return;
  const names = Object.keys(KNOWN_SCALINGS[0]!) as (keyof RopeScaling)[];
  if (KNOWN_SCALINGS.some((known) => names.every((name) => known[name] === scaling[name]))) return;
  const { factor, original_max_position: original } = scaling;
  throw new MicrogptError(
    `GGUF has Llama 3's scaling of the rotary positions only as Llama models have it, not by ${factor} from ${original} on`,
    { hint: "export the model with `format` hf" },
  );
}

/**
 * The Llama that a file describes.
 * @throws {MicrogptError} for another network, and metadata that is missing, absurd or of another kind
 */
export async function llamaOfGguf(gguf: GgufFile): Promise<LlamaConfig> {
  const { metadata, path } = gguf;
  const arch = metadata.string("general.architecture");
  if (!Object.hasOwn(ARCHITECTURES, arch)) {
    throw new MicrogptError(
      `${path}: general.architecture is ${printable(arch)}; ${
        Object.keys(ARCHITECTURES).join(", ")
      } are read`,
      { hint: "take a model of the Llama family" },
    );
  }
  checkWhole(gguf, arch);
  const key = (name: string) => `${arch}.${name}`;
  const count = (name: string, fallback?: number) =>
    fallback !== undefined && !metadata.has(key(name)) ? fallback : metadata.count(key(name));
  const n_head = count("attention.head_count");
  const n_embd = count("embedding_length");
  const head_dim = count("attention.key_length", n_embd / n_head);
  const theta = key("rope.freq_base");
  const config: LlamaConfig = {
    architecture: "llama",
    vocab_size: vocabulary(gguf),
    n_embd,
    n_head,
    n_kv_head: count("attention.head_count_kv", n_head),
    head_dim,
    n_layer: count("block_count"),
    ffn: count("feed_forward_length"),
    block_size: count("context_length"),
    rope_theta: metadata.has(theta) ? metadata.number(theta) : 10000,
    norm_eps: rounded(metadata.number(key("attention.layer_norm_rms_epsilon"))),
    tie: !gguf.byName.has("output.weight"),
    ...ARCHITECTURES[arch],
  };
  checkLlama(config, path);
  for (const name of ["attention.value_length", "rope.dimension_count"]) {
    if (count(name, head_dim) === head_dim) continue;
    throw new MicrogptError(
      `${path}: ${key(name)} is ${count(name)}, a head has ${head_dim}; that is not read`,
    );
  }
  const rope_scaling = await scalingOf(gguf, arch, config);
  return rope_scaling ? { ...config, rope_scaling } : config;
}

/** The shortest decimal number that is this one in f32: 1e-5, not 0.000009999999747378752. */
function rounded(value: number): number {
  return Number(value.toPrecision(7));
}

/** @throws {MicrogptError} for a part of a split model, experts and the like */
function checkWhole({ metadata, path }: GgufFile, arch: string): void {
  if (metadata.has("split.count") && metadata.count("split.count") > 1) {
    throw new MicrogptError(`${path}: one of ${metadata.count("split.count")} parts of a model`, {
      hint: "join them: llama-gguf-split --merge FIRST-PART WHOLE.gguf",
    });
  }
  for (const name of ["expert_count", "attention.sliding_window"]) {
    const key = `${arch}.${name}`;
    if (metadata.has(key) && metadata.count(key) > 0) {
      throw new MicrogptError(`${path}: ${key} ${metadata.count(key)} makes another network than Llama's`);
    }
  }
}

/** Rows of the embedding, which the list of tokens must have too. */
function vocabulary({ metadata, byName, path }: GgufFile): number {
  const rows = byName.get("token_embd.weight")?.shape[0];
  if (rows === undefined) throw new MicrogptError(`${path}: there is no tensor token_embd.weight`);
  const tokens = metadata.strings("tokenizer.ggml.tokens").length;
  if (tokens === rows) return rows;
  throw new MicrogptError(`${path}: there are ${tokens} tokens, token_embd.weight has ${rows} rows`);
}

async function scalingOf(
  gguf: GgufFile,
  arch: string,
  config: LlamaConfig,
): Promise<RopeScaling | undefined> {
  const { metadata, path } = gguf;
  const type = `${arch}.rope.scaling.type`;
  if (metadata.has(type) && metadata.string(type) !== "none") {
    throw new MicrogptError(
      `${path}: the rotary positions are scaled by ${
        printable(metadata.string(type))
      }; none and llama3 are read`,
    );
  }
  const tensor = gguf.byName.get(ROPE_FACTORS);
  if (!tensor) return undefined;
  const half = config.head_dim / 2;
  const factors = new Float32Array(half);
  if (tensor.elements === half) {
    await readTensor(gguf, tensor, factors);
    const known = KNOWN_SCALINGS.find((scaling) =>
      ropeFactors(config, scaling).every((factor, j) => Math.abs(factors[j]! - factor) <= 1e-3 * factor)
    );
    if (known) return known;
  }
  throw new MicrogptError(`${path}: ${ROPE_FACTORS} scales the rotary positions in a way that is not known`, {
    hint: "take the model as a HuggingFace directory",
  });
}

/** What each wavelength is multiplied by under Llama 3's scaling, [D / 2] (`generate_extra_tensors` in conversion/llama.py). */
export function ropeFactors(config: LlamaConfig, scaling: RopeScaling): Float32Array<ArrayBuffer> {
  const { head_dim, rope_theta } = config;
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position: original } = scaling;
  return Float32Array.from({ length: head_dim / 2 }, (_, j) => {
    const wavelength = 2 * Math.PI * rope_theta ** (2 * j / head_dim);
    if (wavelength < original / high) return 1;
    if (wavelength > original / low) return factor;
    const smooth = (original / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

/**
 * The architecture's name and metadata of a Llama.
 * @throws {MicrogptError} for both flags at once, which no architecture of llama.cpp has
 */
export function ggufConfig(config: LlamaConfig): Map<string, GgufValue> {
  if (config.qk_norm && config.qkv_bias) {
    throw new MicrogptError("a model with norms and biases on q and k cannot be written as GGUF");
  }
  const arch = ggufArchitecture(config);
  const u32 = (value: number): GgufValue => ({ type: "u32", value });
  const f32 = (value: number): GgufValue => ({ type: "f32", value });
  const entries: [string, GgufValue][] = [
    ["context_length", u32(config.block_size)],
    ["embedding_length", u32(config.n_embd)],
    ["block_count", u32(config.n_layer)],
    ["feed_forward_length", u32(config.ffn)],
    ["attention.head_count", u32(config.n_head)],
    ["attention.head_count_kv", u32(config.n_kv_head)],
    ["attention.key_length", u32(config.head_dim)],
    ["attention.value_length", u32(config.head_dim)],
    ["attention.layer_norm_rms_epsilon", f32(config.norm_eps)],
    ["rope.dimension_count", u32(config.head_dim)],
    ["rope.freq_base", f32(config.rope_theta)],
    ["vocab_size", u32(config.vocab_size)],
  ];
  return new Map(entries.map(([name, value]) => [`${arch}.${name}`, value]));
}

/** What llama.cpp calls the network. */
export function ggufArchitecture({ qk_norm, qkv_bias }: LlamaConfig): string {
  return qk_norm ? "qwen3" : qkv_bias ? "qwen2" : "llama";
}
