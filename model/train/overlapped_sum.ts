/**
 * The last sum of a step, in parts: gradients of the upper layers travel between ranks while those of the lower ones are computed.
 * Every element is added in the same tree, so that the bits do not depend on it.
 */
import type { Group, NativeMemory } from "../../device/group.ts";
import type { Device, Tensor } from "../../device/device.ts";
import type { GradientSum } from "./gradient_sum.ts";

/** A smaller part waits for the next: what a message costs beside its bytes shall not count. 4 MB of f32. */
const LEAST = 1 << 20;

/** Blocks of parameters begin at multiples of it (see parameters.ts); the gaps between them hold zeros and travel, too. */
const ALIGNMENT = 128;

/** A device whose memory the native library can add up. */
export type NativeDevice = Device & { nativeMemory(tensor: Tensor): NativeMemory };

/** Whether parts can travel meanwhile: not where they have to be read from a GPU first, which waits for all it computes. */
export function canOverlap(device: Device, { size }: Pick<Group, "size">): device is NativeDevice {
  return size > 1 && device.nativeMemory !== undefined;
}

/** Elements `start` … `end` of a buffer. */
interface Range {
  start: number;
  end: number;
}

/** For one step. */
export class OverlappedSum {
  /** complete, and still too little */
  #waiting: Range | undefined;
  readonly #begun: Range[] = [];

  constructor(
    readonly device: NativeDevice,
    readonly group: Group,
    readonly sum: GradientSum,
    readonly length: number,
  ) {}

  /** Takes gradients of the last micro-batch, neighbours in buffer `sum.next`, as complete: see `GradientsReady`. */
  ready(gradients: readonly Tensor[]): void {
    const places = gradients.map((tensor) => this.device.nativeMemory(tensor));
    const start = Math.min(...places.map(({ offset }) => offset));
    const last = Math.max(...places.map(({ offset, length }) => offset + length));
    const end = Math.ceil(last / ALIGNMENT) * ALIGNMENT;
    // layers come from the top down, so that the next one lies before the last; what does not is left for the end
    const joined = this.#waiting?.start === end ? this.#waiting.end : end;
    this.#waiting = { start, end: joined };
    if (joined - start < LEAST) return;
    this.#begin(this.#waiting);
    this.#waiting = undefined;
  }

  #begin(range: Range): void {
    const { start, end } = range;
    const part = this.sum.takePart((buffer) => this.device.view(buffer, start, 1, end - start));
    this.group.beginSum(this.device.nativeMemory(part));
    this.#begun.push(range);
  }

  /** Sends what is left, when all gradients and the loss are there, and waits for all. The sum is then in buffer 0. */
  finish(): Tensor {
    let start = 0;
    for (const begun of this.#begun.toSorted((a, b) => a.start - b.start)) {
      if (start < begun.start) this.#begin({ start, end: begun.start });
      start = begun.end;
    }
    if (start < this.length) this.#begin({ start, end: this.length });
    this.group.finishSums();
    this.sum.taken();
    return this.sum.finish();
  }
}
