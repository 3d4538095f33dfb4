/** What ranks agree on, where MPI lies, and the tree of a step's gradients; all without MPI. See mpi_test.ts for the rest. */
import assert from "node:assert/strict";
import { ALONE, checkAgreement, type Group } from "../../../device/group.ts";
import { ReferenceDevice } from "../../../device/reference_device.ts";
import {
  checkMicroBatches,
  gradientBuffers,
  GradientSum,
  ownMicroBatches,
} from "../../../model/train/gradient_sum.ts";
import { checkAlone, checkSize, launcherOf, launchOf, libraryPaths } from "../../../native/launcher.ts";
import { gaussian } from "../../device/case_data.ts";

const N = 100;

/** Gradients of very different size, so that the order of additions shows. */
function microBatch(i: number): Float32Array {
  return gaussian(N, i).map((value, n) => value * 10 ** ((n + 3 * i) % 7 - 3));
}

/** The definition: halves of a power of two, largest first; floats are rounded after each addition. */
function tree(first: number, count: number): Float32Array {
  if (count === 1) return microBatch(first);
  const left = 2 ** Math.ceil(Math.log2(count) - 1);
  const [a, b] = [tree(first, left), tree(first + left, count - left)];
  return a.map((value, i) => value + b[i]!);
}

async function summed(first: number, count: number): Promise<Float32Array> {
  const device = new ReferenceDevice("f32");
  const buffers = Array.from({ length: gradientBuffers(count) }, () => device.tensor("gradients", 1, N));
  const sum = new GradientSum(device, buffers);
  let result = buffers[0]!;
  for (let round = 0; round < 2; round++) { // the second is not disturbed by the first
    for (let i = 0; i < count; i++) {
      device.write(buffers[sum.next]!, microBatch(first + i));
      sum.take();
    }
    result = sum.finish();
  }
  return await device.read(result) as Float32Array;
}

Deno.test("the gradients of any number of micro-batches are added in a tree", async () => {
  for (const count of [1, 2, 3, 4, 5, 6, 7, 8, 9, 16]) {
    assert.deepEqual(await summed(0, count), tree(0, count), `${count} micro-batches`);
  }
  const sequential = Array.from({ length: 7 }, (_, i) => microBatch(i + 1))
    .reduce((sum, batch) => sum.map((value, i) => value + batch[i]!), microBatch(0));
  assert.notDeepEqual(sequential, tree(0, 8)); // or the test would show nothing
});

Deno.test("a tree over the shares of ranks is the tree of one process", async () => {
  for (const size of [1, 2, 4, 8]) {
    let sums = await Promise.all(Array.from({ length: size }, (_, rank) => {
      const { first, count } = ownMicroBatches({ rank, size }, 8);
      return summed(first, count);
    }));
    while (sums.length > 1) {
      sums = sums.filter((_, i) => i % 2 === 0)
        .map((a, i) => a.map((value, n) => value + sums[2 * i + 1]![n]!));
    }
    assert.deepEqual(sums[0], tree(0, 8), `${size} ranks`);
  }
});

Deno.test("micro-batches that ranks cannot share are refused", () => {
  for (const [size, count] of [[1, 3], [2, 2], [2, 8], [8, 8]]) checkMicroBatches({ size: size! }, count!);
  assert.throws(() => checkMicroBatches({ size: 4 }, 1), /`gradAccum` is 1 .* 4 processes .* 4, 8, 16/);
  assert.throws(() => checkMicroBatches({ size: 2 }, 6), { hint: /set `gradAccum` to 8/ });
});

/** Rank `rank` of two, beside a rank 0 with other facts. */
function beside(rank0: Record<string, string>, rank: number): Group {
  const bytes = new TextEncoder().encode(JSON.stringify(Object.entries(rank0)));
  return { ...ALONE, rank, size: 2, broadcast: () => bytes };
}

