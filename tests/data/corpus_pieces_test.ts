/** What is read does not depend on where reads end: every stage is fed the same data, split anywhere. */

import assert from "node:assert/strict";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { CsvCutter } from "../../data/reading/csv_cutter.ts";
import {
  type Cutter,
  type Emit,
  LineCutter,
  LinesCutter,
  SeparatorCutter,
} from "../../data/reading/cutter.ts";
import { decodeText } from "../../data/reading/decoded_text.ts";
import { unpack } from "../../data/reading/input_bytes.ts";
import { JsonCutter } from "../../data/reading/json_cutter.ts";
import { randomNumbers } from "./random_numbers.ts";

const ROUNDS = 300;

/** Pieces of 0 to 12 units; `slice` of a text or of bytes. */
function split<T extends { length: number; slice(from: number, to: number): T }>(
  whole: T,
  random: (below: number) => number,
): T[] {
  const pieces: T[] = [];
  for (let at = 0; at < whole.length;) {
    const next = at + random(13);
    pieces.push(whole.slice(at, next));
    at = next;
  }
  return pieces;
}

/** A text of characters that mean something to the cutters. */
function randomText(random: (below: number) => number, characters: string[], length: number): string {
  return Array.from({ length: random(length) }, () => characters[random(characters.length)]).join("");
}

/** What a cutter makes of pieces: values with their lines, and the error that ended it. */
function cut<T>(make: (emit: Emit<T>) => Cutter, pieces: string[]): unknown[] {
  const found: unknown[] = [];
  const cutter = make((value, line) => found.push([value, line]));
  try {
    for (const piece of pieces) cutter.push(piece);
    cutter.end();
  } catch (error) {
    found.push((error as Error).message);
  }
  return found;
}

function checkSplits<T>(make: (emit: Emit<T>) => Cutter, characters: string[], seed: number): void {
  const random = randomNumbers(seed);
  for (let round = 0; round < ROUNDS; round++) {
    const text = randomText(random, characters, 60);
    const whole = cut(make, [text]);
    assert.deepEqual(cut(make, split(text, random)), whole, JSON.stringify(text));
    assert.deepEqual(cut(make, [...text].flatMap((c) => [c, ""])), whole, JSON.stringify(text));
  }
}

Deno.test("pieces: lines", () => {
  const make = (emit: Emit<string>) => new LineCutter("x", emit);
  checkSplits(make, ["a", " ", "\n", "\r", "\r\n", "é"], 1);
  // the lines are those that splitting the whole gives
  const random = randomNumbers(2);
  for (let round = 0; round < ROUNDS; round++) {
    const text = randomText(random, ["a", "\n", "\r", "\r\n"], 40);
    const lines = text.split(/\r\n|\r|\n/u);
    if (lines.at(-1) === "") lines.pop();
    assert.deepEqual(cut(make, split(text, random)), lines.map((line, i) => [line, i + 1]));
  }
});

Deno.test("pieces: paragraphs, files and separators", () => {
  const characters = ["a", "b", " ", "\n", "\r", "\r\n", "<|", "|>", "<||>"];
  checkSplits((emit: Emit<string>) => new LinesCutter("x", emit, true), characters, 3);
  checkSplits((emit: Emit<string>) => new LinesCutter("x", emit, false), characters, 4);
  checkSplits((emit: Emit<string>) => new SeparatorCutter("x", emit, "<||>"), characters, 5);
  checkSplits((emit: Emit<string>) => new SeparatorCutter("x", emit, "\n\n"), characters, 6);
});

Deno.test("pieces: JSON, valid and not", () => {
  const characters = ["[", "]", "{", "}", ",", '"', "\\", "1", "null", " ", "\n", ":"];
  for (const elements of [true, false]) {
    const make = (emit: Emit<string>) => new JsonCutter("x", emit, elements, 1e6);
    checkSplits(make, characters, 7);
    const random = randomNumbers(8);
    for (let round = 0; round < ROUNDS; round++) {
      const values = Array.from({ length: random(5) }, () => randomValue(random, 3));
      const indent = random(3);
      const text = elements
        ? JSON.stringify(values, null, indent)
        : values.map((value) => JSON.stringify(value, null, indent)).join("\n");
      const found = cut(make, split(text, random)).map((entry) => JSON.parse((entry as [string])[0]));
      assert.deepEqual(found, values, text);
    }
  }
});

