/** GGUF: ggml's blocks, what is written, and that it is read back. tests/attacks/gguf_test.ts has the bad files. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { MicrogptError } from "../../../device/errors.ts";
import { dequantize } from "../../../model/files/gguf/dequantize.ts";
import { fileSource } from "../../../model/files/gguf/file_source.ts";
import { quantize, type WrittenType } from "../../../model/files/gguf/quantize.ts";
import { type GgufFile, readGguf } from "../../../model/files/gguf/read.ts";
import { halvesRow, halvesToInterleaved, interleavedToHalves } from "../../../model/files/gguf/rope_order.ts";
import { readBlocks, readTensor } from "../../../model/files/gguf/tensor_values.ts";
import { bytesOf, type GgufValue, type TensorType } from "../../../model/files/gguf/types.ts";
import { type TensorToWrite, writeGguf } from "../../../model/files/gguf/write.ts";
import { withDirectory } from "./checkpoint_fixture.ts";
import fixture from "../../golden/gguf_blocks.json" with { type: "json" };

const floats = (base64: string) => new Float32Array(Uint8Array.fromBase64(base64).buffer);

for (const [type, { blocks, values }] of Object.entries(fixture.dequantized)) {
  Deno.test(`${type} blocks have the values that llama.cpp's Python package finds`, () => {
    const expected = floats(values);
    const found = new Float32Array(expected.length);
    dequantize(type as TensorType, Uint8Array.fromBase64(blocks), found);
    assert.deepEqual(new Uint32Array(found.buffer), new Uint32Array(expected.buffer));
  });
}

for (const type of ["F16", "BF16", "Q8_0"] as const) {
  Deno.test(`${type} is quantized to the bytes of llama.cpp's Python package`, () => {
    const values = floats(fixture.quantized.values);
    const bytes = new Uint8Array(bytesOf(type, values.length));
    assert.equal(quantize(type, values, bytes), -1);
    assert.deepEqual(bytes, Uint8Array.fromBase64(fixture.quantized[type]));
  });
}

/** What comes back of a value that fills a block, or the index of the first that does not fit. */
function throughType(type: WrittenType, value: number): number | "does not fit" {
  const values = new Float32Array(32).fill(value);
  const bytes = new Uint8Array(bytesOf(type, 32));
  if (quantize(type, values, bytes) === 0) return "does not fit";
  dequantize(type, bytes, values);
  return values[0]!;
}

Deno.test("halves are rounded to the nearest, ties to even", () => {
  assert.equal(throughType("F16", 1 + 1 / 2048), 1);
  assert.equal(throughType("F16", 1 + 3 / 2048), 1 + 2 / 1024);
  assert.equal(throughType("BF16", 1 + 1 / 256), 1);
  assert.equal(throughType("BF16", 1 + 3 / 256), 1 + 2 / 128);
  assert.equal(throughType("BF16", -1 - 3 / 256), -1 - 2 / 128);
});

Deno.test("values that a type cannot hold are found, the largest that it can are kept", () => {
  const largestF32 = (2 - 2 ** -23) * 2 ** 127;
  const largest: [WrittenType, number, number][] = [
    ["F32", largestF32, largestF32],
    ["F16", 65519.99, 65504],
    ["BF16", 2 ** 128 - 2 ** 119 - 2 ** 104, 2 ** 128 - 2 ** 120],
    ["Q8_0", 8321039.5, 127 * 65504],
  ];
  for (const [type, value, kept] of largest) {
    assert.equal(throughType(type, value), kept, type);
    assert.equal(throughType(type, -value), -kept, type);
  }
  for (const [type, value] of [["F16", 65520], ["BF16", 2 ** 128 - 2 ** 119], ["Q8_0", 8321040]] as const) {
    assert.equal(throughType(type, value), "does not fit", type);
  }
  for (const type of ["F32", "F16", "BF16", "Q8_0"] as const) {
    for (const value of [NaN, Infinity, -Infinity]) {
      assert.equal(throughType(type, value), "does not fit", `${type} ${value}`);
    }
  }
});

Deno.test("Q8_0: values below what a scale can be become zero, none becomes NaN", () => {
  for (const value of [2 ** -149, 2 ** -140, 1e-30, 0, -0]) {
    assert.equal(Math.abs(throughType("Q8_0", value) as number), 0);
  }
});

