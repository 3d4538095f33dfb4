/** The page in Chromium, without a GPU: conversations, models of others, and exports as the browser stores them. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { unzipSync, zipSync } from "npm:fflate@0.8.3";
import { exportModel, loadModel, OnnxModel, train, type TrainOptions, writeDirectory } from "../../mod.ts";
import { buildSite, serveFolder } from "../../scripts/web.ts";
import { Chromium, chromiumTest } from "./chromium.ts";
import { chooseFile, downloaded, dropFile, press, pressKept, ready, says, text } from "./driven_page.ts";

const ANSWERS = { hi: "hello you", bye: "see you", "1 2": "3 4" };

/** 300 conversations of two exchanges. */
const CHATS = Array.from({ length: 300 }, (_, i) => {
  const all = Object.entries(ANSWERS);
  const said = [all[i % 3]!, all[(i + 1 + i % 2) % 3]!];
  const messages = said.flatMap(([user, assistant]) => [
    { role: "user", content: user },
    { role: "assistant", content: assistant },
  ]);
  return JSON.stringify({ messages });
}).join("\n");

/** A tiny Llama, trained here. @returns its directory */
async function tinyLlama(options: TrainOptions): Promise<string> {
  const output = join(await Deno.makeTempDir(), "llama");
  const shape = { arch: "llama", nEmbd: 32, nHead: 2, nLayer: 1, blockSize: 32, vocabSize: 300 } as const;
  for await (const _ of train({ ...options, ...shape, steps: 30, device: "reference", output }));
  return output;
}

async function filesIn(dir: string): Promise<Record<string, Uint8Array<ArrayBuffer>>> {
  const files: Record<string, Uint8Array<ArrayBuffer>> = {};
  for await (const { name, isFile } of Deno.readDir(dir)) {
    if (isFile && !name.startsWith(".")) files[name] = await Deno.readFile(join(dir, name));
  }
  return files;
}

/** The files of a .zip in a directory of its own. */
async function unpacked(zip: Uint8Array): Promise<string> {
  const dir = await Deno.makeTempDir();
  const entries = Object.entries(unzipSync(zip)).map(([name, bytes]) =>
    [name, new Blob([new Uint8Array(bytes)])] as const
  );
  await writeDirectory(dir, Object.fromEntries(entries));
  return dir;
}

