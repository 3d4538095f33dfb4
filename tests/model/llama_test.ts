/** The Llama family: its config, its parameters, its angles, decoding against the full forward, and a run of training. */
import assert from "node:assert/strict";
import type { DecodeRows, Device } from "../../device/device.ts";
import { ReferenceDevice } from "../../device/reference_device.ts";
import type { Settings } from "../../model/settings.ts";
import { DEFAULTS } from "../../model/settings.ts";
import { openDevice } from "../../model/devices.ts";
import { readModel } from "../../model/files/checkpoint.ts";
import { checkConfig, configOf, type LlamaConfig, readConfig, ropeAngles } from "../../model/llama_config.ts";
import { llamaNetwork } from "../../model/llama.ts";
import { loadModel } from "../../model/generate/language_model.ts";
import { networkKind } from "../../model/networks.ts";
import { flatTensor } from "../../model/parameters.ts";
import { prepareRun } from "../../model/train/prepare.ts";
import { train } from "../../model/train/train.ts";
import type { TrainOptions } from "../../model/train/options.ts";
import { assertClose } from "../device/assert_close.ts";
import { randomDocuments } from "../device/case_data.ts";
import { withDirectory } from "./files/checkpoint_fixture.ts";

const CONFIG: LlamaConfig = {
  architecture: "llama",
  vocab_size: 11,
  n_embd: 10,
  n_head: 4,
  n_kv_head: 2,
  head_dim: 6,
  n_layer: 1,
  ffn: 14,
  block_size: 20,
  rope_theta: 100,
  norm_eps: 1e-5,
  tie: false,
};

Deno.test("a llama's parameters have HuggingFace's names, the products' parts are neighbours, norms start at 1", () => {
  const { layout, initialParameters, cacheWidth } = llamaNetwork(CONFIG);
  const shapes = layout.entries.map(({ name, shape, role }) => [name, shape.join(", "), role]);
  const layer = "model.layers.0.";
  assert.deepEqual(shapes, [
    ["model.embed_tokens.weight", "11, 10", "embedding"],
    ["lm_head.weight", "11, 10", "head"],
    [`${layer}self_attn.q_proj.weight`, "24, 10", "matrix"],
    [`${layer}self_attn.k_proj.weight`, "12, 10", "matrix"],
    [`${layer}self_attn.v_proj.weight`, "12, 10", "matrix"],
    [`${layer}self_attn.o_proj.weight`, "10, 24", "matrix"],
    [`${layer}mlp.gate_proj.weight`, "14, 10", "matrix"],
    [`${layer}mlp.up_proj.weight`, "14, 10", "matrix"],
    [`${layer}mlp.down_proj.weight`, "10, 14", "matrix"],
    [`${layer}input_layernorm.weight`, "10", "norm"],
    [`${layer}post_attention_layernorm.weight`, "10", "norm"],
    ["model.norm.weight", "10", "norm"],
  ]);
  const place = (name: string) => layout.byName.get(`${layer}${name}.weight`)!.offset;
  assert.equal(place("self_attn.k_proj"), place("self_attn.q_proj") + 240);
  assert.equal(place("self_attn.v_proj"), place("self_attn.k_proj") + 120);
  assert.equal(place("mlp.up_proj"), place("mlp.gate_proj") + 140);
  const params = initialParameters(1);
  const norms = layout.entries.filter(({ role }) => role === "norm");
  for (const { offset } of norms) {
    assert.deepEqual([...params.subarray(offset, offset + 10)], Array(10).fill(1));
  }
  assert.equal(cacheWidth, 24);
  assert(!llamaNetwork({ ...CONFIG, tie: true }).layout.byName.has("lm_head.weight"));
});

