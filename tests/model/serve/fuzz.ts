/**
 * Asks a server thousands of things that are wrong in some way, from a seed, and holds its answers against what they should
 * be. fuzz_test.ts does so for a moment; here as often as is wanted:
 *
 *     deno run -A tests/model/serve/fuzz.ts --requests 20000 --seed 1
 *     deno run -A tests/model/serve/fuzz.ts --seed 1 --only 4711
 */
import assert from "node:assert/strict";
import { parseArgs } from "node:util";
import { bodyCase, brokenBody, Dice, ROUTES } from "./fuzz_bodies.ts";
import { socketCase, speak } from "./fuzz_sockets.ts";
import { knownModel } from "./served.ts";
import { ServerProcess, until } from "./server_process.ts";

/** Requests at a time. */
const TOGETHER = 8;

/** What is seen of a server before and after. */
export interface Fuzzed {
  /** how often each status came; 0 where there was none */
  statuses: Map<number, number>;
  /** MB before the first and after the last request, once warm */
  residentMb: [number, number];
}

/** A request whose answer always is the same. */
const FIXED = {
  messages: [{ role: "user", content: "count" }],
  temperature: 1.5,
  seed: 5,
  max_tokens: 40,
  logprobs: true,
};

/** What the server says to it, without what names the one answer. */
async function fixedAnswer(server: ServerProcess): Promise<unknown> {
  const response = await server.post("/v1/chat/completions", FIXED);
  assert.equal(response.status, 200);
  return (await response.json()).choices;
}

/** A server of the known model, ready to be fuzzed. */
export async function startFuzzed(): Promise<ServerProcess> {
  const dir = await knownModel();
  const server = await ServerProcess.start(["--model-dir", dir, "--model-name", "known", "--log", "none"]);
  await server.ready();
  return server;
}

/** Asks a server all requests of a seed. @throws {AssertionError} naming the first with a wrong answer */
export async function fuzz(
  server: ServerProcess,
  seed: number,
  numbers: readonly number[],
): Promise<Fuzzed> {
  const isLinux = Deno.build.os === "linux";
  const before = await fixedAnswer(server);
  server.disconnect();
  await new Promise((resolve) => setTimeout(resolve, 100));
  const sockets = isLinux ? server.sockets : 0;
  const startMb = isLinux ? server.residentMb : 0;
  const statuses = new Map<number, number>();
  const rest = [...numbers].reverse();
  const client = Deno.createHttpClient({ poolMaxIdlePerHost: TOGETHER });
  const work = async () => {
    for (let number; (number = rest.pop()) !== undefined;) {
      const dice = new Dice(seed * 1_000_003 + number);
      const status = await askOne(server, client, dice, `request ${number} of seed ${seed}`);
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
    }
  };
  await Promise.all(Array.from({ length: TOGETHER }, work));
  client.close();
  await until(async () => await server.metric("microgpt_requests_active") === 0 || undefined);
  assert.equal(await server.metric("microgpt_requests_waiting"), 0);
  assert.deepEqual(await fixedAnswer(server), before, "the same seed says something else than before");
  server.disconnect();
  if (isLinux) {
    await until(
      () => server.sockets <= sockets || undefined,
      () => `${server.sockets} sockets, not ${sockets}`,
    );
  }
  assert.doesNotMatch(server.said, /^error|^ {4}at |panicked/m);
  return { statuses, residentMb: [startMb, isLinux ? server.residentMb : 0] };
}

