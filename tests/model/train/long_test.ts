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

Deno.test("long split excludes skipLong, and the loss of answers alone", async () => {
  const conversations = [[{ role: "user" as const, content: "a" }, {
    role: "assistant" as const,
    content: "b",
  }]];
  const output = await Deno.makeTempDir();
  const { documents: _, ...shape } = TINY;
  const both = { ...TINY, long: "split", skipLong: true, output } as const;
  const answers = { ...shape, conversations, long: "split", loss: "answers", output } as const;
  try {
    for (
      const [options, message] of [[both, /exclude each other/], [
        answers,
        /goes with `loss` all only/,
      ]] as const
    ) {
      await assert.rejects(
        ran(options),
        (error) => error instanceof MicrogptError && message.test(error.message),
      );
    }
  } finally {
    await Deno.remove(output, { recursive: true });
  }
});
