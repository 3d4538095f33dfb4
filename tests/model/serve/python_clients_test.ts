/** Clients of OpenAI's API from PyPI, and curl, over a real socket. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { evaluate } from "../../../mod.ts";
import { peerTest } from "../../peers.ts";
import { KNOWN, knownModel, served } from "./served.ts";

const KEY = "secret";

/** A server with a key, listening. */
async function listening(test: (baseURL: string) => Promise<void>): Promise<void> {
  await using server = await served({ apiKey: KEY });
  const http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (r) => server.serve(r));
  try {
    await test(`http://127.0.0.1:${http.addr.port}/v1`);
  } finally {
    await http.shutdown();
  }
}

async function run(command: string, args: string[]): Promise<string> {
  const done = await new Deno.Command(command, { args, stdout: "piped", stderr: "piped" }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assert.ok(done.success, text(done.stderr));
  return text(done.stdout);
}

const python = Deno.env.get("MICROGPT_CLIENTS_PYTHON") || undefined;
const missing = python ? undefined : "MICROGPT_CLIENTS_PYTHON: a Python with tests/clients.lock";

peerTest("pip openai, litellm, llm and lm-eval", missing, async () => {
  const folder = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  const tokenizer = join(folder, "tokenizer");
  await Deno.mkdir(tokenizer);
  await Deno.copyFile(join(await knownModel(), "tokenizer.json"), join(tokenizer, "tokenizer.json"));
  const special = { bos_token: "<bos>", eos_token: "<bos>" };
  await Deno.writeTextFile(
    join(tokenizer, "tokenizer_config.json"),
    JSON.stringify({ tokenizer_class: "PreTrainedTokenizerFast", ...special }),
  );
  const documents = [KNOWN.count!, "I am a small model.", "something else, with ünusual letters"];
  // a document's end is a token that `evaluate` counts too
  const texts = join(folder, "texts.jsonl");
  await Deno.writeTextFile(
    texts,
    documents.map((text) => JSON.stringify({ text: `${text}<bos>` }) + "\n").join(""),
  );
  const input = join(folder, "texts.txt");
  await Deno.writeTextFile(input, documents.join("\n"));
  const own: number[] = [];
  await evaluate({
    modelDir: await knownModel(),
    input: [input],
    chat: false,
    onDocument: ({ loss, tokens }) => own.push(-loss * tokens),
  });
  await listening(async (baseURL) => {
    const script = fileURLToPath(new URL("./clients.py", import.meta.url));
    const said = JSON.parse(
      (await run(python!, [script, baseURL, KEY, tokenizer, texts])).trim().split("\n").at(-1)!,
    );
    const { tokens, ...openai } = said.openai;
    assert.ok(tokens > 5);
    const both = { whole: KNOWN.count, streamed: KNOWN.count };
    assert.deepEqual(openai, { models: ["known"], ...both, error: "model_not_found" });
    assert.deepEqual(said.litellm, both);
    assert.equal(said.llm, KNOWN.count);
    assert.equal(said.lm_eval.length, own.length);
    const off = own.map((value, i) => Math.abs(value - said.lm_eval[i]) / Math.abs(value));
    assert.ok(Math.max(...off) < 1e-5, `${said.lm_eval} is not ${own}`);
  });
  await Deno.remove(folder, { recursive: true });
});

Deno.test("curl: an answer and a stream", async () => {
  await listening(async (baseURL) => {
    const ask = (body: object, ...more: string[]) => {
      const messages = [{ role: "user", content: "count" }];
      const data = JSON.stringify({ messages, temperature: 0, ...body });
      const headers = ["-H", "content-type: application/json", "-H", `authorization: Bearer ${KEY}`];
      return run("curl", ["-sN", ...more, ...headers, "-d", data, `${baseURL}/chat/completions`]);
    };
    assert.equal(JSON.parse(await ask({})).choices[0].message.content, KNOWN.count);
    const lines = (await ask({ stream: true })).trimEnd().split("\n\n");
    assert.equal(lines.at(-1), "data: [DONE]");
    const chunks = lines.slice(0, -1).map((line) => JSON.parse(line.slice("data: ".length)));
    assert.equal(chunks.map(({ choices }) => choices[0].delta.content ?? "").join(""), KNOWN.count);
  });
});