/** Asks one thing. @returns the status of its answer */
async function askOne(
  server: ServerProcess,
  client: Deno.HttpClient,
  dice: Dice,
  name: string,
): Promise<number> {
  const kind = dice.below(10);
  if (kind === 0) {
    const asked = socketCase(dice);
    const { statuses, closed } = await speak(server.port, asked, dice);
    const about = `${name}: ${asked.name}`;
    if (!asked.waits && !asked.half) assert(statuses.length > 0 || closed, `${about}: no answer`);
    for (const status of statuses) assert(asked.statuses.includes(status), `${about}: ${status}`);
    return statuses[0] ?? 0;
  }
  if (kind === 1) return await askBroken(server, client, dice, name);
  const { path, text, statuses, wrong } = bodyCase(dice);
  const headers = { "content-type": "application/json" };
  const response = await fetch(server.url + path, { method: "POST", headers, body: text, client });
  const said = await response.text();
  const about = `${name}: ${path} ${text.slice(0, 300)}: ${response.status} ${said.slice(0, 300)}`;
  const isNamed = wrong.includes("model") && response.status === 404;
  assert(statuses.includes(response.status) || isNamed, about);
  if (response.status !== 200) checkError(path, said, about, wrong);
  else if (!path.startsWith("/microgpt/")) {
    const { stream } = JSON.parse(text);
    assert(stream ? said.endsWith("data: [DONE]\n\n") : JSON.parse(said).choices.length > 0, about);
    assert.doesNotMatch(said, /^data: \{"error"/m, about);
  }
  return response.status;
}

/** Asks with a body, a type, a method or a path that is wrong. */
async function askBroken(
  server: ServerProcess,
  client: Deno.HttpClient,
  dice: Dice,
  name: string,
): Promise<number> {
  const route = dice.pick(Object.keys(ROUTES));
  const body = brokenBody(dice);
  const json = { "content-type": "application/json" };
  const [path, init, status] = dice.pick<() => [string, RequestInit, number]>([
    () => [
      dice.pick(["/v1/chat/completions", "/microgpt/v1/chat"]),
      { method: "POST", headers: json, body },
      400,
    ],
    () => [route, { method: "POST", headers: json, body: new Uint8Array((2 << 20) + 1) }, 413],
    () => [route, {
      method: "POST",
      headers: { "content-type": dice.pick(["text/plain", "x", "application/jsonp"]) },
      body,
    }, 415],
    () => [route, { method: dice.pick(["GET", "PUT", "DELETE", "PATCH", "HEAD"]), headers: json }, 405],
    () => [
      `${route}/${dice.pick(["x", "%00", "..%2f", "%ff"])}`,
      { method: "POST", headers: json, body },
      404,
    ],
    () => ["/v1/embeddings", { method: "POST", headers: json, body }, 404],
    () => [`/v1/models/${dice.pick(["x", "%00", "%ff", "..%2f..", "x".repeat(5000)])}`, {}, 404],
    () => [
      dice.pick(["/health", "/metrics", "/v1/models", "/"]),
      { method: "POST", headers: json, body },
      405,
    ],
    () => [route, {
      method: "POST",
      headers: { ...json, origin: dice.pick(["null", "https://evil.example", "x"]) },
      body,
    }, 403],
  ])();
  const response = await fetch(server.url + path, { ...init, client });
  const said = await response.text();
  const about = `${name}: ${init.method ?? "GET"} ${path} (${body.length} bytes): ${response.status} ${
    said.slice(0, 300)
  }`;
  assert.equal(response.status, status, about);
  if (init.method !== "HEAD") checkError(path, said, about);
  return response.status;
}

/** Whether an error has OpenAI's shape, or the Rust program's, and names one of the fields that are wrong. */
function checkError(path: string, said: string, about: string, wrong: readonly string[] = []): void {
  const { error } = JSON.parse(said);
  if (path.startsWith("/microgpt/")) return assert.equal(typeof error, "string", about);
  assert.deepEqual(Object.keys(error), ["message", "type", "param", "code"], about);
  assert.equal(error.type, "invalid_request_error", about);
  assert(typeof error.message === "string" && error.message !== "" && error.message.length < 1000, about);
  if (wrong.length === 0) return;
  assert(wrong.some((field) => new RegExp(`^${field}\\b`).test(error.param ?? "")), about);
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      requests: { type: "string", default: "10000" },
      seed: { type: "string", default: "1" },
      only: { type: "string" },
    },
  });
  const first = Number(values.only ?? 0);
  const count = values.only === undefined ? Number(values.requests) : 1;
  await using server = await startFuzzed();
  const seed = Number(values.seed);
  // what a process keeps after its first requests is no leak
  if (count > 1) await fuzz(server, seed + 1, Array.from({ length: 2000 }, (_, n) => n));
  const started = performance.now();
  const { statuses, residentMb } = await fuzz(
    server,
    seed,
    Array.from({ length: count }, (_, n) => first + n),
  );
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const counts = [...statuses].sort(([a], [b]) => a - b).map(([status, n]) => `${status || "none"} ${n}`);
  const [before, after] = residentMb.map((mb) => mb.toFixed(0));
  console.log(
    `${count} requests in ${seconds} s: ${counts.join(", ")}; ${before} MB before, ${after} MB after`,
  );
}
