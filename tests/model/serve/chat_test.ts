/** `/v1/chat/completions`, field by field. */
import assert from "node:assert/strict";
import { events, KNOWN, question, served } from "./served.ts";

Deno.test("a question is answered in OpenAI's shape", async () => {
  await using server = await served();
  const response = await server.ask("/v1/chat/completions", question("hello", { model: "known", seed: 3 }));
  assert.equal(response.status, 200);
  const { id, created, microgpt, ...rest } = await response.json();
  assert.match(id, /^chatcmpl-\w{32}$/);
  assert.ok(Math.abs(created - Date.now() / 1000) < 60);
  assert.equal(microgpt.seed, 3);
  const message = { role: "assistant", content: KNOWN.hello, refusal: null };
  assert.deepEqual(rest, {
    object: "chat.completion",
    model: "known",
    system_fingerprint: "microgpt-cpu",
    choices: [{ index: 0, message, logprobs: null, finish_reason: "stop" }],
    usage: {
      prompt_tokens: rest.usage.prompt_tokens,
      completion_tokens: rest.usage.completion_tokens,
      total_tokens: rest.usage.prompt_tokens + rest.usage.completion_tokens,
      prompt_tokens_details: { cached_tokens: 0 },
    },
  });
});

Deno.test("a stream says the same in pieces: the role first, one reason at the end, then usage", async () => {
  await using server = await served();
  const options = { stream: true, stream_options: { include_usage: true }, n: 2 };
  const response = await server.ask("/v1/chat/completions", question("count", options));
  assert.equal(response.headers.get("content-type"), "text/event-stream");
  const chunks = await events(response);
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  assert.ok(last.usage.completion_tokens > 0);
  for (const chunk of chunks) {
    assert.equal(chunk.usage, null);
    assert.equal(chunk.id, last.id);
    assert.equal(chunk.object, "chat.completion.chunk");
  }
  for (const index of [0, 1]) {
    const own = chunks.map(({ choices }) => choices[0]).filter((choice) => choice.index === index);
    assert.deepEqual(own[0].delta, { role: "assistant", content: "", refusal: null });
    assert.deepEqual(own.at(-1).delta, {});
    assert.equal(own.at(-1).finish_reason, "stop");
    assert.ok(own.slice(0, -1).every((choice) => choice.finish_reason === null));
    assert.equal(own.map(({ delta }) => delta.content ?? "").join(""), KNOWN.count);
  }
});

Deno.test("stop sequences end an answer across borders of tokens, and nothing of them is shown", async () => {
  await using server = await served();
  for (
    const [stop, expected] of [["ree fo", "one two th"], [["zzz", " two"], "one"], [["n", "o"], ""]] as const
  ) {
    const whole = await (await server.ask("/v1/chat/completions", question("count", { stop }))).json();
    assert.equal(whole.choices[0].message.content, expected);
    assert.equal(whole.choices[0].finish_reason, "stop");
    const stream = await events(
      await server.ask("/v1/chat/completions", question("count", { stop, stream: true })),
    );
    assert.equal(stream.map(({ choices }) => choices[0].delta.content ?? "").join(""), expected);
  }
});

Deno.test("log-probabilities cover the answer, and the drawn token is the most probable one at temperature 0", async () => {
  await using server = await served();
  const asked = question("count", { logprobs: true, top_logprobs: 3, stop: " six" });
  const { choices } = await (await server.ask("/v1/chat/completions", asked)).json();
  const { content } = choices[0].logprobs;
  assert.equal(content.map(({ token }: { token: string }) => token).join(""), "one two three four five");
  for (const { token, logprob, bytes, top_logprobs } of content) {
    assert.deepEqual(bytes, [...new TextEncoder().encode(token)]);
    assert.equal(top_logprobs.length, 3);
    assert.equal(top_logprobs[0].token, token);
    assert.equal(top_logprobs[0].logprob, logprob);
    assert.ok(top_logprobs[1].logprob <= logprob && logprob <= 0);
  }
});

