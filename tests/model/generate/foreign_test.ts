/** Models of others in use: HuggingFace directories and GGUF files generate and chat. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { exportGguf } from "../../../model/files/gguf/llama_export.ts";
import { foreignEncoder, foreignPrompt, foreignRules } from "../../../model/generate/foreign.ts";
import { OWN_TEMPLATE } from "../../../model/files/description.ts";
import { loadModel } from "../../../model/generate/language_model.ts";
import { readAnyModel } from "../../../model/files/any_model.ts";
import { HfTokenizer } from "../../../data/hf_tokenizer.ts";
import { idsOf, pieces } from "../../data/token_pieces.ts";
import { inDirectory, tinyModel, writeTiny } from "../files/tiny_llama.ts";

const ON = { device: "reference" } as const;
const CHAT = { ...tinyModel(), chatTemplate: OWN_TEMPLATE };

async function textOf(answer: AsyncIterable<string>): Promise<string> {
  return (await Array.fromAsync(answer)).join("");
}

Deno.test("a HuggingFace directory and a GGUF file of one model generate the same", () =>
  inDirectory(async (dir) => {
    await Deno.mkdir(join(dir, "hf"), { recursive: true });
    await writeTiny(join(dir, "hf"), CHAT);
    const gguf = join(dir, "model.gguf");
    await exportGguf(gguf, { name: "tiny", ...CHAT, tokenizer: CHAT }, "F32");
    const options = { numSamples: 3, prompt: "hello", temperature: 1, maxTokens: 20 };
    using a = await loadModel(join(dir, "hf"), ON);
    using b = await loadModel(gguf, ON);
    assert.equal(a.chat, true);
    const samples = await a.samples(options);
    assert.deepEqual(await b.samples(options), samples);
    assert.equal(new Set(samples).size, 3);
  }));

Deno.test("a conversation by a template: each answer is the one that the whole conversation gets", () =>
  inDirectory(async (dir) => {
    await writeTiny(dir, CHAT);
    using model = await loadModel(dir, ON);
    using session = model.startChat({ temperature: 0, maxTokens: 5 });
    const messages: { role: "user" | "assistant"; content: string }[] = [];
    const answers: string[] = [];
    for (const message of ["hi", "hello <bos>", "hi hello"]) {
      const answer = await textOf(session.send(message));
      messages.push({ role: "user", content: message });
      const [expected] = await model.samples({ messages, numSamples: 1, temperature: 0, maxTokens: 5 });
      assert.equal(answer, expected);
      messages.push({ role: "assistant", content: answer });
      answers.push(answer);
    }
    session.clear();
    assert.equal(await textOf(session.send("hi")), answers[0]);
  }));

Deno.test("a conversation that fills the context forgets its first turns, and a message that does is refused", () =>
  inDirectory(async (dir) => {
    await writeTiny(dir, CHAT);
    using model = await loadModel(dir, ON);
    using session = model.startChat({ temperature: 0, maxTokens: 8 });
    let dropped = 0;
    for (let turn = 0; turn < 5; turn++) {
      await textOf(session.send("hello hello", { onDropped: (tokens) => dropped += tokens }));
      assert(session.length <= 64);
    }
    assert(dropped > 0);
    await assert.rejects(textOf(session.send("xyz".repeat(40))), /of a context of 64 it may be 48$/);
    await textOf(session.send("hi"));
  }));

Deno.test("special tokens and rows without a token are never drawn; any end token ends", () =>
  inDirectory(async (dir) => {
    await writeTiny(dir, CHAT);
    const model = await readAnyModel(dir);
    const tokenizer = await HfTokenizer.fromFile(model.tokenizer);
    const rules = await foreignRules(model, tokenizer);
    const [user, assistant] = [tokenizer.id("<user>")!, tokenizer.id("<assistant>")!];
    const beyond = Array.from(
      { length: 280 - model.tokenizer.tokens.length },
      (_, i) => model.tokenizer.tokens.length + i,
    );
    assert.deepEqual(
      rules.suppressed.toSorted((a, b) => a - b),
      [user, assistant, ...beyond].toSorted((a, b) => a - b),
    );
    const { ids, stopTokens } = foreignPrompt(tokenizer, rules, 64, { prompt: "" });
    assert.deepEqual([ids, stopTokens], [[tokenizer.id("<bos>")], CHAT.ends.eos]);
    const { template: _, ...plain } = rules;
    const text = foreignPrompt(tokenizer, { ...plain, addBos: false }, 64, { prompt: "hi" });
    assert.deepEqual(text.ids, [...tokenizer.encodeOne("hi")]);
    assert.throws(() => foreignPrompt(tokenizer, plain, 64, { messages: [] }), /no chat tokens/);
    assert.throws(
      () => foreignPrompt(tokenizer, { eos: [], addBos: false, suppressed: [] }, 64, {}),
      /no token that begins a text/,
    );
  }));

Deno.test("Qwen 2 and Qwen 3 say the same from a HuggingFace directory and from a GGUF file", async () => {
  for (const flag of [{ qkv_bias: true }, { qk_norm: true }]) {
    await inDirectory(async (dir) => {
      const model = tinyModel(flag);
      await writeTiny(dir, model);
      const gguf = join(dir, "model.gguf");
      await exportGguf(gguf, { name: "tiny", ...model, tokenizer: model }, "F32");
      const ways = [[dir, "reference"], [gguf, "reference"], [dir, "cpu"], [gguf, "cpu"]] as const;
      const answers = await Promise.all(ways.map(async ([path, device]) => {
        using loaded = await loadModel(path, { device });
        return await loaded.samples({ numSamples: 2, maxTokens: 12, prompt: "hi", temperature: 1, seed: 3 });
      }));
      for (const answer of answers) assert.deepEqual(answer, answers[0]);
      assert(answers[0]!.some((text) => text.length > 2));
    });
  }
});

Deno.test("long conversations for a model of others are cut where a question begins", () =>
  inDirectory(async (dir) => {
    await writeTiny(dir, CHAT);
    const model = await readAnyModel(dir);
    const tokenizer = await HfTokenizer.fromFile(model.tokenizer);
    const rules = await foreignRules(model, tokenizer);
    const turns = ["hi", "hello <user>", "hi", "hello <user>", "hi", "hello <user>"].map((content, i) => {
      return { role: i % 2 === 0 ? "user" as const : "assistant" as const, content };
    });
    const user = tokenizer.id("<user>")!;
    for (const answersOnly of [false, true]) {
      const documents = await foreignEncoder(tokenizer, rules, model).conversations([turns], answersOnly);
      assert.deepEqual([...documents.ids], rules.template!.encodeWhole(turns, answersOnly).ids);
      const starts = [...documents.ids.keys()].filter((i) => documents.ids[i] === user);
      assert.equal(starts.length, 3);
      // room for more than one turn and less than two: a piece is a turn, and its last target begins the next
      const found = idsOf(pieces(documents, undefined, starts[1]! + 2, "split"));
      const borders = [0, starts[1]!, starts[2]!, documents.ids.length - 1];
      const expected = borders.slice(1).map((end, i) => [...documents.ids.subarray(borders[i], end + 1)]);
      assert.deepEqual(found, expected);
    }
  }));

Deno.test("a long answer is not parted from all of its question", () =>
  inDirectory(async (dir) => {
    await writeTiny(dir, CHAT);
    const model = await readAnyModel(dir);
    const tokenizer = await HfTokenizer.fromFile(model.tokenizer);
    const rules = await foreignRules(model, tokenizer);
    const turns = [
      { role: "user" as const, content: "hi" },
      { role: "assistant" as const, content: "xyz".repeat(12) },
    ];
    const documents = await foreignEncoder(tokenizer, rules, model).conversations([turns], true);
    const [first, ...others] = idsOf(pieces(documents, undefined, 20, "split"));
    assert.deepEqual(first, [...documents.ids.subarray(0, 21)]);
    assert.deepEqual(others.flatMap((ids) => ids.slice(1)), [...documents.ids.subarray(21)]);
  }));
