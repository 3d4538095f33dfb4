/**
 * Each kernel of a training step alone, at the sizes of a preset: matrix products in GFLOP/s and as a share of the best
 * that the device reaches on a large square product, the others in GB/s of the memory they must move at least.
 *
 *     deno run -A bench/kernels.ts --preset chat-medium --threads 2
 *
 * With --rows, all products of a step of decoding, for several numbers of rows: with weights that are only read, where a row
 * has the same bits whatever the number of rows, beside training's, which take the kernel that is fastest for so many.
 *
 *     deno run -A bench/kernels.ts --preset chat-medium --rows
 *
 * Times are the fastest of many calls. Kernels are timed by the clock around synchronous calls, so this is for the CPU
 * device; bench/gpu.ts measures the other.
 */
import { parseArgs } from "node:util";
import { openDevice } from "../model/devices.ts";
import type { Device, MatmulForm, Tensor } from "../device/device.ts";
import { gptNetwork } from "../model/gpt.ts";
import { DEFAULTS, type PresetName, PRESETS } from "../model/settings.ts";

const { values: flags } = parseArgs({
  options: {
    /** of `microgpt train`, or `defaults`; absent: all */
    preset: { type: "string" },
    threads: { type: "string", default: "2" },
    /** what it costs that rows do not depend on each other's number */
    rows: { type: "boolean", default: false },
    /** milliseconds for each kernel */
    time: { type: "string", default: "300" },
  },
});

/** Documents of a step by preset: lengths as the sample data and OASST have them on average. */
const LENGTHS: Record<string, number[]> = {
  defaults: [3, 3, 3, 3, 3, 3, 3, 3],
  names: Array(96).fill(5),
  "chat-small": [40, 120, 180, 250, 300, 385, 490, 512],
  "chat-medium": [90, 180, 320, 653],
  "chat-large": [90, 180, 320, 653],
};

/** Milliseconds of the fastest call. */
function fastest(call: () => void): number {
  const end = performance.now() + Number(flags.time);
  let best = Infinity;
  while (performance.now() < end) {
    const start = performance.now();
    call();
    best = Math.min(best, performance.now() - start);
  }
  return best;
}

function report(name: string, milliseconds: number, rate: string): void {
  console.log(`  ${name.padEnd(34)} ${(milliseconds * 1000).toFixed(1).padStart(9)} µs  ${rate}`);
}

/** out [M, N] over K on fresh tensors. */
function product(device: Device, form: MatmulForm, M: number, N: number, K: number): number {
  const a = form === "TN" ? device.tensor("a", K, M) : device.tensor("a", M, K);
  const b = form === "NT" ? device.tensor("b", N, K) : device.tensor("b", K, N);
  const out = device.tensor("out", M, N);
  for (const tensor of [a, b]) {
    device.write(tensor, Float32Array.from({ length: tensor.rows * tensor.cols }, (_, i) => (i % 13) - 6));
  }
  const milliseconds = fastest(() => device.matmul(out, a, b, form));
  [a, b, out].forEach((tensor) => device.free(tensor));
  return milliseconds;
}

/** All products of a preset, with the model's own chunk of logits. */
function products(device: Device, E: number, T: number, V: number, peak: number): void {
  const rows = Math.min(T, Math.floor((8 << 20) / (4 * V)));
  const weights: [name: string, tokens: number, outputs: number, inputs: number][] = [
    ["qkv", T, 3 * E, E],
    ["attn_wo", T, E, E],
    ["mlp_fc1", T, 4 * E, E],
    ["mlp_fc2", T, E, 4 * E],
    ["lm_head", rows, V, E],
  ];
  for (const [name, tokens, outputs, inputs] of weights) {
    for (const form of ["NT", "NN", "TN"] as const) {
      const [M, N, K] = form === "NT"
        ? [tokens, outputs, inputs]
        : form === "NN"
        ? [tokens, inputs, outputs]
        : [outputs, inputs, tokens];
      const milliseconds = product(device, form, M, N, K);
      const speed = 2 * M * N * K / milliseconds / 1e6;
      report(
        `${name} ${form} ${M} x ${N} x ${K}`,
        milliseconds,
        `${speed.toFixed(0).padStart(5)} GFLOP/s, ${
          (100 * speed / peak).toFixed(0).padStart(3)
        }% of the best`,
      );
    }
  }
}

