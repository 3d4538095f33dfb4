/** The routes. */
import { type Context, Hono } from "npm:hono@4.13.19";
import { ApiError, apiErrorOf } from "./api_error.ts";
import {
  allowedOrigin,
  checkHost,
  checkKey,
  checkOrigin,
  type GuardOptions,
  readJson,
  secure,
} from "./guard.ts";
import type { Endpoint, Metrics } from "./metrics.ts";
import { modelList, modelObject } from "./models.ts";
import { chatCompletions, completions } from "./openai.ts";
import { PAGE_PATHS, pageFile } from "./page.ts";
import type { Runs } from "./runs.ts";
import type { LogEntry } from "./log_entry.ts";
import { Call, type Service } from "./service.ts";
import { siblingChat, siblingGenerate } from "./sibling.ts";

/** What the routes need. */
export interface AppOptions extends GuardOptions {
  metrics: Metrics;
  /** undefined while the model loads */
  service: () => Service | undefined;
  /** there is one, or will be; without only runs are shown */
  hasModel: boolean;
  /** undefined: none are shown */
  runs: Runs | undefined;
  log: ((entry: LogEntry) => void) | undefined;
}

/** What goes along with a request: the call that it became. */
interface Env {
  Bindings: { call?: Call };
}

type Answering = (service: Service, body: unknown, call: Call) => Promise<Response>;

/** The routes that answer with the model's words. */
const ANSWERING: Record<string, [Endpoint, Answering]> = {
  "/v1/chat/completions": ["chat_completions", chatCompletions],
  "/v1/completions": ["completions", completions],
  "/microgpt/v1/chat": ["chat", siblingChat],
  "/microgpt/v1/generate": ["generate", siblingGenerate],
};

/** Needs no key. */
const OPEN_PATHS = [...PAGE_PATHS, "/health"];

/** Training runs, for the page. */
const RUNS = "/microgpt/v1/runs";

/** Makes the application. */
export function createApp(options: AppOptions): Hono<Env> {
  const { metrics, hasModel, runs } = options;
  // clients join base and path with two slashes
  const app = new Hono<Env>({ getPath: (request) => new URL(request.url).pathname.replace(/\/{2,}/g, "/") });
  const ready = (): Service => {
    const service = options.service();
    if (service) return service;
    if (!hasModel) throw new ApiError(404, "this server has no model: it shows training runs");
    throw new ApiError(503, "Loading model", { type: "unavailable_error", retryAfter: 1 });
  };

  app.use("*", async (c, next) => {
    const { raw } = c.req;
    checkHost(raw, options);
    const origin = allowedOrigin(raw, options);
    if (raw.method === "OPTIONS") {
      if (origin === undefined) throw new ApiError(403, "pages of this origin may not use the server");
      return new Response(null, { status: 204, headers: corsHeaders(origin, true) });
    }
    if (raw.method !== "GET" && raw.method !== "HEAD") checkOrigin(raw, options);
    if (!OPEN_PATHS.includes(c.req.path)) checkKey(raw, options);
    await next();
  });

  for (const path of PAGE_PATHS) app.get(path, () => pageFile(path));
  app.get("/health", (c) => options.service() || !hasModel ? c.json({ status: "ok" }) : ready() as never);
  app.get("/metrics", (c) => c.text(metrics.text(), 200, { "content-type": "text/plain; version=0.0.4" }));
  app.get("/v1/models", (c) => c.json(hasModel ? modelList(ready()) : { object: "list", data: [] }));
  app.get("/v1/models/:id{.+}", (c) => c.json(modelObject(ready(), c.req.param("id"))));
  app.get(RUNS, async (c) => {
    const after = c.req.queries("after") ?? [];
    const since = new Map((c.req.queries("run") ?? []).map((id, i) => [id, after[i] ?? ""]));
    return c.json({ watching: runs !== undefined, runs: await runs?.list(since) ?? [] });
  });
  for (const [path, [endpoint, answer]] of Object.entries(ANSWERING)) {
    app.post(path, async (c) => {
      const call = new Call(c.req.raw, endpoint);
      c.env.call = call;
      return await answer(ready(), await readJson(c.req.raw), call);
    });
  }
  app.post("/v1/embeddings", () => {
    throw new ApiError(404, "this server has no embeddings: its models make text", { code: "not_supported" });
  });
  const methods = { ...Object.fromEntries(Object.keys(ANSWERING).map((path) => [path, "POST"])) };
  for (const path of [...OPEN_PATHS, "/metrics", "/v1/models", RUNS]) methods[path] = "GET";
  for (const [path, method] of Object.entries(methods)) {
    app.all(path, () => {
      throw new ApiError(405, `this takes ${method}`, { code: "method_not_allowed" });
    });
  }
  app.notFound((c) => refusal(c, new ApiError(404, "there is nothing here", { code: "not_found" })));
  app.onError((error, c) => refusal(c, error));
  return app;
}

/** Tells a client of an error. */
function refusal(c: Context<Env>, error: unknown): Response {
  const told = apiErrorOf(error);
  const { call } = c.env;
  if (told.status === 500 && call) call.error = error instanceof Error ? error.message : String(error);
  const response = c.req.path.startsWith("/microgpt/")
    ? Response.json({ error: told.message }, { status: told.status })
    : told.response();
  if (told.retryAfter !== undefined) response.headers.set("retry-after", String(told.retryAfter));
  return response;
}

/** What a browser is told about a page of elsewhere that may use the server. */
function corsHeaders(origin: string, preflight: boolean): Record<string, string> {
  return {
    "access-control-allow-origin": origin,
    vary: "origin",
    ...(preflight
      ? {
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "authorization, content-type, x-api-key",
        "access-control-max-age": "600",
      }
      : {}),
  };
}

/** Answers a request, adds what every answer has, and logs it when it is over. */
export async function answer(app: Hono<Env>, request: Request, options: AppOptions): Promise<Response> {
  const came = performance.now();
  const time = new Date().toISOString();
  const holder: Env["Bindings"] = {};
  // a `Host` that is no host makes an address that is none
  const made = URL.canParse(request.url)
    ? await app.fetch(request, holder)
    : new ApiError(400, "the request's address cannot be parsed").response();
  const response = new Response(made.body, made);
  // failed answers are counted where they fail
  if (response.status >= 400 && !holder.call?.answers) {
    options.metrics.add("microgpt_request_errors_total", 1, String(response.status));
  }
  secure(response.headers);
  const origin = allowedOrigin(request, options);
  if (origin !== undefined) {
    for (const [name, value] of Object.entries(corsHeaders(origin, false))) response.headers.set(name, value);
    response.headers.set("cross-origin-resource-policy", "cross-origin");
  }
  const { log } = options;
  if (log) {
    const path = URL.canParse(request.url) ? new URL(request.url).pathname : "";
    const entry = { time, method: request.method, path, status: response.status };
    const finish = () => log({ ...entry, ms: Math.round(performance.now() - came), ...outcome(holder.call) });
    const answers = holder.call?.answers;
    if (answers) answers.finished.then(finish, finish);
    else finish();
  }
  return response;
}

/** What became of a request's answers. */
function outcome(call: Call | undefined): Partial<LogEntry> {
  if (!call) return {};
  const error = call.error === undefined ? {} : { error: call.error };
  if (!call.answers) return error;
  const { completionTokens, cachedTokens } = call.answers.usage;
  return {
    prompt_tokens: call.prompts.reduce((sum, { ids }) => sum + ids.length, 0),
    cached_tokens: cachedTokens,
    completion_tokens: completionTokens,
    ...(call.ending ? { ending: call.ending } : {}),
    ...error,
  };
}
