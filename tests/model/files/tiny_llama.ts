/** A tiny Llama with random weights and a trained tokenizer, for tests of files. */
import { join } from "node:path";
import type { LlamaConfig } from "../../../model/llama_config.ts";
import type { HfExport } from "../../../model/files/hf/directory.ts";
import { writeHfDirectory } from "../../../model/files/hf/directory.ts";
import { llamaTensors } from "../../../model/files/hf/tensors.ts";
import type { FileDtype } from "../../../model/files/safetensors.ts";
import { layOut, type ParameterLayout } from "../../../model/parameters.ts";
import { parseTokenizerJson } from "../../../data/tokenizer_json.ts";
import { NativeTokenizer } from "../../../native/tokenizer.ts";

/** Heads that are no divisor of the width, and shared keys and values. */
export const TINY: LlamaConfig = {
  architecture: "llama",
  vocab_size: 280,
  n_embd: 32,
  n_head: 4,
  n_kv_head: 2,
  head_dim: 16,
  n_layer: 2,
  ffn: 64,
  block_size: 64,
  rope_theta: 10000,
  norm_eps: 1e-5,
  tie: false,
};

/** The names and shapes of a config, laid out. */
export function layoutOf(config: LlamaConfig): ParameterLayout {
  const specs = [...llamaTensors(config)].map(([name, shape]) => {
    return [{ name, shape: shape as [number, number], role: "matrix" as const }];
  });
  return layOut(specs);
}

/** Numbers that f16 and bf16 hold exactly, another for each parameter nearby. */
export function tinyParameters(layout: ParameterLayout): Float32Array<ArrayBuffer> {
  const flat = new Float32Array(layout.length);
  let n = 0;
  for (const { offset, rows, cols } of layout.entries) {
    for (let i = 0; i < rows * cols; i++) flat[offset + i] = (n++ * 37 % 255 - 127) / 256;
  }
  return flat;
}

/** A whole model. */
export function tinyModel(change: Partial<LlamaConfig> = {}): HfExport {
  const config = { ...TINY, ...change };
  const layout = layoutOf(config);
  using tokenizer = NativeTokenizer.train(["hello hi hello"], { vocabSize: 270, chat: true });
  const [bos, end] = [tokenizer.id("<bos>")!, tokenizer.id("<end_turn>")!];
  return {
    config,
    layout,
    params: tinyParameters(layout),
    tokenizer: parseTokenizerJson(tokenizer.toJSON()),
    ends: { bos, eos: [end, bos], pad: bos },
    addBos: true,
    chatTemplate:
      "{{ bos_token }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<end_turn>' }}{% endfor %}",
  };
}

/** Writes it into a directory. */
export async function writeTiny(dir: string, model = tinyModel(), dtype: FileDtype = "F32"): Promise<void> {
  await writeHfDirectory(dir, model, dtype);
}

/** Splits `model.safetensors` into two shards with an index, tensors in another order. */
export async function shard(dir: string): Promise<void> {
  const bytes = await Deno.readFile(join(dir, "model.safetensors"));
  const start = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
  const names = Object.keys(header).reverse();
  const map: Record<string, string> = {};
  for (const part of [0, 1]) {
    const file = `model-0000${part + 1}-of-00002.safetensors`;
    const mine = names.filter((_, i) => i % 2 === part);
    const entries: Record<string, unknown> = { __metadata__ };
    const data: Uint8Array[] = [];
    let offset = 0;
    for (const name of mine) {
      const [begin, end] = header[name].data_offsets;
      entries[name] = { ...header[name], data_offsets: [offset, offset += end - begin] };
      data.push(bytes.subarray(start + begin, start + end));
      map[name] = file;
    }
    const text = new TextEncoder().encode(JSON.stringify(entries));
    const length = new Uint8Array(8);
    new DataView(length.buffer).setBigUint64(0, BigInt(text.length), true);
    await Deno.writeFile(
      join(dir, file),
      new Blob([length, text, ...data as Uint8Array<ArrayBuffer>[]]).stream(),
    );
  }
  await Deno.writeTextFile(
    join(dir, "model.safetensors.index.json"),
    JSON.stringify({ metadata: {}, weight_map: map }),
  );
  await Deno.remove(join(dir, "model.safetensors"));
}

/** Runs with a directory that is removed afterwards. */
export async function inDirectory(run: (dir: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  try {
    await run(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}
