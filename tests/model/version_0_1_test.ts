/** What version 0.1.0 saved still loads, goes on, and comes out the same, bit for bit. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { loadModel, train, type TrainOptions } from "../../mod.ts";
import recorded from "../golden/version_0_1/losses.json" with { type: "json" };
import { type Recorded, RUNS, STEPS, STOPPED_AT } from "../golden/version_0_1.ts";

const FIXTURES = join(import.meta.dirname!, "..", "golden", "version_0_1");

async function losses(options: TrainOptions): Promise<number[]> {
  const all: number[] = [];
  for await (const event of train(options)) if (event.type === "step") all.push(event.loss);
  return all;
}

async function sha256(path: string): Promise<string> {
  return createHash("sha256").update(await Deno.readFile(path)).digest("hex");
}

/** Compares what a finished run left with the record. */
async function checkFiles(dir: string, { weights, m, v }: Recorded): Promise<void> {
  assert.equal(await sha256(join(dir, "weights.safetensors")), weights, "weights");
  assert.equal(await sha256(join(dir, "optimizer_m.safetensors")), m, "m");
  assert.equal(await sha256(join(dir, "optimizer_v.safetensors")), v, "v");
}

async function copyOf(fixture: string): Promise<string> {
  const dir = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  for await (const { name } of Deno.readDir(fixture)) {
    await Deno.copyFile(join(fixture, name), join(dir, name));
  }
  return dir;
}

for (const name of ["text", "chat"] as const) {
  const expected: Recorded = recorded[name];

  Deno.test(`version 0.1.0, ${name}: a checkpoint goes on to the same losses and the same files`, async () => {
    const dir = await copyOf(join(FIXTURES, name));
    const { documents, conversations, device } = RUNS[name];
    const data = documents ? { documents } : { conversations: conversations! };
    assert.deepEqual(
      await losses({ ...data, device: device!, resume: dir }),
      expected.losses.slice(STOPPED_AT),
    );
    await checkFiles(dir, expected);
    await Deno.remove(dir, { recursive: true });
  });

  Deno.test(`version 0.1.0, ${name}: a fresh run has the same losses and the same files`, async () => {
    const dir = await Deno.makeTempDir({ prefix: "microgpt-test-" });
    assert.deepEqual(await losses({ ...RUNS[name], steps: STEPS, output: dir }), expected.losses);
    await checkFiles(dir, expected);
    await Deno.remove(dir, { recursive: true });
  });

  Deno.test(`version 0.1.0, ${name}: the device cpu has the same losses to 1e-5`, async () => {
    const dir = await Deno.makeTempDir({ prefix: "microgpt-test-" });
    const actual = await losses({ ...RUNS[name], device: "cpu", steps: STEPS, output: dir });
    actual.forEach((loss, i) =>
      assert.ok(Math.abs(loss - expected.losses[i]!) < 1e-5, `step ${i + 1}: ${loss}`)
    );
    await Deno.remove(dir, { recursive: true });
  });

  Deno.test(`version 0.1.0, ${name}: a checkpoint says the same`, async () => {
    using model = await loadModel(join(FIXTURES, name), { device: "reference" });
    const prompt = name === "text" ? "a" : "hi";
    const greedy = await model.samples({ numSamples: 2, temperature: 0, maxTokens: 12, prompt });
    const drawn = await model.samples({ numSamples: 2, temperature: 1, seed: 3, maxTokens: 12 });
    assert.deepEqual([...greedy, ...drawn], expected.samples);
  });
}
