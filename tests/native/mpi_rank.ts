/** One rank of what mpi_test.ts starts under mpirun: `deno run -A mpi_rank.ts WHAT`. Rank 0 prints. */
import { createHash } from "node:crypto";
import { openDevice } from "../../model/devices.ts";
import { ALONE, checkAgreement, leaveAfter } from "../../device/group.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { Device } from "../../device/device.ts";
import {
  gradientBuffers,
  GradientSum,
  ownMicroBatches,
  sumOverRanks,
} from "../../model/train/gradient_sum.ts";
import type { ModelConfig } from "../../model/config.ts";
import { networkOf } from "../../model/networks.ts";
import { emptyState } from "../../model/optimizer_state.ts";
import { DEFAULTS } from "../../model/settings.ts";
import { digestOfArrays, Ranks } from "../../model/train/ranks.ts";
import { type Recipe, Trainer, type TrainingData } from "../../model/train/trainer.ts";
import { type MpiGroup, openMpiGroup } from "../../native/mpi.ts";
import { gaussian } from "../device/case_data.ts";

/** Not multiples of anything. */
const LENGTHS = [1, 1003, 600_001];

/** Digests of the sums of eight micro-batches, which do not depend on the number of ranks. */
async function treeDigests(group: MpiGroup, device: Device): Promise<string[]> {
  const { first, count } = ownMicroBatches(group, 8);
  const digests = [];
  for (const length of LENGTHS) {
    const buffers = Array.from(
      { length: gradientBuffers(count) },
      () => device.tensor("gradients", 1, length),
    );
    const sum = new GradientSum(device, buffers);
    for (let i = first; i < first + count; i++) {
      const scale = (n: number) => 10 ** ((n + 3 * i) % 7 - 3);
      const noise = gaussian(1003, i);
      device.write(buffers[sum.next]!, Float32Array.from({ length }, (_, n) => noise[n % 1003]! * scale(n)));
      sum.take();
    }
    const total = sum.finish();
    await sumOverRanks(group, device, total);
    const digest = createHash("sha256").update(await device.read(total)).digest("hex").slice(0, 16);
    checkAgreement(group, { gradients: digest });
    digests.push(digest);
  }
  return digests;
}

/** A trainer whose batches are short; how many it loads is counted. */
async function trainerOf(
  ranks: Ranks,
  config: ModelConfig,
  recipe: Pick<Recipe, "totalSteps" | "gradAccum">,
  seed = 1,
) {
  const device = await openDevice({ device: "cpu", threads: 1 });
  const { layout, initialParameters } = networkOf(config);
  const vocabulary = config.vocab_size;
  const batch = (number: number) => {
    const length = 8 + number % 8;
    const tokens = Uint32Array.from({ length }, (_, i) => (i * 37 + number * 101) % vocabulary);
    return {
      tokens,
      targets: tokens.map((id) => (id + 1) % vocabulary),
      starts: Uint32Array.of(0, 5, length),
    };
  };
  const data: TrainingData = {
    maxTokens: 24,
    maxDocuments: 2,
    batch,
    validation: () => [20, 21, 22, 23, 24].map(batch),
    validationBytes: 50,
  };
  const rest = { ...DEFAULTS, warmupSteps: 0, evalEvery: 0 };
  const trainer = new Trainer(device, config, data, { ...rest, ...recipe }, false, ranks);
  const state = { step: 0, adamStep: 0, params: initialParameters(seed), optimizer: emptyState(layout) };
  trainer.load(state);
  const run = async () => {
    for await (
      const event of trainer.run(recipe.totalSteps, { lastGood: () => Promise.resolve(state) })
    ) {
      if (event.type !== "step" || !event.applied) throw new Error(JSON.stringify(event));
    }
  };
  return { device, trainer, run };
}

const TINY = { vocab_size: 50, n_embd: 8, n_head: 2, n_layer: 1, block_size: 16 };

