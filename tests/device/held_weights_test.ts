/**
 * Weights that are only read, on the CPU: their kernels against the reference device, which gets the numbers that each type
 * holds, and what makes a row independent of the others.
 */
import assert from "node:assert/strict";
import type { DecodeRows, Device, FileType, Tensor, WeightType } from "../../device/device.ts";
import { ReferenceDevice } from "../../device/reference_device.ts";
import { openDevice } from "../../model/devices.ts";
import { dequantize } from "../../model/files/gguf/dequantize.ts";
import { quantize } from "../../model/files/gguf/quantize.ts";
import { bytesOf } from "../../model/files/gguf/types.ts";
import { assertClose } from "./assert_close.ts";
import { gaussian } from "./case_data.ts";

const FILE_TYPES: Record<WeightType, FileType> = { f32: "F32", bf16: "BF16", f16: "F16", q8: "Q8_0" };
const TYPES = Object.keys(FILE_TYPES) as WeightType[];

/** Numbers as a file of a type has them, and what they are there. */
function inFile(
  values: Float32Array,
  type: FileType,
): { bytes: Uint8Array<ArrayBuffer>; rounded: Float32Array } {
  const bytes = new Uint8Array(bytesOf(type, values.length));
  assert.equal(quantize(type, values, bytes), -1);
  const rounded = new Float32Array(values.length);
  dequantize(type, bytes, rounded);
  return { bytes, rounded };
}

/** A matrix of a type on the CPU, and the same numbers on the reference device; written in two parts. */
function held(cpu: Device, oracle: Device, rows: number, cols: number, type: WeightType, seed: number) {
  const { bytes, rounded } = inFile(gaussian(rows * cols, seed), FILE_TYPES[type]);
  const weights = cpu.holdWeights!("weights", rows * cols, [{ offset: 0, rows, cols, type }]);
  const half = Math.floor(rows / 2);
  const split = half * bytes.length / rows;
  if (half > 0) assert.equal(weights.write(0, FILE_TYPES[type], bytes.slice(0, split)), -1);
  assert.equal(weights.write(half * cols, FILE_TYPES[type], bytes.slice(split)), -1);
  return { weights: cpu.view(weights.flat, 0, rows, cols), expected: filled(oracle, rows, cols, rounded) };
}

function filled(d: Device, rows: number, cols: number, values: Float32Array | Uint32Array): Tensor {
  const tensor = d.tensor("values", rows, cols, values instanceof Uint32Array ? "u32" : "f32");
  d.write(tensor, values);
  return tensor;
}

function rowsOf(d: Device, tokens: number[], positions: number[]): DecodeRows {
  const column = (ids: number[]) => filled(d, ids.length, 1, Uint32Array.from(ids));
  return { tokens: column(tokens), positions: column(positions), sequences: column(tokens.map(() => 0)) };
}

async function bothDevices(use: (cpu: Device, oracle: Device) => Promise<void>, threads = 2): Promise<void> {
  const [cpu, oracle] = [await openDevice({ device: "cpu", threads }), new ReferenceDevice("f64")];
  await use(cpu, oracle);
  cpu.destroy();
  oracle.destroy();
}