chromiumTest("the page: conversations, and models from elsewhere", async (t) => {
  const server = serveFolder(await buildSite(await Deno.makeTempDir()), 0);
  await using chromium = await Chromium.start({ webgpu: false });
  const problems: string[] = [];
  const page = await chromium.open(`http://127.0.0.1:${server.addr.port}/`, problems);
  const turns = () =>
    page.evaluate("[...document.querySelectorAll('#turns .turn')].map((e) => e.textContent)") as Promise<
      string[]
    >;
  const say = async (content: string) => {
    const before = (await turns()).length;
    await page.evaluate(`document.getElementById("say").value = ${JSON.stringify(content)}`);
    await press(page, "send");
    await page.waitForFunction(
      `document.querySelectorAll("#turns .turn").length === ${
        before + 2
      } && !document.getElementById("send").disabled`,
      { timeout: 60_000 },
    );
    return (await turns()).at(-1)!;
  };
  const written = async () => {
    await page.evaluate("document.getElementById('written').replaceChildren()");
    await page.evaluate("document.getElementById('temperature').value = 0");
    await press(page, "write");
    await page.waitForFunction(
      "document.querySelectorAll('#written p').length === 5 && !document.getElementById('write').disabled",
      { timeout: 60_000 },
    );
    return await page.evaluate(
      "[...document.querySelectorAll('#written p')].map((e) => e.textContent)",
    ) as string[];
  };
  const shownTabs = () =>
    page.evaluate(
      "[...document.querySelectorAll('#tabs button')].filter((b) => !b.hidden).map((b) => b.dataset.tab)",
    );
  await ready(page);

  let answers: string[] = [];
  await t.step("a dropped file of conversations is trained on, and the model answers", async () => {
    await dropFile(page, "chats.jsonl", CHATS);
    await says(page, "looked", /chats\.jsonl: \d+ conversations/);
    await page.evaluate("document.getElementById('steps').value = 150");
    await press(page, "start");
    await says(page, "status", /Done: 150 steps/);
    await page.evaluate("document.getElementById('temperature').value = 0");
    answers = [await say("hi"), await say("bye")];
    assert.equal(answers[0], ANSWERS.hi);
    assert(Object.values(ANSWERS).includes(answers[1]!), answers.join("\n"));
    const coloured = await page.evaluate(
      "[...document.querySelectorAll('#turns .turn.assistant')].map((e) => e.querySelectorAll('.text-token').length)",
    ) as number[];
    assert(coloured.every((tokens) => tokens > 0), `${coloured}`);
    await press(page, "new-chat");
    await page.waitForFunction("document.getElementById('turns').childElementCount === 0");
    assert.equal(await say("hi"), ANSWERS.hi);
  });

  await t.step("that model goes to Deno and answers the same", async () => {
    using model = await loadModel(join(await unpacked(await downloaded(page, "take-model")), "chats"), {
      device: "reference",
    });
    using chat = model.startChat({ temperature: 0 });
    const here = [await Array.fromAsync(chat.send("hi")), await Array.fromAsync(chat.send("bye"))];
    assert.deepEqual(here.map((pieces) => pieces.join("")), answers);
  });

  await t.step("an ONNX export is stored, and runs", async () => {
    const dir = join(await unpacked(await downloaded(page, "take-onnx")), "chats-onnx");
    await says(page, "take-note", /chats-onnx\.zip: \d/);
    const onnx = await OnnxModel.load(dir);
    assert.equal(onnx.isChat, true);
    await onnx.close();
  });

  const documents = Array.from({ length: 200 }, (_, i) => `${["cat", "dog", "hen"][i % 3]} ${i % 7}`);
  const dir = await tinyLlama({ documents });
  const exported = await Deno.makeTempDir();
  await exportModel(dir, exported, { format: "gguf" });
  const gguf = await Deno.readFile(join(exported, "model.gguf"));

  await t.step("a Llama is stored as the .gguf that the command line makes", async () => {
    const files = Object.entries(await filesIn(dir)).map(([name, bytes]) => [`llama/${name}`, bytes]);
    await chooseFile(page, "llama.zip", zipSync(Object.fromEntries(files)), "model-file");
    await says(page, "use-name", /Use llama/);
    await page.waitForFunction("!document.getElementById('take-gguf').hidden");
    assert.deepEqual(await downloaded(page, "take-gguf"), gguf);
  });

  await t.step("a .gguf is opened, writes as in Deno, and is kept", async () => {
    await chooseFile(page, "small.gguf", gguf, "model-file");
    await says(page, "use-name", /Use small/);
    await page.waitForFunction("!document.getElementById('foreign').hidden");
    assert.deepEqual(await shownTabs(), ["write", "take"]);
    using model = await loadModel(join(exported, "model.gguf"), { device: "reference" });
    const expected = await model.samples({ numSamples: 5, temperature: 0, maxTokens: 120 });
    assert.deepEqual(await written(), expected.map((sample) => sample || "(nothing: it ended at once)"));
    await page.reload();
    await ready(page);
    await says(page, "kept", /small, a model/);
    await pressKept(page, "small", "Use");
    await says(page, "use-name", /Use small/);
    assert.deepEqual(await written(), expected.map((sample) => sample || "(nothing: it ended at once)"));
  });

  await t.step("what is no model is refused", async () => {
    await chooseFile(page, "other.gguf", "GGUF, it says", "model-file");
    await says(page, "messages", /other\/model\.gguf: the header has version/);
    await chooseFile(page, "other.zip", zipSync({ "a/readme.txt": new Uint8Array(3) }), "model-file");
    await says(page, "messages", /there is no model in other/);
    assert.doesNotMatch(await text(page, "kept"), /other/);
  });
  assert.deepEqual(problems, []);
  await server.shutdown();
});