/** The weights after two steps of a network whose gradients travel in several parts: a head of 4 MB, layers of 3 MB. */
async function trainedDigest(group: MpiGroup): Promise<string> {
  const config = { vocab_size: 4096, n_embd: 256, n_head: 4, n_layer: 3, block_size: 16 };
  const recipe = { totalSteps: 2, gradAccum: 8 };
  const { device, trainer, run } = await trainerOf(new Ranks(group, "test", {}), config, recipe);
  await run();
  const { params, optimizer } = await trainer.snapshot();
  device.destroy();
  return digestOfArrays([params, ...Object.values(optimizer)]);
}

const programs: Record<string, (group: MpiGroup) => unknown> = {
  async sums(group) {
    const [cpu, reference] = [
      await openDevice({ device: "cpu", threads: 1 }),
      await openDevice({ device: "reference" }),
    ];
    const digests = await treeDigests(group, cpu);
    checkAgreement(group, { digests: (await treeDigests(group, reference)).join() });
    return digests;
  },
  trains: trainedDigest,
  async diverges(group) {
    const recipe = { totalSteps: 120, gradAccum: 2 };
    const { run } = await trainerOf(new Ranks(group, "test", {}), TINY, recipe, group.rank + 1);
    await run();
    return "nobody noticed";
  },
  async evaluates(group) {
    const shared = await trainerOf(new Ranks(group, "test", {}), TINY, { totalSteps: 1, gradAccum: 2 });
    let own = 0;
    const load = shared.device.loadBatch.bind(shared.device);
    shared.device.loadBatch = (...batch) => {
      own++;
      load(...batch);
    };
    const { loss } = (await shared.trainer.evaluate())!;
    const alone = await trainerOf(new Ranks(ALONE, "test", {}), TINY, { totalSteps: 1, gradAccum: 2 });
    const [all] = group.total([own]);
    return [own, all, loss, (await alone.trainer.evaluate())!.loss];
  },
  bf16(group) {
    const values = Float32Array.from({ length: 700_000 }, (_, i) => (group.rank + 1) * (i % 128));
    group.sum(values);
    checkAgreement(group, { values: createHash("sha256").update(values).digest("hex") });
    return [...values.subarray(0, 4), values[127]];
  },
  large(group) {
    const values = new Float32Array(5_000_011).fill(group.rank + 1); // halves of several messages
    group.sum(values);
    return [values.length, values.filter((value) => value !== 3).length];
  },
  small(group) {
    const bytes = group.broadcast(new TextEncoder().encode(group.rank === 0 ? "from rank 0" : "mine"));
    group.barrier();
    return [
      group.total([group.rank, 2 ** 40]),
      group.max([group.rank, -1]),
      new TextDecoder().decode(bytes),
      group.broadcast(new Uint8Array()).length,
    ];
  },
  differs(group) {
    checkAgreement(group, { "version": "1", "training data": String(group.rank) });
  },
  killed(group) {
    if (group.rank === 1) Deno.kill(Deno.pid, "SIGKILL");
    group.sum(new Float32Array(1000));
    return "nobody died";
  },
  silent(group) {
    for (let i = 0; i < 5; i++) group.sum(new Float32Array(1000)); // now the connections are known
    if (group.rank === 1) {
      // as if its cable were pulled: the other machine hears nothing, not even that a connection was closed
      const { success } = new Deno.Command("ip", { args: ["link", "set", "wire-2", "down"] }).outputSync();
      if (!success) throw new MicrogptError("the cable cannot be pulled");
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 30_000);
    }
    group.sum(new Float32Array(1000));
    return "nobody fell silent";
  },
  fails(group) {
    if (group.rank === 1) throw new MicrogptError("no memory on rank 1");
    group.sum(new Float32Array(1000));
    return "nobody failed";
  },
};

let group: MpiGroup | undefined;
try {
  const what = Deno.args[0]!;
  group = openMpiGroup(what === "bf16" ? "bf16" : "f32");
  const result = await programs[what]!(group);
  if (group.rank === 0) console.log(JSON.stringify(result));
  group.close();
} catch (error) {
  const message = error instanceof MicrogptError ? `${error.message} | ${error.hint}` : String(error);
  console.log(`error: ${message}`);
  if (group) leaveAfter(error, group, 3);
  Deno.exit(1);
}
