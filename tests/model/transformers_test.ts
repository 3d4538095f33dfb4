/** A random tiny Llama, Qwen 2 and Qwen 3 made by transformers: logits, greedy tokens, gradients and twenty training steps are the same here. */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { Device, PackedDocuments } from "../../device/device.ts";
import { ReferenceDevice } from "../../device/reference_device.ts";
import { openDevice } from "../../model/devices.ts";
import type { LlamaConfig } from "../../model/llama_config.ts";
import { type LlamaNetwork, llamaNetwork } from "../../model/llama.ts";
import { emptyState } from "../../model/optimizer_state.ts";
import { flatTensor } from "../../model/parameters.ts";
import { learningRate, Trainer } from "../../model/train/trainer.ts";
import { assertClose } from "../device/assert_close.ts";
import { randomDocuments } from "../device/case_data.ts";
import { pythonTest, runPython } from "./python.ts";
import { RunningModel } from "./running_model.ts";
import { PLAIN } from "./train/plain_recipe.ts";

const GROUPED: LlamaConfig = {
  architecture: "llama",
  vocab_size: 97,
  n_embd: 20,
  n_head: 4,
  n_kv_head: 2,
  head_dim: 8,
  n_layer: 2,
  ffn: 28,
  block_size: 64,
  rope_theta: 500,
  norm_eps: 1e-4,
  tie: false,
};
const scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position: 128 };

const CONFIGS: Record<string, LlamaConfig> = {
  "grouped heads wider than E / H": GROUPED,
  "tied embeddings": { ...GROUPED, n_kv_head: 4, head_dim: 4, tie: true },
  "positions scaled as in Llama 3": { ...GROUPED, n_kv_head: 1, rope_scaling: scaling },
  "Qwen 2": { ...GROUPED, n_embd: 32, head_dim: 8, qkv_bias: true },
  "Qwen 2, tied": { ...GROUPED, n_embd: 32, head_dim: 8, tie: true, qkv_bias: true },
  "Qwen 3": { ...GROUPED, qk_norm: true },
};

/** The same in transformers' words. */
function huggingFaceConfig(config: LlamaConfig): Record<string, unknown> {
  const { rope_theta, rope_scaling: s } = config;
  return {
    model_type: config.qk_norm ? "qwen3" : config.qkv_bias ? "qwen2" : "llama",
    vocab_size: config.vocab_size,
    hidden_size: config.n_embd,
    intermediate_size: config.ffn,
    num_hidden_layers: config.n_layer,
    num_attention_heads: config.n_head,
    num_key_value_heads: config.n_kv_head,
    head_dim: config.head_dim,
    max_position_embeddings: config.block_size,
    rms_norm_eps: config.norm_eps,
    tie_word_embeddings: config.tie,
    rope_parameters: s
      ? {
        rope_type: "llama3",
        rope_theta,
        factor: s.factor,
        low_freq_factor: s.low_freq_factor,
        high_freq_factor: s.high_freq_factor,
        original_max_position_embeddings: s.original_max_position,
      }
      : { rope_type: "default", rope_theta },
  };
}

const STEPS = 20;
const RECIPE = {
  ...PLAIN,
  totalSteps: STEPS,
  learningRate: 0.01,
  warmupSteps: 5,
  weightDecay: 0,
  gradClip: 2,
  gradAccum: 1,
  evalEvery: 0,
};
/** Lengths of the inputs of each batch's documents. */
const LENGTHS = [31, 7, 1, 40];

/** What tests/model/transformers_llama.py prints. */
interface Expected {
  weights: Record<string, number[]>;
  /** [T, V] of the first document */
  logits: number[];
  /** after its first four tokens */
  greedy: number[];
  losses: number[];
  grad_norms: number[];
  first_gradients: Record<string, number[]>;
}

const BATCHES = Array.from({ length: STEPS }, (_, step) => randomDocuments(LENGTHS, 97, 100 + step));

/** Documents as lists of ids: inputs, and the last target. Each token's target is made the next input. */
function chained({ tokens, starts }: PackedDocuments): number[][] {
  return LENGTHS.map((length, d) => {
    return Array.from({ length: length + 1 }, (_, i) => tokens[(starts[d]! + i) % tokens.length]!);
  });
}

function packed(documents: number[][]): PackedDocuments {
  const starts = new Uint32Array(documents.length + 1);
  documents.forEach((ids, d) => starts[d + 1] = starts[d]! + ids.length - 1);
  return {
    tokens: Uint32Array.from(documents.flatMap((ids) => ids.slice(0, -1))),
    targets: Uint32Array.from(documents.flatMap((ids) => ids.slice(1))),
    starts,
  };
}

