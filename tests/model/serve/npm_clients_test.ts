/** Clients of OpenAI's API from npm, over a real socket: what people's programs are written with. */
import assert from "node:assert/strict";
import OpenAI from "npm:openai@7.57.0";
import { generateText, streamText } from "npm:ai@7.0.173";
import { createOpenAICompatible } from "npm:@ai-sdk/openai-compatible@3.0.92";
import { KNOWN, served } from "./served.ts";

/** A server with a key, listening. */
async function listening(test: (baseURL: string, metrics: () => Promise<string>) => Promise<void>) {
  await using server = await served({ apiKey: "secret" });
  const http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (r) => server.serve(r));
  const headers = { authorization: "Bearer secret" };
  const metrics = async () => await (await server.ask("/metrics", undefined, { headers })).text();
  try {
    await test(`http://127.0.0.1:${http.addr.port}/v1`, metrics);
  } finally {
    await http.shutdown();
  }
}

const asked = [{ role: "user" as const, content: "count" }];

Deno.test("npm openai: models, chats, streams, completions and errors", async (t) => {
  await listening(async (baseURL, metrics) => {
    const client = new OpenAI({ baseURL, apiKey: "secret", maxRetries: 0 });
    await t.step("models", async () => {
      const names = await Array.fromAsync(client.models.list(), ({ id }) => id);
      assert.deepEqual(names, ["known"]);
      assert.equal((await client.models.retrieve("known")).owned_by, "microgpt");
    });
    await t.step("an answer with log-probabilities", async () => {
      const { choices: [choice], usage } = await client.chat.completions.create({
        model: "known",
        messages: asked,
        temperature: 0,
        logprobs: true,
        top_logprobs: 2,
      });
      assert.deepEqual([choice!.message.content, choice!.finish_reason], [KNOWN.count, "stop"]);
      const { content } = choice!.logprobs!;
      assert.equal(content!.map(({ token }) => token).join(""), KNOWN.count);
      assert.ok(content!.every(({ top_logprobs }) => top_logprobs.length === 2));
      assert.equal(usage!.total_tokens, usage!.prompt_tokens + usage!.completion_tokens);
    });
    await t.step("a stream, put together by the client", async () => {
      const runner = client.chat.completions.stream({
        model: "known",
        messages: asked,
        temperature: 0,
        stream_options: { include_usage: true },
      });
      let text = "";
      runner.on("content", (piece) => text += piece);
      const whole = await runner.finalChatCompletion();
      assert.deepEqual([text, whole.choices[0]!.message.content], [KNOWN.count, KNOWN.count]);
      assert.ok(whole.usage!.completion_tokens > 5);
    });
    await t.step("a stream that is left ends", async () => {
      const stream = await client.chat.completions.create({
        model: "known",
        messages: asked,
        stream: true,
        logit_bias: { 70: 100 },
      });
      for await (const _ of stream) break;
      for (let i = 0; i < 100 && !/^microgpt_requests_active 0$/m.test(await metrics()); i++) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      assert.match(await metrics(), /^microgpt_requests_active 0$/m);
    });
    await t.step("a completion with its prompt", async () => {
      const { choices: [choice] } = await client.completions.create({
        model: "known",
        prompt: "one two",
        echo: true,
        logprobs: 1,
        max_tokens: 0,
      });
      assert.deepEqual([choice!.text, choice!.logprobs!.tokens!.join("")], ["one two", "one two"]);
    });
    await t.step("errors are of the client's own kinds", async () => {
      const ask = (model: string, more = {}) =>
        client.chat.completions.create({ model, messages: asked, ...more });
      await assert.rejects(ask("gpt-4"), (error) => {
        assert.ok(error instanceof OpenAI.NotFoundError);
        assert.equal(error.code, "model_not_found");
        return true;
      });
      await assert.rejects(ask("known", { temperature: 3 }), OpenAI.BadRequestError);
      const other = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
      await assert.rejects(other.models.list().asResponse(), OpenAI.AuthenticationError);
    });
  });
});

Deno.test("npm ai with @ai-sdk/openai-compatible: a text, and a stream", async () => {
  await listening(async (baseURL) => {
    const provider = createOpenAICompatible({
      name: "microgpt",
      baseURL,
      apiKey: "secret",
      includeUsage: true,
    });
    const request = { model: provider("known"), prompt: "count", temperature: 0 };
    const { text, finishReason, usage } = await generateText(request);
    assert.deepEqual([text, finishReason], [KNOWN.count, "stop"]);
    assert.ok(usage.outputTokens! > 5);
    const stream = streamText(request);
    const pieces = await Array.fromAsync(stream.textStream);
    assert.equal(pieces.join(""), KNOWN.count);
    assert.ok(pieces.length > 5);
    assert.ok((await stream.usage).outputTokens! > 5);
  });
});
