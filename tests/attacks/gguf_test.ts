/** Hostile GGUF files. Each is what a good one has, with one thing changed. */

import assert from "node:assert/strict";
import { MicrogptError } from "../../device/errors.ts";
import { readGguf } from "../../model/files/gguf/read.ts";
import { readTensor } from "../../model/files/gguf/tensor_values.ts";
import type { ByteSource } from "../../model/files/gguf/types.ts";

const HUGE = [2n ** 60n, 2n ** 63n, 2n ** 64n - 1n];

const number = (bytes: number, value: number | bigint) =>
  Uint8Array.from({ length: bytes }, (_, i) => Number(BigInt(value) >> BigInt(8 * i) & 255n));
const u32 = (value: number) => number(4, value);
const u64 = (value: number | bigint) => number(8, value);

function bytes(...parts: (string | Uint8Array)[]): Uint8Array<ArrayBuffer> {
  const encoded = parts.map((part) => typeof part === "string" ? new TextEncoder().encode(part) : part);
  const all = new Uint8Array(encoded.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of encoded) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** A string; its length can be forged. */
function string(text: string | Uint8Array, length?: number | bigint) {
  const encoded = bytes(text);
  return bytes(u64(length ?? encoded.length), encoded);
}

const [U8, U32, BOOL, STRING, ARRAY, U64] = [0, 4, 7, 8, 9, 10];

/** A key with its value. */
const entry = (key: string, type: number, ...value: Uint8Array[]) => bytes(string(key), u32(type), ...value);
/** What a file says of a tensor. @param lengths innermost first */
const info = (name: string, lengths: (number | bigint)[], type: number, offset: number | bigint) =>
  bytes(string(name), u32(lengths.length), ...lengths.map(u64), u32(type), u64(offset));

/** A file as its parts; the counts can be forged. */
interface Parts {
  magic: string;
  version: number;
  tensorCount?: number | bigint;
  valueCount?: number | bigint;
  entries: Uint8Array[];
  infos: Uint8Array[];
  alignment: number;
  data: Uint8Array;
}

/** A file of two tensors: Q8_0 [2, 32] at 0 (68 bytes), F32 [3] at 96 (12 bytes). */
const good = (): Parts => ({
  magic: "GGUF",
  version: 3,
  entries: [
    entry("general.architecture", STRING, string("llama")),
    entry("llama.block_count", U32, u32(1)),
    entry("tokens", ARRAY, u32(STRING), u64(2), string("a"), string("Ġb")),
    entry("types", ARRAY, u32(U32), u64(2), u32(1), u32(3)),
  ],
  infos: [info("q8", [32, 2], 8, 0), info("norm", [3], 0, 96)],
  alignment: 32,
  data: new Uint8Array(96 + 12),
});

function assemble(parts: Parts): Uint8Array<ArrayBuffer> {
  const { magic, version, entries, infos, tensorCount, valueCount, alignment, data } = parts;
  const counts = bytes(u64(tensorCount ?? infos.length), u64(valueCount ?? entries.length));
  const header = bytes(magic, u32(version), counts, ...entries, ...infos);
  return bytes(header, new Uint8Array((alignment - header.length % alignment) % alignment), data);
}

/** Bytes in memory, or the start of a larger file of zeros; counts what is asked for. */
class Memory implements ByteSource {
  asked = 0;
  constructor(readonly content: Uint8Array, readonly size = content.length) {}
  readAt(offset: number, into: Uint8Array<ArrayBuffer>): Promise<boolean> {
    this.asked += into.length;
    if (offset + into.length > this.size) return Promise.resolve(false);
    into.fill(0);
    into.set(this.content.subarray(offset, offset + into.length));
    return Promise.resolve(true);
  }
}

/** Reads all of a file as a loader would. */
async function load(source: ByteSource): Promise<void> {
  const gguf = await readGguf(source, "FILE");
  for (const tensor of gguf.tensors) {
    await readTensor(gguf, tensor, new Float32Array(tensor.elements));
  }
}

/** The refusal of a file, less its name. */
async function refusal(source: ByteSource): Promise<string> {
  const error = await load(source).then(() => undefined, (error) => error);
  assert(error instanceof MicrogptError, `not refused: ${error?.stack ?? "loaded"}`);
  for (const line of [error.message, error.hint ?? ""]) {
    assert.doesNotMatch(line, /[\p{Cc}\u2028\u2029]/u);
    assert(line.length < 400, `${line.length} characters`);
  }
  assert(error.message.startsWith("FILE: "), error.message);
  return error.message.slice("FILE: ".length);
}

Deno.test("gguf: the file that the attacks change is good, also as version 2", async () => {
  await load(new Memory(assemble(good())));
  await load(new Memory(assemble({ ...good(), version: 2 })));
});

Deno.test("gguf: cut off anywhere", async () => {
  const whole = assemble(good());
  for (let length = 0; length < whole.length; length++) {
    const message = await refusal(new Memory(whole.subarray(0, length)));
    assert.match(message, / the file has \d+( bytes left)?$/, `${length} bytes`);
  }
});

/** Metadata in place of the good file's. */
const withEntries = (...entries: Uint8Array[]): Parts => ({ ...good(), entries });
/** Tensors in place of the good file's. */
const withInfos = (...infos: Uint8Array[]): Parts => ({ ...good(), infos });

const ATTACKS: [name: string, parts: Parts | Uint8Array<ArrayBuffer>, expected: RegExp][] = [
  ["an empty file", new Uint8Array(0), /^the header takes 4 bytes from byte 0 on, the file has 0$/],
  ["a text file", bytes("hello, world, this is text\n"), /^the header does not start with GGUF$/],
  ["an older format", { ...good(), magic: "ggjt" }, /^the header does not start with GGUF$/],
  ["version 0", { ...good(), version: 0 }, /^the header has version 0; 2 and 3 are read$/],
  ["version 1", { ...good(), version: 1 }, /^the header has version 1; 2 and 3 are read$/],
  ["version 4", { ...good(), version: 4 }, /^the header has version 4; 2 and 3 are read$/],
  ["a big-endian file", { ...good(), version: 0x03000000 }, /^the header is of a big-endian file$/],
  [
    "an unknown type of value",
    withEntries(entry("k", 13, u32(0))),
    /^metadata k has the unknown type 13$/,
  ],
  [
    "an unknown type of array",
    withEntries(entry("k", ARRAY, u32(99), u64(1), u32(0))),
    /^metadata k has the unknown type 99$/,
  ],
  [
    "an array of arrays",
    withEntries(entry("k", ARRAY, u32(ARRAY), u64(1), u32(ARRAY), u64(1), u32(U8), u64(0))),
    /^metadata k is an array of arrays; none are read, here as in llama\.cpp$/,
  ],
  [
    "arrays nested a million deep",
    withEntries(entry("k", ARRAY, new Uint8Array(12e6).fill(9))),
    /^metadata k has the unknown type 151587081$/,
  ],
  [
    "a truth value of 2",
    withEntries(entry("k", BOOL, number(1, 2))),
    /^metadata k holds 2 for true or false$/,
  ],
  [
    "a truth value of 2 in an array",
    withEntries(entry("k", ARRAY, u32(BOOL), u64(2), number(2, 0x201))),
    /^metadata k holds 2 for true or false$/,
  ],
  ["an empty key", withEntries(entry("", U32, u32(0))), /^metadata key 0 has an empty name$/],
  [
    "a long key",
    withEntries(entry("k".repeat(65536), U32, u32(0))),
    /^metadata key 0 has a name of 65536 bytes, at most 65535 are allowed$/,
  ],
  [
    "a key twice",
    withEntries(entry("k", U32, u32(0)), entry("k", U64, u64(0))),
    /^metadata k is there twice$/,
  ],
  [
    "a key that is not UTF-8",
    withEntries(bytes(string(Uint8Array.of(0xff)), u32(U32), u32(0))),
    /^metadata key 0 is not valid UTF-8$/,
  ],
  [
    "a value that is not UTF-8",
    withEntries(entry("k", STRING, string(Uint8Array.of(0xc3, 0x28)))),
    /^metadata k is not valid UTF-8$/,
  ],
  [
    "a key with terminal commands, long",
    withEntries(entry("\x1b[2J\r\n\u2028" + "x".repeat(60000), 13, u32(0))),
    /^metadata {2}\[2J x{50,60}… has the unknown type 13$/,
  ],
  ["alignment 0", alignment(0), /^metadata general\.alignment is 0, which is no power of two$/],
  ["alignment 48", alignment(48), /^metadata general\.alignment is 48, which is no power of two$/],
  [
    "alignment 2^31",
    { ...alignment(2 ** 31), infos: [info("q8", [32, 2], 8, 0)] },
    /^tensor q8 lies at bytes 2147483648 to 2147483716, the file has \d+$/,
  ],
  [
    "alignment of another type",
    withEntries(entry("general.alignment", U64, u64(32))),
    /^metadata general\.alignment is of type u64, not u32$/,
  ],
  ["no dimensions", withInfos(info("t", [], 0, 0)), /^tensor t has 0 dimensions; 1 to 4 are read$/],
  ["five dimensions", withInfos(info("t", [1, 1, 1, 1, 1], 0, 0)), /^tensor t has 5 dimensions; 1 to 4/],
  [
    "2^32 − 1 dimensions",
    withInfos(bytes(string("t"), u32(0xffffffff), new Uint8Array(20))),
    /^tensor t has 4294967295 dimensions; 1 to 4 are read$/,
  ],
  ["nothing in it", withInfos(info("t", [4, 0], 0, 0)), /^tensor t has shape \[0, 4\], which holds nothing$/],
  [
    "lengths whose product is 0 modulo 2^64",
    withInfos(info("t", [2n ** 32n, 2n ** 32n], 0, 0)),
    /^tensor t has shape \[4294967296, 4294967296\], which no file can hold$/,
  ],
  [
    "lengths whose product is 4 modulo 2^64",
    withInfos(info("t", [2n ** 63n + 2n, 2], 0, 0)),
    /^tensor t has shape \[2, 9223372036854775810\], which no file can hold$/,
  ],
  ["rows that are no blocks", withInfos(info("t", [48, 2], 8, 0)), /^tensor t has rows of 48 values; Q8_0/],
  [
    "rows that are no blocks of 256",
    withInfos(info("t", [32, 8], 12, 0)),
    /^tensor t has rows of 32 values; Q4_K/,
  ],
  [
    "a type that is not read",
    withInfos(info("t", [256], 10, 0)),
    /^tensor t has Q2_K; F32, F16, .* are read$/,
  ],
  ["a type that was removed", withInfos(info("t", [256], 4, 0)), /^tensor t has the unknown type 4; F32, /],
  [
    "an unknown type of tensor",
    withInfos(info("t", [1], 2 ** 31, 0)),
    /^tensor t has the unknown type 2147483648;/,
  ],
  ["an empty name", withInfos(info("", [1], 0, 0)), /^tensor 0 has an empty name$/],
  ["a long name", withInfos(info("n".repeat(65), [1], 0, 0)), /^tensor 0 has a name of 65 bytes, at most 64/],
  ["a tensor twice", withInfos(info("t", [1], 0, 0), info("t", [1], 0, 32)), /^tensor t is there twice$/],
  [
    "an offset that is not aligned",
    withInfos(info("t", [1], 0, 4)),
    /^tensor t starts at byte 4 of the data, which is no multiple of 32$/,
  ],
  [
    "an offset beyond the file",
    withInfos(info("t", [1], 0, 1024)),
    /^tensor t lies at bytes \d+ to \d+, the file has \d+$/,
  ],
  [
    "an offset that wraps around",
    withInfos(info("t", [1], 0, 2n ** 64n - 32n)),
    /^tensor t lies at bytes 184\d+ to 184\d+, the file has \d+$/,
  ],
  [
    "a tensor larger than the file",
    withInfos(info("t", [1000], 0, 0)),
    /^tensor t lies at bytes \d+ to \d+, the file has \d+$/,
  ],
  [
    "tensors that overlap",
    withInfos(info("norm", [3], 0, 64), info("q8", [32, 2], 8, 0)),
    /^tensor norm overlaps tensor q8 at byte \d+$/,
  ],
  [
    "tensors at one place",
    withInfos(info("a", [3], 0, 0), info("b", [3], 0, 0)),
    /^tensor b overlaps tensor a at byte \d+$/,
  ],
  [
    "a NaN",
    { ...good(), data: bytes(new Uint8Array(100), u32(0x7fc00000), u32(0)) },
    /^tensor norm holds NaN at row 0, column 1$/,
  ],
  [
    "an infinite scale",
    { ...good(), data: bytes(new Uint8Array(34), number(2, 0x7c00), number(1, 1), new Uint8Array(71)) },
    /^tensor q8 holds Infinity at row 1, column 0$/,
  ],
];

function alignment(value: number): Parts {
  return withEntries(entry("general.alignment", U32, u32(value)));
}

for (const [name, parts, expected] of ATTACKS) {
  Deno.test(`gguf: ${name}`, async () => {
    const file = parts instanceof Uint8Array ? parts : assemble(parts);
    assert.match(await refusal(new Memory(file)), expected);
  });
}

/** Numbers of things that follow, each with the file where it stands. */
const COUNTED: [name: string, file: (n: bigint) => Parts, expected: RegExp][] = [
  ["tensors", (n) => ({ ...good(), tensorCount: n }), /^the header claims \d+ tensors, /],
  ["metadata keys", (n) => ({ ...good(), valueCount: n }), /^the header claims \d+ metadata keys, /],
  [
    "bytes in a key",
    (n) => withEntries(string("k", n)),
    /^metadata key 0 claims \d+ bytes of text, /,
  ],
  [
    "bytes in a string",
    (n) => withEntries(entry("k", STRING, string("v", n))),
    /^metadata k claims \d+ bytes of text, /,
  ],
  [
    "bytes in a string of an array",
    (n) => withEntries(entry("k", ARRAY, u32(STRING), u64(2), string("v"), string("v", n))),
    /^metadata k claims \d+ bytes of text, /,
  ],
  ["strings", (n) => withEntries(entry("k", ARRAY, u32(STRING), u64(n))), /^metadata k claims \d+ strings, /],
  [
    "numbers",
    (n) => withEntries(entry("k", ARRAY, u32(U64), u64(n))),
    /^metadata k claims \d+ values of u64, /,
  ],
  ["bytes in a name", (n) => withInfos(string("t", n)), /^tensor 0 claims \d+ bytes of text, /],
];

for (const [name, file, expected] of COUNTED) {
  Deno.test(`gguf: 2^60 and more ${name}`, async () => {
    for (const n of HUGE) {
      const source = new Memory(assemble(file(n)));
      const message = await refusal(source);
      assert.match(message, expected);
      assert(message.includes(` ${n} `), message);
      assert(source.asked < 2 * source.size, `${source.asked} bytes read`);
    }
  });
}

Deno.test("gguf: a file of 16 TB that holds nothing is not read", async () => {
  const size = 2 ** 44;
  for (const [name, file] of COUNTED) {
    const source = new Memory(assemble(file(2n ** 40n)), size);
    await refusal(source);
    assert(source.asked < 1e6, `${name}: ${source.asked} bytes read`);
  }
  // Just what is still read: 2^26 bytes in all, 2^16 of each thing.
  assert.match(
    await refusal(new Memory(assemble({ ...good(), tensorCount: 65537 }), size)),
    /^the header claims 65537 tensors, at most 65536 are read$/,
  );
  assert.match(
    await refusal(new Memory(assemble(withEntries(entry("k", ARRAY, u32(U8), u64(2 ** 26)))), size)),
    /^metadata k ends beyond byte 67108864; no longer metadata is read$/,
  );
});

Deno.test("gguf: a file that shrinks while it is read", async () => {
  const whole = assemble(good());
  const shrunk = { size: whole.length, readAt: () => Promise.resolve(false) };
  assert.equal(await refusal(shrunk), "the file shrank while it was read");
  const memory = new Memory(whole);
  const gguf = await readGguf(memory, "FILE");
  await assert.rejects(
    readTensor({ ...gguf, source: shrunk }, gguf.tensors[0]!, new Float32Array(64)),
    new MicrogptError("FILE: the file shrank while it was read"),
  );
});
