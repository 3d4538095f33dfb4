/** Models that come in as HuggingFace directories and GGUF files, and go out so. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { readAnyModel } from "../../../model/files/any_model.ts";
import { exportGguf, modelfile } from "../../../model/files/gguf/llama_export.ts";
import type { WrittenType } from "../../../model/files/gguf/quantize.ts";
import type { HfExport } from "../../../model/files/hf/directory.ts";
import type { LlamaConfig } from "../../../model/llama_config.ts";
import { inDirectory, layoutOf, shard, tinyModel, writeTiny } from "./tiny_llama.ts";

const LLAMA3 = { factor: 32, low_freq_factor: 1, high_freq_factor: 4, original_max_position: 8192 };
const VARIANTS: [name: string, change: Partial<LlamaConfig>][] = [
  ["untied", {}],
  ["tied", { tie: true }],
  ["Llama 3's positions", { rope_theta: 500000, rope_scaling: LLAMA3 }],
  ["Qwen 3", { qk_norm: true }],
  ["Qwen 2", { qkv_bias: true, tie: true }],
];

/** Reads a model and compares all of it. */
async function assertSame(path: string, model: HfExport, dtype: string, tolerance = 0): Promise<void> {
  const read = await readAnyModel(path);
  assert.deepEqual(read.config, model.config);
  assert.equal(read.fileDtype, dtype);
  assert.deepEqual(read.ends, model.ends);
  assert.equal(read.addBos, true);
  assert.equal(read.chatTemplate, model.chatTemplate);
  const params = await read.readParameters(layoutOf(model.config));
  assert.equal(params.length, model.params.length);
  params.forEach((value, i) => {
    if (Math.abs(value - model.params[i]!) > tolerance) {
      assert.equal(value, model.params[i], `parameter ${i}`);
    }
  });
}

for (const [name, change] of VARIANTS) {
  Deno.test(`${name}: a HuggingFace directory comes back as it was written`, () =>
    inDirectory(async (dir) => {
      const model = tinyModel(change);
      await writeTiny(dir, model);
      await assertSame(dir, model, "F32");
    }));

  Deno.test(`${name}: a GGUF file comes back as it was written`, () =>
    inDirectory(async (dir) => {
      const model = tinyModel(change);
      const path = join(dir, "model.gguf");
      await exportGguf(path, { name: "tiny", ...model, tokenizer: model }, "F32");
      await assertSame(path, model, "F32");
    }));
}

for (const dtype of ["F16", "BF16"] as const) {
  Deno.test(`weights in ${dtype}, in one file and in shards`, () =>
    inDirectory(async (dir) => {
      const model = tinyModel();
      await writeTiny(dir, model, dtype);
      await assertSame(dir, model, dtype);
      await shard(dir);
      await assertSame(dir, model, dtype);
    }));
}

for (
  const [type, expected, tolerance] of [["F16", "F16+F32", 0], ["BF16", "BF16+F32", 0], [
    "Q8_0",
    "Q8_0+F32",
    0.003,
  ]] as const
) {
  Deno.test(`GGUF: matrices in ${type}, norms in f32`, () =>
    inDirectory(async (dir) => {
      const model = tinyModel();
      const path = join(dir, "model.gguf");
      await exportGguf(path, { name: "tiny", ...model, tokenizer: model }, type satisfies WrittenType);
      await assertSame(path, model, expected, tolerance);
    }));
}

Deno.test("the tokenizer of a GGUF file is the one it was written with", () =>
  inDirectory(async (dir) => {
    const model = tinyModel();
    const path = join(dir, "model.gguf");
    await exportGguf(path, { name: "tiny", ...model, tokenizer: model }, "F32");
    const { tokenizer, name } = await readAnyModel(path);
    const [a, b] = [JSON.parse(tokenizer.json), JSON.parse(model.tokenizer.json)];
    assert.deepEqual(a.model.merges, b.model.merges);
    assert.deepEqual(a.added_tokens.slice(0, 4).map((token: { content: string }) => token.content), [
      "<bos>",
      "<user>",
      "<assistant>",
      "<end_turn>",
    ]);
    for (const [token, id] of Object.entries(a.model.vocab)) assert.equal(b.model.vocab[token], id);
    assert.equal(tokenizer.tokens.length, 280, "rows without a token are unused ones");
    assert.equal(name, "model");
  }));

Deno.test("a GGUF's q and k lie in llama.cpp's order", () =>
  inDirectory(async (dir) => {
    const { readGguf } = await import("../../../model/files/gguf/read.ts");
    const { fileSource } = await import("../../../model/files/gguf/file_source.ts");
    const { readTensor } = await import("../../../model/files/gguf/tensor_values.ts");
    const model = tinyModel();
    const path = join(dir, "model.gguf");
    await exportGguf(path, { name: "tiny", ...model, tokenizer: model }, "F32");
    using file = await Deno.open(path);
    const gguf = await readGguf(await fileSource(file, path), path);
    const values = new Float32Array(64 * 32);
    await readTensor(gguf, gguf.byName.get("blk.1.attn_q.weight")!, values);
    const entry = model.layout.byName.get("model.layers.1.self_attn.q_proj.weight")!;
    const ours = (
      row: number,
    ) => [...model.params.subarray(entry.offset + row * 32, entry.offset + (row + 1) * 32)];
    // rows 0, 1, 2 of a head of 16 are its components 0, 8, 1
    for (const [theirs, row] of [[0, 0], [1, 8], [2, 1], [15, 15], [16, 16], [17, 24]] as const) {
      assert.deepEqual([...values.subarray(theirs * 32, (theirs + 1) * 32)], ours(row));
    }
  }));

Deno.test("a Modelfile names the file and where an answer ends", () => {
  assert.equal(
    modelfile("tiny.gguf", ["<end_turn>"]),
    'FROM ./tiny.gguf\nPARAMETER temperature 0.5\nPARAMETER stop "<end_turn>"\n',
  );
});