/** The kernels that are not products; bytes are what must be read and written at least. */
function others(device: Device, name: string, E: number, H: number, V: number, n: number): void {
  const lengths = LENGTHS[name]!;
  const T = lengths.reduce((sum, length) => sum + length);
  const rows = Math.min(T, Math.floor((8 << 20) / (4 * V)));
  const starts = new Uint32Array(lengths.length + 1);
  lengths.forEach((length, i) => starts[i + 1] = starts[i]! + length);
  const ids = Uint32Array.from({ length: T }, (_, t) => (t * 7919) % V);
  const batch = device.createBatch(T, lengths.length);
  device.loadBatch(batch, { tokens: ids, targets: ids, starts });
  const tensors: Tensor[] = [];
  const matrix = (rows: number, cols: number) => {
    const tensor = device.tensor("operand", rows, cols);
    device.write(tensor, Float32Array.from({ length: rows * cols }, (_, i) => ((i * 31) % 17 - 8) / 9));
    tensors.push(tensor);
    return tensor;
  };
  const [x, dx, y, qkv, dQkv, lse] = [
    matrix(T, E),
    matrix(T, E),
    matrix(T, E),
    matrix(T, 3 * E),
    matrix(T, 3 * E),
    matrix(T, H),
  ];
  const [logits, losses] = [matrix(rows, V), matrix(T, 1)];
  const [wte, wpe, dWte, dWpe] = [matrix(V, E), matrix(1024, E), matrix(V, E), matrix(1024, E)];
  const flat = () => matrix(1, n);
  const [params, gradients, m, v, control, metrics] = [
    flat(),
    flat(),
    flat(),
    flat(),
    matrix(1, 4),
    matrix(1, 4),
  ];
  device.write(control, new Float32Array([0, 1, 0, 0]));
  device.write(v, new Float32Array(n));
  const moved = (name: string, elements: number, call: () => void) => {
    const milliseconds = fastest(call);
    report(name, milliseconds, `${(4 * elements / milliseconds / 1e6).toFixed(0).padStart(5)} GB/s`);
  };
  const computed = (name: string, flops: number, call: () => void) => {
    const milliseconds = fastest(call);
    report(name, milliseconds, `${(flops / milliseconds / 1e6).toFixed(0).padStart(5)} GFLOP/s`);
  };
  const squares = lengths.reduce((sum, length) => sum + length * length, 0);
  moved("embed", 3 * T * E, () => device.embed(x, batch, wte, wpe));
  moved("embedBackward", 7 * T * E, () => device.embedBackward(dWte, dWpe, dx, batch, wte, wpe));
  moved("rmsNorm", 2 * T * E, () => device.rmsNorm(y, x));
  moved("rmsNormBackward", 4 * T * E, () => device.rmsNormBackward(dx, y, x));
  computed("attention", 2 * squares * E, () => device.attention(y, lse, qkv, batch, H));
  computed(
    "attentionBackward",
    5 * squares * E,
    () => device.attentionBackward(dQkv, dx, y, lse, qkv, batch, H),
  );
  moved("crossEntropy", 2 * rows * V, () => device.crossEntropy(logits, losses, batch, 0, 1, control));
  moved("gradNorm", n, () => device.gradNorm(metrics, 0, gradients, control));
  const hyper = { learningRate: 1e-9, beta1: 0.85, beta2: 0.99, epsilon: 1e-8, weightDecay: 0 };
  device.write(control, new Float32Array([1, 1, 0, 1]));
  moved(
    "adam",
    7 * n,
    () => device.adam({ params, work: params, gradients, m, v, control }, hyper),
  );
  tensors.forEach((tensor) => device.free(tensor));
}

/** All products of a step of so many rows, with weights in either form; each layer has its own. */
function decodingProducts(
  device: Device & Required<Pick<Device, "holdWeights">>,
  E: number,
  layers: number,
  V: number,
): void {
  const layer: [N: number, K: number][] = [[3 * E, E], [E, E], [4 * E, E], [E, 4 * E]];
  const shapes = [...Array.from({ length: layers }, () => layer).flat(), [V, E] as [number, number]];
  let end = 0;
  const matrices = shapes.map(([rows, cols]) => {
    const offset = end;
    end += rows * cols;
    return { offset, rows, cols, type: "f32" as const };
  });
  const held = device.holdWeights("weights", end, matrices);
  const plain = device.tensor("weights", 1, end);
  for (const { offset, rows, cols } of matrices) {
    const values = Float32Array.from({ length: rows * cols }, (_, i) => (i % 13 - 6) / 9);
    held.write(offset, "F32", new Uint8Array(values.buffer));
    device.write(plain, values, offset);
  }
  for (const n of [1, 2, 4, 8, 16, 32, 64, 128]) {
    const operands = matrices.map(({ rows, cols }) => {
      const x = device.tensor("x", n, cols);
      device.write(x, Float32Array.from({ length: n * cols }, (_, i) => (i % 7 - 3) / 5));
      return { x, out: device.tensor("out", n, rows) };
    });
    const pass = (flat: Tensor) => () => {
      matrices.forEach(({ offset, rows, cols }, i) => {
        device.matmul(operands[i]!.out, operands[i]!.x, device.view(flat, offset, rows, cols), "NT");
      });
    };
    // in turn, twice: the machine's own speed changes
    const turns = [0, 1].map(() => [fastest(pass(held.flat)), fastest(pass(plain))]);
    const [own, other] = [0, 1].map((i) => Math.min(...turns.map((turn) => turn[i]!)));
    report(`${n} rows`, own!, `${(own! / other!).toFixed(2)} of the time of training's products`);
    for (const { x, out } of operands) [x, out].forEach((tensor) => device.free(tensor));
  }
  [held.flat, plain].forEach((tensor) => device.free(tensor));
}

const device = await openDevice({ device: "cpu", threads: Number(flags.threads) });
const square = 768;
const peak = 2 * square ** 3 / product(device, "NN", square, square, square) / 1e6;
console.log(`${device.name}: ${peak.toFixed(0)} GFLOP/s for a product of ${square} x ${square} x ${square}`);
for (const name of flags.preset === undefined ? Object.keys(LENGTHS) : [flags.preset]) {
  const settings = { ...DEFAULTS, ...(name === "defaults" ? {} : PRESETS[name as PresetName]) };
  const { nEmbd: E, nHead: H, nLayer, blockSize, vocabSize: V } = settings;
  const T = LENGTHS[name]!.reduce((sum, length) => sum + length);
  const { length } = gptNetwork({
    vocab_size: V,
    n_embd: E,
    n_head: H,
    n_layer: nLayer,
    block_size: blockSize,
  }).layout;
  console.log(`${name}: E ${E}, H ${H}, V ${V}, ${T} tokens, ${length} parameters`);
  if (flags.rows) {
    decodingProducts(device as Required<Device>, E, nLayer, V);
    continue;
  }
  products(device, E, T, V, peak);
  others(device, name, E, H, V, length);
}
device.destroy();