Deno.test("rows of q and k: as llama.cpp's permute, and back", () => {
  // conversion/llama.py: w.reshape(heads, 2, headDim / 2, E).swapaxes(1, 2): row j of half s goes to 2j + s.
  const [heads, headDim, rowLength] = [3, 8, 5];
  const halves = Float32Array.from({ length: heads * headDim * rowLength }, (_, i) => i);
  const interleaved = new Float32Array(halves.length);
  for (let head = 0; head < heads; head++) {
    for (let s = 0; s < 2; s++) {
      for (let j = 0; j < headDim / 2; j++) {
        const from = (head * headDim + s * headDim / 2 + j) * rowLength;
        const to = (head * headDim + 2 * j + s) * rowLength;
        interleaved.set(halves.subarray(from, from + rowLength), to);
        assert.equal(halvesRow(to / rowLength, headDim) * rowLength, from);
      }
    }
  }
  const moved = interleaved.slice();
  interleavedToHalves(moved, headDim, rowLength);
  assert.deepEqual(moved, halves);
  halvesToInterleaved(moved, headDim, rowLength);
  assert.deepEqual(moved, interleaved);
  const bytes = Uint8Array.from(halves);
  halvesToInterleaved(bytes, headDim, rowLength);
  assert.deepEqual(bytes, Uint8Array.from(interleaved));
  assert.throws(() => interleavedToHalves(halves, 7, 5), RangeError);
  assert.throws(() => interleavedToHalves(halves.subarray(1), headDim, rowLength), RangeError);
});

/** Metadata with a value of every type, and the strings and numbers that are easily lost. */
const METADATA = new Map<string, GgufValue>([
  ["general.architecture", { type: "string", value: "llama" }],
  ["u8", { type: "u8", value: 255 }],
  ["i8", { type: "i8", value: -128 }],
  ["u16", { type: "u16", value: 65535 }],
  ["i16", { type: "i16", value: -32768 }],
  ["u32", { type: "u32", value: 4294967295 }],
  ["i32", { type: "i32", value: -2147483648 }],
  ["f32", { type: "f32", value: Math.fround(0.1) }],
  ["bool", { type: "bool", value: true }],
  ["u64", { type: "u64", value: 2n ** 64n - 1n }],
  ["i64", { type: "i64", value: -(2n ** 63n) }],
  ["f64", { type: "f64", value: 0.1 }],
  ["__proto__", { type: "string", value: "\ufeffĠnaïve\u0000\n🙂" }],
  ["empty", { type: "string", value: "" }],
  ["long", { type: "string", value: "x".repeat(600_000) + "ü" }],
  ["array.u8", { type: "array", of: "u8", value: Uint8Array.of(0, 255) }],
  ["array.i8", { type: "array", of: "i8", value: Int8Array.of(-128, 127) }],
  ["array.u16", { type: "array", of: "u16", value: Uint16Array.of(65535) }],
  ["array.i16", { type: "array", of: "i16", value: Int16Array.of(-32768) }],
  ["array.u32", { type: "array", of: "u32", value: Uint32Array.of(4294967295) }],
  ["array.i32", { type: "array", of: "i32", value: new Int32Array(80_000).fill(-7) }],
  ["array.f32", { type: "array", of: "f32", value: Float32Array.of(0.5, -Infinity) }],
  ["array.bool", { type: "array", of: "bool", value: Uint8Array.of(1, 0, 1) }],
  ["array.u64", { type: "array", of: "u64", value: BigUint64Array.of(2n ** 63n) }],
  ["array.i64", { type: "array", of: "i64", value: BigInt64Array.of(-1n) }],
  ["array.f64", { type: "array", of: "f64", value: Float64Array.of(0.1) }],
  ["array.string", { type: "array", of: "string", value: Array.from({ length: 30_000 }, (_, i) => `Ġ${i}`) }],
  ["array.none", { type: "array", of: "string", value: [] }],
]);

/** Values that F16, BF16 and Q8_0 hold exactly: of −127 … 127, and every block of 32 has a 127. */
const exact = (i: number) => i % 32 === 0 ? 127 : (i * 7) % 255 - 127;

function tensor(name: string, type: WrittenType, shape: number[]): TensorToWrite {
  return {
    name,
    type,
    shape,
    rows: (first, into) => {
      for (let i = 0; i < into.length; i++) into[i] = exact(first * shape.at(-1)! + i);
    },
  };
}

const TENSORS = [
  tensor("norm", "F32", [33]),
  tensor("matrix", "Q8_0", [70, 64]),
  tensor("cube", "F16", [2, 3, 5]),
  tensor("bf16", "BF16", [3, 7]),
  tensor("large", "Q8_0", [3001, 288]), // several chunks, the last one short
  tensor("wide", "F32", [2, 300_001]), // rows above a chunk
  tensor("last", "F16", [1]),
];

async function withGguf<T>(
  metadata: Map<string, GgufValue>,
  tensors: TensorToWrite[],
  use: (gguf: GgufFile) => Promise<T>,
): Promise<T> {
  return await withDirectory(async (dir) => {
    const path = join(dir, "model.gguf");
    const written = await writeGguf(path, metadata, tensors);
    const bytes = await Deno.readFile(path);
    assert.deepEqual(written, {
      bytes: bytes.length,
      sha256: createHash("sha256").update(bytes).digest("hex"),
    });
    using file = await Deno.open(path);
    return await use(await readGguf(await fileSource(file, path), path));
  });
}

