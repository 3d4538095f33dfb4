/** A Llama that was trained here is the same in transformers, which reads its directory, and in MLX, which reads an export. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { exportModel, train } from "../../mod.ts";
import { openDevice } from "../../model/devices.ts";
import { assertClose } from "../device/assert_close.ts";
import { inDirectory } from "./files/tiny_llama.ts";
import { pythonTest, runPython } from "./python.ts";
import { largest, RunningModel } from "./running_model.ts";

const TEXT = "emma\nolivia";
const NAMES = new URL("../../data/samples/names.txt", import.meta.url);

/** What tests/model/run_hf_directory.py prints. */
interface Run {
  ids: number[];
  logits: number[][];
  greedy: number[];
}

/** Trains for some steps, exports, and gives to `compare` what the other program and we make of the text. */
async function afterTraining(
  runtime: "transformers" | "mlx",
  compare: (theirs: Run, ours: Float32Array[]) => void,
): Promise<void> {
  await inDirectory(async (dir) => {
    const shape = { arch: "llama", nEmbd: 32, nHead: 4, nKvHead: 2, nLayer: 2, blockSize: 64 } as const;
    const documents = (await Deno.readTextFile(NAMES)).split("\n").slice(0, 500);
    const output = join(dir, "own");
    const options = {
      ...shape,
      tie: true,
      vocabSize: 300,
      steps: 60,
      learningRate: 0.02,
      device: "cpu",
    } as const;
    for await (const _ of train({ documents, output, ...options }));
    const exported = join(dir, "hf");
    await exportModel(output, exported, { format: "hf" });
    const read = runtime === "transformers" ? output : exported;
    const theirs: Run = JSON.parse(await runPython("run_hf_directory.py", [runtime, read, TEXT, "20"]));

    const device = await openDevice({ device: "cpu", threads: 1 });
    const running = await RunningModel.read(device, output, 64);
    const logits = await running.logits(theirs.ids);
    const greedy = await running.greedy(theirs.ids, 20);
    device.destroy();
    assert.deepEqual(theirs.greedy, greedy.map(({ token }) => token));
    const vocabulary = logits.length / theirs.ids.length;
    compare(theirs, theirs.ids.map((_, i) => logits.subarray(i * vocabulary, (i + 1) * vocabulary)));
  });
}

await pythonTest(
  "a Llama trained here has the same logits and greedy tokens in transformers",
  ["torch", "transformers"],
  () =>
    afterTraining("transformers", ({ logits }, ours) => {
      logits.forEach((row, i) => assertClose(ours[i]!, row, 1e-4, `logits after token ${i}`));
    }),
);

await pythonTest(
  "a Llama trained here has the same five most probable tokens and greedy tokens in MLX",
  ["mlx.core", "mlx_lm"],
  () =>
    afterTraining("mlx", ({ logits }, ours) => {
      logits.forEach((row, i) => {
        const [a, b] = [topFive(ours[i]!), topFive(row)];
        assert.deepEqual(a.map(({ token }) => token), b.map(({ token }) => token), `after token ${i}`);
        assertClose(a.map(({ p }) => p), b.map(({ p }) => p), 1e-5, `probabilities after token ${i}`);
      });
    }),
);

function topFive(logits: ArrayLike<number>): { token: number; p: number }[] {
  const most = logits[largest(logits)]!;
  const weights = Array.from(logits, (logit) => Math.exp(logit - most));
  const total = weights.reduce((sum, weight) => sum + weight);
  return weights.map((weight, token) => ({ token, p: weight / total })).sort((a, b) => b.p - a.p).slice(0, 5);
}