Deno.test("a llama's config survives meta.json, and settings make it", () => {
  const rope_scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position: 8192 };
  for (const config of [CONFIG, { ...CONFIG, tie: true, rope_scaling }]) {
    const meta = JSON.parse(JSON.stringify(llamaNetwork(config).toMeta()));
    assert.deepEqual(networkKind(meta.architecture).readConfig(meta), config);
  }
  assert.deepEqual(configOf(llamaNetwork(CONFIG).toShape(), 11), CONFIG);
  const { n_kv_head, head_dim, ffn, tie } = configOf({ nEmbd: 48, nHead: 3, nLayer: 2, blockSize: 16 }, 100);
  assert.deepEqual({ n_kv_head, head_dim, ffn, tie }, { n_kv_head: 3, head_dim: 16, ffn: 128, tie: false });
});

Deno.test("a llama's config that cannot be is refused in a line", () => {
  const cases: [Partial<Record<keyof LlamaConfig, unknown>>, RegExp][] = [
    [{ n_kv_head: 3 }, /^MicrogptError: n_head 4 is not divisible by n_kv_head 3$/],
    [{ head_dim: 5 }, /head_dim 5 is odd/],
    [{ head_dim: 2.5 }, /n_embd 10 is not divisible by n_head 4/],
    [{ n_kv_head: 0 }, /n_kv_head must be a whole number from 1/],
    [{ ffn: 1e9 }, /ffn must be a whole number from 1 to 131072/],
    [{ rope_theta: NaN }, /rope_theta must be from 1 to 1e12, got NaN/],
    [{ norm_eps: 0 }, /norm_eps must be above 0/],
    [
      { rope_scaling: { factor: 0, low_freq_factor: 1, high_freq_factor: 4, original_max_position: 8 } },
      /rope_scaling/,
    ],
  ];
  for (const [change, expected] of cases) {
    assert.throws(() => checkConfig({ ...CONFIG, ...change } as LlamaConfig), expected);
  }
  const { tie: _, ...untold } = CONFIG;
  assert.throws(() => readConfig(untold), /tie is missing/);
  assert.throws(() => readConfig({ ...CONFIG, qk_norm: 1 }), /qk_norm is neither true nor false/);
  assert.throws(() => readConfig({ ...CONFIG, rope_scaling: 8 }), /rope_scaling is not an object/);
});

Deno.test("angles turn as Su et al. have it, slow pairs slower where they are scaled", () => {
  const plain = { ...CONFIG, head_dim: 4, rope_theta: 10_000 };
  const [, second] = [0, 1].map((position) => ropeAngles(plain, 2).subarray(4 * position, 4 * position + 4));
  assertClose(second!, [Math.cos(1), Math.cos(0.01), Math.sin(1), Math.sin(0.01)], 1e-7, "position 1");
  const scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position: 1000 };
  const angle = (rope_theta: number) => {
    const angles = ropeAngles({ ...plain, rope_theta, rope_scaling: scaling }, 2);
    return Math.asin(angles[4 + 3]!); // of the slow pair: theta^(−1/2) a position before scaling
  };
  assert(Math.abs(angle(100) - 0.1) < 1e-6, "16 turns in 1000 positions: kept");
  assert(Math.abs(angle(1e6) - 0.001 / 8) < 1e-8, "a sixth of a turn: slowed by the factor");
  const [turns, speed] = [1000 * 0.0157 / (2 * Math.PI), 0.0157];
  const kept = (turns - 1) / 3;
  assert(Math.abs(angle(0.0157 ** -2) - speed * (kept + (1 - kept) / 8)) < 1e-6, "2.5 turns: between");
});

/** Logits of `tokens` at once, and one by one through the cache after the first `prompt` of them. */
async function logitsBothWays(d: Device, config: LlamaConfig, tokens: number[], prompt: number) {
  const network = llamaNetwork(config);
  const flat = flatTensor(d, "weights", network.layout, "work");
  d.write(flat, network.initialParameters(3, 0.4));
  const weights = network.views(d, flat);
  const column = (values: number[]) => {
    const tensor = d.tensor("rows", values.length, 1, "u32");
    d.write(tensor, Uint32Array.from(values));
    return tensor;
  };
  const rows = (ids: number[], first: number): DecodeRows => ({
    tokens: column(ids),
    positions: column(ids.map((_, i) => first + i)),
    sequences: column(ids.map(() => 0)),
  });
  const memory = network.allocateDecodeMemory(d, tokens.length, tokens.length, config.block_size);
  const step = async (ids: number[], first: number) => {
    network.decodeStep(d, weights, memory, rows(ids, first), config.block_size, ids.length);
    return [...await d.read(memory.logits)];
  };
  const whole = await step(tokens, 0);
  const parts = await step(tokens.slice(0, prompt), 0);
  for (let i = prompt; i < tokens.length; i++) parts.push(...await step([tokens[i]!], i));
  return { network, flat, weights, whole, parts };
}

