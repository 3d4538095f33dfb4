/**
 * The server under load: chat-medium after one step, served by the program in a process of its own.
 *
 *     deno run -A bench/serve.ts prepare --model DIR
 *     deno run -A bench/serve.ts start        # from start to ready, and memory when idle
 *     deno run -A bench/serve.ts streams      # 1, 8 and 32 streams together, tokens a second
 *     deno run -A bench/serve.ts first        # first token beside 16 streams with prompts of 200 tokens
 *     deno run -A bench/serve.ts requests     # 10,000 requests, 1,000 of them at a time, by content
 *
 * `streams` beside other servers, on a Llama that is exported for them; rounds alternate, and a server that does not run has
 * its process stopped:
 *
 *     deno run -A bench/serve.ts streams --preset chat-llama --type f16 --llama-server PATH --mlx PYTHON
 *
 * Client and server share the machine. Each server gets the same requests from the same client.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { exportModel, type PresetName, train } from "../mod.ts";
import { hash32 } from "../device/random.ts";
import { median } from "./documents_file.ts";
import { type Ask, MeasuredServer, type ServerCommand } from "./serving.ts";

const { values: flags, positionals: [what = "streams"] } = parseArgs({
  allowPositionals: true,
  options: {
    preset: { type: "string", default: "chat-medium" },
    /** a model, which is made where it is not: the preset after one step */
    model: { type: "string" },
    /** type of the weights beside others */
    type: { type: "string", default: "f32" },
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "3" },
    /** tokens of an answer in `streams` */
    tokens: { type: "string", default: "128" },
    /** numbers of streams */
    streams: { type: "string", default: "1,8,32" },
    /** in `requests` */
    requests: { type: "string", default: "10000" },
    /** llama.cpp's server */
    "llama-server": { type: "string" },
    /** an interpreter that has mlx-lm */
    mlx: { type: "string" },
    /** the compiled program in place of its source */
    program: { type: "string" },
  },
});
const rounds = Number(flags.rounds);

/** Words of a vocabulary that a tokenizer of 4096 tokens learns. */
function words(seed: number, count: number): string {
  const syllables = "ka lo mi ter an sol vi ber do gan ne phi ru sha ton ul wex yo zim cra".split(" ");
  const word = (n: number) => {
    const id = Math.floor(Math.sqrt(hash32(n) % 9_000_000)); // rare ones and frequent ones
    return syllables[id % 20]! + syllables[Math.floor(id / 20) % 20]! +
      (id % 3 ? syllables[Math.floor(id / 400) % 20]! : "");
  };
  return Array.from({ length: count }, (_, i) => word(seed * 10_007 + i)).join(" ");
}

/** The model after one step: its speed is that of a good one. */
async function prepared(folder: string): Promise<string> {
  const output = flags.model ?? join(folder, "model");
  if (await Deno.stat(output).then(() => true, () => false)) return output;
  const conversations = Array.from({ length: 1500 }, (_, i) => [
    { role: "user" as const, content: words(2 * i, 30) },
    { role: "assistant" as const, content: words(2 * i + 1, 60) },
  ]);
  const preset = flags.preset as PresetName;
  for await (const _ of train({ conversations, output, preset, steps: 1, valFraction: 0 }));
  return output;
}

const cli = fileURLToPath(new URL("../cli.ts", import.meta.url));

/** `microgpt serve`. */
function ours(model: string, more: string[] = []): ServerCommand {
  const [command, ...run] = flags.program
    ? [flags.program]
    : [Deno.execPath(), "run", "--no-check", "-A", cli];
  const options = ["--model-dir", model, "--log", "none", "--threads", flags.threads, ...more];
  return {
    name: "microgpt",
    command: command!,
    args: (port) => [...run, "serve", "--port", String(port), ...options],
    // llama.cpp's name of a field that is another's
    fields: { repeat_penalty: undefined, cache_prompt: undefined },
  };
}

function llamaServer(program: string, file: string): ServerCommand {
  const slots = Math.max(...flags.streams.split(",").map(Number));
  return {
    name: "llama.cpp",
    command: program,
    args: (port) => [
      ...["-m", file, "--port", String(port), "--threads", flags.threads, "--no-webui"],
      ...["--parallel", String(slots), "--ctx-size", String(1024 * slots), "--threads-http", "2"],
    ],
    fields: { ignore_eos: true },
  };
}

