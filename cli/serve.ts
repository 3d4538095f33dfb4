import { basename, resolve } from "node:path";
import {
  checkServeOptions,
  DEFAULTED_SAMPLING,
  DEVICE_OPTIONS,
  handler,
  loadModel,
  MicrogptError,
  type RequestLog,
  SERVE_OPTIONS,
  type ServeHandler,
  type ServeOptions,
} from "../mod.ts";
import type { Command, FlagValues } from "./command.ts";
import { flagsOf, given } from "./flags.ts";
import { onInterrupt } from "./interrupt.ts";
import { Listener } from "./listener.ts";
import { jsonLine, say, sayNotice, sayWarnings } from "./terminal.ts";

export const command: Command = {
  flags: [
    {
      name: "--model-dir",
      value: "dir",
      help: "the model (default: MODEL_DIR of the environment, else output; with --watch none)",
    },
    ...flagsOf(SERVE_OPTIONS),
    ...flagsOf(DEFAULTED_SAMPLING),
    ...flagsOf(DEVICE_OPTIONS),
  ],
  run: runServe,
};

/** An address that only this machine reaches. */
const LOOPBACK = /^(localhost|::1|127(\.\d{1,3}){3})$/i;

async function runServe(values: FlagValues): Promise<number> {
  const options = settings(values);
  checkServeOptions({ ...options, ...given(DEVICE_OPTIONS, values) });
  const modelDir = values.modelDir as string ?? Deno.env.get("MODEL_DIR") ??
    (options.watch ? undefined : "output");
  checkPublic(options);
  const tls = await certificate(options);
  const loading = modelDir === undefined ? undefined : loadModel(modelDir, given(DEVICE_OPTIONS, values));
  loading?.catch(() => {}); // it is awaited below
  const {
    log = SERVE_OPTIONS.log.default,
    modelName = basename(resolve(modelDir ?? "none")),
    ...rest
  } = options;
  const serve = await handler(loading, {
    ...rest,
    modelName,
    ...(log === "none" ? {} : { log: log === "json" ? logJson : logText }),
  });
  const server = new Listener((request) => serve(request), options, tls);
  try {
    using model = await loading;
    await serve.ready;
    if (model) {
      sayWarnings(model.device);
      say(
        `serving ${modelName} (${model.parameters.toLocaleString("en")} parameters on ${model.deviceName})`,
      );
    }
    for (const dir of options.watch ?? []) {
      const there = await Deno.stat(dir).then(() => true, () => false);
      if (there) say(`showing runs in ${dir}`);
      else sayNotice(`warning: ${dir} does not exist: its runs are shown once they are there`);
    }
    await untilAsked();
    await end(server, serve, options.grace ?? SERVE_OPTIONS.grace.default);
    return 0;
  } finally {
    await serve.close();
    await server.shutdown();
  }
}

/** Flags, and what the environment says where flags do not. */
function settings(values: FlagValues): Partial<ServeOptions> {
  const options: Partial<ServeOptions> = {
    ...given(SERVE_OPTIONS, values),
    ...given(DEFAULTED_SAMPLING, values),
  };
  const apiKey = options.apiKey ?? Deno.env.get("MICROGPT_API_KEY");
  if (apiKey) options.apiKey = apiKey;
  const port = Deno.env.get("PORT");
  if (options.port === undefined && port) options.port = Number(port);
  return options;
}

/** @throws {MicrogptError} where anybody could use the server, and nobody said so */
function checkPublic({ host = SERVE_OPTIONS.host.default, apiKey, noAuth }: Partial<ServeOptions>): void {
  if (LOOPBACK.test(host) || apiKey !== undefined || noAuth) return;
  throw new MicrogptError(`everyone who reaches ${host} could use the server`, {
    hint: "set `apiKey`, or say `noAuth` if that is meant",
    usage: true,
  });
}

/** Reads the files of TLS. @throws {MicrogptError} when one is missing or cannot be read */
async function certificate(
  { tlsCert, tlsKey }: Partial<ServeOptions>,
): Promise<{ cert: string; key: string } | undefined> {
  if (tlsCert === undefined && tlsKey === undefined) return undefined;
  if (tlsCert === undefined || tlsKey === undefined) {
    throw new MicrogptError("`tlsCert` and `tlsKey` go together", { usage: true });
  }
  const read = async (path: string) => {
    try {
      return await Deno.readTextFile(path);
    } catch (cause) {
      throw new MicrogptError(`cannot read ${path}: ${(cause as Error).message}`, { cause });
    }
  };
  return { cert: await read(tlsCert), key: await read(tlsKey) };
}

/** Until Ctrl-C, SIGTERM or the end of the terminal. */
function untilAsked(): Promise<void> {
  return new Promise((resolve) => {
    const forget = onInterrupt(() => {
      forget();
      resolve();
    });
  });
}

/** Lets answers end for `grace` seconds; then they are cut off. */
async function end(server: Listener, serve: ServeHandler, grace: number): Promise<void> {
  say("stopping: answers under way may end");
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => timer = setTimeout(resolve, 1000 * grace));
  await Promise.race([serve.drain(), late]);
  clearTimeout(timer);
  await serve.close();
  await server.shutdown();
}

/** One JSON object a request. */
function logJson(entry: RequestLog): void {
  say(jsonLine(entry));
}

/** One line a request. */
function logText(entry: RequestLog): void {
  const { time, method, path, status, ms, prompt_tokens, cached_tokens, completion_tokens, ending, error } =
    entry;
  const tokens = prompt_tokens === undefined
    ? ""
    : ` ${prompt_tokens} tokens (${cached_tokens} cached) + ${completion_tokens}`;
  const end = ending === undefined || ending === "done" ? "" : ` ${ending}`;
  say(
    `${time} ${method} ${path} ${status} ${ms} ms${tokens}${end}${error === undefined ? "" : `: ${error}`}`,
  );
}
