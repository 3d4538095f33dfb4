/** Texts end to end in UTF-8: what large data are handed on as, in place of a string for each document. */

import { MicrogptError } from "../device/errors.ts";

/** Text t is `bytes[offsets[t] … offsets[t + 1])`. */
export interface PackedTexts {
  /** well-formed UTF-8 */
  bytes: Uint8Array<ArrayBuffer>;
  /** [texts + 1] */
  offsets: Uint32Array<ArrayBuffer>;
}

/** Texts, packed or not. */
export type Texts = readonly string[] | PackedTexts;

/** Whether texts are packed. */
export function isPacked(texts: Texts): texts is PackedTexts {
  return !Array.isArray(texts);
}

/** How many texts there are. */
export function countOf(texts: Texts): number {
  return isPacked(texts) ? texts.offsets.length - 1 : texts.length;
}

/** Packs texts; those that are packed stay as they are. A lone surrogate becomes U+FFFD. */
export function packed(texts: Texts): PackedTexts {
  if (isPacked(texts)) return texts;
  // a unit becomes at most 3 bytes, and mostly 1
  const packer = new TextPacker(texts.reduce((sum, { length }) => sum + length, 0) + 64, texts.length);
  for (const text of texts) packer.add(text);
  return packer.take();
}

/** Texts as strings. */
export function unpacked(texts: Texts): readonly string[] {
  if (!isPacked(texts)) return texts;
  const { bytes, offsets } = texts;
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return Array.from(
    { length: offsets.length - 1 },
    (_, t) => decoder.decode(bytes.subarray(offsets[t]!, offsets[t + 1]!)),
  );
}

const encoder = new TextEncoder();

/** Packs texts one by one. */
export class TextPacker {
  #bytes: Uint8Array<ArrayBuffer>;
  #offsets: Uint32Array<ArrayBuffer>;
  #at = 0;
  #count = 0;

  /** Memory to begin with, which grows. */
  constructor(bytes: number, texts: number) {
    this.#bytes = new Uint8Array(bytes);
    this.#offsets = new Uint32Array(texts + 1);
  }

  /** How many texts were added. */
  get count(): number {
    return this.#count;
  }

  /** Adds a text. A lone surrogate becomes U+FFFD. */
  add(text: string): void {
    let { read, written } = encoder.encodeInto(text, this.#bytes.subarray(this.#at));
    while (read < text.length) {
      this.#reserve(written + 3 * (text.length - read));
      const more = encoder.encodeInto(text.slice(read), this.#bytes.subarray(this.#at + written));
      read += more.read;
      written += more.written;
    }
    this.#end(written);
  }

  /** Adds a text that is well-formed UTF-8: bytes `start` … `end` of `source`. */
  addBytes(source: Uint8Array, start: number, end: number): void {
    const length = end - start;
    this.#reserve(length);
    if (length > 400) this.#bytes.set(source.subarray(start, end), this.#at);
    else {
      const bytes = this.#bytes;
      // a loop, because texts may be short, and `set` needs a new view for each
      for (let i = start, at = this.#at; i < end; i++) bytes[at++] = source[i]!;
    }
    this.#end(length);
  }

  #end(length: number): void {
    this.#at += length;
    if (++this.#count === this.#offsets.length) {
      const larger = new Uint32Array(2 * this.#count);
      larger.set(this.#offsets);
      this.#offsets = larger;
    }
    this.#offsets[this.#count] = this.#at;
  }

  #reserve(length: number): void {
    const needed = this.#at + length;
    if (needed <= this.#bytes.length) return;
    if (needed > 0xffff_ffff) throw new MicrogptError("more than 4 GB of text cannot be tokenized at once");
    const larger = new Uint8Array(
      Math.min(Math.max(needed, Math.ceil(this.#bytes.length * 1.5)), 0xffff_ffff),
    );
    larger.set(this.#bytes);
    this.#bytes = larger;
  }

  /** What was added; the packer is used up. */
  take(): PackedTexts {
    return {
      bytes: this.#bytes.subarray(0, this.#at),
      offsets: this.#offsets.subarray(0, this.#count + 1),
    };
  }
}
