/** Answers with a kept cache against the same network computed anew, naively, for every token. */
import assert from "node:assert/strict";
import type { Message } from "../../../data/chat.ts";
import { HfTokenizer } from "../../../data/hf_tokenizer.ts";
import type { Tokenizer } from "../../../data/tokenizer.ts";
import { type DeviceName, openDevice } from "../../../model/devices.ts";
import { networkOf } from "../../../model/networks.ts";
import { LanguageModel } from "../../../model/generate/language_model.ts";
import type { ChatSession } from "../../../model/generate/chat.ts";
import { buildPrompt } from "../../../model/generate/prompt.ts";
import type { OnnxSource } from "../../../model/export/onnx_export.ts";
import { naiveGreedy, tinyModel } from "../export/onnx_fixture.ts";
import { gpuTest } from "../../device/test_gpu.ts";

const [BOS, USER, ASSISTANT, END] = [0, 1, 2, 3];
const NEVER = [BOS, USER, ASSISTANT];

interface Setup {
  source: OnnxSource;
  tokenizer: Tokenizer;
  model: LanguageModel;
}

async function withModel(
  seed: number,
  device: DeviceName,
  use: (setup: Setup) => Promise<void>,
): Promise<void> {
  const source = tinyModel(true, seed);
  const tokenizer = await HfTokenizer.fromJson(source.tokenizerJson);
  using model = new LanguageModel(
    { ...source, chat: true },
    source.params,
    tokenizer,
    await openDevice({ device }),
  );
  await use({ source, tokenizer, model });
}

/** The conversation by the rules of the specification, each answer from scratch. */
class NaiveChat {
  tokens = [BOS];
  dropped = 0;
  constructor(readonly setup: Setup) {}

  /** @param limit tokens that an answer gets at most */
  answer(message: string, limit = Infinity): string {
    const { source, tokenizer } = this.setup;
    const { block_size: context } = source.config;
    this.tokens.push(USER, ...tokenizer.encodeOne(message), END, ASSISTANT);
    const length = this.tokens.length;
    if (length > context * 3 / 4) {
      const starts = this.tokens.flatMap((id, i) => id === USER ? [i] : []);
      const room = context * 3 / 4 - 1;
      const start = starts.find((at) => length - at <= room);
      this.tokens = start === undefined
        ? [BOS, USER, ...this.tokens.slice(length - room + 1)]
        : [BOS, ...this.tokens.slice(start)];
    }
    this.dropped = length - this.tokens.length;
    const whole = naiveGreedy(source, this.tokens, END, NEVER).slice(this.tokens.length);
    const answer = (whole.at(-1) === END ? whole.slice(0, -1) : whole).slice(0, limit);
    this.tokens.push(...answer, END);
    return tokenizer.decode(answer);
  }
}

async function answerOf(
  session: ChatSession,
  message: string,
): Promise<{ text: string; dropped: number }> {
  let [text, dropped] = ["", 0];
  for await (const piece of session.send(message, { onDropped: (tokens) => dropped = tokens })) text += piece;
  return { text, dropped };
}

for (const device of ["reference", "cpu", "webgpu"] as const) {
  const test = device === "webgpu" ? gpuTest : Deno.test;
  test(`chat on ${device}: cached answers are those computed from scratch, past the end of the context`, async () => {
    let [drops, ends] = [0, 0];
    for (const seed of device === "cpu" ? [2] : [5]) {
      await withModel(seed, device, async (setup) => {
        using session = setup.model.startChat({ temperature: 0 });
        const naive = new NaiveChat(setup);
        for (const message of ["in", "you and the", "", "<end_turn>", "é"]) {
          const expected = naive.answer(message);
          const { text, dropped } = await answerOf(session, message);
          assert.deepEqual(
            { text, dropped },
            { text: expected, dropped: naive.dropped },
            `${seed}: ${message}`,
          );
          assert.equal(session.length, naive.tokens.length);
          if (dropped > 0) drops++;
          if (naive.tokens.length <= setup.source.config.block_size) ends++;
        }
      });
    }
    assert(drops > 0 && drops < 5, `the context was exceeded, not always: ${drops}`);
    assert(ends < 5, `an answer filled the context: ${ends}`);
  });

  test(`chat on ${device}: answers cut by maxTokens or a signal stay, and the next ones are right`, async () => {
    await withModel(5, device, async (setup) => {
      using session = setup.model.startChat({ temperature: 0 });
      const naive = new NaiveChat(setup);
      for (const [message, pieces] of [["in", 1], ["an", 2], ["x", 3]] as const) {
        const stop = new AbortController();
        let text = "";
        let left = pieces;
        for await (const piece of session.send(message, { signal: stop.signal })) {
          text += piece;
          if (--left === 0) stop.abort();
        }
        const expected = naive.answer(message, session.length - naive.tokens.length - 5);
        assert(text.length > 0 && expected.startsWith(text.replace(/\uFFFD$/, "")), `${message}: ${text}`);
        assert.equal(session.length, naive.tokens.length);
      }
      assert.equal((await answerOf(session, "the")).text, naive.answer("the"));
    });
  });
}

Deno.test("chat: leaving an answer in the middle of the loop keeps the conversation whole", async () => {
  await withModel(5, "reference", async (setup) => {
    using session = setup.model.startChat({ temperature: 0 });
    for await (const _ of session.send("in")) break;
    const naive = new NaiveChat(setup);
    naive.answer("in", session.length - 1 - 5);
    assert.equal(session.length, naive.tokens.length);
    assert.equal((await answerOf(session, "an")).text, naive.answer("an"));
  });
});