Deno.test("a rank that differs is named, with what differs there", () => {
  const facts = { "training data": "a", tokenizer: "b" };
  checkAgreement(ALONE, facts);
  checkAgreement(beside(facts, 1), facts);
  assert.throws(
    () => checkAgreement(beside(facts, 1), { ...facts, tokenizer: "c" }),
    /rank 1 differs from rank 0 in its tokenizer$/,
  );
  assert.throws(
    () => checkAgreement(beside({ weights: "1" }, 3), { weights: "2" }, "after step 400"),
    /rank 3 differs from rank 0 in its weights after step 400/,
  );
});

const env = (variables: Record<string, string>) => (name: string) => variables[name];

Deno.test("launchers are known by their variables", () => {
  assert.equal(launchOf(env({})), undefined);
  assert.equal(launchOf(env({ SLURM_NTASKS: "4" })), undefined); // a batch script, not a step
  assert.equal(launchOf(env({ OMPI_COMM_WORLD_SIZE: "x" })), undefined);
  assert.equal(launchOf(env({ SLURM_STEP_NUM_TASKS: "4" }))?.size, 4);
  const inSlurm = env({ SLURM_STEP_NUM_TASKS: "2", OMPI_COMM_WORLD_SIZE: "16" });
  assert.deepEqual(launchOf(inSlurm), { size: 16, variable: "OMPI_COMM_WORLD_SIZE", family: "Open MPI" });
  assert.equal(launcherOf(inSlurm, 16), "mpirun -n 16 ");
  assert.equal(launcherOf(env({ SLURM_STEP_NUM_TASKS: "4" }), 4), "srun -n 4 ");
  assert.equal(launcherOf(env({ SLURM_STEP_NUM_TASKS: "4", PMIX_RANK: "1" }), 4), "srun --mpi=pmix -n 4 ");
});

Deno.test("several processes never train alone, each for itself", () => {
  checkAlone(undefined);
  checkAlone(launchOf(env({ PMI_SIZE: "1" })));
  const launch = launchOf(env({ PMI_SIZE: "4" }));
  assert.throws(() => checkAlone(launch), { message: /4 processes.*PMI_SIZE/, hint: /`distributed` mpi/ });
  checkSize(launch, 4, "MPICH");
  assert.throws(() => checkSize(launch, 1, "Open MPI v5 (libmpi.so.40)"), {
    message: /PMI_SIZE says that 4 .* Open MPI v5 \(libmpi.so.40\) counts 1/,
    hint: /MICROGPT_MPI/,
  });
  assert.throws(() => checkSize(undefined, 1, "MPICH"), /no launcher/);
  checkSize(undefined, 2, "MPICH"); // a launcher that is not known
  assert.throws(() => checkSize(launchOf(env({ PMI_SIZE: "6" })), 6, "MPICH"), { hint: "start 4 or 8" });
});

Deno.test("the library is looked for beside the launcher, then by its names", () => {
  const there = (path: string) => path === "/opt/mpi/bin/../lib/libmpi.so.40";
  const paths = (os: typeof Deno.build.os, variables: Record<string, string>) =>
    libraryPaths(os, env(variables), ["/opt/mpi/bin"], there);
  assert.deepEqual(paths("linux", { MICROGPT_MPI: "/x.so", PMI_SIZE: "2" }), ["/x.so"]);
  assert.deepEqual(paths("linux", { OMPI_COMM_WORLD_SIZE: "2" }), [
    "/opt/mpi/bin/../lib/libmpi.so.40",
    "libmpi.so.40",
    "libmpi.so",
  ]);
  // srun starts both kinds: with PMI 2 it sets PMI_SIZE, with PMIx this
  const srun = paths("linux", { SLURM_STEP_NUM_TASKS: "2", PMIX_RANK: "0" });
  assert.deepEqual([srun[0], srun.at(-1)], ["/opt/mpi/bin/../lib/libmpi.so.40", "libmpich.so.12"]);
  assert.equal(paths("linux", { PMI_SIZE: "2" }).includes("libmpich.so.12"), true);
  assert.deepEqual(paths("windows", {}), ["msmpi.dll", "impi.dll"]);
});
