/** A gpt in transformers: its export has code of its own, and the same logits, loss and tokens as here. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describeModel, exportModel, loadModel, train } from "../../../mod.ts";
import { MicrogptError } from "../../../device/errors.ts";
import { openDevice } from "../../../model/devices.ts";
import { assertClose } from "../../device/assert_close.ts";
import { inDirectory } from "../files/tiny_llama.ts";
import { pythonTest, runPython } from "../python.ts";
import { RunningModel } from "../running_model.ts";

const TEXT = "emma\nolivia";
const COUNT = 16;
const NAMES = new URL("../../../data/samples/names.txt", import.meta.url);
const FILES = [
  "config.json",
  "configuration_microgpt.py",
  "generation_config.json",
  "model.safetensors",
  "modeling_microgpt.py",
  "tokenizer.json",
  "tokenizer_config.json",
];

async function trained(output: string): Promise<void> {
  const documents = (await Deno.readTextFile(NAMES)).split("\n").slice(0, 500);
  const shape = { nEmbd: 32, nHead: 4, nLayer: 2, blockSize: 48, vocabSize: 300 };
  const options = { documents, output, steps: 60, learningRate: 0.02, device: "cpu", ...shape } as const;
  for await (const _ of train(options));
}

async function namesIn(dir: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(dir), ({ name }) => name)).sort();
}

await pythonTest(
  "a gpt has the same logits, loss and greedy tokens in transformers",
  ["torch", "transformers"],
  () =>
    inDirectory(async (dir) => {
      const [output, to] = [join(dir, "own"), join(dir, "hf")];
      await trained(output);
      const { file } = await exportModel(output, to, { format: "hf" });
      assert.equal(file, join(to, "model.safetensors"));
      const theirs = JSON.parse(await runPython("run_gpt_directory.py", [to, TEXT, String(COUNT)]));

      const device = await openDevice({ device: "cpu", threads: 1 });
      const running = await RunningModel.read(device, output, 48);
      const ids: number[] = theirs.ids;
      const logits = await running.logits(ids);
      const greedy = (await running.greedy(ids, COUNT)).map(({ token }) => token);
      device.destroy();
      const vocabulary = logits.length / ids.length;
      let loss = 0;
      ids.forEach((_, i) => {
        const row = logits.subarray(i * vocabulary, (i + 1) * vocabulary);
        assertClose(row, theirs.logits[i], 1e-4, `logits after token ${i}`);
        const next = ids[i + 1];
        if (next !== undefined) {
          loss += Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0)) - row[next]!;
        }
      });
      assert(
        Math.abs(loss / (ids.length - 1) - theirs.loss) < 1e-4,
        `${loss / (ids.length - 1)} ${theirs.loss}`,
      );
      assert.deepEqual(theirs.greedy, greedy);
      assert.deepEqual(theirs.without_cache, greedy);
      assert.deepEqual(theirs.padded, greedy);
    }),
);

Deno.test("an export of a gpt for transformers is whole, and replaced", () =>
  inDirectory(async (dir) => {
    const [output, to] = [join(dir, "own"), join(dir, "hf")];
    await trained(output);
    await exportModel(output, to, { format: "hf" });
    assert.deepEqual((await describeModel(output)).formats, ["safetensors", "hf", "onnx"]);
    assert.deepEqual(await namesIn(to), FILES);
    await exportModel(output, to, { format: "hf", type: "bf16" });
    assert.deepEqual(await namesIn(to), FILES);
    const refused = async (run: () => Promise<unknown>) => {
      const error = await run().then(() => undefined, (error) => error);
      assert(error instanceof MicrogptError, String(error));
      return error;
    };
    assert.match(
      (await refused(() => exportModel(output, to, { format: "hf", type: "q8_0" }))).message,
      /q8_0/,
    );
    await Deno.writeTextFile(join(to, "modeling_microgpt.py"), '"""changed by hand"""\n');
    assert.match(
      (await refused(() => exportModel(output, to, { format: "hf" }))).message,
      /holds modeling_microgpt\.py, which microgpt did not write/,
    );
  }));

Deno.test("an export of a gpt for transformers comes back as the model that it was made from", () =>
  inDirectory(async (dir) => {
    const [output, to] = [join(dir, "own"), join(dir, "hf")];
    await trained(output);
    await exportModel(output, to, { format: "hf" });
    const [own, back] = [await describeModel(output), await describeModel(to)];
    assert.deepEqual([back.source, back.formats], ["huggingface", own.formats]);
    const texts = await Promise.all([output, to].map(async (path) => {
      using model = await loadModel(path, { device: "cpu" });
      return await model.samples({ numSamples: 3, seed: 5, maxTokens: 20 });
    }));
    assert.deepEqual(texts[1], texts[0]);
    const again = join(dir, "again");
    await exportModel(to, again, { format: "hf" });
    for (const name of FILES) {
      assert.deepEqual(await Deno.readFile(join(again, name)), await Deno.readFile(join(to, name)), name);
    }
    await exportModel(to, join(dir, "inference"), { format: "safetensors" });
    assert.deepEqual(
      JSON.parse(await Deno.readTextFile(join(dir, "inference/tokenizer.json"))),
      JSON.parse(await Deno.readTextFile(join(output, "tokenizer.json"))),
    );
    const documents = ["anna", "bob", "carla"];
    const events = await Array.fromAsync(
      train({ documents, from: to, steps: 1, output: join(dir, "tuned"), device: "cpu" }),
    );
    assert.equal(events.at(-1)!.type, "end");
  }));
