import assert from "node:assert/strict";
import { basename, dirname } from "node:path";
import { exportModel, type ExportOptions } from "../../../model/export/export.ts";
import { exportOnnx, type OnnxSource } from "../../../model/export/onnx_export.ts";
import { buildOnnx, roundToHalf } from "../../../model/export/onnx.ts";
import { MicrogptError } from "../../../device/errors.ts";
import { type PromptLogits, verifyOnnx, withPromptLogits } from "../../../model/export/onnx_verify.ts";
import { gptNetwork } from "../../../model/gpt.ts";
import { ReferenceDevice } from "../../../device/reference_device.ts";
import { naive, naiveGreedy, referenceOf, tinyModel, tinyTokenizerJson, withExport } from "./onnx_fixture.ts";

Deno.test("an exported graph computes the network, at once, step by step and padded in a batch", async () => {
  for (
    const config of [
      { vocab_size: 300, n_embd: 16, n_head: 2, n_layer: 2, block_size: 32 },
      { vocab_size: 97, n_embd: 12, n_head: 1, n_layer: 1, block_size: 5 },
      { vocab_size: 97, n_embd: 12, n_head: 3, n_layer: 3, block_size: 1 },
    ]
  ) {
    const network = gptNetwork(config);
    const { layout } = network;
    const params = network.initialParameters(11, 0.3);
    const source = { config, layout, params, tokenizerJson: "" };
    const difference = await verifyOnnx(buildOnnx(config, layout, params), config, naive(source, params));
    assert(difference < 1e-4, `difference ${difference} for ${JSON.stringify(config)}`);
  }
});

Deno.test("the reference device agrees with an exported graph", async () => {
  const { config, layout, params } = tinyModel(false);
  const device = new ReferenceDevice("f32");
  const graph = buildOnnx(config, layout, params);
  const difference = await withPromptLogits(
    device,
    config,
    params,
    (logits) => verifyOnnx(graph, config, logits),
  );
  device.destroy();
  assert(difference < 1e-4, `difference ${difference}`);
});

Deno.test("a half export holds the weights rounded to f16, in half the space", async () => {
  const source = tinyModel(false);
  const { config, layout, params } = source;
  const graph = buildOnnx(config, layout, params, { half: true });
  assert(graph.length < 0.62 * buildOnnx(config, layout, params).length);
  assert(await verifyOnnx(graph, config, naive(source, roundToHalf(params))) < 1e-4);
  assert(await verifyOnnx(graph, config, naive(source, params)) > 1e-4, "f16 changes these weights");
});

Deno.test("verification finds a graph that is not the model", async () => {
  const { config, layout, params } = tinyModel(false);
  const graph = buildOnnx(config, layout, params);
  for (const name of ["wpe", "layer0.attn_wk", "layer1.mlp_fc2", "lm_head"]) {
    const wrong = params.slice();
    wrong[layout.byName.get(name)!.offset]! += 0.5;
    const difference = await verifyOnnx(graph, config, naive({ config, layout } as OnnxSource, wrong));
    assert(difference > 1e-3, `${name}: ${difference}`);
  }
  const withNaN: PromptLogits = async (ids) =>
    (await naive({ config, layout } as OnnxSource, params)(ids)).fill(NaN);
  assert(Number.isNaN(await verifyOnnx(graph, config, withNaN)));
});

/** Loads an exported folder the way a user of transformers.js does, without the network. */
async function withTransformers(
  source: OnnxSource,
  // deno-lint-ignore no-explicit-any -- the package types its models and tensors as unions too wide to use
  use: (tokenizer: any, model: any) => Promise<void>,
): Promise<void> {
  const { env, AutoModelForCausalLM, AutoTokenizer } = await import("npm:@huggingface/transformers@4.3.1");
  await withExport(source, async (folder) => {
    env.allowRemoteModels = false;
    env.localModelPath = dirname(folder);
    const model = await AutoModelForCausalLM.from_pretrained(basename(folder), { subfolder: "" });
    try {
      await use(await AutoTokenizer.from_pretrained(basename(folder)), model);
    } finally {
      await model.dispose();
    }
  });
}

/** Token ids of a transformers.js tensor, row by row. */
const rows = (tensor: { tolist(): bigint[][] }) => tensor.tolist().map((row) => row.map(Number));

Deno.test("transformers.js loads an exported text model and generates the same tokens, greedy", async () => {
  const source = tinyModel(false, 3);
  await withTransformers(source, async (tokenizer, model) => {
    // <bos>, "the", " b" "and", ",", " " "and", " " and the two bytes of ü; bytes have the ids from 1 on
    const prompt = [0, 261, 33, 99, 263, 45, 33, 263, 33, 196, 189];
    const inputs = tokenizer("the band, and ü");
    assert.deepEqual(rows(inputs.input_ids), [prompt]);
    const [generated] = rows(await model.generate({ ...inputs, do_sample: false }));
    assert.deepEqual(generated, naiveGreedy(source, prompt, 0));
    assert.equal(tokenizer.decode(prompt, { skip_special_tokens: true }), "the band, and ü");

    const batch = tokenizer(["the band", "in"], { padding: true });
    assert.deepEqual(rows(batch.input_ids), [[0, 261, 33, 99, 263], [0, 0, 0, 0, 258]]);
    const both = rows(await model.generate({ ...batch, do_sample: false, max_new_tokens: 6 }));
    assert.deepEqual(both[0], naiveGreedy(source, [0, 261, 33, 99, 263], 0).slice(0, 11));
    assert.deepEqual(both[1]!.slice(3), naiveGreedy(source, [0, 258], 0).slice(0, 8));
  });
});

