/** What a run holds out when it goes on with other data, and where its data may come from. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { prepareRun } from "../../model/train/prepare.ts";
import { train } from "../../model/train/train.ts";
import type { TrainOptions } from "../../model/train/options.ts";
import { withDirectory } from "../model/files/checkpoint_fixture.ts";
import { microgpt, TINY as TINY_FLAGS } from "../cli/program.ts";

const documents = Array.from({ length: 40 }, (_, i) => `document ${i}`);
const TINY = {
  device: "reference",
  vocabSize: 257,
  nEmbd: 4,
  nHead: 1,
  nLayer: 1,
  blockSize: 8,
  batchSize: 1,
} as const;

async function trainState(dir: string) {
  return JSON.parse(await Deno.readTextFile(join(dir, "train_state.json")));
}

/** Prepares a run, and lets go of it. */
async function prepared(options: TrainOptions) {
  const { run, ...rest } = await prepareRun(options);
  run.close();
  return rest;
}

const fullTrain = (options: TrainOptions) => Array.fromAsync(train(options));

Deno.test("a resumed run keeps every document on its side, whatever became of the data", async () => {
  await withDirectory(async (dir) => {
    const output = join(dir, "model");
    await fullTrain({ ...TINY, documents, output, steps: 1, valFraction: 0.1 });
    const { val_threshold: threshold, val_documents: held } = await trainState(output);
    assert.equal(held, 4);
    const resume = { resume: output, device: "reference", steps: 1 } as const;
    const more = Array.from({ length: 5 }, (_, i) => `${documents[i]!}`);
    const grown = await prepared({
      ...resume,
      documents: [...more, ...documents.toReversed()],
      skipLong: false,
    });
    assert.equal(grown.validationDocuments, 4);
    await fullTrain({ ...resume, documents: documents.slice(7) });
    assert.equal((await trainState(output)).val_threshold, threshold);
    const back = await prepared({ ...resume, documents });
    assert.deepEqual([back.trainingDocuments, back.validationDocuments], [36, 4]);
  });
});

Deno.test("--skip-long moves no document to the other side", async () => {
  await withDirectory(async (dir) => {
    const output = join(dir, "model");
    const mixed = documents.map((text, i) => i % 3 ? "abcdefg"[i % 7]!.repeat(1 + i % 5) + i : text);
    await fullTrain({ ...TINY, documents: mixed, output, steps: 1, valFraction: 0.5 });
    const { validationDocuments } = await prepared({ resume: output, ...TINY, documents: mixed, steps: 1 });
    const skipped = await prepared({ resume: output, ...TINY, documents: mixed, steps: 1, skipLong: true });
    assert(skipped.validationDocuments < validationDocuments);
    const short = mixed.filter((_, i) => i % 3);
    const alone = await prepared({ resume: output, ...TINY, documents: short, steps: 1 });
    assert.deepEqual(
      [skipped.trainingDocuments, skipped.validationDocuments],
      [alone.trainingDocuments, alone.validationDocuments],
    );
  });
});

Deno.test("a checkpoint without a threshold keeps its split on the same data, and says what happens on other data", async () => {
  await withDirectory(async (dir) => {
    const [output, input] = [join(dir, "model"), join(dir, "a.txt")];
    await Deno.writeTextFile(input, documents.join("\n"));
    await fullTrain({ ...TINY, input, output, steps: 1, valFraction: 0.1 });
    const { val_threshold: _, ...early } = await trainState(output);
    await Deno.writeTextFile(join(output, "train_state.json"), JSON.stringify(early));
    const resume = { resume: output, device: "reference", steps: 1 } as const;
    const warning = /does not say which documents it held out/;
    const events = await fullTrain(resume);
    assert(!events.some((event) => event.type === "notice" && warning.test(event.message)));
    assert(!("val_threshold" in await trainState(output)));
    const skipping = await prepared({ ...resume, blockSize: 8, skipLong: true }).catch((error) =>
      error.message
    );
    assert.match(skipping, /nothing is left to train on/);
    await Deno.writeTextFile(input, [...documents, "another"].join("\n"));
    const changed = await fullTrain(resume);
    assert(changed.some((event) => event.type === "notice" && warning.test(event.message)));
    assert((await trainState(output)).val_threshold > 0);
    assert(!(await prepared(resume)).notices.some((notice) => warning.test(notice)));

    const { val_threshold: __, val_fraction: ___, val_documents: ____, ...rust } = await trainState(output);
    await Deno.writeTextFile(join(output, "train_state.json"), JSON.stringify(rust));
    assert((await prepared(resume)).notices.some((notice) => warning.test(notice)));
    assert(!(await prepared({ ...resume, valFraction: 0 })).notices.some((notice) => warning.test(notice)));
  });
});

Deno.test("options that exclude each other are errors that name both", async () => {
  const conversations = [[{ role: "assistant" as const, content: "a" }]];
  const refused = async (options: TrainOptions, message: string) =>
    await assert.rejects(prepareRun({ ...TINY, ...options }), {
      name: "MicrogptError",
      usage: true,
      message,
    });
  await refused({ documents, conversations }, "documents and conversations are both given");
  await refused({ documents, input: "a.txt" }, "documents and input are both given");
  await refused({ conversations, input: "a.txt" }, "conversations and input are both given");
  await refused(
    { documents, chat: true },
    "documents and chat: true are both given, but documents are plain text",
  );
  await refused({ conversations, chat: false }, "conversations and chat: false are both given");
});

Deno.test("conversations and documents in memory are checked before they are trained on", async () => {
  const conversations = [[{ role: "narrator", content: "a" }]] as unknown as TrainOptions["conversations"];
  await assert.rejects(prepareRun({ ...TINY, conversations: conversations! }), {
    message: /^conversations\[0\]: message 1: expected "role" to be .*, got "narrator"$/,
  });
  await assert.rejects(prepareRun({ ...TINY, documents: ["a", null as unknown as string] }), {
    message: "documents[1]: expected text, got null",
  });
});

Deno.test("train and info tell of copies, and of text that is another format's syntax", async () => {
  await withDirectory(async (dir) => {
    const lines = documents.map((text) => JSON.stringify({ text }));
    await Deno.writeTextFile(join(dir, "a.jsonl"), [...lines, ...lines].join("\r"));
    const { code, stderr } = await microgpt(["train", "--dry-run", ...TINY_FLAGS, "--input", "a.jsonl"], {
      cwd: dir,
    });
    assert.equal(code, 0, stderr);
    assert.match(stderr, /^a\.jsonl: 80 documents, field text$/m);
    assert.match(
      stderr,
      /^ +\d+ documents kept: repeat others word for word\n +\d+ documents left out: repeat a held-out one/m,
    );
    const info = await microgpt(["info", "--input", "a.jsonl"], { cwd: dir });
    assert.match(info.stdout, /^ +40 documents kept: repeat others word for word$/m);
    assert.match(info.stderr, /^a\.jsonl: 80 documents, field text$/m);
    const { stdout } = await microgpt(["info", "--json", "--input", "a.jsonl"], { cwd: dir });
    assert.equal(JSON.parse(stdout).copies, 40);
  });
});
