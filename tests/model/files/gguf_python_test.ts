/** GGUF against llama.cpp's own Python package, `gguf`: values bit for bit, files both ways. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { dequantize } from "../../../model/files/gguf/dequantize.ts";
import { fileSource } from "../../../model/files/gguf/file_source.ts";
import { quantize } from "../../../model/files/gguf/quantize.ts";
import { readGguf } from "../../../model/files/gguf/read.ts";
import { readTensor } from "../../../model/files/gguf/tensor_values.ts";
import { bytesOf, type GgufValue, TENSOR_TYPES, type TensorType } from "../../../model/files/gguf/types.ts";
import { type TensorToWrite, writeGguf } from "../../../model/files/gguf/write.ts";
import { withDirectory } from "./checkpoint_fixture.ts";
import { pythonTest, runPython } from "../python.ts";

const TYPES = Object.keys(TENSOR_TYPES) as TensorType[];
const BLOCKS = 500;
/** Where the f16 scales of a block lie. */
const SCALES: Record<TensorType, number[]> = {
  F32: [],
  F16: [0],
  BF16: [],
  Q8_0: [0],
  Q4_0: [0],
  Q4_1: [0, 2],
  Q5_0: [0],
  Q5_1: [0, 2],
  Q4_K: [0, 2],
  Q5_K: [0, 2],
  Q6_K: [208],
};

/** Numbers from 0 to 1, the same in every run (xorshift32). */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** Blocks of random bits, only that scales are finite: a NaN has many patterns. */
function randomBlocks(type: TensorType): Uint8Array<ArrayBuffer> {
  const { bytes } = TENSOR_TYPES[type];
  const random = generator(1 + TYPES.indexOf(type));
  const blocks = Uint8Array.from({ length: BLOCKS * bytes }, () => 256 * random());
  for (let b = 0; b < BLOCKS; b++) {
    for (const at of SCALES[type]) blocks[b * bytes + at + 1]! &= 0xbf;
    if (type === "F32" || type === "BF16") blocks[b * bytes + bytes - 1]! &= 0xbf;
  }
  return blocks;
}

/** BLOCKS blocks of 32 values; each block has its own magnitude, from f16's subnormals to thousands. */
function randomValues(): Float32Array<ArrayBuffer> {
  const random = generator(100);
  return Float32Array.from({ length: 32 * BLOCKS }, (_, i) => {
    const magnitude = 10 ** (Math.floor(i / 32) % 12 - 8);
    return i % 5 === 0 ? Math.round(random() * 254 - 127) / 2 * magnitude : (random() - 0.5) * magnitude;
  });
}

const bits = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);
const sha256 = (values: Float32Array) =>
  createHash("sha256").update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength)).digest(
    "hex",
  );

const METADATA = new Map<string, GgufValue>([
  ["general.architecture", { type: "string", value: "llama" }],
  ["general.alignment", { type: "u32", value: 128 }],
  ["u8", { type: "u8", value: 200 }],
  ["i64", { type: "i64", value: -5n }],
  ["f64", { type: "f64", value: 0.1 }],
  ["bool", { type: "bool", value: false }],
  ["text", { type: "string", value: "\ufeffnaïve 🙂" }],
  ["tokens", { type: "array", of: "string", value: ["Ġa", "", "\n"] }],
  ["token_type", { type: "array", of: "i32", value: Int32Array.of(1, 3, -1) }],
  ["flags", { type: "array", of: "bool", value: Uint8Array.of(1, 0) }],
]);

/** Blocks and values for the other side, and a file of ours that holds the values. */
async function prepare(dir: string): Promise<Float32Array<ArrayBuffer>> {
  for (const type of TYPES) await Deno.writeFile(join(dir, `${type}.blocks`), randomBlocks(type));
  const values = randomValues();
  await Deno.writeFile(join(dir, "values.f32"), new Uint8Array(values.buffer));
  const tensors = (["F32", "F16", "BF16", "Q8_0"] as const).map((type): TensorToWrite => ({
    name: `blk.0.${type}`,
    type,
    shape: [5, BLOCKS / 5, 32],
    rows: (first, into) => into.set(values.subarray(32 * first, 32 * first + into.length)),
  }));
  await writeGguf(join(dir, "ours.gguf"), METADATA, tensors);
  return values;
}