function mlxServer(python: string, directory: string): ServerCommand {
  return {
    name: "mlx-lm",
    command: python,
    args: (port) => ["-m", "mlx_lm", "server", "--model", directory, "--port", String(port)],
    // with a seed it draws one answer at a time
    fields: { seed: undefined, model: directory },
  };
}

/** A prompt of about so many tokens, other than all others. */
function promptOf(tokens: number, number: number): string {
  return words(1_000_000 + number, Math.ceil(tokens * 0.7));
}

function askOf(round: number, stream: number): Ask {
  return { prompt: promptOf(16, round * 1000 + stream), maxTokens: Number(flags.tokens), seed: stream };
}

/** Between looks at streams, in milliseconds, where there are several: all of them together take this client no time. */
const LOOK_MS = 8;

/** Tokens a second of so many streams that begin together. */
async function streams(
  server: MeasuredServer,
  count: number,
  round: number,
): Promise<{ speed: number; tokens: number; answers: string[] }> {
  const answers = await Promise.all(Array.from({ length: count }, (_, i) => {
    const ask = askOf(round, i);
    return server.stream(ask, count > 1 ? LOOK_MS : 0);
  }));
  const longest = Math.max(...answers.map(({ ms }) => ms));
  const tokens = answers.reduce((sum, { tokens }) => sum + tokens, 0);
  return { speed: 1000 * tokens / longest, tokens, answers: answers.map(({ text }) => text) };
}

async function measureStreams(model: string, folder: string): Promise<void> {
  const counts = flags.streams.split(",").map(Number);
  const commands: ServerCommand[] = [];
  if (flags["llama-server"] || flags.mlx) {
    const type = flags.type as "f32";
    const gguf = await exportModel(model, join(folder, "gguf"), { format: "gguf", type });
    commands.push(ours(gguf.file));
    if (flags["llama-server"]) commands.push(llamaServer(flags["llama-server"], gguf.file));
    if (flags.mlx) {
      await exportModel(model, join(folder, "hf"), { format: "hf", type });
      commands.push(mlxServer(flags.mlx, join(folder, "hf")));
    }
  } else commands.push(ours(model));
  await using all = new AsyncDisposableStack();
  const servers: MeasuredServer[] = [];
  for (const command of commands) servers.push(all.use(await MeasuredServer.start(command)));
  const costs = new Map(servers.map((server) => [server, counts.map((): number[] => [])]));
  const speeds = new Map(servers.map((server) => [server, counts.map((): number[] => [])]));
  for (let round = 0; round <= rounds; round++) {
    for (const [i, count] of counts.entries()) {
      for (const server of servers) {
        const before = server.processorSeconds;
        const { speed, tokens, answers } = await streams(server, count, round);
        if (round === 0) { // warms up; an answer among others is the one that comes alone
          if (server !== servers[0]) continue;
          for (const [i, text] of answers.entries()) {
            if (await server.whole(askOf(round, i)) !== text) {
              throw new Error(`${count} streams: ${i} is another`);
            }
          }
          continue;
        }
        speeds.get(server)![i]!.push(speed);
        costs.get(server)![i]!.push(1e6 * (server.processorSeconds - before) / tokens);
      }
    }
  }
  const [first] = servers;
  for (const [i, count] of counts.entries()) {
    const row = servers.map((server) => {
      const own = speeds.get(server)![i]!;
      const ratio = median(speeds.get(first!)![i]!.map((speed, r) => speed / own[r]!));
      const beside = server === first ? "" : ` (ratio ${ratio.toFixed(2)})`;
      const cost = median(costs.get(server)![i]!).toFixed(0);
      return `${server.command.name} ${
        median(own).toFixed(0)
      } tok/s, ${cost} µs of processor a token${beside}`;
    });
    console.log(`${count} streams: ${row.join(", ")}`);
  }
  for (const server of servers) {
    const [one, most] = [speeds.get(server)![0]!, speeds.get(server)!.at(-1)!];
    const ratio = median(most.map((speed, r) => speed / one[r]!));
    console.log(`${server.command.name}: ${counts.at(-1)} streams together are ${ratio.toFixed(2)} of one`);
  }
}

