/** Hostile weights files. Each is what a good model has, with one thing changed. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { readCheckpoint, readModel } from "../../model/files/checkpoint.ts";
import { withDirectory } from "../model/files/checkpoint_fixture.ts";
import { writeRustCheckpoint } from "../golden/rust_checkpoint.ts";
import { refusal, refusalAndPeak } from "./refusal.ts";

type Entry = { dtype: unknown; shape: unknown; data_offsets: unknown };
type Header = Record<string, Entry>;

/** A file as its parts. */
interface Parts {
  header: Header;
  data: Uint8Array;
}

/** Puts a file together; the length before the header and the header's text can be forged. */
function assemble(
  { header, data }: Parts,
  forged: { text?: string; bytes?: Uint8Array; length?: bigint } = {},
) {
  const bytes = forged.bytes ?? new TextEncoder().encode(forged.text ?? JSON.stringify(header));
  const file = new Uint8Array(8 + bytes.length + data.length);
  new DataView(file.buffer).setBigUint64(0, forged.length ?? BigInt(bytes.length), true);
  file.set(bytes, 8);
  file.set(data, 8 + bytes.length);
  return file;
}

/** The refusal of a model whose weights file is what `change` makes of the good one, less the file's name. */
async function refused(change: (parts: Parts) => Uint8Array | void, ways?: Parameters<typeof refusal>[1]) {
  return await withDirectory(async (root) => {
    const dir = join(root, "model");
    await writeRustCheckpoint(dir, "F32");
    const path = join(dir, "weights.safetensors");
    const good = await Deno.readFile(path);
    const length = Number(new DataView(good.buffer).getBigUint64(0, true));
    const header: Header = JSON.parse(new TextDecoder().decode(good.subarray(8, 8 + length)));
    const parts = { header, data: good.slice(8 + length) };
    await Deno.writeFile(path, change(parts) ?? assemble(parts));
    const message = await refusal(dir, ways);
    assert(message.startsWith("DIR/weights.safetensors: "), message);
    return message.slice("DIR/weights.safetensors: ".length);
  });
}

const text = (parts: Parts) => JSON.stringify(parts.header);

