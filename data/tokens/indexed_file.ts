/**
 * What prepared files have in common: a header that says what they are, and at their end an index that says that they are
 * whole.
 *
 *     header   8 letters, version u32, a number u32
 *     …
 *     index    JSON
 *     footer   bytes of the index u32, SHA-256 of header and index, "MGTOKEND"
 *
 * All numbers are little-endian.
 */

import { MicrogptError } from "../../device/errors.ts";
import { type FileHandle, SEEK_START } from "../../platform/files.ts";
import { sha256 } from "../../platform/hash.ts";

const VERSION = 2;
const END = "MGTOKEND";
const FOOTER_BYTES = 4 + 32 + 8;

/** A larger index is none of ours. */
const MAX_INDEX_BYTES = 64 << 20;

export const HEADER_BYTES = 16;

/** A prepared file cannot be used: cut off, damaged, of another version. It can be made anew. */
export class PreparedFileError extends MicrogptError {}

/** What a file is: 8 letters, and a number that it is read by. */
export interface Kind {
  magic: string;
  number: number;
}

export function headerOf({ magic, number }: Kind): Uint8Array {
  const header = new Uint8Array(HEADER_BYTES);
  header.set(new TextEncoder().encode(magic));
  const view = new DataView(header.buffer);
  view.setUint32(8, VERSION, true);
  view.setUint32(12, number, true);
  return header;
}

/** Writes index and footer at the end of the file, and waits until it is on the disk. */
export async function writeIndex(file: FileHandle, kind: Kind, value: unknown): Promise<void> {
  const index = new TextEncoder().encode(JSON.stringify(value));
  const footer = new Uint8Array(FOOTER_BYTES);
  new DataView(footer.buffer).setUint32(0, index.length, true);
  footer.set(fromHex(digestOf(headerOf(kind), index)), 4);
  footer.set(new TextEncoder().encode(END), 36);
  writeAll(file, index);
  writeAll(file, footer);
  await file.sync();
}

/**
 * Reads header and index.
 * @returns the number in the header, the index, and the byte that it begins at
 * @throws {PreparedFileError} when the file is not whole, or not of this kind
 */
export function readIndex(
  file: FileHandle,
  magic: string,
): { number: number; index: Record<string, unknown>; at: number } {
  const { size } = file.statSync();
  if (size < HEADER_BYTES + FOOTER_BYTES) throw new PreparedFileError("it is cut off");
  const header = readExactly(file, 0, HEADER_BYTES);
  const footer = readExactly(file, size - FOOTER_BYTES, FOOTER_BYTES);
  const text = (bytes: Uint8Array) => String.fromCharCode(...bytes);
  if (text(header.subarray(0, 8)) !== magic) throw new PreparedFileError("it is something else");
  if (text(footer.subarray(36)) !== END) throw new PreparedFileError("it is cut off");
  const view = new DataView(header.buffer);
  if (view.getUint32(8, true) !== VERSION) throw new PreparedFileError("it is of another version");
  const length = new DataView(footer.buffer).getUint32(0, true);
  const at = size - FOOTER_BYTES - length;
  if (length > MAX_INDEX_BYTES || at < HEADER_BYTES) throw new PreparedFileError("it is damaged");
  const index = readExactly(file, at, length);
  if (digestOf(header, index) !== toHex(footer.subarray(4, 36))) {
    throw new PreparedFileError("its index is damaged");
  }
  return { number: view.getUint32(12, true), index: JSON.parse(new TextDecoder().decode(index)), at };
}

/** Reads up to `into.length` bytes at an offset. @returns how many there were */
export function readAt(file: FileHandle, offset: number, into: Uint8Array): number {
  file.seekSync(offset, SEEK_START);
  let filled = 0;
  while (filled < into.length) {
    const n = file.readSync(into.subarray(filled));
    if (n === null) break;
    filled += n;
  }
  return filled;
}

/** @throws {PreparedFileError} when the file ends before that */
export function readExactly(file: FileHandle, offset: number, length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  if (readAt(file, offset, bytes) < length) throw new PreparedFileError("it is cut off");
  return bytes;
}

export function writeAll(file: FileHandle, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
}

/** The SHA-256 of some bytes, in hexadecimal. */
export function digestOf(...parts: Uint8Array[]): string {
  const hash = sha256();
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
}

/** Bytes of a number in hexadecimal. */
export function fromHex(text: string): Uint8Array {
  return Uint8Array.from(
    { length: text.length / 2 },
    (_, i) => Number.parseInt(text.slice(2 * i, 2 * i + 2), 16),
  );
}

export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The bytes of an array. */
export function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
