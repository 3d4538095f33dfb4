/**
 * llama.cpp as a program: answers one JSON line on standard output for each on standard input (see `Request`). It runs in a
 * Deno of its own, since its binding needs a `node_modules` folder:
 *
 *     deno run -A --node-modules-dir=manual tests/llama_cpp/peer.ts FOLDER-WITH-NODE_MODULES
 */
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { lines } from "../../scripts/lines.ts";

/** What it is asked. Tokens are ids; a logit is of the token that follows. */
export type Request =
  /** `cache`: F16 is llama.cpp as people run it; F32 has keys and values in f32, too, and attention without f16 */
  | { do: "open"; model: string; contextSize: number; threads: number; cache: "F16" | "F32" }
  /** text that looks like a special token stays text */
  | { do: "tokenize"; texts: string[] }
  | { do: "detokenize"; tokens: number[][] }
  /** all logits after each token */
  | { do: "logits"; tokens: number[] }
  /** the token of highest logit after the tokens, after that, and so on */
  | { do: "greedy"; tokens: number[]; count: number }
  /** the `top` highest logits after each of the tokens from number `first` on */
  | { do: "best"; tokens: number[]; first: number; top: number }
  /** natural logarithm of the probability of each token but the first */
  | { do: "likelihood"; tokens: number[] };

export interface Answers {
  /** what llama.cpp complained about */
  open: { warnings: string[] };
  tokenize: number[][];
  detokenize: string[];
  /** [T][V] */
  logits: number[][];
  greedy: number[];
  best: [token: number, logit: number][][];
  likelihood: number[];
}

/** The part of node-llama-cpp that is used here. */
interface NextOutput {
  next: { token?: number; logits?: Map<number, number>; totalLogitWeight?: number };
}
interface Sequence {
  controlledEvaluate(input: (number | [number, unknown])[]): Promise<(NextOutput | undefined)[]>;
  evaluate(tokens: number[], options: unknown): AsyncGenerator<number>;
  evaluateWithoutGeneratingNewTokens(tokens: number[]): Promise<void>;
  clearHistory(): Promise<void>;
}
interface Model {
  tokenize(text: string, special: boolean): number[];
  detokenize(tokens: number[], special: boolean): string;
  createContext(options: unknown): Promise<{ getSequence(): Sequence; dispose(): Promise<void> }>;
  dispose(): Promise<void>;
}

const warnings: string[] = [];
const entry = join(Deno.args[0]!, "node_modules", "node-llama-cpp", "dist", "index.js");
const { getLlama } = await import(pathToFileURL(entry).href);
const llama = await getLlama({
  build: "never",
  gpu: false,
  logLevel: "warn",
  logger: (_: string, message: string) => warnings.push(message.trim()),
});

let model: Model | undefined;
let sequence: Sequence | undefined;

async function open(request: Request & { do: "open" }): Promise<Answers["open"]> {
  await model?.dispose();
  warnings.length = 0;
  model = await llama.loadModel({ modelPath: request.model }) as Model;
  const context = await model.createContext({
    contextSize: request.contextSize,
    batchSize: request.contextSize,
    threads: request.threads,
    ...(request.cache === "F32" ? { flashAttention: false } : {}), // which works in f16 whatever the cache
    experimentalKvCacheKeyType: request.cache,
    experimentalKvCacheValueType: request.cache,
  });
  sequence = context.getSequence();
  return { warnings: [...warnings] };
}

/** Feeds tokens after those before, and asks for the logits after each that `filter` gives a choice for. */
async function feed(tokens: number[], filter: (i: number) => unknown): Promise<NextOutput[]> {
  const input = tokens.map((token, i): number | [number, unknown] => {
    const logits = filter(i);
    const next = { token: true, logits, totalLogitWeight: true, options: { temperature: 0 } };
    return logits === undefined ? token : [token, { generateNext: next }];
  });
  return (await sequence!.controlledEvaluate(input)).filter((output) => output !== undefined);
}

async function logits(tokens: number[]): Promise<number[][]> {
  const outputs = await feed(tokens, () => true);
  return outputs.map(({ next }) => {
    const row = new Array<number>(next.logits!.size);
    for (const [token, logit] of next.logits!) row[token] = logit;
    return row;
  });
}

async function greedy(prompt: number[], count: number): Promise<number[]> {
  const answer: number[] = [];
  let tokens = prompt;
  while (answer.length < count) {
    const [after] = await best(tokens, tokens.length - 1, 1);
    tokens = [after![0]![0]];
    answer.push(...tokens);
  }
  return answer;
}

async function best(tokens: number[], first: number, top: number): Promise<Answers["best"]> {
  const outputs = await feed(
    tokens,
    (i) => i < first ? undefined : { filter: { tokens: [], includeTop: top } },
  );
  return outputs.map(({ next }) => [...next.logits!].toSorted((a, b) => b[1] - a[1]).slice(0, top));
}

async function likelihood(tokens: number[]): Promise<number[]> {
  // not includeMax: in 3.22.1 that adds the largest only where it is there already
  const filter = (i: number) => ({ filter: { tokens: [tokens[i + 1]!], includeTop: 1 } });
  const outputs = await feed(tokens.slice(0, -1), filter);
  return outputs.map(({ next }, i) => {
    const all = next.logits!;
    return all.get(tokens[i + 1]!)! - Math.max(...all.values()) - Math.log(next.totalLogitWeight!);
  });
}

async function answer(request: Request): Promise<unknown> {
  if (request.do === "open") return await open(request);
  if (request.do === "tokenize") return request.texts.map((text) => [...model!.tokenize(text, false)]);
  if (request.do === "detokenize") return request.tokens.map((tokens) => model!.detokenize(tokens, true));
  await sequence!.clearHistory();
  switch (request.do) {
    case "logits":
      return await logits(request.tokens);
    case "greedy":
      return await greedy(request.tokens, request.count);
    case "best":
      return await best(request.tokens, request.first, request.top);
    case "likelihood":
      return await likelihood(request.tokens);
  }
}

for await (const line of lines(Deno.stdin.readable)) {
  console.log(JSON.stringify(await answer(JSON.parse(line))));
}
await llama.dispose();
