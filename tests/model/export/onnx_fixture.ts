/** A tiny random model with a tokenizer, and its network once more, as naive as can be: the oracle of the ONNX tests. */
import type { ModelConfig } from "../../../model/config.ts";
import { exportOnnx, type OnnxSource } from "../../../model/export/onnx_export.ts";
import type { PromptLogits } from "../../../model/export/onnx_verify.ts";
import { gptNetwork } from "../../../model/gpt.ts";
import type { ParameterLayout } from "../../../model/parameters.ts";

const MERGES = ["a n", "i n", "e r", "t h", "th e", "Ġ the", "an d", "o u", "l l", "Ġ w"];

/** The character that stands for each byte in byte-level BPE: itself where it prints, else one from 256 on. */
function byteCharacters(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCharCode(prints ? byte : next++);
  });
}

/** The text of a tokenizer.json: special tokens, 256 bytes, a few merges. */
export function tinyTokenizerJson(chat: boolean): string {
  const special = chat ? ["<bos>", "<user>", "<assistant>", "<end_turn>"] : ["<bos>"];
  const pieces = [...special, ...byteCharacters(), ...MERGES.map((merge) => merge.replace(" ", ""))];
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return JSON.stringify({
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map((content, id) => (
      { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
    )),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
      merges: MERGES.map((merge) => merge.split(" ")),
    },
  });
}

/** A random model whose vocabulary is that of `tinyTokenizerJson`. */
export function tinyModel(chat: boolean, seed = 1): OnnxSource {
  const config = {
    vocab_size: 256 + MERGES.length + (chat ? 4 : 1),
    n_embd: 16,
    n_head: 2,
    n_layer: 2,
    block_size: 32,
  };
  const network = gptNetwork(config);
  const { layout } = network;
  const params = network.initialParameters(seed, 0.3);
  return { config, layout, params, tokenizerJson: tinyTokenizerJson(chat) };
}

/** Logits [T][V] of a sequence, in f64, from the formulas of the specification. */
export function naiveLogits(
  config: ModelConfig,
  layout: ParameterLayout,
  params: Float32Array,
  ids: number[],
): number[][] {
  const { n_embd: E, n_head: H, n_layer: L } = config;
  const row = (name: string, r: number) => {
    const { cols, offset } = layout.byName.get(name)!;
    return [...params.subarray(offset + r * cols, offset + (r + 1) * cols)];
  };
  const dot = (a: number[], b: number[]) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
  const add = (a: number[], b: number[]) => a.map((value, i) => value + b[i]!);
  const linear = (name: string, x: number[]) =>
    Array.from({ length: layout.byName.get(name)!.rows }, (_, r) => dot(row(name, r), x));
  const norm = (x: number[]) => x.map((value) => value / Math.sqrt(dot(x, x) / E + 1e-5));

  let xs = ids.map((id, t) => norm(add(row("wte", id), row("wpe", t))));
  for (let l = 0; l < L; l++) {
    const [q, k, v] = ["q", "k", "v"].map((w) => xs.map((x) => linear(`layer${l}.attn_w${w}`, norm(x))));
    xs = xs.map((x, t) => {
      const heads = Array.from({ length: H }, (_, h) => {
        const part = (vector: number[]) => vector.slice(h * E / H, (h + 1) * E / H);
        const scores = k!.slice(0, t + 1).map((key) => dot(part(q![t]!), part(key)) / Math.sqrt(E / H));
        const exp = scores.map((score) => Math.exp(score - Math.max(...scores)));
        const total = exp.reduce((a, b) => a + b);
        return exp.map((weight, s) => part(v![s]!).map((value) => value * weight / total)).reduce(add);
      });
      return add(x, linear(`layer${l}.attn_wo`, heads.flat()));
    });
    xs = xs.map((x) => {
      const hidden = linear(`layer${l}.mlp_fc1`, norm(x)).map((value) => Math.max(0, value));
      return add(x, linear(`layer${l}.mlp_fc2`, hidden));
    });
  }
  return xs.map((x) => linear("lm_head", x));
}

/** Greedy continuation of `ids` until a stop token, which is kept, or a full context of block_size + 1 tokens. */
export function naiveGreedy(
  source: OnnxSource,
  ids: number[],
  stop: number,
  suppressed: number[] = [],
): number[] {
  const { config, layout, params } = source;
  const sequence = [...ids];
  while (sequence.length <= config.block_size) {
    const logits = naiveLogits(config, layout, params, sequence).at(-1)!;
    for (
      const id of sequence.length === ids.length && suppressed.length ? [...suppressed, stop] : suppressed
    ) {
      logits[id] = -Infinity;
    }
    const next = logits.indexOf(Math.max(...logits));
    sequence.push(next);
    if (next === stop) break;
  }
  return sequence;
}

/** The naive network as reference logits. */
export function naive(
  { config, layout }: Pick<OnnxSource, "config" | "layout">,
  params: Float32Array,
): PromptLogits {
  return (ids) => Promise.resolve(Float32Array.from(naiveLogits(config, layout, params, ids).flat()));
}

/** The naive network as `exportOnnx` wants it. */
export const referenceOf =
  (source: OnnxSource) => (params: Float32Array, run: (logits: PromptLogits) => Promise<number>) =>
    run(naive(source, params));

/** Runs `use` with the path of an exported model, then removes it. */
export async function withExport(source: OnnxSource, use: (folder: string) => Promise<void>): Promise<void> {
  const parent = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  try {
    await exportOnnx(`${parent}/exported`, source, { reference: referenceOf(source) });
    await use(`${parent}/exported`);
  } finally {
    await Deno.remove(parent, { recursive: true });
  }
}
