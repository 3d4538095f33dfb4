/** HuggingFace directories and GGUF files that contradict themselves: one line, and no memory for what is not there. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { MicrogptError } from "../../device/errors.ts";
import { readAnyModel } from "../../model/files/any_model.ts";
import { exportGguf } from "../../model/files/gguf/llama_export.ts";
import { ggufConfig } from "../../model/files/gguf/llama_config.ts";
import { ggufTokenizer } from "../../model/files/gguf/llama_tokenizer.ts";
import type { GgufValue } from "../../model/files/gguf/types.ts";
import { type TensorToWrite, writeGguf } from "../../model/files/gguf/write.ts";
import { ggufName } from "../../model/files/gguf/llama_tensors.ts";
import { inDirectory, layoutOf, shard, tinyModel, writeTiny } from "../model/files/tiny_llama.ts";

/** The line with which a model is refused. */
async function refusal(path: string, dir: string): Promise<string> {
  const outcome = await readAnyModel(path).then(
    async (model) => void await model.readParameters(layoutOf(tinyModel().config)),
    (error) => error,
  ).catch((error) => error);
  assert(outcome instanceof MicrogptError, `not refused: ${outcome?.stack ?? "loaded"}`);
  for (const line of [outcome.message, outcome.hint ?? ""]) {
    assert.doesNotMatch(line, /[\p{Cc}\u2028\u2029]/u);
    assert(line.length < 500, `${line.length} characters`);
  }
  return outcome.message.replaceAll(dir, "DIR");
}

type Config = Record<string, unknown>;

const CONFIGS: [name: string, change: (config: Config) => void, expected: RegExp][] = [
  [
    "another model type",
    (c) => c.model_type = "gpt_neox",
    /config\.json: model_type is "gpt_neox"; llama, mistral, qwen2, qwen3 are/,
  ],
  ["no model type", (c) => delete c.model_type, /model_type is none/],
  ["a prototype's name for a type", (c) => c.model_type = "constructor", /model_type is "constructor"/],
  ["terminal commands", (c) => c.model_type = "\u001b[2J\n", /model_type is "\\u001b\[2J\\n"/],
  ["width 2^53", (c) => c.hidden_size = 2 ** 53, /n_embd must be a whole number from 1 to 16384/],
  [
    "a layer too many",
    (c) => c.num_hidden_layers = 3,
    /tensor model\.layers\.2\.\S+ is in none of the weight files/,
  ],
  ["a layer too few", (c) => c.num_hidden_layers = 1, /tensor model\.layers\.1\.\S+ is no part of the model/],
  ["2^40 layers", (c) => c.num_hidden_layers = 2 ** 40, /n_layer must be a whole number from 1 to 1024/],
  [
    "another width",
    (c) => c.hidden_size = 48,
    /has shape \[\S+, 32\], config\.json asks for|has shape \[32\], config\.json asks for \[48\]/,
  ],
  ["text for a number", (c) => c.hidden_size = "32", /hidden_size is "32", not a number/],
  ["NaN", (c) => c.hidden_size = null, /hidden_size is missing/],
  ["heads that cannot share", (c) => c.num_key_value_heads = 3, /n_head 4 is not divisible by n_kv_head 3/],
  ["odd heads", (c) => c.head_dim = 15, /head_dim 15 is odd/],
  ["no heads", (c) => c.num_attention_heads = 0, /n_head must be a whole number/],
  [
    "more tokens than rows",
    (c) => c.vocab_size = 100,
    /embed_tokens\.weight has shape|lm_head\.weight has shape/,
  ],
  ["experts", (c) => c.num_local_experts = 8, /num_local_experts 8 makes another network/],
  [
    "two scalings",
    (c) =>
      Object.assign(c, {
        rope_parameters: { rope_type: "default" },
        rope_scaling: { rope_type: "llama3", factor: 8 },
      }),
    /rope_scaling has .* rope_parameters has/,
  ],
  ["a scaling that is a word", (c) => c.rope_parameters = "yarn", /rope_parameters is "yarn", not an object/],
  [
    "positions of half a head",
    (c) => c.rope_parameters = { rope_type: "default", partial_rotary_factor: 0.5 },
    /partial_rotary_factor 0.5 makes another/,
  ],
  ["a sliding window", (c) => c.sliding_window = 4096, /sliding_window 4096 makes another/],
  ["sliding layers", (c) => c.layer_types = ["full_attention", "sliding_attention"], /layer_types/],
  ["quantized weights", (c) => c.quantization_config = { bits: 4 }, /quantization_config/],
  ["another activation", (c) => c.hidden_act = "gelu", /hidden_act "gelu"/],
  ["yarn", (c) => c.rope_parameters = { rope_type: "yarn", factor: 4 }, /scaled by "yarn"/],
  ["two thetas", (c) => c.rope_theta = 5, /rope_theta is 5, rope_parameters has 10000/],
  [
    "a negative theta",
    (c) => (c.rope_theta = -1, delete c.rope_parameters),
    /rope_theta must be from 1 to 1e12, got -1/,
  ],
  [
    "scaling by nothing",
    (c) => c.rope_parameters = { rope_type: "llama3", rope_theta: 10000 },
    /factor is missing/,
  ],
  ["an end that is no token", (c) => c.eos_token_id = 1e9, /./],
  ["tied, with a head", (c) => c.tie_word_embeddings = "yes", /tie_word_embeddings is "yes"/],
];

