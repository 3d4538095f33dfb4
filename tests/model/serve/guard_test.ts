/** Who may ask, what is refused, and how: statuses and codes that clients of OpenAI's API go by. */
import assert from "node:assert/strict";
import { KNOWN, question, served } from "./served.ts";

const CHAT = "/v1/chat/completions";

Deno.test("names and pages of elsewhere, other types and methods, and wrong keys are refused", async () => {
  await using server = await served({ apiKey: "secret", corsOrigin: ["https://friend.example"] });
  const key = { authorization: "Bearer secret" };
  const status = async (headers: Record<string, string>, body: unknown, path = CHAT) =>
    (await server.ask(path, body, { headers })).status;
  const hello = question("hello");
  assert.equal(await status(key, hello), 200);
  assert.equal(await status({ "x-api-key": "secret" }, hello), 200);
  assert.equal(await status({}, hello), 401);
  assert.equal(await status({ authorization: "Bearer secrets" }, hello), 401);
  assert.equal(await status({ ...key, host: "evil.example" }, hello), 403);
  assert.equal(await status({ ...key, origin: "https://evil.example" }, hello), 403);
  assert.equal(await status({ ...key, origin: "null" }, hello), 403);
  assert.equal(await status({ ...key, origin: "https://friend.example" }, hello), 200);
  assert.equal(await status({ ...key, "content-type": "text/plain" }, hello), 415);
  assert.equal(await status(key, undefined), 405);
  assert.equal(await status(key, undefined, "/v1/nothing"), 404);
  assert.equal(await status({}, undefined, "/health"), 200);
  assert.equal(await status({}, undefined, "/metrics"), 401);
  const preflight = await server.ask(CHAT, undefined, {
    method: "OPTIONS",
    headers: { origin: "https://friend.example" },
  });
  assert.equal(preflight.status, 204);
  assert.equal(preflight.headers.get("access-control-allow-origin"), "https://friend.example");
});

Deno.test("what a request gets wrong is 400 with the field, and the server goes on", async () => {
  await using server = await served();
  const wrong: [object | string, string | null][] = [
    ["{", null],
    ["[]", null],
    ["[".repeat(100_000), null],
    [{}, "messages"],
    [{ messages: [] }, "messages"],
    [{ messages: [{ role: "tool", content: "x" }] }, "messages[0].role"],
    [question("\ud800"), "messages[0].content"],
    [question("x", { temperature: "hot" }), "temperature"],
    [question("x", { temperature: -1 }), "temperature"],
    [question("x", { n: 0 }), "n"],
    [question("x", { n: 1e9 }), "n"],
    [question("x", { seed: 1.5 }), "seed"],
    [question("x", { stop: ["a", "b", "c", "d", "e"] }), "stop"],
    [question("x", { stop: "x".repeat(1_000_000) }), "stop"],
    [question("x", { top_logprobs: 2 }), "top_logprobs"],
    [question("x", { logit_bias: { 99999: 1 } }), "logit_bias"],
    [question("x", { tools: [{}] }), "tools"],
    [question("x", { response_format: { type: "json_object" } }), "response_format"],
    [question("x".repeat(20_000)), "messages"],
  ];
  for (const [body, param] of wrong) {
    const response = await server.ask(CHAT, body);
    const { error } = await response.json();
    assert.deepEqual([response.status, error.type, error.param], [400, "invalid_request_error", param]);
  }
  assert.equal((await server.ask(CHAT, " ".repeat(3 << 20))).status, 413);
  assert.equal((await server.ask("/v1/completions", { prompt: [300] })).status, 400);
  const other = await server.ask(CHAT, question("hello", { model: "gpt-4" }));
  assert.deepEqual([other.status, (await other.json()).error.code], [404, "model_not_found"]);
  const { choices } = await (await server.ask(CHAT, question("hello"))).json();
  assert.equal(choices[0].message.content, KNOWN.hello);
});