for (const type of TYPES) {
  Deno.test(`products with weights in ${type} are those of the reference device`, () =>
    bothDevices(async (cpu, oracle) => {
      for (const [M, N, K] of [[1, 97, 64], [3, 33, 288], [8, 1, 32], [9, 64, 96], [70, 45, 544]] as const) {
        const { weights, expected } = held(cpu, oracle, N, K, type, 1);
        const run = async (d: Device, w: Tensor) => {
          const [x, add] = [gaussian(M * K, 2), gaussian(M * N, 3)].map((values) =>
            filled(d, M, values.length / M, values)
          ) as [Tensor, Tensor];
          const [out, sum] = [d.tensor("out", M, N), filled(d, M, N, gaussian(M * N, 4))];
          d.matmul(out, x, w, "NT", { add, relu: true });
          d.matmul(sum, x, w, "NT", { add: sum });
          const [fused, norm] = [d.tensor("fused", M, N), d.tensor("norm", M, K)];
          d.rmsNormMatmul(fused, x, w, norm, true);
          return { out: await d.read(out), sum: await d.read(sum), fused: await d.read(fused) };
        };
        const [got, wanted] = [await run(cpu, weights), await run(oracle, expected)];
        for (const key of ["out", "sum", "fused"] as const) assertClose(got[key], wanted[key], 4e-5, key);
      }
    }));

  Deno.test(`rows of embeddings in ${type} are those of the reference device`, () =>
    bothDevices(async (cpu, oracle) => {
      const [V, B, E] = [70, 9, 64];
      const [table, positions] = [held(cpu, oracle, V, E, type, 1), held(cpu, oracle, B, E, type, 2)];
      const run = async (d: Device, wte: Tensor, wpe: Tensor) => {
        const rows = rowsOf(d, [69, 0, 33], [0, 8, 3]);
        const [looked, embedded] = [d.tensor("looked", 3, E), d.tensor("embedded", 3, E)];
        d.lookupRows(looked, rows, wte);
        d.embedRows(embedded, rows, wte, wpe);
        return { looked: await d.read(looked), embedded: await d.read(embedded) };
      };
      const got = await run(cpu, table.weights, positions.weights);
      const wanted = await run(oracle, table.expected, positions.expected);
      assertClose(got.looked, wanted.looked, 0, "looked");
      assertClose(got.embedded, wanted.embedded, 2e-5, "embedded");
    }));

  Deno.test(`a row of a product in ${type} has the same bits alone, among 8 and among 64, on any threads`, async () => {
    const [N, K] = [100, 608];
    const { bytes } = inFile(gaussian(N * K, 1), FILE_TYPES[type]);
    const x = gaussian(64 * K, 2);
    const results: Float32Array[] = [];
    for (const threads of [1, 2]) {
      const cpu = await openDevice({ device: "cpu", threads });
      const weights = cpu.holdWeights!("weights", N * K, [{ offset: 0, rows: N, cols: K, type }]);
      weights.write(0, FILE_TYPES[type], bytes);
      for (const rows of [1, 8, 64]) {
        const all = new Float32Array(64 * N);
        for (let first = 0; first < 64; first += rows) {
          const out = cpu.tensor("out", rows, N);
          const part = filled(cpu, rows, K, x.subarray(first * K, (first + rows) * K));
          cpu.matmul(out, part, cpu.view(weights.flat, 0, N, K), "NT");
          all.set(await cpu.read(out) as Float32Array, first * N);
        }
        results.push(all);
      }
      cpu.destroy();
    }
    for (const other of results) assert.deepEqual(other, results[0]);
  });
}

Deno.test("weights are rounded to their type as files of that type are", () =>
  bothDevices(async (cpu) => {
    for (const type of TYPES) {
      const [rows, cols] = [40, 64];
      const values = gaussian(rows * cols, 5);
      const weights = cpu.holdWeights!("weights", rows * cols, [{ offset: 0, rows, cols, type }]);
      weights.write(0, "F32", new Uint8Array(values.buffer as ArrayBuffer));
      const out = cpu.tensor("out", rows, cols);
      const ids = Array.from({ length: rows }, (_, i) => i);
      cpu.lookupRows(out, rowsOf(cpu, ids, ids), cpu.view(weights.flat, 0, rows, cols));
      assert.deepEqual(await cpu.read(out), inFile(values, FILE_TYPES[type]).rounded, type);
    }
  }));

Deno.test("what weights cannot hold is found, and what they are not for is refused", () =>
  bothDevices(async (cpu) => {
    const matrix = { offset: 128, rows: 33, cols: 64, type: "f16" as const };
    const weights = cpu.holdWeights!("weights", 128 + 33 * 64 + 100, [matrix]);
    const row = (value: number) => new Uint8Array(new Float32Array(64).fill(1).fill(value, 7, 8).buffer);
    assert.equal(weights.write(128 + 64 * 32, "F32", row(NaN)), 7);
    assert.equal(weights.write(128 + 64 * 32, "F32", row(70_000)), 7);
    assert.equal(weights.write(128 + 64 * 32, "F32", row(65_000)), -1);
    assert.equal(weights.write(0, "F32", row(Infinity)), 7);
    assert.equal(weights.write(2, "BF16", new Uint8Array([0x80, 0x3f, 0, 0x40])), -1);
    const before = cpu.view(weights.flat, 2, 1, 2);
    assert.deepEqual([...await cpu.read(before)], [1, 2]);
    const w = cpu.view(weights.flat, 128, 33, 64);
    const [a, b] = [cpu.tensor("a", 2, 33), cpu.tensor("b", 2, 64)];
    assert.throws(() => cpu.matmul(b, a, w, "NN"), TypeError);
    await assert.rejects(async () => await cpu.read(w), TypeError);
    for (const [offset, rows, cols] of [[128, 32, 64], [192, 32, 64], [64, 1, 128], [0, 1, 129]] as const) {
      assert.throws(() => cpu.view(weights.flat, offset, rows, cols), RangeError);
    }
    assert.throws(() => weights.write(128 + 32, "F32", row(1)), RangeError);
    assert.throws(() => weights.write(128 + 64 * 33, "F32", new Uint8Array(500)), RangeError);
    assert.throws(() => weights.write(128 + 64 * 32, "F32", new Uint8Array(2 * 256)), /are no rows/);
    const q8 = { offset: 0, rows: 2, cols: 48, type: "q8" as const };
    assert.throws(() => cpu.holdWeights!("weights", 96, [q8]), RangeError);
    cpu.free(weights.flat);
    cpu.free(weights.flat);
    assert.throws(() => cpu.matmul(a, b, w, "NT"), /was freed/);
  }));
