/** A small chat model, learned by heart, behind a handler, without a socket. */
import {
  handler,
  type HandlerOptions,
  type LanguageModel,
  loadModel,
  type ServeHandler,
  train,
} from "../../../mod.ts";
import type { DeviceOptions } from "../../../model/devices.ts";

/** What the model knows: question and answer. */
export const KNOWN: Record<string, string> = {
  "hello": "Hello! How are you?",
  "what is your name?": "I am a small model. What is yours?",
  "count": "one two three four five six seven eight nine ten",
};

let directory: Promise<string> | undefined;

/** Where the model is; trained at the first call, removed when the process ends. */
export function knownModel(): Promise<string> {
  return directory ??= trainKnown();
}

async function trainKnown(): Promise<string> {
  const output = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  globalThis.addEventListener("unload", () => Deno.removeSync(output, { recursive: true }));
  const conversations = Object.entries(KNOWN).map(([user, assistant]) => [
    { role: "user" as const, content: user },
    { role: "assistant" as const, content: assistant },
  ]);
  const shape = { nEmbd: 32, nHead: 2, nLayer: 2, blockSize: 256, vocabSize: 300 };
  const recipe = { steps: 80, batchSize: 4, valFraction: 0, lr: 0.02, warmupSteps: 5 };
  for await (const _ of train({ conversations, output, ...shape, ...recipe }));
  return output;
}

/** A server to call functions of. */
export interface Served extends AsyncDisposable {
  serve: ServeHandler;
  model: LanguageModel;
  /** the answer to a request; objects are sent as JSON */
  ask(path: string, body?: unknown, init?: RequestInit): Promise<Response>;
}

/** Serves the known model. */
export async function served(options: HandlerOptions = {}, device: DeviceOptions = {}): Promise<Served> {
  const model = await loadModel(await knownModel(), device);
  const serve = await handler(model, { modelName: "known", ...options });
  return {
    serve,
    model,
    ask: (path, body, init = {}) => {
      const { headers, ...rest } = init;
      const posted = body === undefined ? {} : {
        method: "POST",
        body: typeof body === "string" ? body : JSON.stringify(body),
      };
      const sent = {
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers as object,
      };
      return serve(new Request(`http://127.0.0.1:8080${path}`, { ...posted, headers: sent, ...rest }));
    },
    async [Symbol.asyncDispose]() {
      await serve.close();
      model.close();
    },
  };
}

/** A question as a chat request. */
export function question(content: string, more: object = {}): object {
  return { messages: [{ role: "user", content }], temperature: 0, ...more };
}

/** The values of a stream's `data:` lines, without `[DONE]`, which must be the last. */
// deno-lint-ignore no-explicit-any
export async function events(response: Response): Promise<any[]> {
  const lines = (await response.text()).split("\n\n").filter((line) => line.startsWith("data: "));
  const values = lines.map((line) => line.slice("data: ".length));
  if (values.at(-1) !== "[DONE]") throw new Error(`the stream ends with ${values.at(-1)}`);
  return values.slice(0, -1).map((value) => JSON.parse(value));
}