const ATTACKS: [name: string, change: (parts: Parts) => Uint8Array | void, expected: RegExp][] = [
  ["an empty file", () => new Uint8Array(0), /^0 bytes are too few/],
  ["seven bytes", () => new Uint8Array(7), /^7 bytes are too few/],
  [
    "a text file",
    () => new TextEncoder().encode("hello, world\n"),
    /^the header claims \d+ bytes, the file has 13$/,
  ],
  [
    "a header longer than the file",
    (parts) => assemble(parts, { length: 1n << 20n }),
    /^the header claims 1048576 bytes, the file has \d+$/,
  ],
  [
    "a header of 2^63 bytes",
    (parts) => assemble(parts, { length: 1n << 63n }),
    /^the header claims 9223372036854775808 bytes, the file has \d+$/,
  ],
  [
    "a header of 20 MB",
    (parts) => assemble(parts, { text: text(parts).padEnd(20 << 20) }),
    /^a header of 20971520 bytes, at most 8388608 are read$/,
  ],
  [
    "a header that is not UTF-8",
    (parts) => assemble(parts, { bytes: new Uint8Array([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d]) }),
    /^the header is not valid UTF-8$/,
  ],
  [
    "a header that is not JSON",
    (parts) => assemble(parts, { text: "{'wte': 1}" }),
    /^the header is not valid JSON$/,
  ],
  [
    "a header that is a list",
    (parts) => assemble(parts, { text: "[]" }),
    /^the header is not a JSON object$/,
  ],
  [
    "a header with a byte order mark",
    (parts) => assemble(parts, { text: "\ufeff" + text(parts) }),
    /not valid JSON$/,
  ],
  [
    "a header nested a million deep",
    (parts) => assemble(parts, { text: '{"wte":'.repeat(1e6) }),
    /^the header is nested too deep$/,
  ],
  [
    "metadata that is no text",
    (parts) => assemble(parts, { text: `{"__metadata__":{"a":1},${text(parts).slice(1)}` }),
    /^__metadata__ must map names to strings$/,
  ],
  [
    "a name twice",
    (parts) =>
      assemble(parts, { text: text(parts).slice(0, -1) + `,"wte":${JSON.stringify(parts.header.wte)}}` }),
    /^the header names "wte" twice$/,
  ],
  [
    "a name twice, once in escapes",
    (parts) => assemble(parts, { text: text(parts).slice(0, -1) + `,"\\u0077te":{}}` }),
    /^the header names "wte" twice$/,
  ],
  [
    "a field twice",
    (parts) => assemble(parts, { text: text(parts).replace('"dtype"', '"shape":[1],"dtype"') }),
    /^the header names "shape" twice$/,
  ],
  [
    "a tensor that is a number",
    (parts) => assemble(parts, { text: text(parts).slice(0, -1) + `,"x":1}` }),
    /^tensor x has no dtype, shape and data_offsets$/,
  ],
  [
    "another dtype",
    ({ header }) => void (header.wte!.dtype = "I32"),
    /^tensor wte has dtype "I32"; F32, BF16 and F16/,
  ],
  [
    "no dtype",
    ({ header }) => void (delete (header.wte as Partial<Entry>).dtype),
    /^tensor wte has dtype none;/,
  ],
  [
    "a dtype of Object",
    ({ header }) => void (header.wte!.dtype = "constructor"),
    /^tensor wte has dtype "constructor";/,
  ],
  [
    "a dtype that needs other bytes",
    ({ header }) => void (header.wte!.dtype = "F16"),
    /^tensor wte has 1024 bytes; F16 \[32, 8\] takes 512$/,
  ],
  [
    "a shape of 2^63",
    ({ header }) => void (header.wte!.shape = [2 ** 63, 8]),
    /^tensor wte has shape \[9223372036854776000,8\], which is no list of lengths$/,
  ],
  [
    "a shape whose product overflows",
    ({ header }) => void (header.wte!.shape = [2 ** 52, 2 ** 52]),
    /^tensor wte has 1024 bytes; F32 \[4503599627370496, 4503599627370496\] takes 8\.1\d*e\+31$/,
  ],
  [
    "a negative shape",
    ({ header }) => void (header.wte!.shape = [-32, -8]),
    /^tensor wte has shape \[-32,-8\], which/,
  ],
  [
    "a fractional shape",
    ({ header }) => void (header.wte!.shape = [0.5, 512]),
    /^tensor wte has shape \[0\.5,512\], which/,
  ],
  [
    "a shape that is text",
    ({ header }) => void (header.wte!.shape = "32,8"),
    /^tensor wte has shape "32,8", which/,
  ],
  [
    "a transposed shape",
    ({ header }) => void (header["layer0.mlp_fc1"]!.shape = [8, 32]),
    /^tensor layer0\.mlp_fc1 has shape \[8, 32\], meta\.json asks for \[32, 8\]$/,
  ],
  [
    "a flat shape",
    ({ header }) => void (header.wte!.shape = [256]),
    /^tensor wte has shape \[256\], meta\.json asks for \[32, 8\]$/,
  ],
  [
    "offsets of 2^63",
    ({ header }) => void (header.wte!.data_offsets = [0, 2 ** 63]),
    /^tensor wte has data_offsets \[0,9223372036854776000\], which are no range of bytes$/,
  ],
  [
    "offsets that run backwards",
    ({ header }) => void (header.wte!.data_offsets = [1024, 0]),
    /^tensor wte has data_offsets \[1024,0\], which are no range/,
  ],
  [
    "offsets beyond the file",
    ({ header }) => void (header.wte!.data_offsets = [1e9, 1e9 + 1024]),
    /^tensor wte leaves a hole before it \(at byte 1000000000, expected \d+\)$/,
  ],
  [
    "overlapping offsets",
    ({ header }) => void (header["layer0.attn_wo"]!.data_offsets = header["layer0.attn_wk"]!.data_offsets),
    /^tensor layer0\.attn_w[ok] overlaps the one before it \(at byte 0, expected 256\)$/,
  ],
  [
    "unaligned offsets",
    ({ header }) => void (header["layer0.attn_wo"]!.data_offsets = [257, 513]),
    /^tensor layer0\.attn_wo leaves a hole before it \(at byte 257, expected 256\)$/,
  ],
  [
    "a hole before the first tensor",
    (parts) => {
      for (const entry of Object.values(parts.header)) {
        entry.data_offsets = (entry.data_offsets as number[]).map((offset) => offset + 8);
      }
      parts.data = new Uint8Array([...new Uint8Array(8), ...parts.data]);
    },
    /^tensor layer0\.attn_wk leaves a hole before it \(at byte 8, expected 0\)$/,
  ],
  [
    "bytes after the last tensor",
    (parts) => void (parts.data = new Uint8Array([...parts.data, 1])),
    /^the tensors take 8704 bytes, the file has 8705 for them$/,
  ],
  [
    "a file that is cut off",
    (parts) => void (parts.data = parts.data.subarray(0, 5000)),
    /^the tensors take 8704 bytes, the file has 5000 for them$/,
  ],
  [
    "a missing tensor",
    (parts) => {
      delete parts.header.wte;
      parts.data = parts.data.subarray(0, parts.data.length - 1024);
    },
    /^tensor wte is missing$/,
  ],
  [
    "an extra tensor",
    ({ header }) => void (header.evil = { dtype: "F32", shape: [0], data_offsets: [0, 0] }),
    /^tensor evil is no part of this model$/,
  ],
  [
    "an extra tensor named for a prototype",
    (parts) =>
      assemble(parts, {
        text: `{"__proto__":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},${text(parts).slice(1)}`,
      }),
    /^tensor __proto__ is no part of this model$/,
  ],
  [
    "a name with terminal commands, very long",
    ({ header }) =>
      void (header["\x1b[2J\r\n\u2028" + "x".repeat(1e5)] = {
        dtype: "F32",
        shape: [0],
        data_offsets: [0, 0],
      }),
    /^tensor {2}\[2J x{50,60}… is no part of this model$/,
  ],
];

for (const [name, change, expected] of ATTACKS) {
  Deno.test(`weights: ${name}`, async () => assert.match(await refused(change), expected));
}

/** What only those see that read the values, which `info` does not. */
const IN_VALUES: typeof ATTACKS = [
  [
    "a NaN",
    ({ data }) => new DataView(data.buffer).setUint32(data.length - 1024 + 4 * 17, 0x7fc00000, true),
    /^tensor wte holds NaN at \[2, 1\]$/,
  ],
  [
    "an infinity",
    ({ data }) => new DataView(data.buffer).setFloat32(0, -Infinity, true),
    /^tensor layer0\.attn_wk holds -Infinity at \[0, 0\]$/,
  ],
];

for (const [name, change, expected] of IN_VALUES) {
  Deno.test(`weights: ${name}`, async () => {
    assert.match(await refused(change, [readModel, readCheckpoint]), expected);
  });
}

Deno.test("weights: a header full of tensors takes little memory", () =>
  withDirectory(async (dir) => {
    await writeRustCheckpoint(dir, "F32");
    const entry = '{"dtype":"F32","shape":[],"data_offsets":[0,0]}';
    let text = "{";
    for (let i = 0; text.length < (8 << 20) - 100; i++) text += `"${i.toString(36)}":${entry},`;
    const parts = { header: {}, data: new Uint8Array(0) };
    await Deno.writeFile(
      join(dir, "weights.safetensors"),
      assemble(parts, { text: text.slice(0, -1) + "}" }),
    );
    const { message, peak } = await refusalAndPeak(dir);
    assert.match(
      message,
      /^MicrogptError: DIR\/weights\.safetensors: tensor \S+ has 0 bytes; F32 \[\] takes 4$/,
    );
    assert(peak < 1000, `${peak} MB`);
  }));

Deno.test("weights: a file of 2 TB that holds nothing is not read", () =>
  withDirectory(async (dir) => {
    await writeRustCheckpoint(dir, "F32");
    const file = await Deno.open(join(dir, "weights.safetensors"), { write: true });
    await file.truncate(2 ** 41);
    file.close();
    const { message, peak } = await refusalAndPeak(dir);
    assert.match(
      message,
      /^MicrogptError: DIR\/weights\.safetensors: the tensors take 8704 bytes, the file has 2199\d+ for/,
    );
    assert(peak < 1000, `${peak} MB`);
  }));
