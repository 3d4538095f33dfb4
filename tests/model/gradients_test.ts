/** The backward pass of the reference device against central differences of its forward pass, in f64. */
import assert from "node:assert/strict";
import type { ModelConfig } from "../../model/config.ts";
import type { LlamaConfig } from "../../model/llama_config.ts";
import { networkOf } from "../../model/networks.ts";
import { flatTensor } from "../../model/parameters.ts";
import { ReferenceDevice } from "../../device/reference_device.ts";
import { randomDocuments } from "../device/case_data.ts";

const LLAMA: LlamaConfig = {
  architecture: "llama",
  vocab_size: 13,
  n_embd: 10,
  n_head: 4,
  n_kv_head: 2,
  head_dim: 6,
  n_layer: 2,
  ffn: 14,
  block_size: 9,
  rope_theta: 50,
  norm_eps: 1e-4,
  tie: false,
};

const CONFIGS: ModelConfig[] = [
  LLAMA,
  { ...LLAMA, tie: true, n_kv_head: 4, n_layer: 1 },
  {
    ...LLAMA,
    n_kv_head: 1,
    rope_scaling: { factor: 4, low_freq_factor: 1, high_freq_factor: 4, original_max_position: 64 },
  },
  { ...LLAMA, qkv_bias: true, tie: true },
  { ...LLAMA, qk_norm: true },
  { ...LLAMA, qk_norm: true, qkv_bias: true, n_layer: 1 },
  { vocab_size: 11, n_embd: 6, n_head: 1, n_layer: 1, block_size: 9 },
  { vocab_size: 13, n_embd: 12, n_head: 3, n_layer: 2, block_size: 9 },
];

const CASES = CONFIGS.flatMap((config) =>
  [[false, 0], [true, 0], [true, 0.3]].map(([weighted, dropout]) => ({
    config,
    weighted: weighted as boolean,
    dropout: dropout as number,
  }))
);

for (const { config, weighted, dropout } of CASES) {
  const of = `${weighted ? "of weighted targets " : ""}${dropout > 0 ? "with dropout " : ""}${
    JSON.stringify(config)
  }`;
  Deno.test(`every gradient equals a central difference: ${of}`, () => {
    const d = new ReferenceDevice("f64");
    const network = networkOf(config);
    const { layout } = network;
    const flat = flatTensor(d, "weights", layout, "f32");
    const initial = network.initialParameters(1, 0.4);
    for (const { role, offset, cols } of layout.entries) {
      if (role === "bias") { for (let i = 0; i < cols; i++) initial[offset + i] = Math.sin(i); // a new model's are 0
       }
    }
    d.write(flat, initial);
    const weights = network.views(d, flat);
    const gradients = flatTensor(d, "gradients", layout, "f32");
    const packed = randomDocuments([5, 1, 9, 3], config.vocab_size, 2);
    const T = packed.tokens.length;
    // some targets count less, or not at all
    const counts = Float32Array.from({ length: T }, (_, t) => [1, 0, 0.5, 2][t % 4]!);
    const documents = {
      ...packed,
      ...(weighted ? { weights: counts } : {}),
      ...(dropout > 0 ? { regularization: { dropout, key: 12345, zLoss: 0 } } : {}),
    };
    const activations = network.allocateActivations(d, T);
    const control = d.tensor("control", 1, 4);
    d.write(control, new Float32Array([0, 1, 0, 0]));
    const batch = d.createBatch(T, 4);
    d.loadBatch(batch, documents);

    const g = network.views(d, gradients);
    network.forwardBackward(d, weights, g, activations, batch, 1 / T, control, false);
    const analytic = (gradients as unknown as { data: Float64Array }).data.slice();

    const data = (flat as unknown as { data: Float64Array }).data;
    const lossAt = (i: number, value: number) => {
      const kept = data[i]!;
      data[i] = value;
      network.forward(d, weights, activations, batch, 1 / T, control);
      data[i] = kept;
      return (activations.losses as unknown as { data: Float64Array }).data.reduce((sum, x) => sum + x, 0);
    };
    const h = 1e-5;
    for (const { name, rows, cols, offset } of layout.entries) {
      let checked = 0;
      for (let i = offset; i < offset + rows * cols; i += 1 + Math.floor(rows * cols / 60)) {
        const numeric = (lossAt(i, data[i]! + h) - lossAt(i, data[i]! - h)) / (2 * h);
        const allowed = 1e-7 + 1e-5 * Math.abs(numeric);
        assert(
          Math.abs(numeric - analytic[i]!) <= allowed,
          `${name}[${i - offset}]: ${analytic[i]}, numeric ${numeric}`,
        );
        if (numeric !== 0) checked++;
      }
      assert(checked > 0, `${name}: no gradient differs from 0`);
    }
  });
}

Deno.test("the gradient of the z-loss equals a central difference, and drops nothing of the loss", () => {
  const d = new ReferenceDevice("f64");
  const [T, V, zLoss, h] = [4, 7, 0.05, 1e-5];
  const weights = new Float32Array([1, 0, 0.5, 2]);
  const batch = d.createBatch(T, 1);
  const documents = { ...randomDocuments([T], V, 2), weights };
  d.loadBatch(batch, { ...documents, regularization: { dropout: 0, key: 0, zLoss } });
  const [logits, losses] = [d.tensor("logits", T, V), d.tensor("losses", T, 1)];
  const control = d.tensor("control", 1, 4);
  d.write(control, new Float32Array([0, 1, 0, 0]));
  const x = Float64Array.from({ length: T * V }, (_, i) => 3 * Math.sin(i * i));
  const lossAt = (x: Float64Array, z: number) =>
    weights.reduce((sum, weight, t) => {
      const row = x.subarray(t * V, (t + 1) * V);
      const logSum = Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0));
      return sum + weight / T * (logSum - row[documents.targets[t]!]! + z * logSum ** 2);
    }, 0);
  const data = (tensor: unknown) => (tensor as { data: Float64Array }).data;
  data(logits).set(x);
  d.crossEntropy(logits, losses, batch, 0, 1 / T, control);
  for (let i = 0; i < T * V; i++) {
    const moved = (by: number) => x.map((value, k) => k === i ? value + by : value);
    const numeric = (lossAt(moved(h), zLoss) - lossAt(moved(-h), zLoss)) / (2 * h);
    assert(Math.abs(numeric - data(logits)[i]!) < 1e-9, `${i}: ${data(logits)[i]}, numeric ${numeric}`);
  }
  const loss = data(losses).reduce((sum, value) => sum + value, 0);
  assert(Math.abs(loss - lossAt(x, 0)) < 1e-12);
});