/** What transformers says of all configs, by their names: starting Python takes longer than the rest. */
async function askTransformers(): Promise<Record<string, Expected>> {
  const dir = await Deno.makeTempDir();
  try {
    const job = {
      configs: Object.fromEntries(
        Object.entries(CONFIGS).map(([name, config]) => [name, huggingFaceConfig(config)]),
      ),
      documents: BATCHES.flatMap(chained),
      batches: BATCHES.map((_, step) => LENGTHS.map((_, d) => step * LENGTHS.length + d)),
      learning_rates: BATCHES.map((_, step) => learningRate(step, RECIPE)),
      betas: [0.85, 0.99],
      epsilon: 1e-8,
      grad_clip: RECIPE.gradClip,
      greedy: 20,
    };
    await Deno.writeTextFile(join(dir, "job.json"), JSON.stringify(job));
    return JSON.parse(await runPython("transformers_llama.py", [join(dir, "job.json")]));
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

function flatWeights({ layout }: LlamaNetwork, weights: Record<string, number[]>): Float32Array {
  assert.deepEqual(Object.keys(weights).sort(), layout.entries.map(({ name }) => name).sort());
  const flat = new Float32Array(layout.length);
  for (const { name, offset, rows, cols } of layout.entries) {
    assert.equal(weights[name]!.length, rows * cols, name);
    flat.set(weights[name]!, offset);
  }
  return flat;
}

async function checkDecoding(d: Device, network: LlamaNetwork, expected: Expected): Promise<void> {
  const running = new RunningModel(d, network, flatWeights(network, expected.weights), 64);
  const document = chained(BATCHES[0]!)[0]!;
  assertClose(await running.logits(document), expected.logits, 1e-4, "logits");
  const greedy = await running.greedy(document.slice(0, 4), expected.greedy.length);
  assert.deepEqual(greedy.map(({ token }) => token), expected.greedy);
}

async function checkGradients(d: Device, network: LlamaNetwork, expected: Expected): Promise<void> {
  const { layout } = network;
  const [flat, gradients] = [
    flatTensor(d, "weights", layout, "work"),
    flatTensor(d, "gradients", layout, "f32"),
  ];
  d.write(flat, flatWeights(network, expected.weights));
  const documents = packed(chained(BATCHES[0]!));
  const T = documents.tokens.length;
  const batch = d.createBatch(T, LENGTHS.length);
  d.loadBatch(batch, documents);
  const control = d.tensor("control", 1, 4);
  d.write(control, new Float32Array([0, 1, 0, 0]));
  const [w, g] = [network.views(d, flat), network.views(d, gradients)];
  network.forwardBackward(d, w, g, network.allocateActivations(d, T), batch, 1 / T, control, false);
  const values = await d.read(gradients);
  for (const { name, offset, rows, cols } of layout.entries) {
    const theirs = expected.first_gradients[name]!;
    const scale = 1 / Math.max(...theirs.map(Math.abs));
    const ours = Array.from(values.subarray(offset, offset + rows * cols), (x) => x * scale);
    assertClose(ours, theirs.map((x) => x * scale), 1e-4, `gradient of ${name}`);
  }
}

async function checkTraining(device: Device, network: LlamaNetwork, expected: Expected): Promise<void> {
  const data = {
    maxTokens: LENGTHS.reduce((sum, length) => sum + length),
    maxDocuments: LENGTHS.length,
    batch: (step: number) => packed(chained(BATCHES[step]!)),
    validation: () => [],
    validationBytes: 0,
  };
  const trainer = new Trainer(device, network.config, data, { ...RECIPE });
  const params = flatWeights(network, expected.weights);
  const initial = { step: 0, adamStep: 0, params, optimizer: emptyState(network.layout) };
  trainer.load(initial);
  let steps = 0;
  for await (const event of trainer.run(STEPS, { lastGood: () => Promise.resolve(initial) })) {
    if (event.type !== "step") continue;
    const [loss, norm] = [expected.losses[steps]!, expected.grad_norms[steps]!];
    steps++;
    assert(Math.abs(event.loss - loss) <= 1e-4 * loss, `step ${steps}: loss ${event.loss}, PyTorch ${loss}`);
    assert(
      Math.abs(event.gradNorm - norm) <= 1e-3 * norm,
      `step ${steps}: ${event.gradNorm}, PyTorch ${norm}`,
    );
  }
  assert.equal(steps, STEPS);
}

let answers: Promise<Record<string, Expected>> | undefined;

for (const [name, config] of Object.entries(CONFIGS)) {
  await pythonTest(
    `a Llama of transformers is the same here: ${name}`,
    ["torch", "transformers"],
    async () => {
      const expected = (await (answers ??= askTransformers()))[name]!;
      const network = llamaNetwork(config);
      for (const device of [new ReferenceDevice("f32"), await openDevice({ device: "cpu", threads: 2 })]) {
        await checkDecoding(device, network, expected);
        await checkGradients(device, network, expected);
        await checkTraining(device, network, expected);
        device.destroy();
      }
    },
  );
}
