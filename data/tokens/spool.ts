/** Documents that can be read only once, kept in a file for the second time. */

import { type FileHandle, files, SEEK_START } from "../../platform/files.ts";
import type { Message } from "../chat.ts";
import { packed, unpacked } from "../packed_texts.ts";
import { readExactly, writeAll } from "./indexed_file.ts";
import type { DocumentBlock } from "./token_block.ts";

/** Bytes of JSON u32, UTF-16 units of text u32, bytes of input read f64; then the documents as JSON, texts as strings. */
const HEAD_BYTES = 16;

/** Blocks of documents, to be read twice. */
export class Spool implements Disposable {
  readonly #source: AsyncGenerator<DocumentBlock>;
  readonly #file: FileHandle;
  #bytes = 0;
  #read = false;

  /** @param path of a file that is made, or replaced */
  constructor(path: string, source: AsyncGenerator<DocumentBlock>) {
    this.#source = source;
    this.#file = files.openSync(path, { read: true, write: true, create: true, truncate: true });
  }

  /** All blocks: the first time from their source, later from the file. */
  async *blocks(): AsyncGenerator<DocumentBlock> {
    if (this.#read) return yield* this.#again();
    this.#read = true;
    const write = (block: DocumentBlock) => {
      const json = new TextEncoder().encode(
        JSON.stringify(Array.isArray(block.documents) ? block.documents : unpacked(block.documents)),
      );
      const head = new DataView(new ArrayBuffer(HEAD_BYTES));
      head.setUint32(0, json.length, true);
      head.setUint32(4, block.characters, true);
      head.setFloat64(8, block.bytesRead, true);
      this.#file.seekSync(this.#bytes, SEEK_START);
      writeAll(this.#file, new Uint8Array(head.buffer));
      writeAll(this.#file, json);
      this.#bytes += HEAD_BYTES + json.length;
    };
    try {
      for (let step = await this.#source.next(); !step.done; step = await this.#source.next()) {
        write(step.value);
        yield step.value;
      }
    } finally {
      // who reads has seen enough, and wants all of it the second time
      for await (const block of this.#source) write(block);
    }
  }

  *#again(): Generator<DocumentBlock> {
    for (let at = 0; at < this.#bytes;) {
      const head = new DataView(readExactly(this.#file, at, HEAD_BYTES).buffer);
      const length = head.getUint32(0, true);
      const json = new TextDecoder().decode(readExactly(this.#file, at + HEAD_BYTES, length));
      at += HEAD_BYTES + length;
      const [characters, bytesRead] = [head.getUint32(4, true), head.getFloat64(8, true)];
      const documents = JSON.parse(json) as string[] | Message[][];
      yield { documents: isTexts(documents) ? packed(documents) : documents, characters, bytesRead };
    }
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

function isTexts(documents: string[] | Message[][]): documents is string[] {
  return typeof documents[0] === "string";
}
