/** The program as a server: how it begins and ends, its log, https, and clients that are slow, many or gone. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { handler, type LanguageModel, loadModel } from "../../../mod.ts";
import { microgpt } from "../../cli/program.ts";
import { peerTest } from "../../peers.ts";
import { KNOWN, knownModel, question, served } from "./served.ts";
import { ServerProcess, until } from "./server_process.ts";

const CHAT = "/v1/chat/completions";
const isLinux = Deno.build.os === "linux";
const hasSignals = Deno.build.os !== "windows";

/** A request that takes seconds: its answers come one after the other, and never end by themselves. */
const LONG = question("count", { n: 128, logit_bias: { 70: 100 }, max_tokens: 240 });
const STREAM = { ...LONG, stream: true };

const serving = async (flags: string[] = [], options = {}) => {
  const model = ["--model-dir", await knownModel(), "--model-name", "known"];
  return await ServerProcess.start([...model, ...flags], options);
};

Deno.test("until the model is loaded the answer is 503, then 200; one that cannot be loaded is told", async () => {
  const { promise, resolve, reject } = Promise.withResolvers<LanguageModel>();
  const serve = await handler(promise);
  const ask = (path: string) => serve(new Request(`http://127.0.0.1${path}`));
  for (const path of ["/health", "/v1/models"]) {
    const response = await ask(path);
    assert.deepEqual([response.status, response.headers.get("retry-after")], [503, "1"]);
    const error = { message: "Loading model", type: "unavailable_error", param: null, code: null };
    assert.deepEqual(await response.json(), { error });
  }
  assert.equal((await ask("/")).status, 200);
  using model = await loadModel(await knownModel());
  resolve(model);
  await serve.ready;
  assert.deepEqual(await (await ask("/health")).json(), { status: "ok" });
  await serve.close();
  reject();
  const failing = await handler(Promise.reject(new Error("no such model")));
  await assert.rejects(failing.ready, /no such model/);
  assert.equal((await failing(new Request("http://127.0.0.1/health"))).status, 503);
});

Deno.test("a request that takes longer than it may is 504, in a stream an error, and others go on", async () => {
  await using server = await served({ requestTimeout: 0.1, parallel: 1 });
  const [whole, stream] = await Promise.all([server.ask(CHAT, LONG), server.ask(CHAT, STREAM)]);
  assert.equal(whole.status, 504);
  assert.equal((await whole.json()).error.code, "timeout");
  const lines = (await stream.text()).trim().split("\n\n");
  assert.equal(JSON.parse(lines.at(-1)!.slice("data: ".length)).error.code, "timeout");
  const { choices } = await (await server.ask(CHAT, question("hello"))).json();
  assert.equal(choices[0].message.content, KNOWN.hello);
});

Deno.test("a stream that nobody reads makes room for those who wait, and only for those", async () => {
  await using server = await served({ readerTimeout: 0.2, parallel: 1 });
  const unread = await server.ask(CHAT, { ...STREAM, n: 1, logprobs: true, top_logprobs: 20 });
  await until(async () =>
    /^microgpt_requests_active 1$/m.test(await (await server.ask("/metrics")).text()) || undefined
  );
  await new Promise((resolve) => setTimeout(resolve, 400));
  const { choices } = await (await server.ask(CHAT, question("hello"))).json();
  assert.equal(choices[0].message.content, KNOWN.hello);
  await assert.rejects(unread.text(), /was not read/);
  const metrics = await (await server.ask("/metrics")).text();
  assert.match(metrics, /^microgpt_request_errors_total\{status="408"\} 1$/m);
});

/** Lines of the log that are JSON. */
function logged(server: ServerProcess): Record<string, unknown>[] {
  return server.said.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
}

