/** `freeze`: parameters that do not change, whose gradients are not computed, and that change nothing for the others. */
import assert from "node:assert/strict";
import type { ModelConfig } from "../../../model/config.ts";
import { readTrainState } from "../../../model/files/checkpoint.ts";
import { readModel } from "../../../model/files/checkpoint.ts";
import { isFrozen, readFreeze } from "../../../model/freeze.ts";
import type { LlamaConfig } from "../../../model/llama_config.ts";
import { networkOf } from "../../../model/networks.ts";
import { emptyState } from "../../../model/optimizer_state.ts";
import { flatTensor } from "../../../model/parameters.ts";
import { ReferenceDevice } from "../../../device/reference_device.ts";
import { train } from "../../../model/train/train.ts";
import { type Recipe, Trainer } from "../../../model/train/trainer.ts";
import { randomDocuments } from "../../device/case_data.ts";
import { PLAIN } from "./plain_recipe.ts";

const GPT: ModelConfig = { vocab_size: 13, n_embd: 8, n_head: 2, n_layer: 3, block_size: 9 };
const LLAMA: LlamaConfig = {
  architecture: "llama",
  vocab_size: 13,
  n_embd: 8,
  n_head: 2,
  n_kv_head: 1,
  head_dim: 4,
  n_layer: 3,
  ffn: 12,
  block_size: 9,
  rope_theta: 100,
  norm_eps: 1e-5,
  tie: false,
};
const RECIPE: Recipe = {
  ...PLAIN,
  totalSteps: 4,
  learningRate: 0.01,
  warmupSteps: 0,
  weightDecay: 0.1,
  gradClip: 0.5,
  gradAccum: 2,
  evalEvery: 0,
};

for (const config of [GPT, LLAMA, { ...LLAMA, tie: true }] as ModelConfig[]) {
  const name = JSON.stringify({ arch: config.architecture ?? "gpt", tie: (config as LlamaConfig).tie });
  for (
    const text of ["embeddings", "layers:1", "layers:0-2", "embeddings, layers:0-1", "embeddings,layers:0-2"]
  ) {
    Deno.test(`freeze ${text} of ${name}`, async () => {
      const frozen = readFreeze(text, config.n_layer)!;
      const network = networkOf(config);
      const { layout } = network;
      const d = new ReferenceDevice("f32");
      const params = flatTensor(d, "weights", layout, "work");
      d.write(params, network.initialParameters(1, 0.3));
      const gradientsWith = async (given?: typeof frozen) => {
        const gradients = flatTensor(d, "gradients", layout, "f32");
        const batch = d.createBatch(20, 4);
        const control = d.tensor("control", 1, 4);
        d.write(control, new Float32Array([0, 1, 0, 0]));
        const a = network.allocateActivations(d, 20);
        for (const [i, lengths] of [[5, 1, 9], [3, 4]].entries()) {
          d.loadBatch(batch, randomDocuments(lengths, 13, i));
          const [w, g] = [network.views(d, params), network.views(d, gradients)];
          network.forwardBackward(d, w, g, a, batch, 1 / 22, control, i > 0, given);
        }
        return await d.read(gradients);
      };
      const [all, some] = [await gradientsWith(), await gradientsWith(frozen)];
      for (const entry of layout.entries) {
        const part = [entry.offset, entry.offset + entry.rows * entry.cols] as const;
        const expected = isFrozen(entry, frozen)
          ? new Float32Array(part[1] - part[0])
          : all.subarray(...part);
        assert.deepEqual(some.subarray(...part), expected, entry.name);
      }
      const data = {
        maxTokens: 12,
        maxDocuments: 2,
        batch: (number: number) => randomDocuments([9, 3], 13, number),
        validation: () => [],
        validationBytes: 0,
      };
      const trainer = new Trainer(d, config, data, { ...RECIPE, frozen });
      const before = network.initialParameters(2, 0.3);
      trainer.load({ step: 0, adamStep: 0, params: before, optimizer: emptyState(layout) });
      await Array.fromAsync(trainer.run(4, { lastGood: () => trainer.snapshot() }));
      const after = (await trainer.snapshot()).params;
      for (const entry of layout.entries) {
        const part = [entry.offset, entry.offset + entry.rows * entry.cols] as const;
        const same = before.subarray(...part).every((value, i) => value === after[part[0] + i]);
        assert.equal(same, isFrozen(entry, frozen), entry.name);
      }
    });
  }
}

Deno.test("what freeze takes", () => {
  const refused: Record<string, string> = {
    "layers:0-3": "`freeze` names layer 3, the model has layers 0 to 2",
    "layers:2-1": '`freeze` takes embeddings, layers:3 or layers:0-9, got "layers:2-1"',
    "layers:": '`freeze` takes embeddings, layers:3 or layers:0-9, got "layers:"',
    "embeddings,": '`freeze` takes embeddings, layers:3 or layers:0-9, got ""',
    head: '`freeze` takes embeddings, layers:3 or layers:0-9, got "head"',
  };
  for (const [text, message] of Object.entries(refused)) {
    assert.throws(() => readFreeze(text, 3), { name: "MicrogptError", message });
  }
  assert.equal(readFreeze("none", 3), undefined);
});

Deno.test("a run keeps what is frozen, and a resumed one too", async () => {
  const output = await Deno.makeTempDir();
  try {
    const documents = Array.from({ length: 20 }, (_, i) => `number ${i}`);
    const small = { nEmbd: 16, nHead: 2, nLayer: 2, blockSize: 32, vocabSize: 270, batchSize: 4 };
    const common = { documents, threads: 1, steps: 3 };
    await assert.rejects(
      Array.fromAsync(train({ ...common, output, freeze: "layers:0-2", ...small })),
      { name: "MicrogptError", message: "`freeze` names layer 2, the model has layers 0 to 1" },
    );
    await Array.fromAsync(train({ ...common, output, freeze: "layers:0", ...small }));
    const first = await readModel(output);
    await Array.fromAsync(train({ ...common, resume: output }));
    const second = await readModel(output);
    assert.equal((await readTrainState(output))?.freeze, "layers:0");
    for (const { name, layer, offset } of first.layout.entries) {
      assert.equal(first.params[offset] === second.params[offset], layer === 0, name);
    }
  } finally {
    await Deno.remove(output, { recursive: true });
  }
});
