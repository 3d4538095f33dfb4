import assert from "node:assert/strict";
import fixture from "./trajectory.json" with { type: "json" };

/** Norm and sampled entries of one parameter's gradient or weights; `indices` are flat, row by row. */
export interface SampledTensor {
  name: string;
  l2: number;
  indices: number[];
  values: number[];
}

/** One training run in PyTorch; README.md beside this file describes the fields. */
export interface GoldenCase {
  name: string;
  config: { vocab_size: number; n_embd: number; n_head: number; n_layer: number; block_size: number };
  training: {
    steps: number;
    lr: number;
    warmup_steps: number;
    beta1: number;
    beta2: number;
    eps: number;
    grad_clip: number;
    init_std: number;
  };
  parameters: { name: string; shape: number[]; amplitude: number; first: number[]; sum: number }[];
  documents: number[][];
  batches: number[][];
  tokens: number[];
  learning_rates: number[];
  losses: number[];
  grad_norms: number[];
  first_gradients: SampledTensor[];
  final_weights: SampledTensor[];
  float32: {
    losses: number[];
    max_loss_difference: number;
    max_relative_grad_norm_difference: number;
    max_relative_first_gradient_difference: number;
  };
}

/** The trajectories: `names` (short documents) and `long` (truncated ones). */
export const goldenCases: GoldenCase[] = fixture.cases;

/** Element i of parameter k: a multiple of 2⁻²³ in [-1, 1). */
function hashedUniform(k: number, i: number): number {
  let h = (Math.imul(i, 0x9E3779B1) + Math.imul(k, 0x85EBCA77) + 1) >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x7FEB352D) >>> 0;
  h = Math.imul(h ^ (h >>> 15), 0x846CA68B) >>> 0;
  h = (h ^ (h >>> 16)) >>> 0;
  return (h >>> 8) / 2 ** 23 - 1;
}

/**
 * The weights that the PyTorch run started from, checked against the fixture.
 * @returns parameter name → values, row by row, in flat order
 */
export function initialWeights(golden: GoldenCase): Map<string, Float32Array> {
  const weights = new Map<string, Float32Array>();
  for (const [k, { name, shape, amplitude, first, sum }] of golden.parameters.entries()) {
    const count = shape.reduce((product, size) => product * size, 1);
    const values = Float32Array.from({ length: count }, (_, i) => hashedUniform(k, i) * amplitude);
    assert.deepEqual([...values.subarray(0, first.length)], first, `${name}: first weights`);
    const total = values.reduce((a, b) => a + b, 0);
    assert.ok(Math.abs(total - sum) < 1e-9, `${name}: weights sum to ${total}, not ${sum}`);
    weights.set(name, values);
  }
  return weights;
}
