/**
 * The order of the rows of q and k. HuggingFace and this program rotate component j of a head together with
 * j + headDim/2 (rotate-half); a GGUF of architecture llama has those two side by side, at 2j and 2j + 1 (interleaved):
 * llama.cpp's converter moves the rows of both projections (`permute` in conversion/llama.py). A file in the wrong
 * order loads without complaint and talks nonsense.
 */

/**
 * Where a row of a GGUF file lies in the rotate-half order.
 * @param row in the interleaved order, counted over all heads
 * @param headDim rows of a head, even
 */
export function halvesRow(row: number, headDim: number): number {
  const inHead = row % headDim;
  return row - inHead + (inHead >> 1) + (inHead & 1) * (headDim / 2);
}

/**
 * Brings rows from the interleaved order (GGUF) into the rotate-half order, in place. Takes the memory of one head.
 * @param rows [heads · headDim, rowLength], as f32 or as the bytes of blocks; a bias has rowLength 1
 * @param headDim rows of a head, even
 * @param rowLength elements of `rows` that make a row
 * @throws {RangeError} when `rows` is not whole heads
 */
export function interleavedToHalves(
  rows: Float32Array | Uint8Array,
  headDim: number,
  rowLength: number,
): void {
  moveRows(rows, headDim, rowLength, true);
}

/**
 * Brings rows from the rotate-half order into the interleaved order of a GGUF file: the inverse of
 * {@link interleavedToHalves}, with the same parameters.
 * @throws {RangeError} when `rows` is not whole heads
 */
export function halvesToInterleaved(
  rows: Float32Array | Uint8Array,
  headDim: number,
  rowLength: number,
): void {
  moveRows(rows, headDim, rowLength, false);
}

function moveRows(
  rows: Float32Array | Uint8Array,
  headDim: number,
  rowLength: number,
  toHalves: boolean,
): void {
  const headSize = headDim * rowLength;
  if (headDim % 2 !== 0 || rows.length % headSize !== 0) {
    throw new RangeError(`${rows.length} elements are not heads of ${headDim} rows of ${rowLength}`);
  }
  const old = rows.slice(0, headSize);
  for (let start = 0; start < rows.length; start += headSize) {
    old.set(rows.subarray(start, start + headSize));
    for (let row = 0; row < headDim; row++) {
      const half = halvesRow(row, headDim);
      const [from, to] = toHalves ? [row, half] : [half, row];
      rows.set(old.subarray(from * rowLength, (from + 1) * rowLength), start + to * rowLength);
    }
  }
}
