/**
 * From a text file to a new tokenizer and tokens that can be trained on: ours, HuggingFace's `datasets` + `tokenizers`, and
 * nanoGPT's way (bench/prepare.py), on the same file, one after the other.
 *
 *     deno run -A bench/corpus.ts --megabytes 200 --sample data/samples/names.txt > corpus.txt
 *     deno run -A bench/prepare.ts --input corpus.txt --python python3
 *     deno run -A bench/prepare.ts --input corpus.txt --again     # ours alone, then how soon a second run takes its first step
 *
 * Seconds are of whole processes, from their start to their end; memory is the most that a process and its children have
 * together (Pss, every 250 ms), of Linux.
 */
import { parseArgs } from "node:util";

const { values: flags } = parseArgs({
  options: {
    input: { type: "string" },
    /** interpreter with the packages of bench/requirements.txt; without it only ours is measured */
    python: { type: "string" },
    vocabulary: { type: "string", default: "4096" },
    /** also: a run of one step, which finds everything prepared */
    again: { type: "boolean", default: false },
    /** the ways of others, one after the other */
    ways: { type: "string", default: "hf,nanogpt" },
    /** where everything is written, and removed at the end */
    directory: { type: "string" },
    /** what the process itself starts */
    child: { type: "string" },
  },
});
if (flags.input === undefined) throw new Error("--input is needed: a text file");
const { input, vocabulary } = flags;

/** Phases of a preparation in seconds, and what came of it. */
interface Phases {
  training: number;
  encoding: number;
  tokens: number;
}

/** Prepares the file in this process. */
async function prepare(cacheDir: string): Promise<Phases> {
  const { openCorpus } = await import("../data/corpus.ts");
  const { ownEncoder } = await import("../data/documents.ts");
  const { prepareTokens } = await import("../data/tokens/prepare_tokens.ts");
  const { newTokenizerOf } = await import("../model/train/prepare.ts");
  const vocabSize = Number(vocabulary);
  const started = performance.now();
  let trained = started;
  const tokens = await prepareTokens(await openCorpus({ input }), {
    newTokenizer: newTokenizerOf({ vocabSize, arch: "gpt", chat: false, tokenizerSample: 0 }),
    encoderOf: ownEncoder,
    answersOnly: false,
    seed: 42,
    cacheDir,
    cacheBytes: 1e12,
    onProgress: ({ phase }) => {
      if (phase !== "tokens" || trained === started) trained = performance.now();
    },
  });
  const ended = performance.now();
  tokens.store.close();
  return {
    training: (trained - started) / 1000,
    encoding: (ended - trained) / 1000,
    tokens: tokens.store.tokens,
  };
}

/** Bytes of memory that a process and its children have. */
function memoryOf(pid: number): number {
  let bytes = 0;
  try {
    const pss = /^Pss:\s+(\d+)/mu.exec(Deno.readTextFileSync(`/proc/${pid}/smaps_rollup`));
    bytes = 1024 * Number(pss?.[1] ?? 0);
    for (const task of Deno.readDirSync(`/proc/${pid}/task`)) {
      const children = Deno.readTextFileSync(`/proc/${pid}/task/${task.name}/children`);
      for (const child of children.split(" ").filter(Boolean)) bytes += memoryOf(Number(child));
    }
  } catch {
    // it has ended meanwhile
  }
  return bytes;
}

interface Measured {
  seconds: number;
  bytes: number;
  output: string;
}

/** Runs a command. @param until ends it at the first output that has this */
async function measure(command: string, args: string[], until?: RegExp): Promise<Measured> {
  const started = performance.now();
  const child = new Deno.Command(command, { args, stdout: "piped", stderr: until ? "piped" : "inherit" })
    .spawn();
  let bytes = 0;
  const timer = setInterval(() => bytes = Math.max(bytes, memoryOf(child.pid)), 250);
  let output = "";
  let seconds = 0;
  const take = async (stream: ReadableStream<Uint8Array>) => {
    for await (const text of stream.pipeThrough(new TextDecoderStream() as ReadableWritablePair)) {
      output += text;
      if (seconds === 0 && until?.test(output)) seconds = (performance.now() - started) / 1000;
    }
  };
  await Promise.all([take(child.stdout), ...until ? [take(child.stderr)] : []]);
  const { success } = await child.status;
  clearInterval(timer);
  if (!success) throw new Error(`${command} ${args.join(" ")} failed: ${output}`);
  return { seconds: seconds || (performance.now() - started) / 1000, bytes, output };
}

function say(name: string, { seconds, bytes, output }: Measured, size: number): void {
  const { training, encoding, tokens } = JSON.parse(output.trim().split("\n").at(-1)!) as Phases;
  console.log(
    `${name.padEnd(10)} ${seconds.toFixed(1)} s (tokenizer ${training.toFixed(1)}, tokens ${
      encoding.toFixed(1)
    }), ` +
      `${(size / seconds / 1e6).toFixed(1)} MB/s, ${Math.round(bytes / 1e6)} MB of memory, ${tokens} tokens`,
  );
}

if (flags.child !== undefined) console.log(JSON.stringify(await prepare(flags.child)));
else {
  const directory = await Deno.makeTempDir({
    prefix: "microgpt-bench-",
    ...(flags.directory ? { dir: flags.directory } : {}),
  });
  try {
    const { size } = await Deno.stat(input);
    console.log(`${input}: ${(size / 1e6).toFixed(0)} MB, vocabulary ${vocabulary}`);
    // so that none has to wait for the disk
    for await (const _ of (await Deno.open(input)).readable);
    const cache = `${directory}/ours`;
    const script = new URL(import.meta.url).pathname;
    const own = ["run", "-A", script, "--input", input, "--vocabulary", vocabulary, "--child", cache];
    say("microgpt", await measure(Deno.execPath(), own), size);
    if (flags.again) {
      const cli = new URL("../cli.ts", import.meta.url).pathname;
      const model = `${directory}/model`;
      const args = ["train", "--input", input, "--steps", "1", "--device", "cpu", "--val-fraction", "0.0001"];
      const more = ["--vocab-size", vocabulary, "--cache-dir", cache, "--output", model];
      const { seconds, bytes } = await measure(
        Deno.execPath(),
        ["run", "-A", cli, ...args, ...more],
        /step +1\b/u,
      );
      console.log(
        `second run ${seconds.toFixed(2)} s to the end of the first step, ${Math.round(bytes / 1e6)} MB`,
      );
    }
    for (const way of flags.python === undefined ? [] : flags.ways.split(",")) {
      const python = new URL("prepare.py", import.meta.url).pathname;
      const work = `${directory}/${way}`;
      await Deno.mkdir(work);
      say(way, await measure(flags.python!, [python, way, input, work, vocabulary]), size);
      await Deno.remove(work, { recursive: true });
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}