function randomValue(random: (below: number) => number, depth: number): unknown {
  const kind = random(depth > 0 ? 5 : 3);
  if (kind === 0) return randomText(random, ['"', "\\", "[", "}", ",", "é", "\n", "a"], 8);
  if (kind === 1) return random(100) - 50;
  if (kind === 2) return [null, true, false][random(3)];
  const values = Array.from({ length: random(4) }, () => randomValue(random, depth - 1));
  return kind === 3 ? values : Object.fromEntries(values.map((value, i) => [`k${i}"`, value]));
}

Deno.test("pieces: CSV, valid and not", () => {
  const make = (emit: Emit<string[]>) => new CsvCutter("x", emit, ",");
  checkSplits(make, ["a", ",", '"', '""', "\n", "\r", "\r\n", " "], 9);
  const random = randomNumbers(10);
  for (let round = 0; round < ROUNDS; round++) {
    const rows = Array.from(
      { length: random(6) },
      () =>
        Array.from({ length: 2 + random(3) }, () => randomText(random, ["a", ",", '"', "\n", "\r", "é"], 6)),
    );
    const end = ["\n", "\r\n", "\r"][random(3)]!;
    const written = rows.map((row) =>
      row.map((field) =>
        /[",\r\n]/u.test(field) || random(3) === 0 ? `"${field.replaceAll('"', '""')}"` : field
      ).join(",")
    ).join(end);
    const found = cut(make, split(written, random)).map((entry) => (entry as [string[]])[0]);
    assert.deepEqual(found, rows, JSON.stringify(written));
  }
});

Deno.test("pieces: characters of UTF-8 and UTF-16, valid and not", async () => {
  const random = randomNumbers(11);
  const decoded = async (bytes: Uint8Array, pieces: Uint8Array[]) => {
    let text = "";
    let newlines = 0;
    try {
      for await (
        const piece of decodeText("x", bytes.slice(0, 16), ReadableStream.from(pieces), () => newlines + 1)
      ) {
        text += piece;
        newlines += piece.split("\n").length - 1;
      }
    } catch (error) {
      return [text, (error as Error).message.replace(/behind offset \d+/u, "")];
    }
    return [text];
  };
  for (let round = 0; round < ROUNDS; round++) {
    const text = randomText(random, ["a", "é", "漢", "👋", "\n"], 30);
    const bytes = new TextEncoder().encode(text);
    assert.deepEqual(await decoded(bytes, split(bytes, random)), [text]);
    const units = Uint8Array.from([
      0xff,
      0xfe,
      ...[...Array(text.length).keys()].flatMap((i) => [text.charCodeAt(i) & 255, text.charCodeAt(i) >> 8]),
    ]);
    assert.deepEqual(await decoded(units, split(units, random)), [text]);
    const broken = bytes.slice();
    if (broken.length > 0) broken[random(broken.length)] = 0x80 + random(128);
    const [before, said] = await decoded(broken, [broken]);
    assert.deepEqual(
      await decoded(broken, split(broken, random)),
      said === undefined ? [before] : [before, said],
    );
  }
});

Deno.test("pieces: gzip members and zstd frames, whole and cut off", async () => {
  const random = randomNumbers(12);
  const text = new TextEncoder().encode(
    "anna\nbob\n".repeat(20) + randomText(random, ["a", "b", "c", "d"], 3000),
  );
  for (const [compression, pack] of [["gzip", gzipSync], ["zstd", zstdCompressSync]] as const) {
    const half = text.length >> 1;
    const packed = new Uint8Array([
      ...pack(text.subarray(0, half)),
      ...pack(text.subarray(half)),
      ...pack(""),
    ]);
    const unpacked = async (bytes: Uint8Array, pieces: Uint8Array[]) => {
      const all: number[] = [];
      const source = { name: "x", bytesRead: () => bytes.length };
      for await (const piece of unpack(source, ReadableStream.from(pieces), compression)) all.push(...piece);
      return Uint8Array.from(all);
    };
    assert.deepEqual(await unpacked(packed, [packed]), text);
    for (let round = 0; round < 10; round++) {
      assert.deepEqual(
        await unpacked(packed, split(packed, random).filter((piece) => piece.length > 0)),
        text,
      );
    }
    for (const cut of [packed.subarray(0, packed.length - 1), packed.subarray(0, packed.length >> 1)]) {
      await assert.rejects(
        unpacked(cut, [cut]),
        /^MicrogptError: x cannot be unpacked \((gzip|zstd)\): unexpected end of file/u,
      );
    }
    const followed = new Uint8Array([...packed, ...new TextEncoder().encode("garbage")]);
    await assert.rejects(unpacked(followed, [followed]), /^MicrogptError: x cannot be unpacked/u);
  }
});
