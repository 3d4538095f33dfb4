/** The setting `long`: what it trains on, and what it does not go with. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { MicrogptError } from "../../../device/errors.ts";
import type { TrainOptions } from "../../../model/train/options.ts";
import { train } from "../../../model/train/train.ts";

const TINY: TrainOptions = {
  documents: Array.from({ length: 12 }, (_, i) => `${i} is a document that is much longer than a block`),
  nEmbd: 8,
  nHead: 2,
  nLayer: 1,
  blockSize: 8,
  vocabSize: 257,
  batchSize: 2,
  steps: 6,
  valFraction: 0.2,
  device: "reference",
};

/** Losses and notices of a run. */
async function ran(options: TrainOptions): Promise<{ losses: number[]; notices: string[] }> {
  const [losses, notices]: [number[], string[]] = [[], []];
  for await (const event of train(options)) {
    if (event.type === "step") losses.push(event.loss);
    else if (event.type === "notice") notices.push(event.message);
  }
  return { losses, notices };
}

Deno.test("long split trains on all of long documents, and a resumed run goes on so", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const [whole, broken, cut] = ["whole", "broken", "cut"].map((name) => join(dir, name));
    const expected = await ran({ ...TINY, long: "split", output: whole! });
    const truncated = await ran({ ...TINY, output: cut! });
    assert.notDeepEqual(expected.losses, truncated.losses);
    assert(
      truncated.notices.some((text) => text.includes("are longer than block_size (8) and will be truncated")),
    );
    assert(!expected.notices.some((text) => text.includes("truncated")));
    const stop = new AbortController();
    const first: number[] = [];
    for await (const event of train({ ...TINY, long: "split", output: broken!, signal: stop.signal })) {
      if (event.type !== "step") continue;
      first.push(event.loss);
      if (event.step === 2) stop.abort();
    }
    const rest = await ran({ documents: TINY.documents!, device: "reference", resume: broken! });
    assert.deepEqual([...first, ...rest.losses], expected.losses);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("long split excludes skipLong", async () => {
  await assert.rejects(
    ran({ ...TINY, long: "split", skipLong: true }),
    (error) => error instanceof MicrogptError && /exclude each other/.test(error.message),
  );
});

Deno.test("long split of conversations trains on every answer, however late it comes", async () => {
  const output = await Deno.makeTempDir();
  const { documents: _, ...shape } = TINY;
  const turn = (content: string) => [
    { role: "user" as const, content: "a question" },
    { role: "assistant" as const, content },
  ];
  const conversations = Array.from({ length: 4 }, (_, i) => [...turn("b".repeat(20)), ...turn(`c${i}`)]);
  const answers = {
    ...shape,
    conversations,
    valFraction: 0,
    vocabSize: 260,
    loss: "answers",
    output,
  } as const;
  try {
    const split = await ran({ ...answers, long: "split" });
    assert(split.losses.every(Number.isFinite), split.losses.join());
    assert(!split.notices.some((text) => /left out|truncated/.test(text)), split.notices.join());
    // within the block there is no answer
    await assert.rejects(ran(answers), /none of the 4 conversations has an answer within block_size/);
  } finally {
    await Deno.remove(output, { recursive: true });
  }
});

Deno.test("presets split plain text, where nothing else is asked for, and not conversations", async () => {
  const long = async (options: TrainOptions) => {
    for await (const event of train({ ...options, dryRun: true, device: "reference" })) {
      if (event.type === "plan") return [event.settings.long, event.settings.skipLong];
    }
  };
  const documents = ["anna", "bob", "carla"];
  const conversations = [[{ role: "user" as const, content: "a" }, {
    role: "assistant" as const,
    content: "b",
  }]];
  assert.deepEqual(await long({ documents, preset: "names" }), ["split", false]);
  assert.deepEqual(await long({ documents, preset: "names", skipLong: true }), ["truncate", true]);
  assert.deepEqual(await long({ documents, preset: "names", long: "truncate" }), ["truncate", false]);
  assert.deepEqual(await long({ documents }), ["truncate", false]);
  assert.deepEqual(await long({ conversations, preset: "chat-small" }), ["truncate", false]);
});