Deno.test("a tied head is the embedding, or refused", () =>
  inDirectory(async (dir) => {
    await writeTiny(dir); // with a head of its own
    const path = join(dir, "config.json");
    const config = JSON.parse(await Deno.readTextFile(path));
    await Deno.writeTextFile(path, JSON.stringify({ ...config, tie_word_embeddings: true }));
    assert.match(
      await refusal(dir, dir),
      /ties the head to the embedding, but lm_head.weight is another matrix/,
    );
    // as files have it that hold the same matrix twice
    const weights = join(dir, "model.safetensors");
    const bytes = await Deno.readFile(weights);
    const start = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
    const range = (name: string) => header[name].data_offsets.map((at: number) => start + at);
    const [[from, end], [to]] = [range("model.embed_tokens.weight"), range("lm_head.weight")];
    bytes.copyWithin(to, from, end);
    await Deno.writeFile(weights, bytes);
    const model = await readAnyModel(dir);
    assert("tie" in model.config && model.config.tie);
  }));

Deno.test("a scaling that GGUF cannot say is refused before anything is written", () =>
  inDirectory(async (dir) => {
    const rope_scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position: 4096 };
    const model = tinyModel({ rope_scaling });
    const path = join(dir, "tiny.gguf");
    await assert.rejects(
      exportGguf(path, { name: "tiny", ...model, tokenizer: model }, "F32"),
      /not by 8 from 4096 on/,
    );
    await assert.rejects(Deno.stat(path), Deno.errors.NotFound);
  }));

for (const [name, change, expected] of CONFIGS) {
  Deno.test(`config.json: ${name}`, () =>
    inDirectory(async (dir) => {
      await writeTiny(dir);
      const path = join(dir, "config.json");
      const config = JSON.parse(await Deno.readTextFile(path));
      change(config);
      await Deno.writeTextFile(path, JSON.stringify(config));
      if (name === "an end that is no token") await Deno.remove(join(dir, "generation_config.json"));
      assert.match(await refusal(dir, dir), expected);
    }));
}

