/** How fast the ranks of a launch add up. */
import type { MpiGroup } from "./mpi.ts";

/** Measured by all ranks together; the same on each. */
export interface MpiSpeed {
  /** processes of the launch */
  ranks: number;
  /** of a sum of one number */
  latencySeconds: number;
  /** how many numbers `sumSeconds` and `librarySumSeconds` are of: as many as chat-medium has gradients */
  values: number;
  /** of our own sum, whose bits do not depend on the number of ranks */
  sumSeconds: number;
  /** of the library's own, whose bits may */
  librarySumSeconds: number;
  /** what each rank sends and receives a second in our own sum */
  bytesPerSecond: number;
}

const VALUES = 7_077_888;
const SMALL_ROUNDS = 100;
const ROUNDS = 5;

/** Takes a second or a few. To be called by all ranks. */
export function measureMpi(group: MpiGroup): MpiSpeed {
  /** The best of some rounds, each as long as its slowest rank takes. */
  const best = (rounds: number, body: () => void) => {
    const seconds = Array.from({ length: rounds + 1 }, () => {
      group.barrier();
      const started = performance.now();
      body();
      return group.max([(performance.now() - started) / 1000])[0]!;
    });
    return Math.min(...seconds.slice(1)); // the first one connects, and touches its memory
  };
  const values = new Float32Array(VALUES);
  const small = () => {
    for (let i = 0; i < SMALL_ROUNDS; i++) group.total([1]);
  };
  const latencySeconds = best(ROUNDS, small) / SMALL_ROUNDS;
  const sumSeconds = best(ROUNDS, () => group.sum(values));
  const librarySumSeconds = best(ROUNDS, () => group.librarySum(values));
  const bytes = 2 * (1 - 1 / group.size) * values.byteLength * (group.reduceDtype === "bf16" ? 0.5 : 1);
  return {
    ranks: group.size,
    latencySeconds,
    values: VALUES,
    sumSeconds,
    librarySumSeconds,
    bytesPerSecond: bytes / sumSeconds,
  };
}