Deno.test({
  name: "SIGTERM lets answers end and takes no more; the log has a line of JSON a request",
  ignore: !hasSignals,
  fn: async () => {
    await using server = await serving(["--log", "json", "--grace", "50", "--parallel", "4"]);
    await server.ready();
    await (await server.post(CHAT, question("hello"))).text();
    await (await server.post(CHAT, { messages: 1 })).text();
    await (await server.post(CHAT, STREAM)).body!.cancel();
    await until(() => logged(server).length === 3 || undefined, () => server.said);
    const ending = await server.post(CHAT, STREAM);
    const reader = ending.body!.pipeThrough(new TextDecoderStream()).getReader();
    let text = (await reader.read()).value!;
    server.kill("SIGTERM");
    await server.says(/(stopping)/);
    const late = await server.post(CHAT, question("hello")).then(async (response) => {
      return [response.status, (await response.json()).error.code];
    });
    assert.deepEqual(late, [503, "shutting_down"]);
    for (let piece; !(piece = await reader.read()).done;) text += piece.value;
    assert.match(text, /data: \[DONE\]\n\n$/);
    assert.equal((await server.ended()).code, 0);
    const [good, bad, left, , last] = logged(server);
    const { time, ms, ...rest } = good!;
    assert.ok(Math.abs(Date.parse(time as string) - Date.now()) < 60_000 && (ms as number) >= 0);
    const tokens = { prompt_tokens: 5, cached_tokens: 0, completion_tokens: rest.completion_tokens };
    assert.deepEqual(rest, { method: "POST", path: CHAT, status: 200, ...tokens, ending: "done" });
    assert.deepEqual(Object.keys(bad!), ["time", "method", "path", "status", "ms"]);
    assert.deepEqual([bad!.status, left!.ending, last!.ending], [400, "cancelled", "done"]);
    assert.equal(last!.completion_tokens, 128 * 240);
  },
});

