/**
 * The processes that train one model together. A group knows its own number and adds up, compares and passes on numbers;
 * `native/mpi.ts` does so over MPI, `ALONE` is the group of one process.
 *
 * Every call but `abort` is made by all ranks, in the same order: a rank waits until the others have called, too.
 */
import { MicrogptError } from "./errors.ts";

/** Numbers that the native library holds itself, f32: they are summed where they are. */
export interface NativeMemory {
  /** number of the device in the library */
  device: number;
  /** number of the tensor on the device */
  tensor: number;
  /** first element */
  offset: number;
  /** elements */
  length: number;
}

/** What the processes of a run have in common. */
export interface Group {
  /** number of this process, from 0; rank 0 prints and saves */
  readonly rank: number;
  /** number of processes, a power of two */
  readonly size: number;
  /** how many of them are on this machine, as far as the launcher tells; else 1 */
  readonly localSize: number;
  /** what people put in front of the command to start as many processes, with a space behind it; of one process nothing */
  readonly launcher: string;
  /**
   * Adds up, in place, what each rank has: in the binary tree over ranks, (0 + 1) + (2 + 3), with the same bits on each. A rank
   * whose values are themselves the sum of its share in such a tree gets what one process would compute.
   */
  sum(values: Float32Array | NativeMemory): void;
  /**
   * Begins such a sum and returns at once; all ranks begin the same ones in the same order. Nobody may use the numbers, and the
   * tensor may not be freed, until `finishSums` has returned.
   */
  beginSum(values: NativeMemory): void;
  /** Waits for all sums that were begun. */
  finishSums(): void;
  /** The sums of a few numbers; whole ones below 2⁵³ are exact. */
  total(values: readonly number[]): number[];
  /** The largest of each of a few numbers. */
  max(values: readonly number[]): number[];
  /** The bytes of rank 0; what the others give is not looked at. */
  broadcast(bytes: Uint8Array): Uint8Array;
  /** Returns when all ranks are here. */
  barrier(): void;
  /** Ends all processes at once, for an error on this one. Does nothing in a group of one. */
  abort(code: number): void;
  /** Leaves in good order. A second call does nothing. */
  close(): void;
}

/**
 * An error that all ranks throw at the same place. They leave in good order, where any other error has to end the ranks that wait
 * for this one.
 */
export class AgreedError extends MicrogptError {}

/** One process: nothing to add, nobody to wait for. */
export const ALONE: Group = {
  rank: 0,
  size: 1,
  localSize: 1,
  launcher: "",
  sum() {},
  beginSum() {},
  finishSums() {},
  total: (values) => [...values],
  max: (values) => [...values],
  broadcast: (bytes) => bytes,
  barrier() {},
  abort() {},
  close() {},
};

/**
 * Leaves the group after an error: with the others if they all threw it, else by ending them.
 * @param code exit code of the launch
 */
export function leaveAfter(error: unknown, group: Group, code = 1): void {
  if (error instanceof AgreedError) group.close();
  else group.abort(code);
}

/**
 * Compares what all ranks must have in common: data, tokenizer, settings, version, or weights after some steps.
 * @param facts by the name a person knows them by; values are digests or short texts
 * @param when added to the message: "after step 400"
 * @throws {AgreedError} on every rank, naming the last one that differs from rank 0 and what differs there
 */
export function checkAgreement(group: Group, facts: Record<string, string>, when = ""): void {
  const own = Object.entries(facts);
  const bytes = group.broadcast(new TextEncoder().encode(JSON.stringify(own)));
  const theirs = JSON.parse(new TextDecoder().decode(bytes)) as [string, string][];
  const names = theirs.map(([name]) => name);
  const differs = theirs.findIndex(([name, value], i) => own[i]?.[0] !== name || own[i]?.[1] !== value);
  // a rank with more facts than rank 0 is of another version, which is a fact itself: the lists are equally long
  const [worst] = group.max([differs < 0 ? 0 : (group.rank + 1) * names.length + differs]);
  if (worst === 0) return;
  const [rank, name] = [Math.floor(worst! / names.length) - 1, names[worst! % names.length]];
  throw new AgreedError(`rank ${rank} differs from rank 0 in its ${name}${when && ` ${when}`}`, {
    hint: when
      ? "its processor or memory computes wrongly, or its program differs; resume from the last checkpoint without it"
      : "start every process with the same program, flags and files",
  });
}
