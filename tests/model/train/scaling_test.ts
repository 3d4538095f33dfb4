/** The formulas of scaling against a simulation of every message, and what they say at their ends. */
import assert from "node:assert/strict";
import { mixSeed } from "../../../device/random.ts";
import {
  expectedStep,
  measuredNetwork,
  microBatchesFor,
  type Network,
  reduceSeconds,
  simulatedStep,
  trafficBytes,
  type Work,
} from "../../../model/train/scaling.ts";

const WORK: Work = {
  parameters: 7.1e6,
  microBatchSeconds: 0.15,
  variation: 0.3,
  updateSeconds: 0.01,
  bytesPerValue: 4,
  addSecondsPerValue: 5e-10,
};
const GIGABIT: Network = { bytesPerSecond: 118e6, latencySeconds: 5e-5, hostSecondsPerByte: 1e-9 };

function meanOfSimulations(work: Work, network: Network, ranks: number, microBatches: number): number {
  const rounds = 40;
  let seconds = 0;
  for (let i = 0; i < rounds; i++) {
    seconds += simulatedStep(work, network, ranks, microBatches, mixSeed(1000 * ranks + i));
  }
  return seconds / rounds;
}

Deno.test("the formula agrees with a simulation of every message", () => {
  const networks = [
    GIGABIT,
    { ...GIGABIT, bytesPerSecond: 1.18e9 },
    { ...GIGABIT, bytesPerSecond: 1.2e10, latencySeconds: 5e-6 },
  ];
  for (const network of networks) {
    for (const ranks of [1, 2, 4, 8, 16, 64]) {
      for (const each of [1, 4, 16]) {
        const expected = expectedStep(WORK, network, ranks, ranks * each).seconds;
        const simulated = meanOfSimulations(WORK, network, ranks, ranks * each);
        const off = Math.abs(simulated / expected - 1);
        assert(off < 0.08, `${ranks} ranks, ${each} micro-batches each: ${simulated} against ${expected} s`);
      }
    }
  }
});

Deno.test("without variation the formula is the simulation", () => {
  const work = { ...WORK, variation: 0 };
  for (const ranks of [1, 2, 8, 64]) {
    const expected = expectedStep(work, GIGABIT, ranks, 64).seconds;
    assert(Math.abs(simulatedStep(work, GIGABIT, ranks, 64, 1) / expected - 1) < 1e-9);
  }
});

Deno.test("traffic, speed-up and the micro-batches that keep ranks busy", () => {
  assert.equal(trafficBytes(100, 1), 0);
  assert.equal(trafficBytes(100, 2), 400);
  assert.equal(trafficBytes(100, 4, 2), 300);
  assert.equal(expectedStep(WORK, GIGABIT, 1, 16).speedup, 1);
  const fast = { ...GIGABIT, bytesPerSecond: 1e15, latencySeconds: 0, hostSecondsPerByte: 0 };
  const free = { ...WORK, variation: 0, updateSeconds: 0, addSecondsPerValue: 0 };
  assert(Math.abs(expectedStep(free, fast, 8, 16).speedup - 8) < 1e-3);
  const needed = microBatchesFor(WORK, GIGABIT, 8);
  assert(expectedStep(WORK, GIGABIT, 8, needed).waitingShare <= 0.1);
  assert(expectedStep(WORK, GIGABIT, 8, needed / 2).waitingShare > 0.1);
});

Deno.test("a network is known from two sums", () => {
  const network = { ...GIGABIT, hostSecondsPerByte: 0 };
  const few = { seconds: 3 * network.latencySeconds };
  const many = { values: 7.1e6, seconds: reduceSeconds(WORK, network, 8) };
  const measured = measuredNetwork(WORK, 8, few, many);
  assert(Math.abs(measured.bytesPerSecond / network.bytesPerSecond - 1) < 1e-6);
  assert(Math.abs(measured.latencySeconds / network.latencySeconds - 1) < 1e-6);
});
