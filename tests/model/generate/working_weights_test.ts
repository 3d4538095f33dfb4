/** The types that weights are held in for generating: what the files ask for, what a person does, and how little it changes. */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { Tensor, WeightType } from "../../../device/device.ts";
import { loadModel, train } from "../../../mod.ts";
import { openDevice } from "../../../model/devices.ts";
import { readAnyModel } from "../../../model/files/any_model.ts";
import { exportGguf } from "../../../model/files/gguf/llama_export.ts";
import type { FileDtype } from "../../../model/files/safetensors.ts";
import { weightMatrices } from "../../../model/files/weight_types.ts";
import { loadWeights } from "../../../model/generate/working_weights.ts";
import { networkOf } from "../../../model/networks.ts";
import { inDirectory, tinyModel, writeTiny } from "../files/tiny_llama.ts";

const DRAWN = { numSamples: 2, prompt: "hello", temperature: 1, maxTokens: 20 };
const names = ["anna", "bob", "carla", "dora", "elisabeth", "frederick", "gina", "henry", "isabella"];

async function samplesOf(path: string, dtype?: WeightType): Promise<string[]> {
  using model = await loadModel(path, { threads: 2, ...(dtype ? { dtype } : {}) });
  return await model.samples(DRAWN);
}

async function typesOf(path: string, dtype?: WeightType): Promise<WeightType[]> {
  const model = await readAnyModel(path);
  const { layout } = networkOf(model.config);
  return [...new Set(weightMatrices(layout, model.types, dtype).map(({ type }) => type))];
}

for (const [file, type] of [["F32", "f32"], ["F16", "f16"], ["BF16", "bf16"]] as const) {
  Deno.test(`a file of ${file} is held in ${type}, and says what it says in f32`, () =>
    inDirectory(async (dir) => {
      await writeTiny(dir, tinyModel(), file as FileDtype);
      assert.deepEqual(await typesOf(dir), [type]);
      assert.deepEqual(await typesOf(dir, "q8"), ["q8"]);
      assert.deepEqual(await samplesOf(dir), await samplesOf(dir, "f32"));
    }));
}

Deno.test("a GGUF file of Q8_0 is held as it is, q and k in their order, and says what it says in f32", () =>
  inDirectory(async (dir) => {
    const [path, f32] = [join(dir, "q8.gguf"), join(dir, "f32.gguf")];
    const model = tinyModel();
    await exportGguf(path, { name: "tiny", ...model, tokenizer: model }, "Q8_0");
    await exportGguf(f32, { name: "tiny", ...model, tokenizer: model }, "F32");
    assert.deepEqual(await typesOf(path), ["q8"]);
    const samples = await samplesOf(path);
    assert.deepEqual(await samplesOf(path, "f32"), samples);
    assert.deepEqual(await samplesOf(f32, "q8"), samples);
  }));

Deno.test("rows that are no whole blocks stay in 16 bits, and it is said", () =>
  inDirectory(async (dir) => {
    await writeTiny(dir, tinyModel({ n_embd: 48, ffn: 96 }));
    assert.deepEqual((await typesOf(dir, "q8")).sort(), ["bf16", "q8"]);
    using model = await loadModel(dir, { dtype: "q8", threads: 1 });
    assert.deepEqual(model.device.warnings, [
      "6 of 10 matrices are held in 16 bits, not in q8: their rows are no multiple of 32",
    ]);
    assert.equal((await model.samples(DRAWN)).length, 2);
  }));

Deno.test("a weight that is no number or too large for its type is named", () =>
  inDirectory(async (dir) => {
    const model = tinyModel();
    const { offset, cols } = model.layout.byName.get("model.layers.1.mlp.up_proj.weight")!;
    model.params[offset + 3 * cols + 5] = 70_000;
    await writeTiny(dir, model);
    await assert.rejects(
      loadModel(dir, { dtype: "f16" }),
      /up_proj\.weight holds 70000 at \[3, 5\], too large for the type/,
    );
    (await loadModel(dir, { dtype: "bf16" })).close();
    const path = join(dir, "model.safetensors");
    const bytes = await Deno.readFile(path);
    const at = bytes.findIndex((_, i) => new DataView(bytes.buffer, i, 4).getFloat32(0, true) === 70_000);
    new DataView(bytes.buffer).setFloat32(at, NaN, true);
    await Deno.writeFile(path, bytes);
    for (const device of ["cpu", "reference"] as const) {
      await assert.rejects(loadModel(dir, { device }), /up_proj\.weight holds NaN at \[3, 5\]/);
    }
  }));

Deno.test("q8 is for the CPU, and training is in f32 or bf16 there", async () => {
  await assert.rejects(
    openDevice({ device: "webgpu", dtype: "q8" }, { inference: true }),
    /`device` webgpu holds no weights in q8/,
  );
  for (const dtype of ["f16", "q8"] as const) {
    const run = train({ documents: names, steps: 1, device: "cpu", dtype: dtype as "f16" });
    await assert.rejects(
      run.next(),
      dtype === "q8" ? /`dtype` must be one of/ : /`device` cpu computes in f32 or bf16, not in f16/,
    );
  }
});

/** Logits of every position of a text, fed as one prompt. */
async function logitsOf(dir: string, dtype: WeightType): Promise<Float32Array> {
  const model = await readAnyModel(dir);
  const network = networkOf(model.config);
  const d = await openDevice({ threads: 2 }, { inference: true });
  const weights = network.views(d, await loadWeights(d, network.layout, model, dtype));
  const n = 16;
  const column = (values: ArrayLike<number>): Tensor => {
    const tensor = d.tensor("column", n, 1, "u32");
    d.write(tensor, Uint32Array.from(values));
    return tensor;
  };
  const indices = Array.from({ length: n }, (_, i) => i);
  const rows = {
    tokens: column(indices.map((i) => (i * 37 + 5) % model.config.vocab_size)),
    positions: column(indices),
    sequences: column(new Uint32Array(n)),
  };
  const memory = network.allocateDecodeMemory(d, n, n, n);
  network.decodeStep(d, weights, memory, rows, n, n);
  const logits = await d.read(memory.logits) as Float32Array;
  d.destroy();
  return logits;
}

for (const arch of ["gpt", "llama"] as const) {
  Deno.test(`a trained ${arch} says in fewer bits nearly what it says in f32`, () =>
    inDirectory(async (dir) => {
      const shape = { arch, nEmbd: 64, nHead: 2, nLayer: 2, blockSize: 32, vocabSize: 300 };
      const options = { steps: 60, learningRate: 0.01, device: "cpu", threads: 2, valFraction: 0 } as const;
      for await (const _ of train({ documents: names, output: dir, ...shape, ...options }));
      const exact = await logitsOf(dir, "f32");
      const spread = Math.max(...exact) - Math.min(...exact);
      for (const [dtype, most] of [["f16", 0.0005], ["bf16", 0.005], ["q8", 0.01]] as const) {
        const near = await logitsOf(dir, dtype);
        const furthest = Math.max(...near.map((logit, i) => Math.abs(logit - exact[i]!)));
        assert(furthest > 0 && furthest < most * spread, `${dtype}: ${furthest} of ${spread}`);
      }
      const greedy = { numSamples: 1, temperature: 0, prompt: "ca", maxTokens: 8 };
      const texts = new Set<string>();
      for (const dtype of ["f32", "bf16", "q8"] as const) {
        using model = await loadModel(dir, { dtype, threads: 2 });
        texts.add((await model.samples(greedy))[0]!);
      }
      assert.equal(texts.size, 1, [...texts].join(" | "));
    }));
}
