/** What a browser lacks and Deno has, against Deno's: hashes, paths, decompression. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { posix } from "node:path";
import process from "node:process";
import { gzipSync } from "node:zlib";
import { decompressed } from "../../platform/decompression.ts";
import { Sha256 } from "../../platform/hash.ts";
import { SLASH_PATHS } from "../../platform/paths.ts";

Deno.test("SHA-256 is Node's, however the bytes are cut", () => {
  for (const length of [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 100_003]) {
    const bytes = Uint8Array.from({ length }, (_, i) => (i * 7919 + length) >> 3);
    const expected = createHash("sha256").update(bytes).digest("hex");
    const whole = new Sha256().update(bytes).digest("hex");
    const pieces = new Sha256();
    for (let at = 0; at < length;) pieces.update(bytes.subarray(at, at += 1 + at % 97));
    assert.deepEqual([whole, pieces.digest("hex")], [expected, expected], `${length} bytes`);
  }
  assert.equal(new Sha256().update("äß€").digest("hex"), createHash("sha256").update("äß€").digest("hex"));
});

Deno.test("paths with slashes are those of Linux", () => {
  const paths = [
    "",
    ".",
    "..",
    "/",
    "a",
    "a/",
    "/a",
    "a/b",
    "a//b/",
    "/a/b/../c",
    "../a",
    "a/../..",
    "/..",
    "./a/.",
  ];
  for (const a of paths) {
    for (const name of ["normalize", "dirname", "basename"] as const) {
      assert.equal(SLASH_PATHS[name](a), posix[name](a), `${name} ${a}`);
    }
    for (const b of paths) {
      assert.equal(SLASH_PATHS.join(a, b), posix.join(a, b), `join ${a} ${b}`);
      const [x, y] = [posix.resolve("/", a), posix.resolve("/", b)];
      assert.equal(SLASH_PATHS.resolve("/", a, b), posix.resolve("/", a, b), `resolve ${a} ${b}`);
      assert.equal(SLASH_PATHS.relative(x, y), posix.relative(x, y), `relative ${x} ${y}`);
    }
  }
});

async function* inPieces(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 1000) yield bytes.subarray(at, at + 1000);
}

Deno.test("gzip is unpacked without Node's zlib as with it", async () => {
  const bytes = Uint8Array.from({ length: 300_000 }, (_, i) => (i * i) >> 7);
  const packed = gzipSync(bytes);
  const unpacked = async (packed: Uint8Array) => {
    const pieces = await Array.fromAsync(decompressed(inPieces(packed), "gzip", 65536));
    return await new Response(new Blob(pieces as Uint8Array<ArrayBuffer>[])).bytes();
  };
  const node = process.getBuiltinModule;
  for (const builtin of [node, () => undefined]) {
    process.getBuiltinModule = builtin as typeof node;
    try {
      assert.deepEqual(await unpacked(packed), bytes);
      await assert.rejects(unpacked(packed.subarray(0, 5000)));
    } finally {
      process.getBuiltinModule = node;
    }
  }
});
