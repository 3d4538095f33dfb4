/** A model over HTTP, for programs: a handler for `Deno.serve`. */
import { checkOptions, type Options } from "../../device/options.ts";
import { DEVICE_OPTIONS } from "../devices.ts";
import type { LanguageModel } from "../generate/language_model.ts";
import { DEFAULTED_SAMPLING, SERVE_OPTIONS, type ServeOptions } from "./options.ts";
import type { LogEntry } from "./log_entry.ts";

/**
 * Checks options that have a range, those of the device among them, before a model is loaded.
 * @throws {MicrogptError} naming the option, its range and what was got
 */
export function checkServeOptions(options: Record<string, unknown>): void {
  checkOptions({ ...SERVE_OPTIONS, ...DEFAULTED_SAMPLING, ...DEVICE_OPTIONS } as Options, options);
}

/** How a model is served, for programs: `log` is called when a request is over. */
export type HandlerOptions =
  & Omit<
    ServeOptions,
    "log" | "port" | "noAuth" | "grace" | "tlsCert" | "tlsKey"
  >
  & {
    log?: (entry: LogEntry) => void;
  };

/** Answers requests; hand it to `Deno.serve`. */
export interface ServeHandler {
  (request: Request): Promise<Response>;
  /** the model is loaded; rejects when it cannot be */
  readonly ready: Promise<void>;
  /** Takes nothing new, and ends when all answers have ended. */
  drain(): Promise<void>;
  /** Ends at once; answers under way fail. */
  close(): Promise<void>;
}

/**
 * Serves a model over HTTP: OpenAI's API, a page to talk with it, `/health` and `/metrics`.
 *
 * @example
 * ```ts
 * import { handler, loadModel, train } from "../../mod.ts";
 *
 * const output = await Deno.makeTempDir();
 * const documents = ["anna", "bob", "carla", "dora"];
 * for await (const _ of train({ documents, output, steps: 2, nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 260 }));
 * using model = await loadModel(output);
 * const serve = await handler(model, { modelName: "names" });
 * const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => serve(request));
 * const answer = await fetch(`http://127.0.0.1:${server.addr.port}/v1/models`);
 * console.log((await answer.json()).data[0].id);
 * await server.shutdown();
 * await serve.close();
 * ```
 *
 * @param model or what it will be: until then the answer is 503; undefined serves the runs of `watch` alone
 * @param options who may ask, and how much; `host` is the address that is listened on: on this machine's own, requests
 * under other names are refused
 * @throws {MicrogptError} for options out of range
 */
export async function handler(
  model: LanguageModel | Promise<LanguageModel> | undefined,
  options: HandlerOptions = {},
): Promise<ServeHandler> {
  const { log, ...checked } = options;
  const { log: _, ...table }: Options = SERVE_OPTIONS;
  checkOptions({ ...table, ...DEFAULTED_SAMPLING }, checked);
  const [{ answer, createApp }, { Metrics }, { Runs }, { Service }] = await Promise.all([
    import("./app.ts"),
    import("./metrics.ts"),
    import("./runs.ts"),
    import("./service.ts"),
  ]);
  const metrics = new Metrics();
  let service: InstanceType<typeof Service> | undefined;
  const load = (loaded: LanguageModel) => {
    const {
      modelName = "microgpt",
      parallel = SERVE_OPTIONS.parallel.default,
      queue = SERVE_OPTIONS.queue.default,
      cacheMb = SERVE_OPTIONS.cacheMb.default,
      requestTimeout = SERVE_OPTIONS.requestTimeout.default,
      readerTimeout = SERVE_OPTIONS.readerTimeout.default,
    } = options;
    const limits = { parallel, queue, cacheMb, readerTimeout };
    service = new Service(loaded, modelName, metrics, { ...options, requestTimeout }, limits);
  };
  if (model !== undefined && !(model instanceof Promise)) load(model);
  const ready = model instanceof Promise ? model.then(load) : Promise.resolve();
  ready.catch(() => {}); // whoever waits hears of it
  const appOptions = {
    metrics,
    service: () => service,
    hasModel: model !== undefined,
    runs: options.watch && new Runs(options.watch),
    log,
    host: options.host ?? SERVE_OPTIONS.host.default,
    apiKey: options.apiKey,
    corsOrigins: options.corsOrigin ?? [],
  };
  const app = createApp(appOptions);
  return Object.assign((request: Request) => answer(app, request, appOptions), {
    ready,
    drain: async () => await service?.scheduler.drain(),
    close: async () => await service?.scheduler.close(),
  });
}