Deno.test("transformers.js writes a conversation as trained and never samples what is not text", async () => {
  for (const seed of [1, 2, 3]) {
    const source = tinyModel(true, seed);
    await withTransformers(source, async (tokenizer, model) => {
      const conversation = [
        { role: "user", content: " in" },
        { role: "assistant", content: "and\n" },
        { role: "user", content: "you" },
      ];
      const inputs = tokenizer.apply_chat_template(conversation, { add_generation_prompt: true });
      const prompt = [0, 1, 36, 261, 3, 2, 266, 14, 3, 1, 125, 267, 3, 2];
      assert.deepEqual(rows(inputs.input_ids), [prompt]);
      const [generated] = rows(await model.generate({ ...inputs, do_sample: false }));
      assert.deepEqual(generated, naiveGreedy(source, prompt, 3, [0, 1, 2]));
      assert.throws(
        () => tokenizer.apply_chat_template([{ role: "system", content: "x" }]),
        /user and assistant/,
      );
    });
  }
});

Deno.test("an export replaces an earlier one as it was written, and nothing else", async () => {
  const source = tinyModel(false);
  await withExport(source, async (directory) => {
    const size = (await Deno.stat(`${directory}/model.onnx`)).size;
    const result = await exportOnnx(directory, source, { half: true, reference: referenceOf(source) });
    assert(result.maxDifference < 1e-4);
    assert.equal(result.bytes, (await Deno.stat(`${directory}/model.onnx`)).size);
    assert(result.bytes < size);
    const names = await Array.fromAsync(Deno.readDir(directory), (entry) => entry.name);
    assert.deepEqual(names.sort(), [
      "config.json",
      "generation_config.json",
      "model.onnx",
      "tokenizer.json",
      "tokenizer_config.json",
    ]);

    const again = () => exportOnnx(directory, source, { reference: referenceOf(source) });
    await Deno.writeTextFile(`${directory}/notes.txt`, "precious");
    await again();
    assert.equal(await Deno.readTextFile(`${directory}/notes.txt`), "precious");
    const changed = {
      "config.json": '{"model_type": "llama"}',
      "generation_config.json": (await Deno.readTextFile(`${directory}/generation_config.json`)).replace(
        '"temperature": 0.5',
        '"temperature": 0.7',
      ),
      "tokenizer.json": tinyTokenizerJson(false),
      "tokenizer_config.json": "{}",
      "model.onnx": "\x08\x08\x12\x07pytorch and more",
    };
    for (const [name, text] of Object.entries(changed)) {
      const before = await Deno.readFile(`${directory}/${name}`);
      await Deno.writeTextFile(`${directory}/${name}`, text);
      await assert.rejects(again(), {
        name: "MicrogptError",
        message: /holds [a-z_]+\.(json|onnx), which microgpt did not write/,
      });
      assert.equal(await Deno.readTextFile(`${directory}/${name}`), text);
      await Deno.writeFile(`${directory}/${name}`, before);
    }
    await again();
    await Deno.writeTextFile(`${directory}/meta.json`, "{}");
    await assert.rejects(again(), { name: "MicrogptError", message: /holds a model \(meta\.json\)/ });
    await assert.rejects(exportOnnx(`${directory}/config.json`, source, { reference: referenceOf(source) }), {
      name: "MicrogptError",
    });
  });
});

Deno.test("a wrong graph, a strange tokenizer, and weights beyond f16 leave nothing behind", async () => {
  const source = tinyModel(false);
  const parent = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  const refused = async (changed: Partial<OnnxSource>, message: RegExp, options = {}) => {
    const wrong = { ...source, ...changed };
    await assert.rejects(
      exportOnnx(`${parent}/out`, wrong, { reference: referenceOf(source), ...options }),
      (error) => error instanceof MicrogptError && message.test(error.message),
    );
    await assert.rejects(Deno.stat(`${parent}/out`), Deno.errors.NotFound);
  };
  try {
    const head = source.layout.byName.get("lm_head")!.offset;
    await refused({ params: source.params.slice().fill(NaN, head, head + 1) }, /NaN away/, {
      reference: (_: Float32Array, run: (logits: PromptLogits) => Promise<number>) =>
        run(naive(source, source.params)),
    });
    await refused({ params: source.params.slice().fill(7e4, 0, 1) }, /weight of wte is 70000/, {
      half: true,
    });
    await refused({ tokenizerJson: "[]" }, /not a JSON object/);
    await refused({ tokenizerJson: "{}" }, /no <bos>/);
    const far = { added_tokens: [{ id: 5000, content: "<bos>" }] };
    await refused({ tokenizerJson: JSON.stringify(far) }, /<bos> has id 5000/);
  } finally {
    await Deno.remove(parent, { recursive: true });
  }
});

Deno.test("a format that there is not is refused, not taken for ONNX", async () => {
  const options = { format: "onxx" } as unknown as ExportOptions;
  await assert.rejects(
    exportModel("nowhere", "nowhere-else", options),
    /`format` must be one of safetensors, onnx/,
  );
});