type Index = { weight_map: Record<string, unknown> };
const FIRST = "model.embed_tokens.weight";
const SHARDS: [name: string, change: (index: Index, dir: string) => unknown, expected: RegExp][] = [
  [
    "a file outside",
    (i) => i.weight_map[FIRST] = "../model.safetensors",
    /is put in "\.\.\/model\.safetensors", which is no safetensors file of this/,
  ],
  [
    "a file at the root",
    (i) => i.weight_map[FIRST] = "/etc/passwd.safetensors",
    /is no safetensors file of this directory/,
  ],
  ["a drive", (i) => i.weight_map[FIRST] = "C:\\x.safetensors", /is no safetensors file/],
  ["no name", (i) => i.weight_map[FIRST] = 7, /is put in 7/],
  [
    "a missing file",
    (i) => i.weight_map.more = "model-00003.safetensors",
    /^cannot read DIR\/model-00003\.safetensors: No such file/,
  ],
  [
    "a missing shard",
    (_, dir) => Deno.removeSync(join(dir, "model-00002-of-00002.safetensors")),
    /^cannot read DIR\/model-00002/,
  ],
  [
    "a tensor that no file has",
    (i) => i.weight_map.evil = Object.values(i.weight_map)[0],
    /has no tensor evil, which .*index\.json puts there/,
  ],
  [
    "a tensor that the index forgets",
    (i) => delete i.weight_map[FIRST],
    /holds tensor model\.embed_tokens\.weight, which .* does not name/,
  ],
  ["a tensor in the other file", (i) => {
    const [a, b] = [...new Set(Object.values(i.weight_map))];
    i.weight_map[FIRST] = i.weight_map[FIRST] === a ? b : a;
  }, /which model\.safetensors\.index\.json puts in/],
  ["a tensor in both files", (_, dir) => {
    Deno.copyFileSync(
      join(dir, "model-00001-of-00002.safetensors"),
      join(dir, "model-00002-of-00002.safetensors"),
    );
  }, /is in DIR\/model-00001-of-00002\.safetensors too/],
  ["no map", (i) => delete (i as Partial<Index>).weight_map, /there is no weight_map/],
  ["an empty map", (i) => i.weight_map = {}, /names 0 files/],
  ["a pipe", (_, dir) => {
    const path = join(dir, "model-00002-of-00002.safetensors");
    Deno.removeSync(path);
    new Deno.Command("mkfifo", { args: [path] }).outputSync();
  }, /is not a regular file/],
];

for (const [name, change, expected] of SHARDS) {
  Deno.test({
    name: `shards: ${name}`,
    ignore: name === "a pipe" && Deno.build.os === "windows",
    fn: () =>
      inDirectory(async (dir) => {
        await writeTiny(dir);
        await shard(dir);
        const path = join(dir, "model.safetensors.index.json");
        const index = JSON.parse(await Deno.readTextFile(path));
        await change(index, dir);
        await Deno.writeTextFile(path, JSON.stringify(index));
        assert.match(await refusal(dir, dir), expected);
      }),
  });
}

Deno.test("a directory without a tokenizer, without weights, without anything", () =>
  inDirectory(async (dir) => {
    assert.match(await refusal(join(dir, "none"), dir), /^there is no model at DIR\/none$/);
    assert.match(
      await refusal(dir, dir),
      /^DIR holds no model: there is neither meta\.json nor config\.json$/,
    );
    await writeTiny(dir);
    await Deno.remove(join(dir, "tokenizer.json"));
    assert.match(await refusal(dir, dir), /^DIR\/tokenizer\.json is missing$/);
    await Deno.remove(join(dir, "model.safetensors"));
    assert.match(await refusal(dir, dir), /^cannot read DIR\/model\.safetensors: No such file/);
    await Deno.writeTextFile(join(dir, "x.gguf"), "hello, this is no model");
    assert.match(
      await refusal(join(dir, "x.gguf"), dir),
      /^DIR\/x\.gguf: the header does not start with GGUF$/,
    );
  }));

