/**
 * Logits of all tokens, [T, V], would be the largest matrix by far: they exist only for some rows at a time, with their
 * loss and gradient.
 */
import type { Tensor } from "../device/device.ts";

/** Logits take at most this many bytes, unless one row has more. */
const LOGITS_BYTES = 8 << 20;

/** Rows to allocate logits for. */
export function logitRows(maxTokens: number, vocabSize: number): number {
  return Math.max(1, Math.min(maxTokens, Math.floor(LOGITS_BYTES / (4 * vocabSize))));
}

/**
 * Calls `visit` for the rows of a batch in order, as many at a time as fit in `logits`.
 * @param logits [chunk, V]; its `rows` are set
 */
export function forEachChunk(
  logits: Tensor,
  tokens: number,
  visit: (firstRow: number, rows: number) => void,
): void {
  for (let row = 0; row < tokens; row += logits.capacity) {
    logits.rows = Math.min(logits.capacity, tokens - row);
    visit(row, logits.rows);
  }
}