Deno.test({
  name: "after the grace answers are cut off; killed, it starts on the same port again",
  ignore: !hasSignals,
  fn: async () => {
    await using killed = await serving();
    await killed.ready();
    const cut = await killed.post(CHAT, STREAM);
    killed.kill("SIGKILL");
    await assert.rejects(cut.text());
    await killed.ended();
    await using server = await serving(["--grace", "0.1", "--parallel", "1"], { port: killed.port });
    assert.equal(server.port, killed.port);
    await server.ready();
    const stream = await server.post(CHAT, STREAM);
    const waiting = server.post(CHAT, question("hello"));
    const accepted = () => server.metric('microgpt_requests_total{endpoint="chat_completions"}');
    await until(async () => await accepted() === 2 || undefined);
    server.kill("SIGTERM");
    const started = performance.now();
    assert.match(await stream.text(), /"error":\{"message":"the server was stopped".*\n\n$/);
    assert.equal((await waiting).status, 503);
    assert.equal((await server.ended()).code, 0);
    assert.ok(performance.now() - started < 5000, "it ends soon");
  },
});

/** Makes a certificate for 127.0.0.1. */
async function certificate(dir: string): Promise<{ cert: string; key: string }> {
  const [cert, key] = [join(dir, "cert.pem"), join(dir, "key.pem")];
  const made = await new Deno.Command("openssl", {
    args: [
      ...[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
      ],
      ...["-keyout", key, "-out", cert, "-subj", "/CN=localhost"],
      // the client refuses a certificate of an authority as a server's own
      ...["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"],
    ],
    stderr: "piped",
  }).output();
  assert(made.success, new TextDecoder().decode(made.stderr));
  return { cert, key };
}

async function missingOpenssl(): Promise<string | undefined> {
  try {
    const { success } = await new Deno.Command("openssl", { args: ["version"], stdout: "null" }).output();
    return success ? undefined : "openssl";
  } catch {
    return "openssl";
  }
}

peerTest("with a certificate it is https, and nothing else", await missingOpenssl(), async () => {
  const dir = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  const { cert, key } = await certificate(dir);
  await using server = await serving(["--tls-cert", cert, "--tls-key", key]);
  assert.match(server.url, /^https:/);
  await server.ready();
  using client = Deno.createHttpClient({ caCerts: [await Deno.readTextFile(cert)] });
  const { choices } = await (await server.post(CHAT, question("hello"), { client })).json();
  assert.equal(choices[0].message.content, KNOWN.hello);
  await assert.rejects(fetch(`http://127.0.0.1:${server.port}/health`));
  for (
    const [flags, message] of [
      [["--tls-cert", cert], /^error: --tls-cert and --tls-key go together$/m],
      [["--tls-cert", cert, "--tls-key", join(dir, "none")], /^error: cannot read .*none: /m],
      [["--tls-cert", key, "--tls-key", key], /^error: /m],
    ] as const
  ) {
    const { code, stderr } = await microgpt([
      "serve",
      "--port",
      "0",
      "--model-dir",
      await knownModel(),
      ...flags,
    ]);
    assert.notEqual(code, 0);
    assert.match(stderr, message);
    assert.doesNotMatch(stderr, /^ {4}at /m);
  }
  await Deno.remove(dir, { recursive: true });
});

/** A client that asks, and does not read until it is told to. */
class SlowReader {
  #text = "";

  private constructor(readonly connection: Deno.Conn) {}

  static async ask(port: number, body: object): Promise<SlowReader> {
    const text = JSON.stringify(body);
    const connection = await Deno.connect({ hostname: "127.0.0.1", port });
    const head = `POST ${CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n` +
      `Connection: close\r\nContent-Length: ${text.length}\r\n\r\n`;
    await connection.write(new TextEncoder().encode(head + text));
    return new SlowReader(connection);
  }

  /** All that it is told. */
  async read(): Promise<string> {
    const buffer = new Uint8Array(64 << 10);
    const decoder = new TextDecoder();
    for (let n; (n = await this.connection.read(buffer)) !== null;) {
      this.#text += decoder.decode(buffer.subarray(0, n), { stream: true });
    }
    return this.#text;
  }
}

Deno.test({
  name: "what slow readers do not take is not made: memory stays, others go on, and nothing is lost",
  ignore: !isLinux, // memory is read from /proc
  fn: async () => {
    await using server = await serving(["--parallel", "128"]);
    await server.ready();
    // 240 tokens with 20 alternatives each: more than the system takes for a client
    const large = { ...STREAM, n: 32, logprobs: true, top_logprobs: 20 };
    await (await server.post(CHAT, large)).body!.pipeTo(new WritableStream());
    const before = server.residentMb;
    const readers = await Promise.all(Array.from({ length: 3 }, () => SlowReader.ask(server.port, large)));
    await until(async () => {
      const steps = await server.metric("microgpt_decode_steps_total");
      await new Promise((resolve) => setTimeout(resolve, 100));
      return steps === await server.metric("microgpt_decode_steps_total") || undefined;
    });
    assert.equal(await server.metric("microgpt_requests_active"), 96);
    const { choices } = await (await server.post(CHAT, question("hello"))).json();
    assert.equal(choices[0].message.content, KNOWN.hello);
    const grown = server.residentMb - before;
    assert.ok(grown < 30, `${grown} MB more`);
    for (const text of await Promise.all(readers.map((reader) => reader.read()))) {
      assert.match(text, /data: \[DONE\]\n\n/);
      assert.equal(text.match(/"finish_reason":"length"/g)?.length, 32);
    }
    for (const { connection } of readers) connection.close();
  },
});

Deno.test({
  name: "a flood of connections, more than the system allows, ends with those who made it",
  ignore: !isLinux,
  fn: async () => {
    // the system lets it open so many files
    const few = ["sh", "-c", 'ulimit -n 200; exec "$0" "$@"'];
    await using server = await serving([], { through: few });
    await server.ready();
    const before = server.sockets;
    const underWay = await server.post(CHAT, { ...STREAM, n: 32 });
    const connect = () => Deno.connect({ hostname: "127.0.0.1", port: server.port }).catch(() => undefined);
    const connections = await Promise.all(Array.from({ length: 400 }, connect));
    await server.says(/(no connections are taken)/);
    assert.match(await underWay.text(), /data: \[DONE\]\n\n$/);
    for (const connection of connections) connection?.close();
    const answer = await until(() => server.post(CHAT, question("hello")).catch(() => undefined));
    assert.equal((await answer.json()).choices[0].message.content, KNOWN.hello);
    server.disconnect();
    await until(
      () => server.sockets <= before || undefined,
      () => `${server.sockets} sockets, not ${before}`,
    );
  },
});
