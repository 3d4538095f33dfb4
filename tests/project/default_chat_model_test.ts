import assert from "node:assert/strict";
import { loadModel } from "../../model/generate/language_model.ts";
import { makeChatModel } from "../../scripts/default_chat_model.ts";
import { withDirectory } from "../model/files/checkpoint_fixture.ts";
import { writeTiny } from "../model/files/tiny_llama.ts";

const SETTINGS = {
  steps: 6,
  nEmbd: 16,
  nHead: 2,
  nLayer: 1,
  blockSize: 64,
  vocabSize: 280,
  batchSize: 4,
  evalEvery: 3,
};

Deno.test("the default chat model is made from conversations, with its card", async () => {
  await withDirectory(async (directory) => {
    const chats = Array.from({ length: 40 }, (_, i) =>
      JSON.stringify([
        { role: "user", content: `what is ${i} plus ${i}` },
        { role: "assistant", content: `it is ${2 * i}` },
      ]));
    const input = `${directory}/chats.jsonl`;
    await Deno.writeTextFile(input, chats.join("\n"));
    const output = `${directory}/default-chat-model`;
    const source = { description: "Sums that nobody asked for", licence: "CC0-1.0" };
    const progress: string[] = [];
    await makeChatModel({
      input,
      output,
      settings: SETTINGS,
      source,
      onProgress: (line) => progress.push(line),
    });

    const steps = progress.map((line) => line.split(":")[0]).filter((line) => line!.startsWith("step"));
    assert.deepEqual(steps, ["step 3 / 6", "step 6 / 6"]);
    const card = await Deno.readTextFile(`${output}/README.md`);
    assert.match(card, /^---\nlicense: cc0-1\.0\n/);
    assert.match(card, /Sums that nobody asked for: 38 conversations\. Licence of the data: CC0-1\.0/);
    assert.match(card, /\| steps, batch \| 6, 4 conversations \|/);
    assert.match(
      card,
      /held out: \d+\.\d+ nats per token, \d+\.\d+ bits per byte after step [36], on 2 conversations/,
    );
    assert.doesNotMatch(card, /NaN|undefined/);
    assert.equal(card.match(/^> \*\*/gmu)!.length, 10);

    using model = await loadModel(output, { device: "reference" });
    assert.ok(model.chat);

    const again = `${directory}/again`;
    await Deno.rename(`${output}.training`, `${again}.training`);
    await makeChatModel({
      input,
      output: again,
      source,
      onProgress: () => assert.fail("it was trained already"),
    });
    assert.equal(await Deno.readTextFile(`${again}/README.md`), card);
  });
});

Deno.test("the default chat model is fine-tuned from a model of others, as GGUF in q8_0", async () => {
  await withDirectory(async (directory) => {
    const base = `${directory}/base`;
    await Deno.mkdir(base);
    await writeTiny(base);
    const chats = Array.from({ length: 40 }, (_, i) =>
      JSON.stringify([
        { role: "user", content: `what is ${i} plus ${i}` },
        { role: "assistant", content: `it is ${2 * i}` },
      ]));
    const input = `${directory}/chats.jsonl`;
    await Deno.writeTextFile(input, chats.join("\n"));
    const output = `${directory}/default-chat-model`;
    await makeChatModel({
      input,
      output,
      start: { from: base, name: "somebody/tiny", licence: "MIT" },
      settings: {
        steps: 4,
        evalEvery: 2,
        batchSize: 4,
        blockSize: 32,
        learningRate: 0.01,
        valFraction: 0.05,
      },
    });
    const card = await Deno.readTextFile(`${output}/README.md`);
    assert.match(card, /^---\nlicense: mit\n[^]*base_model: somebody\/tiny\n---\n/);
    assert.match(card, /held out, before: \d+\.\d+ nats per token, \d+\.\d+ bits per byte after step 0\n/);
    assert.match(
      card,
      /held out: \d+\.\d+ nats per token, \d+\.\d+ bits per byte after step [24], on 2 conv/,
    );
    assert.doesNotMatch(card, /NaN|undefined/);
    assert.equal(card.match(/^> \*\*/gmu)!.length, 10);
    using model = await loadModel(`${output}/model.gguf`, { device: "reference" });
    assert.ok(model.chat);
  });
});
