/** A check of the GPU's driver at start: small products, exponentials and conversions against the CPU. */
import { MicrogptError } from "../device/errors.ts";
import type { GpuDevice } from "./device.ts";
import { fromHalves, toHalves } from "./number_formats.ts";

/** What the self-test compares. */
export interface SelfTestResult {
  what: string;
  expected: ArrayLike<number>;
  actual: ArrayLike<number>;
  /** largest allowed |difference| / (1 + |expected|); 0 where the result is exact */
  tolerance: number;
}

/** A product of small whole numbers, which every type holds exactly: any difference is the driver's fault. */
async function product(d: GpuDevice): Promise<SelfTestResult> {
  const [M, N, K] = [33, 36, 40];
  const integer = (i: number, j: number) => (i * 7 + j * 3) % 11 - 5;
  const values = (rows: number) =>
    Float32Array.from({ length: rows * K }, (_, i) => integer(Math.floor(i / K), i % K));
  const [a, b] = [d.tensor("self-test a", M, K, "work"), d.tensor("self-test b", N, K, "work")];
  const out = d.tensor("self-test out", M, N);
  d.write(a, values(M));
  d.write(b, values(N));
  d.matmul(out, a, b, "NT");
  const expected = Float32Array.from({ length: M * N }, (_, i) => {
    const [m, n] = [Math.floor(i / N), i % N];
    let sum = 0;
    for (let k = 0; k < K; k++) sum += integer(m, k) * integer(n, k);
    return sum;
  });
  const actual = await d.read(out);
  for (const tensor of [a, b, out]) d.free(tensor);
  return { what: "a matrix product", expected, actual, tolerance: 0 };
}

/** Softmax with logits from −30 to 30, through the gradient of the cross-entropy. */
async function softmax(d: GpuDevice): Promise<SelfTestResult> {
  const V = 61;
  const logits = Float32Array.from({ length: V }, (_, i) => (i * 17) % V - 30);
  const [x, losses, control] = [
    d.tensor("self-test logits", 1, V),
    d.tensor("self-test losses", 1, 1),
    d.tensor("self-test control", 1, 4),
  ];
  const batch = d.createBatch(1, 1);
  d.write(x, logits);
  d.write(control, new Float32Array([0, 1, 0, 0]));
  d.loadBatch(batch, {
    tokens: new Uint32Array([0]),
    targets: new Uint32Array([5]),
    starts: new Uint32Array([0, 1]),
  });
  d.crossEntropy(x, losses, batch, 0, 1, control);
  const sum = logits.reduce((total, value) => total + Math.exp(value), 0);
  const expected = logits.map((value, i) => Math.exp(value) / sum - (i === 5 ? 1 : 0));
  const reading = Promise.all([d.read(x), d.read(losses)]);
  const [gradient, loss] = await reading;
  for (const tensor of [x, losses, control]) d.free(tensor);
  d.freeBatch(batch);
  return {
    what: "a softmax",
    expected: [...expected, Math.log(sum) - logits[5]!],
    actual: [...gradient, ...loss],
    tolerance: 1e-4,
  };
}

/**
 * Rounding to the working type and back: a product with the identity stores each number as it rounds it. Numbers too
 * large for f16 must become infinity, which tells the optimizer to lower the loss scale.
 */
async function conversion(d: GpuDevice): Promise<SelfTestResult> {
  const n = 32;
  const values = Float32Array.from({ length: n * n }, (_, i) => Math.sin(i + 1) * 2 ** (i % 25 - 12));
  values[0] = 1e5;
  const identity = Float32Array.from({ length: n * n }, (_, i) => i % (n + 1) === 0 ? 1 : 0);
  const [a, b, out] = [
    d.tensor("self-test a", n, n),
    d.tensor("self-test identity", n, n),
    d.tensor("self-test out", n, n, "work"),
  ];
  d.write(a, values);
  d.write(b, identity);
  d.matmul(out, a, b, "NT");
  const actual = await d.read(out);
  for (const tensor of [a, b, out]) d.free(tensor);
  const expected = d.dtype === "f32" ? values : fromHalves(toHalves(values, d.dtype), n * n, d.dtype);
  return { what: `rounding to ${d.dtype}`, expected, actual, tolerance: 0 };
}

/**
 * Compares what the GPU computed with what the CPU did.
 * @throws {MicrogptError} on the first number that is off
 */
export function checkSelfTest(name: string, { what, expected, actual, tolerance }: SelfTestResult): void {
  for (let i = 0; i < expected.length; i++) {
    if (actual[i] === expected[i]) continue;
    const difference = Math.abs(actual[i]! - expected[i]!);
    if (difference <= tolerance * (1 + Math.abs(expected[i]!))) continue;
    throw new MicrogptError(
      `the GPU driver computes wrong numbers: ${what} on ${name} gave ${actual[i]} instead of ${expected[i]}`,
      { hint: "update the GPU driver, or use `device` cpu" },
    );
  }
}

/**
 * Runs all checks on an opened device: a few milliseconds, and the compilation of three kernels.
 * @throws {MicrogptError} when the driver computes wrong numbers
 */
export async function selfTest(d: GpuDevice): Promise<void> {
  // All queue their work before the first waits: they share one wait.
  for (const result of await Promise.all([product(d), softmax(d), conversion(d)])) {
    checkSelfTest(d.name, result);
  }
}