Deno.test("weights that are cut off, that overlap, that are no numbers", () =>
  inDirectory(async (dir) => {
    await writeTiny(dir);
    const path = join(dir, "model.safetensors");
    const good = await Deno.readFile(path);
    await Deno.writeFile(path, good.subarray(0, good.length - 4096));
    assert.match(
      await refusal(dir, dir),
      /model\.safetensors: the tensors take \d+ bytes, the file has \d+ for them$/,
    );
    const start = 8 + Number(new DataView(good.buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(good.subarray(8, start)));
    const offsets = header["model.norm.weight"].data_offsets;
    header["model.norm.weight"].data_offsets = offsets.map((offset: number) => offset - 4);
    const json = new TextEncoder().encode(JSON.stringify(header));
    const length = new Uint8Array(8);
    new DataView(length.buffer).setBigUint64(0, BigInt(json.length), true);
    await Deno.writeFile(path, new Uint8Array([...length, ...json, ...good.subarray(start)]));
    assert.match(
      await refusal(dir, dir),
      /tensor model\.norm\.weight overlaps the one before it \(at byte \d+, expected \d+\)$/,
    );
    await Deno.writeFile(path, good.fill(255, start));
    assert.match(await refusal(dir, dir), /model\.safetensors: tensor \S+ holds NaN at \[0, 0\]$/);
  }));

Deno.test("a tokenizer of another model, and one that is not read", () =>
  inDirectory(async (dir) => {
    const model = tinyModel({ vocab_size: 264 });
    await writeTiny(dir, model);
    assert.match(
      await refusal(dir, dir),
      /^DIR\/tokenizer\.json has \d+ tokens, config\.json has vocab_size 264$/,
    );
    await writeTiny(join(dir, "b"), tinyModel()).catch(() => {});
    const json = JSON.parse(model.tokenizer.json);
    json.pre_tokenizer = { type: "BertPreTokenizer" };
    await Deno.writeTextFile(join(dir, "tokenizer.json"), JSON.stringify(json));
    assert.match(
      await refusal(dir, dir),
      /^DIR: tokenizer\.json: the pre_tokenizer is BertPreTokenizer, which is not read$/,
    );
  }));

type Metadata = Map<string, GgufValue>;
const u32 = (value: number): GgufValue => ({ type: "u32", value });
const text = (value: string): GgufValue => ({ type: "string", value });
const FILES: [
  name: string,
  change: (metadata: Metadata, tensors: TensorToWrite[]) => unknown,
  expected: RegExp,
][] = [
  [
    "another architecture",
    (m) => m.set("general.architecture", text("mamba")),
    /general\.architecture is mamba; llama, qwen2, qwen3 are/,
  ],
  ["a part of a split model", (m) => m.set("split.count", u32(3)), /one of 3 parts of a model/],
  ["experts", (m) => m.set("llama.expert_count", u32(8)), /llama\.expert_count 8 makes another network/],
  [
    "absurd layers",
    (m) => m.set("llama.block_count", u32(4e9)),
    /n_layer must be a whole number from 1 to 1024/,
  ],
  ["a layer too many", (m) => m.set("llama.block_count", u32(3)), /there is no tensor blk\.2\./],
  [
    "a layer too few",
    (m) => m.set("llama.block_count", u32(1)),
    /tensor blk\.1\.\S+ is no part of the network/,
  ],
  ["no heads", (m) => m.set("llama.attention.head_count", u32(0)), /n_head must be/],
  [
    "values of another width",
    (m) => m.set("llama.attention.value_length", u32(8)),
    /value_length is 8, a head has 16/,
  ],
  [
    "half rotation",
    (m) => m.set("llama.rope.dimension_count", u32(8)),
    /dimension_count is 8, a head has 16/,
  ],
  ["yarn", (m) => m.set("llama.rope.scaling.type", text("yarn")), /scaled by yarn/],
  [
    "no epsilon",
    (m) => m.delete("llama.attention.layer_norm_rms_epsilon"),
    /has no llama\.attention\.layer_norm_rms_epsilon/,
  ],
  [
    "SentencePiece",
    (m) => m.set("tokenizer.ggml.model", text("llama")),
    /the tokenizer is llama; only byte-level BPE/,
  ],
  [
    "another pre-tokenizer",
    (m) => m.set("tokenizer.ggml.pre", text("viking")),
    /the pre-tokenizer viking is not known; gpt-2, smollm/,
  ],
  ["no pre-tokenizer", (m) => m.delete("tokenizer.ggml.pre"), /has no tokenizer\.ggml\.pre/],
  [
    "fewer tokens than rows",
    (m) => m.set("tokenizer.ggml.tokens", { type: "array", of: "string", value: ["a"] }),
    /there are 1 tokens, token_embd\.weight has 280 rows/,
  ],
  [
    "fewer types than tokens",
    (m) => m.set("tokenizer.ggml.token_type", { type: "array", of: "i32", value: Int32Array.of(1) }),
    /280 tokens have 1 types/,
  ],
  [
    "an end that is no token",
    (m) => m.set("tokenizer.ggml.eos_token_id", u32(4e9)),
    /eos_token_id is 4000000000, there are 280 tokens/,
  ],
  [
    "a merge of three",
    (m) => m.set("tokenizer.ggml.merges", { type: "array", of: "string", value: ["a b c"] }),
    /merge 0 is "a b c", not two/,
  ],
  [
    "a token twice",
    (m) => (m.get("tokenizer.ggml.tokens") as { value: string[] }).value[41] = "A",
    /x\.gguf: the token "A" is there twice$/,
  ],
  [
    "a merge of tokens that there are not",
    (m) => m.set("tokenizer.ggml.merges", { type: "array", of: "string", value: ["zzzz a"] }),
    /x\.gguf: merge 0 needs the token "zzzz", which is special or not in the vocabulary$/,
  ],
  [
    "an unknown type of token",
    (m) => (m.get("tokenizer.ggml.token_type") as { value: Int32Array }).value[3] = 6,
    /token 3 is of type 6, which is not read$/,
  ],
  [
    "another tensor",
    (_, t) => t.push({ name: "evil", type: "F32", shape: [1], rows: () => {} }),
    /tensor evil is no part/,
  ],
  [
    "unknown scaling",
    (_, t) =>
      t.push({ name: "rope_freqs.weight", type: "F32", shape: [8], rows: (_, into) => void into.fill(3) }),
    /rope_freqs\.weight scales the rotary positions in a way/,
  ],
  [
    "scaling of another size",
    (_, t) => t.push({ name: "rope_freqs.weight", type: "F32", shape: [1], rows: () => {} }),
    /rope_freqs\.weight scales/,
  ],
  [
    "a tensor of another shape",
    (_, t) => t[1]!.shape = [31],
    /has shape \[31\], the metadata asks for \[32\]/,
  ],
  ["no embedding", (_, t) => t.shift(), /there is no tensor token_embd\.weight/],
];

for (const [name, change, expected] of FILES) {
  Deno.test(`GGUF of a Llama: ${name}`, () =>
    inDirectory(async (dir) => {
      const model = tinyModel();
      const metadata = new Map([
        ["general.architecture", text("llama")],
        ...ggufConfig(model.config),
        ...ggufTokenizer(model, model.config.vocab_size),
      ] as [string, GgufValue][]);
      const tensors = model.layout.entries.map(({ name, shape }): TensorToWrite => {
        return { name: ggufName(name), type: "F32", shape: [...shape], rows: (_, into) => void into.fill(0) };
      });
      change(metadata, tensors);
      const path = join(dir, "x.gguf");
      await writeGguf(path, metadata, tensors);
      assert.match(await refusal(path, dir), expected);
    }));
}

Deno.test("a GGUF file that is cut off, and one that changes after it was looked at", () =>
  inDirectory(async (dir) => {
    const model = tinyModel();
    const path = join(dir, "x.gguf");
    await exportGguf(path, { name: "tiny", ...model, tokenizer: model }, "F32");
    const described = await readAnyModel(path);
    await Deno.truncate(path, (await Deno.stat(path)).size - 4096);
    assert.match(await refusal(path, dir), /lies at bytes \d+ to \d+, the file has \d+$/);
    await assert.rejects(described.readParameters(model.layout), /the file shrank while it was read/);
  }));
