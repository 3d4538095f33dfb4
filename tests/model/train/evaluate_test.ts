/** `eval`: the figures of a corpus are those of its documents, each computed alone; what cannot be measured is said. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { ownEncoder } from "../../../data/documents.ts";
import { CONTROL } from "../../../device/device.ts";
import { MicrogptError } from "../../../device/errors.ts";
import { ReferenceDevice } from "../../../device/reference_device.ts";
import { openTokenizer } from "../../../model/devices.ts";
import { networkOf } from "../../../model/networks.ts";
import { readBase } from "../../../model/train/base_model.ts";
import { type DocumentEvaluation, evaluate, type EvaluateOptions } from "../../../model/train/evaluate.ts";
import type { TrainOptions } from "../../../model/train/options.ts";
import { train } from "../../../model/train/train.ts";

const TEXTS = Array.from({ length: 30 }, (_, i) => `${"word ".repeat(i % 7)}and number ${i}`);
const SHAPE: TrainOptions = {
  nEmbd: 16,
  nHead: 2,
  nLayer: 1,
  vocabSize: 270,
  batchSize: 4,
  steps: 8,
  valFraction: 0,
  device: "cpu",
};

async function withModel(
  options: TrainOptions,
  use: (model: string, dir: string) => Promise<void>,
): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    const output = join(dir, "model");
    await Array.fromAsync(train({ ...SHAPE, ...options, output }));
    await use(output, dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

/** Losses of a document's targets, by a forward pass of it alone. */
async function lossesAlone(path: string, text: string): Promise<number[]> {
  const base = await readBase(path, false);
  const network = networkOf(base.config);
  const { ids } = await ownEncoder(await openTokenizer(base.tokenizerJson)).texts([text]);
  const d = new ReferenceDevice("f64");
  const flat = d.tensor("weights", 1, network.layout.length);
  d.write(flat, await base.readParameters());
  const T = ids.length - 1;
  const activations = network.allocateActivations(d, T);
  const batch = d.createBatch(T, 1);
  d.loadBatch(batch, {
    tokens: ids.subarray(0, T),
    targets: ids.subarray(1),
    starts: new Uint32Array([0, T]),
  });
  const control = d.tensor("control", 1, 4);
  const values = new Float32Array(4);
  values[CONTROL.lossScale] = 1;
  d.write(control, values);
  network.forward(d, network.views(d, flat), activations, batch, 1, control);
  return [...await d.read(activations.losses)];
}

for (const arch of ["gpt", "llama"] as const) {
  Deno.test(`eval of a ${arch}: each document's loss is that of the document alone, their sum is the corpus's`, async () => {
    await withModel({ documents: TEXTS, arch, blockSize: 64 }, async (model, dir) => {
      const input = join(dir, "texts.txt");
      await Deno.writeTextFile(input, TEXTS.join("\n"));
      for (const device of ["cpu", "reference"] as const) {
        const each: DocumentEvaluation[] = [];
        const all = await evaluate({
          modelDir: model,
          input: [input],
          device,
          onDocument: (one) => each.push(one),
        });
        assert.deepEqual(each.map(({ document }) => document), TEXTS.map((_, i) => i + 1));
        assert.equal(all.bytes, TEXTS.reduce((sum, text) => sum + text.length + 1, 0));
        for (const i of [0, 7, 29]) {
          const losses = await lossesAlone(model, TEXTS[i]!);
          const { tokens, loss } = each[i]!;
          assert.equal(tokens, losses.length);
          assert(Math.abs(loss - losses.reduce((sum, x) => sum + x) / tokens) < 1e-5);
        }
        const nats = each.reduce((sum, { loss, tokens }) => sum + loss * tokens, 0);
        assert(Math.abs(nats / all.tokens - all.loss) < 1e-9);
        assert(Math.abs(all.bitsPerByte - nats / Math.LN2 / all.bytes) < 1e-9);
        assert.equal(all.perplexity, Math.exp(all.loss));
      }
    });
  });
}

Deno.test("eval: documents longer than the window count whole; of conversations, answers alone if asked", async () => {
  const conversations = Array.from({ length: 6 }, (_, i) => [
    { role: "user" as const, content: `what is ${i}?` },
    { role: "assistant" as const, content: `it is ${i} and nothing else` },
  ]);
  await withModel({ conversations, blockSize: 16 }, async (model, dir) => {
    const input = join(dir, "chats.jsonl");
    await Deno.writeTextFile(input, conversations.map((turns) => JSON.stringify(turns)).join("\n"));
    const options: EvaluateOptions = { modelDir: model, input: [input], device: "cpu" };
    const [all, answers] = [await evaluate(options), await evaluate({ ...options, loss: "answers" })];
    assert.equal(all.mode, "chat");
    assert.equal(all.bytes, conversations.flat().reduce((sum, { content }) => sum + content.length, 0) + 6);
    assert.equal(answers.bytes, conversations.reduce((sum, turns) => sum + turns[1]!.content.length, 0));
    assert(answers.tokens < all.tokens);
    const text = join(dir, "text.txt");
    await Deno.writeTextFile(text, "what is 3?\nit is");
    const plain = await evaluate({ ...options, input: [text], format: "text" });
    assert.deepEqual([plain.mode, plain.bytes, plain.documents], ["text", 15 + 2, 2]);
    for (
      const [wrong, message] of [
        [{ blockSize: 17 }, /more than the model's context, 16/],
        [{ chat: false, loss: "answers" }, /needs conversations/],
        [{ modelDir: join(dir, "nothing") }, /nothing/],
        [{ input: [join(dir, "nothing.txt")] }, /nothing\.txt/],
      ] as const
    ) {
      await assert.rejects(
        evaluate({ ...options, ...wrong } as Parameters<typeof evaluate>[0]),
        (error) => error instanceof MicrogptError && message.test(error.message),
      );
    }
  });
});