Deno.test("the queue is bounded: what does not fit is 429, with when to come again", async () => {
  await using server = await served({ parallel: 1, queue: 2 });
  const all = await Promise.all(Array.from({ length: 8 }, () => server.ask(CHAT, question("count"))));
  const refused = all.filter(({ status }) => status === 429);
  assert.equal(refused.length, 5);
  assert.equal(refused[0]!.headers.get("retry-after"), "1");
  for (const answer of all.filter(({ status }) => status === 200)) {
    assert.equal((await answer.json()).choices[0].message.content, KNOWN.count);
  }
});

Deno.test("a client that leaves ends its own answer, queued or active, and nobody else's", async () => {
  await using server = await served({ parallel: 2 });
  const asked = { ...question("count", { stream: true, logit_bias: { 70: 100 } }) };
  const leaving = await Promise.all([1, 2, 3].map(() => server.ask(CHAT, asked)));
  const staying = server.ask(CHAT, question("hello"));
  for (const response of leaving) await response.body!.cancel();
  assert.equal((await (await staying).json()).choices[0].message.content, KNOWN.hello);
  const metrics = await (await server.ask("/metrics")).text();
  assert.match(metrics, /^microgpt_cancelled_total 3$/m);
  assert.match(metrics, /^microgpt_requests_active 0$/m);
  assert.match(metrics, /^microgpt_requests_waiting 0$/m);
});

Deno.test("a seed says the same alone, among others, and with a prompt that was found", async () => {
  await using server = await served();
  const content = "a longer message, so that its start fills a chunk of the prompt, ".repeat(2);
  const asked = { messages: [{ role: "user", content }], temperature: 1.5, seed: 7, max_tokens: 30 };
  const said = async (body: object) => {
    const { choices, usage } = await (await server.ask(CHAT, body)).json();
    return [choices[0].message.content, usage.prompt_tokens_details.cached_tokens];
  };
  const [alone, first] = await said(asked);
  const [again, found] = await said(asked);
  assert.equal(first, 0);
  assert.ok(found >= 64, `${found} tokens were found`);
  const others = Array.from(
    { length: 31 },
    (_, i) => said({ ...question("count"), temperature: 1, seed: i }),
  );
  const [among] = await said(asked);
  await Promise.all(others);
  assert.deepEqual([again, among], [alone, alone]);
});

Deno.test("echo with log-probabilities scores each token of a prompt", async () => {
  await using server = await served();
  const ids = [...server.model.tokenizer.encodeOne(KNOWN.count!)];
  const body = { prompt: ids, echo: true, logprobs: 1, max_tokens: 1, temperature: 0 };
  const { choices: [{ text, logprobs }] } = await (await server.ask("/v1/completions", body)).json();
  assert.ok(text.startsWith(KNOWN.count));
  assert.equal(logprobs.tokens.length, ids.length + 1);
  assert.equal(logprobs.token_logprobs[0], null);
  assert.ok(logprobs.token_logprobs.slice(1).every((value: number) => value <= 0));
  assert.deepEqual(logprobs.text_offset.slice(0, 2), [0, server.model.tokenizer.decode([ids[0]!]).length]);
});

Deno.test("the Rust program's routes: its fields, defaults and errors", async () => {
  await using server = await served();
  const chat = await server.ask("/microgpt/v1/chat", {
    messages: [{ role: "user", content: "hello" }],
    temperature: 0,
  });
  assert.deepEqual(await chat.json(), { role: "assistant", content: KNOWN.hello, tokens_dropped: 0 });
  const made = await server.ask("/microgpt/v1/generate", { num_samples: 60, max_tokens: 2 });
  assert.equal((await made.json()).samples.length, 50);
  for (
    const [path, body] of [
      ["generate", { num_samples: 0 }],
      ["generate", { temperature: -1 }],
      ["chat", { messages: [] }],
      ["chat", { messages: [{ role: "system", content: "x" }] }],
      ["chat", { messages: [{ role: "user", content: " " }] }],
    ] as const
  ) {
    const response = await server.ask(`/microgpt/v1/${path}`, body);
    assert.equal(response.status, 400);
    assert.equal(typeof (await response.json()).error, "string");
  }
});
