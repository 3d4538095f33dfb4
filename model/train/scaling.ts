/**
 * What many machines are worth: the time of a step by formulas, for the plan that a run opens with and for
 * docs/distributed.md, and by a simulation of its messages, which tests hold the formulas against.
 *
 * A step on N ranks: each computes its S/N micro-batches, then log2 N rounds of halving and as many of doubling, see
 * native/src/mpi/reduce.rs, then every rank updates all weights for itself.
 */
import { normal } from "../../device/random.ts";

/** A network as MPI sees it. */
export interface Network {
  /** of one rank, in each direction at once */
  bytesPerSecond: number;
  /** from the call that sends to the one that receives */
  latencySeconds: number;
  /** what a byte costs the two processors, beside its time on the wire */
  hostSecondsPerByte: number;
}

/** Work of one rank. */
export interface Work {
  parameters: number;
  /** forward and backward of a micro-batch, on average */
  microBatchSeconds: number;
  /** standard deviation of that over its mean: documents differ in length */
  variation: number;
  /** the update of all weights */
  updateSeconds: number;
  /** bytes of a gradient on its way: 4, or 2 with `--reduce-dtype bf16` */
  bytesPerValue: number;
  /** adding one number to another */
  addSecondsPerValue: number;
}

/** A step on some ranks. */
export interface ScaledStep {
  seconds: number;
  /** part of it in which a rank computes neither gradients nor weights */
  waitingShare: number;
  /** how many times as fast as one rank that does the same micro-batches */
  speedup: number;
}

/** Bytes that each rank sends in a step, and receives. */
export function trafficBytes(parameters: number, ranks: number, bytesPerValue = 4): number {
  return 2 * (1 - 1 / ranks) * parameters * bytesPerValue;
}

/** Seconds of adding up gradients over ranks that begin together. */
export function reduceSeconds(work: Work, network: Network, ranks: number): number {
  if (ranks === 1) return 0;
  const bytes = trafficBytes(work.parameters, ranks, work.bytesPerValue);
  const added = (1 - 1 / ranks) * work.parameters;
  return 2 * Math.log2(ranks) * network.latencySeconds + added * work.addSecondsPerValue +
    bytes * (1 / network.bytesPerSecond + network.hostSecondsPerByte);
}

/**
 * How much longer than the mean the slowest of N ranks computes, in standard deviations: the expected largest of N normal
 * numbers (Blom 1958).
 */
function slowest(ranks: number): number {
  return ranks === 1 ? 0 : normalQuantile((ranks - 0.375) / (ranks + 0.25));
}

/** Of the standard normal distribution, to 0.005 (Abramowitz & Stegun 26.2.23), for p ≥ 0.5. */
function normalQuantile(p: number): number {
  const t = Math.sqrt(-2 * Math.log(1 - p));
  return t - (2.515517 + t * (0.802853 + t * 0.010328)) /
      (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
}

/** Adding up S micro-batches on one rank takes S − 1 sums of all gradients. */
function localSeconds({ parameters, microBatchSeconds, addSecondsPerValue }: Work, count: number): number {
  return count * microBatchSeconds + (count - 1) * parameters * addSecondsPerValue;
}

/** What a step of S micro-batches takes on N ranks. */
export function expectedStep(
  work: Work,
  network: Network,
  ranks: number,
  microBatches: number,
): ScaledStep {
  const own = microBatches / ranks;
  const computing = localSeconds(work, own) + work.updateSeconds;
  const waiting = reduceSeconds(work, network, ranks) +
    slowest(ranks) * work.variation * work.microBatchSeconds * Math.sqrt(own);
  const alone = localSeconds(work, microBatches) + work.updateSeconds;
  const seconds = computing + waiting;
  return { seconds, waitingShare: waiting / seconds, speedup: alone / seconds };
}

/** The fewest micro-batches a step, a power of two, with which ranks wait for less than `share` of their time. */
export function microBatchesFor(work: Work, network: Network, ranks: number, share = 0.1): number {
  let microBatches = ranks;
  while (expectedStep(work, network, ranks, microBatches).waitingShare > share && microBatches < 2 ** 20) {
    microBatches *= 2;
  }
  return microBatches;
}

/** A network from what a launch measured itself: a sum of few values, and one of many. */
export function measuredNetwork(
  work: Pick<Work, "addSecondsPerValue" | "bytesPerValue">,
  ranks: number,
  few: { seconds: number },
  many: { values: number; seconds: number },
): Network {
  const added = (1 - 1 / ranks) * many.values * work.addSecondsPerValue;
  const moving = Math.max(1e-9, many.seconds - 2 * few.seconds - added);
  return {
    bytesPerSecond: trafficBytes(many.values, ranks, work.bytesPerValue) / moving,
    latencySeconds: few.seconds / Math.log2(ranks),
    hostSecondsPerByte: 0,
  };
}

/**
 * Plays a step message by message: each rank computes its micro-batches, whose times differ, and a pair exchanges
 * when both are ready.
 * @param seed of the times
 * @returns seconds until the last rank has updated its weights
 */
export function simulatedStep(
  work: Work,
  network: Network,
  ranks: number,
  microBatches: number,
  seed: number,
): number {
  const own = microBatches / ranks;
  const ready = Array.from({ length: ranks }, (_, rank) => {
    let seconds = localSeconds({ ...work, microBatchSeconds: 0 }, own);
    for (let i = 0; i < own; i++) seconds += microBatchTime(work, seed, rank * own + i);
    return seconds;
  });
  const exchange = (distance: number, values: number, adds: boolean) => {
    const bytes = values * work.bytesPerValue;
    const seconds = network.latencySeconds + (adds ? values * work.addSecondsPerValue : 0) +
      bytes * (1 / network.bytesPerSecond + network.hostSecondsPerByte);
    const met = ready.map((time, rank) => Math.max(time, ready[rank ^ distance]!));
    met.forEach((time, rank) => ready[rank] = time + seconds);
  };
  for (let distance = 1; distance < ranks; distance *= 2) {
    exchange(distance, work.parameters / (2 * distance), true);
  }
  for (let distance = ranks / 2; distance >= 1; distance /= 2) {
    exchange(distance, work.parameters / (2 * distance), false);
  }
  return Math.max(...ready) + work.updateSeconds;
}

/** Normally distributed around the mean, and never nothing. */
function microBatchTime({ microBatchSeconds, variation }: Work, seed: number, index: number): number {
  return microBatchSeconds * Math.max(0.05, 1 + variation * normal(seed, index));
}
