/** Real ranks under every MPI launcher that is installed: Debian's openmpi-bin and mpich, or what MICROGPT_MPIRUN names. */
import assert from "node:assert/strict";
import { launch, LAUNCHERS, mpiTest, notTwoMachines, onTwoMachines } from "./mpi_launch.ts";

mpiTest(
  "1, 2, 4 and 8 ranks sum to the same bits, on the CPU device and by reading and writing",
  async (launcher) => {
    const digests = [];
    for (const ranks of [1, 2, 4, 8]) {
      const { code, text, errors } = await launch(launcher, ranks, "sums");
      assert.equal(code, 0, `${text}\n${errors}`);
      digests.push(text);
    }
    assert.deepEqual(digests, Array(4).fill(digests[0]));
  },
);

mpiTest("another version of MPI sums to the same bits, and ends when a rank dies", async (launcher) => {
  const [one, two] = [await launch(launcher, 1, "trains"), await launch(launcher, 2, "trains")];
  assert.equal(two.code, 0, `${two.text}\n${two.errors}`);
  assert.equal(two.text, one.text);
  assert.notEqual((await launch(launcher, 2, "killed")).code, 0);
}, { everywhere: true });

mpiTest("weights that differ are noticed, and the rank is named", async (launcher) => {
  const { code, text } = await launch(launcher, 2, "diverges");
  assert.notEqual(code, 0);
  assert.match(
    text,
    /error: rank 1 differs from rank 0 in its weights after step 100 \| its processor or memory/,
  );
});

mpiTest("evaluations are shared", async (launcher) => {
  const { text, errors } = await launch(launcher, 2, "evaluates");
  const [own, all, loss, alone] = JSON.parse(text);
  assert.deepEqual([own, all], [3, 5], errors); // of five batches rank 0 measures three
  assert.equal(loss, alone);
});

mpiTest("sums that travel while other gradients are computed leave the same bits", async (launcher) => {
  const digests = [];
  for (const ranks of [1, 2, 4]) {
    const { code, text, errors } = await launch(launcher, ranks, "trains");
    assert.equal(code, 0, `${text}\n${errors}`);
    digests.push(text);
  }
  assert.deepEqual(digests, Array(3).fill(digests[0]));
});

mpiTest("two machines sum to the same bits over TCP, and end when a rank dies", async (launcher) => {
  const [one, two] = [await launch(launcher, 1, "trains"), onTwoMachines(launcher)];
  const { code, text, errors } = await launch(two, 2, "trains");
  assert.equal(code, 0, `${text}\n${errors}`);
  assert.equal(text, one.text);
  const killed = await launch(two, 2, "killed");
  assert.notEqual(killed.code, 0);
  assert(killed.seconds < 30, `${killed.seconds} s`);
}, { everywhere: true, skipped: await notTwoMachines() });

mpiTest("a machine that falls silent ends the job within a minute", async (launcher) => {
  const { code, text, errors, seconds } = await launch(onTwoMachines(launcher), 2, "silent");
  assert.notEqual(code, 0, `${text}\n${errors}`);
  assert(seconds < 50, `${seconds} s: the test's time limit ended it`);
  assert(!text.includes("nobody"), text);
  if (launcher.family === "MPICH") assert.match(errors, /error: rank 0 of 2: 10\.77\.0\.2 does not answer/);
}, { skipped: await notTwoMachines() });

mpiTest("totals, maxima and bytes", async (launcher) => {
  const { text, errors } = await launch(launcher, 2, "small");
  assert.equal(text, JSON.stringify([[1, 2 ** 41], [1, -1], "from rank 0", 0]), errors);
});

mpiTest("a sum of many messages is complete", async (launcher) => {
  const { text, errors } = await launch(launcher, 2, "large");
  assert.equal(text, "[5000011,0]", errors);
});

mpiTest("sums travel as bf16", async (launcher) => {
  const { text, errors } = await launch(launcher, 2, "bf16");
  assert.equal(text, "[0,3,6,9,380]", errors); // 3 · 127 = 381 has nine digits: bf16 keeps eight
});

mpiTest("a rank with other data ends all with an error that names it", async (launcher) => {
  const { code, text } = await launch(launcher, 2, "differs");
  assert.notEqual(code, 0);
  const message = "error: rank 1 differs from rank 0 in its training data | start every process with";
  assert.equal(text.split(message).length, 3, text); // told by both
});

mpiTest("a rank that is killed ends the job within seconds", async (launcher) => {
  const { code, text, seconds } = await launch(launcher, 2, "killed");
  assert.notEqual(code, 0);
  assert(!text.includes("nobody"), text);
  assert(seconds < 30, `${seconds} s`);
});

mpiTest("an error on one rank ends the others", async (launcher) => {
  // a launcher that ends a job may lose what was said last: it is asked again
  let text = "";
  for (let tries = 0; tries < 3 && !text.includes("no memory"); tries++) {
    const result = await launch(launcher, 2, "fails");
    assert.notEqual(result.code, 0);
    text = result.text;
  }
  assert.match(text, /error: no memory on rank 1/);
  assert(!text.includes("nobody"), text);
});

mpiTest("a library that is not there is named", async (launcher) => {
  const { code, text } = await launch(launcher, 1, "small", { MICROGPT_MPI: "/nowhere/libmpi.so" });
  assert.notEqual(code, 0);
  assert.match(text, /tried \/nowhere\/libmpi.so \(not found\) \| MICROGPT_MPI is to be the path/);
});

const [openMpi, mpich] = ["Open MPI", "MPICH"].map((family) =>
  LAUNCHERS.find((one) => one.family === family)
);

/** Both of Debian's libraries; others are found beside their launchers only. */
const libraries = { openMpi: "libmpi.so.40", mpich: "libmpich.so.12" };

Deno.test({
  name: `processes that would each be rank 0 of 1 are refused${
    openMpi && mpich ? "" : " (skipped: needs Open MPI and MPICH)"
  }`,
  ignore: !openMpi || !mpich,
  async fn() {
    for (const [launcher, library] of [[openMpi!, libraries.mpich], [mpich!, libraries.openMpi]] as const) {
      const { code, text } = await launch(launcher, 2, "sums", { MICROGPT_MPI: library });
      assert.notEqual(code, 0);
      assert.match(text, /_SIZE says that 2 processes were started, .* counts 1: launcher and library/, text);
    }
  },
});
