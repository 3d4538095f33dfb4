/** The text side of the WebGPU device: directives of kernel files, 16-bit formats, choice of tiles, places of bindings. */
import assert from "node:assert/strict";
import { bindingStart, workgroupGrid } from "../../gpu/kernel_runner.ts";
import { bf16FromF32, f16FromF32, f32FromBf16, f32FromF16 } from "../../gpu/number_formats.ts";
import { shaderSource } from "../../gpu/shader_source.ts";
import { hardwareOf, planTiles, tileBytes } from "../../gpu/tiles.ts";

const expand = (source: string, constants: Record<string, number | boolean> = {}) =>
  shaderSource({ source, constants, params: {}, bindings: {} }).split("// body\n")[1];

Deno.test("#for repeats and nests, #if chooses", () => {
  const source = `// body
#for i in 0..N
#for c in x y
a_$i$c
#end
#end
#if WIDE
wide
#else
narrow
#end
#if !WIDE
not wide
#end
end`;
  assert.equal(
    expand(source, { N: 2, WIDE: false }),
    "a_0x\\na_0y\\na_1x\\na_1y\\nnarrow\\nnot wide\\nend".replaceAll("\\n", "\n"),
  );
  assert.equal(expand(source, { N: 0, WIDE: true }), "wide\nend");
});

Deno.test("wrong directives are errors", () => {
  assert.throws(() => expand("// body\n#if A\nx"), /no #end for "#if A"/);
  assert.throws(() => expand("// body\n#while A\n#end"), /unknown directive "#while A"/);
  assert.throws(() => expand("// body\n#for i in 0..M\n#end"), /"M" in .* is no number/);
});

Deno.test("f16 bits convert to f32 and back, all of them", () => {
  for (let half = 0; half < 0x10000; half++) {
    const value = f32FromF16(half);
    const expected = Number.isNaN(value) ? (half & 0x8000) | 0x7e00 : half;
    assert.equal(f16FromF32(value), Number.isNaN(value) ? expected & 0x7fff : expected, half.toString(16));
  }
  // Ties go to even; what is too large becomes infinity.
  assert.equal(f32FromF16(f16FromF32(1 + 2 ** -11)), 1);
  assert.equal(f32FromF16(f16FromF32(1 + 3 * 2 ** -11)), 1 + 2 ** -9);
  assert.equal(f32FromF16(f16FromF32(65519)), 65504);
  assert.equal(f32FromF16(f16FromF32(-65520)), -Infinity);
  assert.equal(f32FromF16(f16FromF32(2 ** -25)), 0);
  assert.equal(f32FromF16(f16FromF32(3 * 2 ** -25)), 2 ** -23);
});

Deno.test("bf16 rounds to nearest even and keeps NaN", () => {
  for (let half = 0; half < 0x10000; half++) {
    const value = f32FromBf16(half);
    assert.equal(bf16FromF32(value), Number.isNaN(value) ? 0x7fc0 : half, half.toString(16));
  }
  assert.equal(f32FromBf16(bf16FromF32(1 + 2 ** -8)), 1);
  assert.equal(f32FromBf16(bf16FromF32(1 + 3 * 2 ** -8)), 1 + 2 ** -6);
});

Deno.test("a product's tiles and parts cover it, and fit the hardware", () => {
  const shapes = [[24, 192, 64], [1243, 768, 256], [256, 256, 1243], [512, 4096, 384], [1, 1, 1]] as const;
  for (const name of ["Apple M4 Pro", "NVIDIA H100 80GB HBM3", "AMD Radeon", "llvmpipe"]) {
    const hardware = hardwareOf(name, name === "llvmpipe", name === "AMD Radeon" ? 16384 : 32768);
    for (const [M, N, K] of shapes) {
      const { part, parts, tile, tilesM, tilesN } = planTiles(M, N, K, hardware);
      assert(part * parts >= K && part * (parts - 1) < K && part % 16 === 0, `${name} ${M} ${N} ${K}`);
      assert(tilesM * tile.bm >= M && tilesN * tile.bn >= N);
      assert(tile.registers <= hardware.registers && tileBytes(tile) <= hardware.workgroupMemory);
    }
  }
});

Deno.test("large products get large tiles, and K is split where there are few of them", () => {
  const h100 = hardwareOf("NVIDIA H100 80GB HBM3", false, 49152);
  const plan = (...[M, N, K]: [number, number, number]) => planTiles(M, N, K, h100);
  assert.equal(plan(16384, 4096, 384).tile.name, "128x128");
  assert.equal(plan(500, 64, 64).tile.name, "32x32");
  assert(plan(256, 256, 1243).parts > 1);
  assert.equal(plan(16384, 4096, 384).parts, 1);
  const software = hardwareOf("llvmpipe", true, 32768);
  assert.equal(planTiles(256, 256, 1243, software).parts, 1);
});

Deno.test("bindings start at 0 until a buffer is too large for one", () => {
  assert.equal(bindingStart(1024, 4096, 4096), 0);
  assert.equal(bindingStart(1028, 8192, 4096), 1024);
  assert.deepEqual(workgroupGrid(65535), [65535, 1]);
  assert.deepEqual(workgroupGrid(65537), [65535, 2]);
});
