/**
 * The gradients of a step: those of its micro-batches added up in a binary tree by their number, (0 + 1) + (2 + 3), on one
 * device and over all ranks. The tree, not the order of arrival, defines the sum, so that one process and eight get the
 * same bits. What is left over where the number is no power of two is added from the right: (0 + 1) + 2.
 */
import type { Group, NativeMemory } from "../../device/group.ts";
import type { Device, Tensor } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";

/** How many buffers of gradients so many micro-batches take: one for each level of the tree, and one. */
export function gradientBuffers(microBatches: number): number {
  return Math.floor(Math.log2(microBatches)) + 1;
}

/**
 * Adds up micro-batches on one device. The buffers are a stack of finished subtrees, the largest at the bottom, like the digits
 * of a binary number that counts them.
 */
export class GradientSum {
  #done = 0;

  /** @param buffers f32 [1, n] each, as many as `gradientBuffers` says */
  constructor(
    readonly device: Pick<Device, "add">,
    readonly buffers: readonly Tensor[],
  ) {}

  /** Number of the buffer that the next micro-batch's gradients are written to; what it holds is of no use any more. */
  get next(): number {
    return ones(this.#done);
  }

  /** Takes what buffer `next` holds as the gradients of the next micro-batch. */
  take(): void {
    for (const [sum, part] of this.#additions()) this.device.add(sum, part);
    this.#done++;
  }

  /**
   * Does for some of the gradients what the coming `take` would, while the rest is still being computed; that `take` is
   * then to be left out, see `taken`.
   * @param part of a buffer
   * @returns where their sum over the micro-batches so far is
   */
  takePart(part: (buffer: Tensor) => Tensor): Tensor {
    let at = this.buffers[this.next]!;
    for (const [sum, added] of this.#additions()) {
      this.device.add(part(sum), part(added));
      at = sum;
    }
    return part(at);
  }

  /** Says that all parts of the next micro-batch were taken. */
  taken(): void {
    this.#done++;
  }

  /** Subtrees of one size are added, two at a time: the number of ones that end the count so far. */
  #additions(): [sum: Tensor, part: Tensor][] {
    const additions: [Tensor, Tensor][] = [];
    for (let top = this.next, rest = this.#done; rest % 2 === 1; rest = (rest - 1) / 2, top--) {
      additions.push([this.buffers[top - 1]!, this.buffers[top]!]);
    }
    return additions;
  }

  /** Leaves the sum of all micro-batches in buffer 0, and starts anew. */
  finish(): Tensor {
    for (let top = ones(this.#done) - 1; top > 0; top--) {
      this.device.add(this.buffers[top - 1]!, this.buffers[top]!);
    }
    this.#done = 0;
    return this.buffers[0]!;
  }
}

/** Ones among the binary digits of n. */
function ones(n: number): number {
  let count = 0;
  for (let rest = n; rest > 0; rest = Math.floor(rest / 2)) count += rest % 2;
  return count;
}

/**
 * Several ranks need a step that can be halved until each has its share.
 * @throws {MicrogptError} unless micro-batches are a power of two, and no fewer than ranks
 */
export function checkMicroBatches({ size }: Pick<Group, "size">, microBatches: number): void {
  if (size === 1 || (Number.isInteger(Math.log2(microBatches)) && microBatches >= size)) return;
  const fitting = Math.max(size, 2 ** Math.round(Math.log2(microBatches)));
  throw new MicrogptError(
    `\`gradAccum\` is ${microBatches} batches a step, which ${size} processes cannot share evenly: ` +
      `it must be ${size}, ${2 * size}, ${4 * size} and so on`,
    {
      hint: `set \`gradAccum\` to ${fitting}; the same number on one process gives the same run`,
      usage: true,
    },
  );
}

/**
 * Which micro-batches of a step are a rank's: consecutive ones, which are a subtree of the whole.
 * @param microBatches of the step, a power of two and no fewer than ranks: see `checkMicroBatches`
 */
export function ownMicroBatches(
  { rank, size }: Pick<Group, "rank" | "size">,
  microBatches: number,
): { first: number; count: number } {
  const count = microBatches / size;
  return { first: rank * count, count };
}

/**
 * Adds up a tensor over all ranks: where it is, if the native library holds it, else by reading and writing it.
 * @param tensor f32, the rows in use
 */
export async function sumOverRanks(group: Group, device: Device, tensor: Tensor): Promise<void> {
  if (group.size === 1) return;
  const memory: NativeMemory | undefined = device.nativeMemory?.(tensor);
  if (memory) return group.sum(memory);
  const values = await device.read(tensor) as Float32Array;
  group.sum(values);
  device.write(tensor, values);
}
