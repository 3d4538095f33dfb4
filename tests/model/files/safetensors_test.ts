/** Parameters in the safetensors format: what is written, and what is read back. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { MicrogptError } from "../../../device/errors.ts";
import { networkOf } from "../../../model/networks.ts";
import { readHeader, readParameters, writeParameters } from "../../../model/files/safetensors.ts";
import { CONFIG, withDirectory } from "./checkpoint_fixture.ts";
import { rustValue, writeRustCheckpoint } from "../../golden/rust_checkpoint.ts";

const { layout } = networkOf(CONFIG);

/** Values that f16 holds exactly, zeros between blocks. */
function exactValues(of = layout): Float32Array {
  const flat = new Float32Array(of.length);
  for (const { offset, rows, cols } of of.entries) {
    for (let i = offset; i < offset + rows * cols; i++) flat[i] = (i % 2001 - 1000) / 64;
  }
  return flat;
}

async function read(path: string, of = layout) {
  using file = await Deno.open(path);
  return await readParameters(file, path, of);
}

for (const dtype of ["F32", "F16"] as const) {
  Deno.test(`${dtype} is read back as it was written`, () =>
    withDirectory(async (dir) => {
      const flat = exactValues();
      await writeParameters(join(dir, "w"), layout, flat, dtype);
      assert.deepEqual(await read(join(dir, "w")), { flat, dtype });
    }));

  Deno.test(`${dtype} tensors larger than a chunk of writing`, () =>
    withDirectory(async (dir) => {
      const { layout: big } = networkOf({
        vocab_size: 18001,
        n_embd: 68,
        n_head: 4,
        n_layer: 1,
        block_size: 33,
      });
      const flat = exactValues(big);
      const { bytes } = await writeParameters(join(dir, "w"), big, flat, dtype);
      assert.equal(bytes, (await Deno.stat(join(dir, "w"))).size);
      assert.deepEqual((await read(join(dir, "w"), big)).flat, flat);
    }));
}

Deno.test("the file is laid out as the Rust library does", () =>
  withDirectory(async (dir) => {
    await writeParameters(join(dir, "w"), layout, exactValues(), "F32");
    const bytes = await Deno.readFile(join(dir, "w"));
    const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    assert.equal(length % 8, 0);
    const text = new TextDecoder().decode(bytes.subarray(8, 8 + length));
    assert.match(
      text,
      /^\{"layer0\.attn_wk":\{"dtype":"F32","shape":\[8,8\],"data_offsets":\[0,256\]\},.*\} *$/,
    );
    const names = Object.keys(JSON.parse(text));
    assert.deepEqual(names, [...names].sort());
    assert.deepEqual(new Set(names), new Set(layout.byName.keys()));
    assert.equal(bytes.length, 8 + length + 4 * layout.count);
  }));

Deno.test("F32, BF16 and F16 files of the Rust program hold the same values", () =>
  withDirectory(async (dir) => {
    const { layout: rust } = networkOf({ vocab_size: 32, n_embd: 8, n_head: 2, n_layer: 2, block_size: 16 });
    for (const dtype of ["F32", "BF16", "F16"] as const) {
      await writeRustCheckpoint(join(dir, dtype), dtype);
      const { flat, dtype: found } = await read(join(dir, dtype, "weights.safetensors"), rust);
      assert.equal(found, dtype);
      [...rust.byName.keys()].sort().forEach((name, n) => {
        const { offset, rows, cols } = rust.byName.get(name)!;
        const values = flat.subarray(offset, offset + rows * cols);
        assert.deepEqual([...values], Array.from(values, (_, i) => rustValue(n, i)), `${dtype} ${name}`);
      });
    }
  }));

Deno.test("f16 is rounded to the nearest, subnormals kept", () =>
  withDirectory(async (dir) => {
    const flat = new Float32Array(layout.length);
    flat.set([1 + 3 / 2048, 65519, 2 ** -24, 1e-9, -0]);
    await writeParameters(join(dir, "w"), layout, flat, "F16");
    const back = (await read(join(dir, "w"))).flat;
    assert.deepEqual([...back.subarray(0, 5)], [1 + 2 / 1024, 65504, 2 ** -24, 0, -0]);
  }));

Deno.test("a header may have metadata, odd length and any order of names", () =>
  withDirectory(async (dir) => {
    const header =
      '{"b":{"shape":[1,2],"dtype":"BF16","data_offsets":[4,8]},"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}';
    const bytes = new Uint8Array(8 + header.length + 8);
    bytes[0] = header.length;
    bytes.set(new TextEncoder().encode(header), 8);
    await Deno.writeFile(join(dir, "w"), bytes);
    using file = await Deno.open(join(dir, "w"));
    const tensors = await readHeader(file, "w");
    assert.deepEqual(tensors.map(({ name, offset }) => [name, offset - 8 - header.length]), [["a", 0], [
      "b",
      4,
    ]]);
  }));

Deno.test("values that a file cannot hold are not written", () =>
  withDirectory(async (dir) => {
    const place = layout.byName.get("wpe")!.offset + 3;
    const flat = exactValues();
    flat[place] = 1e5;
    await writeParameters(join(dir, "f32"), layout, flat, "F32");
    await assert.rejects(
      writeParameters(join(dir, "f16"), layout, flat, "F16"),
      new MicrogptError("cannot save tensor wpe: 100000 is too large for f16", { hint: "write f32 instead" }),
    );
    flat[place] = NaN;
    await assert.rejects(
      writeParameters(join(dir, "nan"), layout, flat, "F32"),
      new MicrogptError("cannot save tensor wpe: it holds NaN"),
    );
  }));
