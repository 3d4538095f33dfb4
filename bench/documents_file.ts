/** Reads the documents files that bench/documents.ts writes; bench/pytorch_step.py reads the same. */
import type { PackedDocuments } from "../device/device.ts";

/**
 * The batches of consecutive steps: batch k holds documents [k · size, (k + 1) · size), each cut to block size + 1 ids.
 * @param path little-endian u32: the number of documents n, their n + 1 start offsets, then the ids end to end
 */
export function readBatches(path: string, size: number, blockSize: number): PackedDocuments[] {
  const words = new Uint32Array(Deno.readFileSync(path).buffer);
  const count = words[0]!;
  const offsets = words.subarray(1, count + 2);
  const ids = words.subarray(count + 2);
  const batches: PackedDocuments[] = [];
  for (let first = 0; first + size <= count; first += size) {
    const documents = Array.from(
      { length: size },
      (_, i) => ids.subarray(offsets[first + i]!, offsets[first + i + 1]!).subarray(0, blockSize + 1),
    );
    const starts = new Uint32Array(size + 1);
    documents.forEach((document, i) => starts[i + 1] = starts[i]! + document.length - 1);
    const tokens = new Uint32Array(starts[size]!);
    const targets = new Uint32Array(starts[size]!);
    documents.forEach((document, i) => {
      tokens.set(document.subarray(0, -1), starts[i]);
      targets.set(document.subarray(1), starts[i]);
    });
    batches.push({ tokens, targets, starts });
  }
  return batches;
}

/** Of some measurements. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1]!;
}