/** What the other side found in our file is what we wrote. */
function checkOurs(found: string, values: Float32Array): void {
  const { types, values: metadata, tensors } = JSON.parse(found);
  assert.deepEqual(types.token_type, ["ARRAY", "INT32"]);
  assert.deepEqual([types.i64, types.u8, types.f64], [["INT64"], ["UINT8"], ["FLOAT64"]]);
  for (const [key, { value }] of METADATA) {
    const plain = typeof value === "bigint" ? Number(value) : value;
    const expected = key === "flags"
      ? [true, false]
      : ArrayBuffer.isView(plain)
      ? [...plain as Int32Array]
      : plain;
    assert.deepEqual(metadata[key], expected, key);
  }
  for (const [name, type, shape, digest] of tensors) {
    assert.deepEqual([name, shape], [`blk.0.${type}`, [5, BLOCKS / 5, 32]]);
    const bytes = new Uint8Array(bytesOf(type, values.length));
    assert.equal(quantize(type, values, bytes), -1);
    const back = new Float32Array(values.length);
    dequantize(type, bytes, back);
    assert.equal(digest, sha256(back), name);
  }
}

/** We find in the other side's file what it wrote (tests/model/files/gguf_peer.py). */
async function checkTheirs(dir: string, values: Float32Array): Promise<void> {
  const path = join(dir, "theirs.gguf");
  using file = await Deno.open(path);
  const gguf = await readGguf(await fileSource(file, path), path);
  const metadata = new Map(gguf.metadata.entries());
  assert.deepEqual(metadata.get("general.alignment"), { type: "u32", value: 64 });
  assert.deepEqual(metadata.get("u64"), { type: "u64", value: 2n ** 63n });
  assert.deepEqual(metadata.get("i64"), { type: "i64", value: -(2n ** 62n) });
  assert.deepEqual(metadata.get("f64"), { type: "f64", value: 0.1 });
  assert.deepEqual(metadata.get("bool"), { type: "bool", value: true });
  assert.deepEqual(metadata.get("bytes"), { type: "array", of: "u8", value: Uint8Array.of(1, 255) });
  assert.equal(gguf.metadata.string("string"), "naïve 🙂");
  assert.deepEqual(gguf.metadata.strings("strings"), ["Ġa", "", "b c"]);
  assert.deepEqual([...Array.from(gguf.metadata.numbers("integers"))], [1, -2, 3]);
  for (const [key, value] of Object.entries({ u8: 200, u16: 60000, u32: 4e9 })) {
    assert.equal(gguf.metadata.count(key), value);
  }
  for (const [key, value] of Object.entries({ i8: -100, i16: -30000, i32: -2e9, f32: 0.5 })) {
    assert.equal(gguf.metadata.number(key), value);
  }
  assert.equal(gguf.tensors.length, 8);
  for (const tensor of gguf.tensors) {
    assert.deepEqual([tensor.name, tensor.shape], [tensor.type, [3, 64]]);
    const back = new Float32Array(192);
    await readTensor(gguf, tensor, back);
    // What it holds are values[:192], as well as the type can.
    const worst = Math.max(...back.map((value, i) => Math.abs(value - values[i]!)));
    const largest = Math.max(...values.subarray(0, 192).map(Math.abs));
    assert(worst <= largest / (tensor.type === "F32" ? Infinity : 14), `${tensor.name}: off by ${worst}`);
  }
}

await pythonTest(
  "GGUF: the same as llama.cpp's Python package",
  ["gguf", "numpy"],
  () =>
    withDirectory(async (dir) => {
      const values = await prepare(dir);
      const found = await runPython("files/gguf_peer.py", [dir]);
      for (const type of TYPES) {
        const blocks = await Deno.readFile(join(dir, `${type}.blocks`));
        const expected = new Float32Array((await Deno.readFile(join(dir, `${type}.f32`))).buffer);
        const back = new Float32Array(expected.length);
        dequantize(type, blocks, back);
        assert.deepEqual(bits(back), bits(expected), type);
      }
      for (const type of ["F16", "BF16", "Q8_0"] as const) {
        const bytes = new Uint8Array(bytesOf(type, values.length));
        assert.equal(quantize(type, values, bytes), -1);
        assert.deepEqual(bytes, await Deno.readFile(join(dir, `${type}.quantized`)), type);
      }
      checkOurs(found, values);
      await checkTheirs(dir, values);
    }),
);