Deno.test("chat: a signal that is aborted already gives an empty answer", async () => {
  await withModel(5, "reference", async (setup) => {
    using session = setup.model.startChat({ temperature: 0 });
    assert.deepEqual(await Array.fromAsync(session.send("in", { signal: AbortSignal.abort() })), []);
    const naive = new NaiveChat(setup);
    naive.answer("in", 0);
    assert.equal((await answerOf(session, "an")).text, naive.answer("an"));
  });
});

Deno.test("chat: of a message longer than the context the end is kept, after <user>", async () => {
  await withModel(2, "reference", async (setup) => {
    using session = setup.model.startChat({ temperature: 0 });
    const naive = new NaiveChat(setup);
    const message = "xyz ".repeat(20);
    const expected = naive.answer(message);
    const { text, dropped } = await answerOf(session, message);
    assert.equal(text, expected);
    assert.equal(dropped, naive.dropped);
    assert(dropped > 40);
  });
});

Deno.test("a message and a prompt may have more tokens than a call may have arguments", async () => {
  await withModel(5, "reference", async ({ model, tokenizer }) => {
    const message = "xyz".repeat(50_000);
    using session = model.startChat({ maxTokens: 1 });
    assert((await answerOf(session, message)).dropped > 130_000);
    const messages = [{ role: "user" as const, content: message }];
    for (const options of [{ messages }, { prompt: message }]) {
      assert.throws(() => buildPrompt(tokenizer, true, 32, options), /the prompt has \d{6} tokens/);
    }
  });
});

Deno.test("messages that no conversation has are refused, not read as another speaker's", async () => {
  await withModel(5, "reference", async ({ model }) => {
    for (const [role, content] of [["tool", "x"], ["narrator", "x"], ["user", 5]]) {
      const messages = [{ role, content }, { role: "user", content: "in" }] as Message[];
      await assert.rejects(model.samples({ messages }), /^MicrogptError: messages: message 1: expected /);
    }
  });
});

Deno.test("chat: clear begins anew, with the same seed and the same answers", async () => {
  await withModel(6, "reference", async (setup) => {
    using session = setup.model.startChat({ temperature: 1.5, seed: 7, maxTokens: 6 });
    const ask = async () => [(await answerOf(session, "in")).text, (await answerOf(session, "in")).text];
    const first = await ask();
    session.clear();
    assert.equal(session.length, 1);
    assert.deepEqual(await ask(), first);
    assert.notEqual(first[0], first[1]);
  });
});

Deno.test("chat: special tokens are never sampled, and an answer has at least one token", async () => {
  await withModel(5, "reference", async ({ source, model, tokenizer }) => {
    const { offset, cols } = source.layout.byName.get("lm_head")!;
    const params = source.params.slice();
    for (let i = 0; i < 4 * cols; i++) params[offset + i]! *= 50; // one of the four is nearly always the most probable
    const loud = { ...source, params };
    const naive = new NaiveChat({ source: loud, tokenizer, model });
    const asked = [BOS, USER, ...tokenizer.encodeOne("in"), END, ASSISTANT];
    assert(naiveGreedy(loud, asked, END).slice(asked.length).some((id) => NEVER.includes(id)));
    const spoilt = new LanguageModel({ ...loud, chat: true }, params, tokenizer, model.device);
    using session = spoilt.startChat({ temperature: 0 });
    for (const message of ["in", "an"]) {
      const before = session.length;
      assert.equal((await answerOf(session, message)).text, naive.answer(message));
      assert(session.length >= before + 6); // <user> in <end_turn> <assistant> … <end_turn>
    }
  });
});

Deno.test("chat: one answer at a time; refusals say what to do", async () => {
  await withModel(5, "reference", async ({ source, model, tokenizer }) => {
    using session = model.startChat();
    const answer = session.send("in");
    await answer.next();
    await assert.rejects(session.send("an").next(), /answer before is not complete/);
    assert.throws(() => session.clear(), /answer before is not complete/);
    await answer.return();
    session.clear();
    assert.throws(() => model.startChat({ topP: 2 }), /`topP` must be a number from 0 to 1, got 2/);
    const short = { ...source, config: { ...source.config, block_size: 4 }, chat: true };
    const { layout } = networkOf(short.config);
    const tiny = new LanguageModel(short, new Float32Array(layout.length), tokenizer, model.device);
    assert.throws(() => tiny.startChat(), /a context of 4 tokens is too short/);
    const text = new LanguageModel({ ...source, chat: false }, source.params, tokenizer, model.device);
    assert.throws(() => text.startChat(), /no chat tokens/);
  });
});

Deno.test("a system message stands in front of the first message, in each conversation", () =>
  withModel(2, "cpu", async ({ model }) => {
    const greedy = { temperature: 0, maxTokens: 6 };
    using told = model.startChat({ ...greedy, system: "be" });
    using plain = model.startChat(greedy);
    const answer = async (session: ChatSession, message: string) =>
      (await Array.fromAsync(session.send(message))).join("");
    for (const _ of [1, 2]) {
      assert.equal(await answer(told, "you"), await answer(plain, "be\n\nyou"));
      assert.equal(await answer(told, "in"), await answer(plain, "in"));
      assert.equal(told.length, plain.length);
      told.clear();
      plain.clear();
    }
  }));
