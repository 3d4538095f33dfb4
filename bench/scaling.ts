/**
 * What many machines are worth, by the model of model/train/scaling.ts: the tables of docs/distributed.md.
 *
 *     deno run bench/scaling.ts
 */
import {
  expectedStep,
  microBatchesFor,
  type Network,
  trafficBytes,
  type Work,
} from "../model/train/scaling.ts";

/** TCP as measured on loopback, one rank a core; RDMA taken to cost what shared memory does. */
const NETWORKS: Record<string, Network> = {
  "1 Gbit/s": { bytesPerSecond: 0.94 * 125e6, latencySeconds: 50e-6, hostSecondsPerByte: 1.3e-9 },
  "10 Gbit/s": { bytesPerSecond: 0.94 * 1.25e9, latencySeconds: 25e-6, hostSecondsPerByte: 1.3e-9 },
  "100 Gbit/s, RDMA": { bytesPerSecond: 0.94 * 12.5e9, latencySeconds: 3e-6, hostSecondsPerByte: 0.25e-9 },
};

/** Two cores: see docs/log.md for the steps of the presets and for Adam; `add`, and the step of names, measured there. */
const UPDATE = 0.35e-9, ADD = 0.18e-9;

/** Multiply-adds twice, forward and backward, in chat-medium: 6 · 5.8 M weights of products · 1,197 tokens in 151 ms. */
const FLOPS = 275e9;

interface Model {
  parameters: number;
  /** seconds of a micro-batch on those two cores */
  seconds: number;
  /** once documents are dealt out, see model/train/dealing.ts; without that 0.17 and 0.28 for conversations */
  variation: number;
}

const MODELS: Record<string, Model> = {
  "names": { parameters: 116_736, seconds: 0.0035, variation: 0.02 },
  "chat-small": { parameters: 1_900_544, seconds: 0.066, variation: 0.02 },
  "chat-medium": { parameters: 7_077_888, seconds: 0.151, variation: 0.02 },
  "chat-large": { parameters: 17_694_720, seconds: 6 * 15.7e6 * 1_222 / FLOPS, variation: 0.02 },
  "135 M, 4,096 tokens": { parameters: 135e6, seconds: 6 * 135e6 * 4_096 / FLOPS, variation: 0 },
};

const RANKS = [2, 4, 8, 16, 32, 64];

/** @param faster how many times as fast as two cores a machine is; what memory decides speeds up less */
function table(faster: number, each: number): void {
  console.log(`| model | network | ${RANKS.join(" | ")} | busy 90 % of the time on 64 |`);
  console.log(`| --- | --- |${RANKS.map(() => " ---: |").join("")} ---: |`);
  for (const [name, model] of Object.entries(MODELS)) {
    for (const [wire, network] of Object.entries(NETWORKS)) {
      const work: Work = {
        parameters: model.parameters,
        microBatchSeconds: model.seconds / faster,
        variation: model.variation,
        updateSeconds: model.parameters * UPDATE / Math.sqrt(faster),
        bytesPerValue: 4,
        addSecondsPerValue: ADD / Math.sqrt(faster),
      };
      const worth = RANKS.map((ranks) => expectedStep(work, network, ranks, ranks * each).speedup.toFixed(1));
      const needed = microBatchesFor(work, network, 64) / 64;
      console.log(`| ${name} | ${wire} | ${worth.join(" | ")} | ${needed} a rank |`);
    }
  }
}

for (
  const [title, faster] of [["Two cores a machine", 1], ["A GPU a machine, 50 times as fast", 50]] as const
) {
  console.log(`\n### ${title}, four micro-batches a rank\n`);
  table(faster, 4);
}
console.log("\n| parameters | sent by a rank in a step, f32 | bf16 |\n| ---: | ---: | ---: |");
for (const { parameters } of Object.values(MODELS)) {
  const mb = (bytes: number) => `${(trafficBytes(parameters, 64, bytes) / 1e6).toFixed(1)} MB`;
  console.log(`| ${parameters.toLocaleString("en")} | ${mb(4)} | ${mb(2)} |`);
}