Deno.test("a file is read as it was written: all types of metadata and tensors", () =>
  withGguf(METADATA, TENSORS, async (gguf) => {
    assert.equal(gguf.version, 3);
    assert.deepEqual(new Map(gguf.metadata.entries()), METADATA);
    assert.deepEqual(
      gguf.tensors.map(({ name, type, shape }) => ({ name, type, shape })),
      TENSORS.map(({ name, type, shape }) => ({ name, type, shape })),
    );
    for (const found of gguf.tensors) {
      assert.equal(found.offset % 32, 0);
      const values = new Float32Array(found.elements);
      await readTensor(gguf, found, values);
      assert(values.every((value, i) => value === exact(i)), found.name);
    }
  }));

Deno.test("tensors are read by rows, as values or as blocks", () =>
  withGguf(new Map(), TENSORS, async (gguf) => {
    const large = gguf.byName.get("large")!;
    const values = new Float32Array(2 * 288);
    await readTensor(gguf, large, values, { first: 2999, end: 3001 });
    assert(values.every((value, i) => value === exact(2999 * 288 + i)));
    const blocks = new Uint8Array(2 * 9 * 34);
    await readBlocks(gguf, large, blocks, { first: 2999, end: 3001 });
    const ofBlocks = new Float32Array(2 * 288);
    dequantize("Q8_0", blocks, ofBlocks);
    assert.deepEqual(ofBlocks, values);
    await assert.rejects(readTensor(gguf, large, values, { first: 3000, end: 3002 }), RangeError);
    await assert.rejects(readTensor(gguf, large, values), RangeError);
  }));

Deno.test("general.alignment is kept to", () =>
  withGguf(new Map([["general.alignment", { type: "u32", value: 256 }]]), TENSORS, async (gguf) => {
    for (const found of gguf.tensors) assert.equal(found.offset % 256, 0);
    const values = new Float32Array(1);
    await readTensor(gguf, gguf.byName.get("last")!, values);
    assert.equal(values[0], exact(0));
  }));

Deno.test("metadata is read with the expected type, or refused by name", () =>
  withGguf(METADATA, [], ({ metadata, path }) => {
    assert.equal(metadata.string("general.architecture"), "llama");
    assert.equal(metadata.bool("bool"), true);
    assert.equal(metadata.count("u16"), 65535);
    assert.equal(metadata.number("f64"), 0.1);
    assert.equal(metadata.number("i8"), -128);
    assert.equal(metadata.strings("array.string").length, 30_000);
    assert.deepEqual(metadata.numbers("array.i8"), Int8Array.of(-128, 127));
    const refused = (read: () => unknown, message: string) =>
      assert.throws(
        read,
        (error) => error instanceof MicrogptError && error.message === `${path}: the metadata${message}`,
      );
    refused(() => metadata.count("llama.block_count"), " has no llama.block_count");
    refused(() => metadata.count("i8"), "'s i8 is i8 -128, not a count");
    refused(() => metadata.count("f32"), "'s f32 is f32 0.10000000149011612, not a count");
    refused(() => metadata.count("u64"), "'s u64 is u64 18446744073709551615, not a count");
    refused(() => metadata.string("u8"), "'s u8 is u8 255, not a string");
    refused(() => metadata.bool("array.i8"), "'s array.i8 is an array of 2 i8, not true or false");
    refused(
      () => metadata.numbers("array.string"),
      "'s array.string is an array of 30000 string, not numbers",
    );
    return Promise.resolve();
  }));

Deno.test("what a file cannot hold is not written", () =>
  withDirectory(async (dir) => {
    let n = 0;
    const write = (metadata: [string, GgufValue][], tensors: TensorToWrite[]) =>
      writeGguf(join(dir, `${n++}`), new Map(metadata), tensors);
    const values = {
      ...tensor("w", "F16", [2, 4]),
      rows: (_: number, into: Float32Array) => void into.fill(1e5),
    };
    await assert.rejects(
      write([], [values]),
      new MicrogptError("cannot save tensor w: 100000 is too large for F16", { hint: "write f32 instead" }),
    );
    const nan = { ...values, rows: (first: number, into: Float32Array) => void into.fill(NaN, first) };
    await assert.rejects(write([], [nan]), new MicrogptError("cannot save tensor w: it holds NaN"));
    await assert.rejects(
      write([], [tensor("w", "Q8_0", [2, 48])]),
      /^MicrogptError: cannot save tensor w as Q8_0: its rows of 48 values are no multiple of 32$/,
    );
    const wrong: [[string, GgufValue][], TensorToWrite[]][] = [
      [[], [tensor("w", "F32", [1]), tensor("w", "F32", [2])]],
      [[], [tensor("x".repeat(64), "F32", [1])]],
      [[], [tensor("w", "F32", [])]],
      [[], [tensor("w", "F32", [0, 2])]],
      [[["k", { type: "u8", value: 256 }]], []],
      [[["k", { type: "i32", value: 0.5 }]], []],
      [[["k", { type: "u64", value: -1n }]], []],
      [[["k", { type: "string", value: "\ud800" }]], []],
      [[["general.alignment", { type: "string", value: "32" }]], []],
      [[["general.alignment", { type: "u32", value: 0 }]], []],
      [[["general.alignment", { type: "u32", value: 48 }]], []],
    ];
    for (const [metadata, tensors] of wrong) await assert.rejects(write(metadata, tensors), RangeError);
  }));
