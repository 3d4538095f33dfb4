/**
 * Writes a checkpoint as the Rust program of the same name (0.6) does, from the format alone and with none of this
 * project's own code for files, so that a mistake there cannot hide here.
 *
 *     deno run --allow-write tests/golden/rust_checkpoint.ts DIR F32|BF16|F16 [chat]
 */
import { join } from "node:path";

export type RustDtype = "F32" | "BF16" | "F16";

const E = 8, HEADS = 2, LAYERS = 2, BLOCK = 16;
const LETTERS = [..."abcdefghijklmnopqrstuvwxyz"];
const MERGES = [["a", "n"], ["e", "l"], ["an", "n"], ["i", "a"]];
const CHAT_TOKENS = ["user", "assistant", "end_turn"];

/** A tokenizer that knows only bytes it has seen: the letters and the line feed between documents. */
function tokenizer(chat: boolean) {
  const special = ["bos", ...(chat ? CHAT_TOKENS : [])].map((name) => `<${name}>`);
  const tokens = [...special, ...LETTERS, "Ċ", ...MERGES.map((pair) => pair.join(""))];
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map((content, id) => (
      { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
    )),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: MERGES,
    },
  };
}

/** Names and shapes, in the order of the names. */
function shapes(vocabulary: number): [name: string, rows: number, cols: number][] {
  const all: [string, number, number][] = [["wte", vocabulary, E], ["wpe", BLOCK, E], [
    "lm_head",
    vocabulary,
    E,
  ]];
  for (let i = 0; i < LAYERS; i++) {
    for (const w of ["wq", "wk", "wv", "wo"]) all.push([`layer${i}.attn_${w}`, E, E]);
    all.push([`layer${i}.mlp_fc1`, 4 * E, E], [`layer${i}.mlp_fc2`, E, 4 * E]);
  }
  return all.sort(([a], [b]) => a < b ? -1 : 1);
}

/** Element i of the n-th tensor: a multiple of 1/256 that all three types hold exactly, around ±0.12. */
export function rustValue(n: number, i: number): number {
  return ((i * 37 + n * 101) % 63 - 31) / 256;
}

/** f32 to the bits of a type, for values that need no rounding. */
function bits(value: number, dtype: RustDtype): number {
  const f32 = new DataView(new ArrayBuffer(4));
  f32.setFloat32(0, value);
  const word = f32.getUint32(0);
  if (dtype === "F32") return word;
  if (dtype === "BF16") return word >>> 16;
  if (value === 0) return 0;
  return (word >>> 31) << 15 | ((word >>> 23 & 255) - 127 + 15) << 10 | (word >>> 13 & 1023);
}

function safetensors(vocabulary: number, dtype: RustDtype, scaled: (value: number) => number): Uint8Array {
  const size = dtype === "F32" ? 4 : 2;
  let end = 0;
  const fields = shapes(vocabulary).map(([name, rows, cols]) => {
    const start = end;
    end += rows * cols * size;
    return `"${name}":{"dtype":"${dtype}","shape":[${rows},${cols}],"data_offsets":[${start},${end}]}`;
  });
  const json = `{${fields.join(",")}}`;
  const header = new TextEncoder().encode(json + " ".repeat((8 - json.length % 8) % 8));
  const file = new DataView(new ArrayBuffer(8 + header.length + end));
  file.setBigUint64(0, BigInt(header.length), true);
  new Uint8Array(file.buffer).set(header, 8);
  let at = 8 + header.length;
  shapes(vocabulary).forEach(([, rows, cols], n) => {
    for (let i = 0; i < rows * cols; i++, at += size) {
      const word = bits(scaled(rustValue(n, i)), dtype);
      if (size === 4) file.setUint32(at, word, true);
      else file.setUint16(at, word, true);
    }
  });
  return new Uint8Array(file.buffer);
}

/** The fields of `train_state.json`, and one that is not known here. */
export const RUST_STATE = {
  step: 120,
  adam_step: 120,
  learning_rate: 0.01,
  batch_size: 8,
  dataset_path: "input.txt",
  dataset_mode: "text",
  dtype: "f32",
  candle_version: "0.9",
};

/** Writes the checkpoint into `dir`, which is created. Moments are F32 always. */
export async function writeRustCheckpoint(dir: string, dtype: RustDtype, chat = false): Promise<void> {
  await Deno.mkdir(dir, { recursive: true });
  const json = tokenizer(chat);
  const vocabulary = Object.keys(json.model.vocab).length;
  const meta = { vocab_size: vocabulary, n_embd: E, n_head: HEADS, n_layer: LAYERS, block_size: BLOCK };
  const state = { ...RUST_STATE, dataset_mode: chat ? "chat" : "text", dtype: dtype.toLowerCase() };
  const text = (name: string, value: unknown) => Deno.writeTextFile(join(dir, name), JSON.stringify(value));
  await text("meta.json", chat ? { ...meta, special_tokens: CHAT_TOKENS } : meta);
  await text("tokenizer.json", json);
  await text("train_state.json", state);
  await Deno.writeFile(join(dir, "weights.safetensors"), safetensors(vocabulary, dtype, (w) => w));
  await Deno.writeFile(join(dir, "optimizer_m.safetensors"), safetensors(vocabulary, "F32", (w) => w / 64));
  await Deno.writeFile(join(dir, "optimizer_v.safetensors"), safetensors(vocabulary, "F32", (w) => w * w));
}

if (import.meta.main) {
  const [dir, dtype, chat] = Deno.args;
  if (!dir || !["F32", "BF16", "F16"].includes(dtype ?? "")) {
    console.error("usage: rust_checkpoint.ts DIR F32|BF16|F16 [chat]");
    Deno.exit(2);
  }
  await writeRustCheckpoint(dir, dtype as RustDtype, chat === "chat");
}