const DEVICES: Record<string, () => Device | Promise<Device>> = {
  reference: () => new ReferenceDevice("f64"),
  cpu: () => openDevice({ device: "cpu", threads: 2 }),
};

for (const [name, open] of Object.entries(DEVICES)) {
  for (const config of [CONFIG, { ...CONFIG, tie: true, n_kv_head: 1, n_layer: 2 }]) {
    const what = config.tie ? "a tied llama" : "a llama";
    Deno.test(`decoding ${what} through the cache equals the full forward on ${name}`, async () => {
      const d = await open();
      const documents = randomDocuments([20], 11, 5);
      const { network, weights, whole, parts } = await logitsBothWays(d, config, [...documents.tokens], 7);
      assertClose(parts, whole, 1e-5, "logits");
      const batch = d.createBatch(20, 1);
      d.loadBatch(batch, documents);
      const activations = network.allocateActivations(d, 20);
      const control = d.tensor("control", 1, 4);
      d.write(control, new Float32Array([0, 1, 0, 0]));
      network.forward(d, weights, activations, batch, 1, control);
      const losses = Array.from(documents.targets, (target, t) => {
        const row = whole.slice(11 * t, 11 * t + 11);
        return Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0)) - row[target]!;
      });
      assertClose(await d.read(activations.losses), losses, 1e-5, "losses");
      d.destroy();
    });
  }
}

const WORDS = ["ada", "bob", "cleo", "dora", "emma", "finn", "gus", "hal", "ida", "jo", "kim", "lea"];

const SETTINGS: Partial<Settings> = {
  arch: "llama",
  nEmbd: 16,
  nHead: 2,
  nKvHead: 1,
  headDim: 6,
  nLayer: 2,
  blockSize: 16,
  vocabSize: 260,
  batchSize: 4,
  warmupSteps: 2,
  weightDecay: 0.1,
  valFraction: 0,
};

/** Trains, until step `stop` where it is given, and tells the weights that were saved. */
async function trained(output: string, options: TrainOptions, stop?: number): Promise<Float32Array> {
  const interrupt = new AbortController();
  const { signal } = interrupt;
  for await (const event of train({ documents: WORDS, threads: 2, ...options, output, signal })) {
    if (event.type === "step" && event.step === stop) interrupt.abort();
  }
  return (await readModel(output)).params;
}

Deno.test("a llama trains, stopped half-way goes on to the same bits, and speaks", async () => {
  await withDirectory(async (dir) => {
    const whole = await trained(`${dir}/whole`, { ...SETTINGS, steps: 8 });
    const first = await trained(`${dir}/half`, { ...SETTINGS, steps: 8 }, 4);
    assert(whole.every(Number.isFinite) && whole.some((x, i) => x !== first[i]));
    assert.deepEqual(await trained(`${dir}/half`, { resume: `${dir}/half` }), whole);
    using model = await loadModel(`${dir}/whole`, { threads: 2 });
    assert.equal((await model.samples({ numSamples: 2, maxTokens: 4 })).length, 2);
  });
});

Deno.test("settings of a llama are refused for a gpt", async () => {
  for (
    const [name, value] of [["nKvHead", 2], ["tie", true], ["ropeTheta", 500], ["ffn", 64], [
      "headDim",
      8,
    ]] as const
  ) {
    await assert.rejects(
      prepareRun({ documents: WORDS, output: "nowhere", steps: 1, dryRun: true, [name]: value }),
      new RegExp(`\`${name}\` is a setting of \`arch\` llama, and this is a ${DEFAULTS.arch}`),
    );
  }
});