async function measureStart(model: string): Promise<void> {
  const times: number[] = [];
  let [idle, after] = [0, 0];
  for (let round = 0; round < rounds + 1; round++) {
    await using server = await MeasuredServer.start(ours(model));
    if (round > 0) times.push(server.readyMs);
    await new Promise((resolve) => setTimeout(resolve, 500));
    idle = server.residentMb;
    await server.stream({ prompt: promptOf(16, 0), maxTokens: 4, seed: 1 });
    await new Promise((resolve) => setTimeout(resolve, 500));
    after = server.residentMb;
  }
  const { size } = await Deno.stat(join(model, "weights.safetensors"));
  const modelMb = size / 2 ** 20;
  console.log(
    `ready after ${median(times).toFixed(0)} ms (${times.map((ms) => ms.toFixed(0)).join(", ")}); ` +
      `idle ${idle.toFixed(0)} MB, after a request ${after.toFixed(0)} MB, the model ${
        modelMb.toFixed(0)
      } MB`,
  );
}

/** Streams with prompts of 200 tokens: how long until the first token of one alone, and of 16 that go on all the time. */
async function measureFirst(model: string): Promise<void> {
  await using server = await MeasuredServer.start(ours(model));
  const ask = (number: number): Ask => {
    return { prompt: promptOf(200, number), maxTokens: Number(flags.tokens), seed: number };
  };
  let number = 0;
  for (let i = 0; i < 3; i++) await server.stream(ask(number++));
  const alone: number[] = [];
  for (let i = 0; i < 20; i++) alone.push((await server.stream(ask(number++))).firstMs);
  const loaded: number[] = [];
  const clients = Array.from({ length: 16 }, async (_, client) => {
    // they begin one after the other, so that they do not go on in step
    await new Promise((resolve) => setTimeout(resolve, 60 * client));
    for (let turn = 0; turn < 2 + 4 * rounds; turn++) {
      const { firstMs } = await server.stream(ask(number++));
      if (turn >= 2) loaded.push(firstMs);
    }
  });
  await Promise.all(clients);
  const burst = await Promise.all(Array.from({ length: 16 }, () => server.stream(ask(number++))));
  const [one, p50, p95] = [median(alone), share(loaded, 0.5), share(loaded, 0.95)];
  console.log(
    `first token: alone ${one.toFixed(0)} ms; with 16 streams p50 ${p50.toFixed(0)} ms, p95 ${
      p95.toFixed(0)
    } ms, ` +
      `${(p95 / one).toFixed(2)} times alone; 16 at the same instant: p95 ${
        share(burst.map(({ firstMs }) => firstMs), 0.95).toFixed(0)
      } ms`,
  );
}

function share(values: readonly number[], part: number): number {
  return values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(part * values.length))]!;
}

/** Many requests at once, compared with what each says alone. */
async function measureRequests(model: string): Promise<void> {
  const [kinds, together, total] = [250, 1000, Number(flags.requests)];
  await using server = await MeasuredServer.start(ours(model, ["--queue", "2000"]));
  const ask = (kind: number): Ask => ({
    prompt: promptOf(8 + kind % 20, kind),
    maxTokens: 4 + kind % 9,
    seed: kind,
  });
  const alone: string[] = [];
  for (let kind = 0; kind < kinds; kind++) alone.push(await server.whole(ask(kind)));
  const memory = [server.residentMb];
  let [number, wrong, done] = [0, 0, 0];
  const started = performance.now();
  await Promise.all(Array.from({ length: together }, async () => {
    while (number < total) {
      const kind = hash32(number++) % kinds;
      if (await server.whole(ask(kind)) !== alone[kind]) wrong++;
      if (++done % Math.ceil(total / 5) === 0) memory.push(server.residentMb);
    }
  }));
  const seconds = (performance.now() - started) / 1000;
  console.log(
    `${done} requests, ${together} at a time, in ${seconds.toFixed(1)} s (${
      (done / seconds).toFixed(0)
    } a second): ` +
      `${wrong} other than alone; MB by fifths: ${memory.map((mb) => mb.toFixed(0)).join(", ")}`,
  );
}

const folder = await Deno.makeTempDir({ prefix: "microgpt-bench-" });
try {
  const model = await prepared(folder);
  if (what === "prepare") console.log(model);
  else if (what === "start") await measureStart(model);
  else if (what === "streams") await measureStreams(model, folder);
  else if (what === "first") await measureFirst(model);
  else if (what === "requests") await measureRequests(model);
  else throw new Error(`there is no measurement ${what}: start, streams, first or requests`);
} finally {
  await Deno.remove(folder, { recursive: true });
}