Deno.test("max_completion_tokens wins over max_tokens, and a cut answer says so", async () => {
  await using server = await served();
  const asked = question("count", { max_tokens: 9, max_completion_tokens: 3 });
  const { choices, usage } = await (await server.ask("/v1/chat/completions", asked)).json();
  assert.equal(usage.completion_tokens, 3);
  assert.equal(choices[0].finish_reason, "length");
});

Deno.test("a bias forbids and forces tokens; penalties keep from saying things again", async () => {
  await using server = await served();
  const content = async (more: object) =>
    (await (await server.ask("/v1/chat/completions", question("count", more))).json()).choices[0].message
      .content;
  const one = server.model.tokenizer.encodeOne("one")[0]!;
  assert.notEqual((await content({ logit_bias: { [one]: -100 } })).slice(0, 3), "one");
  const x = server.model.tokenizer.encodeOne("x")[0]!;
  assert.equal(await content({ logit_bias: { [x]: 100 }, max_tokens: 4 }), "xxxx");
  assert.equal(await content({ repetition_penalty: 1, frequency_penalty: 0 }), KNOWN.count);
  assert.notEqual(await content({ repetition_penalty: 10 }), KNOWN.count);
  // two tokens of one bias take turns only when what was said counts
  const y = server.model.tokenizer.encodeOne("y")[0]!;
  const forced = { logit_bias: { [x]: 100, [y]: 100 }, max_tokens: 40 };
  const turns = (text: string) => text.match(/xy|yx/g)?.length ?? 0;
  const kept = turns(await content(forced));
  assert.ok(turns(await content({ ...forced, frequency_penalty: 2, presence_penalty: 2 })) > kept);
});

Deno.test("a server's own sampling is what it says, and what requests that say nothing get", async () => {
  const own = { temperature: 0.5, topK: 3, topP: 0.9, minP: 0.01, repetitionPenalty: 1.1 };
  await using server = await served({ ...own, frequencyPenalty: 0.2, presencePenalty: 0.1 });
  const { data: [{ meta }] } = await (await server.ask("/v1/models")).json();
  assert.deepEqual(meta.defaults, {
    temperature: 0.5,
    top_k: 3,
    top_p: 0.9,
    min_p: 0.01,
    repetition_penalty: 1.1,
    frequency_penalty: 0.2,
    presence_penalty: 0.1,
  });
  const content = async (fields: object) => {
    const response = await server.ask("/v1/chat/completions", question("count", { seed: 4, ...fields }));
    return (await response.json()).choices[0].message.content;
  };
  assert.equal(await content({}), await content(meta.defaults));
});

Deno.test("a system message is put in front of what the user says", async () => {
  await using server = await served();
  const messages = [{ role: "system", content: "he" }, {
    role: "user",
    content: [{ type: "text", text: "llo" }],
  }];
  const { usage } = await (await server.ask("/v1/chat/completions", { messages, max_tokens: 1 })).json();
  const said = server.model.tokenizer.encodeOne("he\n\nllo").length;
  assert.equal(usage.prompt_tokens, said + 4);
});

Deno.test("a conversation that is too long is an error, or is cut where that is asked for", async () => {
  await using server = await served();
  const messages = Array.from({ length: 60 }, (_, i) => {
    return { role: i % 2 ? "assistant" : "user", content: `number ${i} of a long conversation` };
  });
  messages.push({ role: "user", content: "hello" });
  const refused = await server.ask("/v1/chat/completions", { messages });
  assert.equal(refused.status, 400);
  const { error } = await refused.json();
  assert.equal(error.code, "context_length_exceeded");
  assert.match(
    error.message,
    /^This model's maximum context length is 256 tokens\. However, your messages resulted/,
  );
  const cut = await server.ask("/v1/chat/completions", { messages, truncate: true, max_tokens: 4 });
  assert.equal(cut.status, 200);
  const { microgpt, usage } = await cut.json();
  assert.ok(microgpt.tokens_dropped > 0);
  assert.ok(usage.prompt_tokens <= 192);
});
