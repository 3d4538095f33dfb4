/**
 * Dropout in a network: what a layer's two branches add to the residual stream, and the embedding. Each place has a number, from which
 * forward and backward draw the same. Batches that are only measured drop nothing and cost nothing.
 */
import type { Batch, Device, Tensor } from "../device/device.ts";

function drops({ regularization }: Batch): boolean {
  return regularization !== undefined && regularization.dropout > 0;
}

/** out = x + dropout(h · Wᵀ).  out, x: [T, E] f32   h: [T, K]   w: [E, K] */
export function addBranch(
  d: Device,
  out: Tensor,
  x: Tensor,
  h: Tensor,
  w: Tensor,
  batch: Batch,
  place: number,
): void {
  if (!drops(batch)) return d.matmul(out, h, w, "NT", { add: x });
  d.matmul(out, h, w, "NT");
  d.dropout(out, out, batch, place, x);
}

/**
 * The gradient of a branch's product h · Wᵀ.
 * @param dx [T, E] gradient of the residual stream after it
 * @param memory [T, E] where it is put if it differs from dx
 */
export function branchGradient(d: Device, dx: Tensor, memory: Tensor, batch: Batch, place: number): Tensor {
  if (!drops(batch)) return dx;
  d.dropout(memory, dx, batch, place);
  return memory;
}

/** x = dropout(x), of the embedding or of its gradient. */
export function dropResidual(d: Device, x: Tensor, batch: Batch, place: number): void {
  if (drops(batch)) d.dropout(x, x, batch, place);
}
