/** The program on models of others: what it says of them, generating, chatting. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { exportGguf } from "../../model/files/gguf/llama_export.ts";
import { inDirectory, tinyModel, writeTiny } from "../model/files/tiny_llama.ts";
import { microgpt } from "./program.ts";

async function stdout(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await microgpt(args);
  assert.equal(code, 0, stderr);
  return stdout;
}

Deno.test("info, generate and chat of a HuggingFace directory and a GGUF file", () =>
  inDirectory(async (dir) => {
    const model = tinyModel();
    const hf = join(dir, "hf");
    await Deno.mkdir(hf);
    await writeTiny(hf, model, "BF16");
    const gguf = join(dir, "tiny.gguf");
    await exportGguf(gguf, { name: "tiny", ...model, tokenizer: model }, "Q8_0");
    assert.match(
      await stdout("info", "--model-dir", hf),
      /chat, [\d,]+ parameters\nnetwork .*context 64 tokens[^]*safetensors, BF16, [^]*: a HuggingFace directory\n$/,
    );
    const said = await stdout("info", "--model-dir", hf);
    assert.match(
      said,
      /^memory +weights in bf16 0\.\d\d MB, a full context 0\.\d\d MB\n +weights by --dtype on the CPU: f32 /m,
    );
    assert.match(said, /^to train +[\d.]+ MB, and [\d.]+ MB for 1,024 tokens of a batch \(f32, Adam\)$/m);
    assert.match(said, /^use +generate, chat, serve, eval, train --from; export as hf, gguf$/m);
    const info = JSON.parse(await stdout("info", "--model-dir", gguf, "--json"));
    const { f32, bf16, q8 } = info.memory.byDtype;
    assert(f32 > bf16 && bf16 >= q8 && q8 > 0);
    // weights, gradients and two moments
    const { state, activations } = info.training_memory;
    assert(state >= 16 * info.parameters && state < 17 * info.parameters + (1 << 20));
    assert(activations > 1024 * 4 * info.n_embd * info.n_layer);
    assert.deepEqual(info.formats, ["hf", "gguf"]);
    assert.deepEqual([info.source, info.kind, info.file.format, info.file.dtype, info.training], [
      "gguf",
      "chat",
      "gguf",
      "Q8_0+F32",
      null,
    ]);
    const chats = join(dir, "chats.jsonl");
    await Deno.writeTextFile(
      chats,
      JSON.stringify([
        { role: "system", content: "hi" },
        { role: "user", content: "hello" },
        { role: "assistant", content: "hi" },
      ]),
    );
    for (const path of [hf, gguf]) {
      const { documents, mode } = JSON.parse(
        await stdout("info", "--input", chats, "--model-dir", path, "--json"),
      );
      assert.deepEqual([documents, mode], [1, "chat"]);
    }
    const plain = join(dir, "text.txt");
    await Deno.writeTextFile(plain, "hi\nhello\n");
    const asText = ["info", "--input", plain, "--model-dir", gguf, "--json", "--format", "text"];
    const { documents, mode } = JSON.parse(await stdout(...asText));
    assert.deepEqual([documents, mode], [2, "text"]);
    const { stderr } = await microgpt(asText.slice(0, 5));
    assert.match(stderr, /hint: .*to measure a chat model give --format text\n$/);
    const sample = ["--num-samples", "2", "--max-tokens", "4", "--prompt", "hi", "--device", "reference"];
    assert.match(await stdout("generate", "--model-dir", hf, ...sample), /^sample {2}1: .*\nsample {2}2: /);
    const messages = '[{"role": "system", "content": "hi"}, {"role": "user", "content": "hello"}]';
    assert.match(await stdout("generate", "--model-dir", hf, ...sample.with(-3, messages)), /^sample {2}1: /);
    const { stdout: answer } = await microgpt(
      ["chat", "--model-dir", gguf, "--device", "reference", "--max-tokens", "4", "--json"],
      { stdin: "hello\nhi\n" },
    );
    assert.deepEqual(answer.trim().split("\n").map((line) => JSON.parse(line).message), ["hello", "hi"]);
    // a system message comes before the conversation, as in a prompt that has one
    const told = ["chat", "--model-dir", hf, "--device", "reference", "--temperature", "0", "--system", "hi"];
    const { stdout: said2 } = await microgpt([...told, "--max-tokens", "4", "--json"], { stdin: "hello\n" });
    const greedy = ["generate", "--model-dir", hf, "--device", "reference", "--temperature", "0"];
    const once = ["--num-samples", "1", "--max-tokens", "4", "--prompt", messages, "--json"];
    const { text } = JSON.parse(await stdout(...greedy, ...once));
    assert.equal(JSON.parse(said2).answer, text);
    const qwen = join(dir, "qwen");
    await Deno.mkdir(qwen);
    await writeTiny(qwen, tinyModel({ qk_norm: true }));
    assert.match(await stdout("info", "--model-dir", qwen), /^network +Qwen 3, 2 layers, /m);
  }));
