import assert from "node:assert/strict";
import { inspectText, loadModel, mapTokens, train } from "../../../mod.ts";

const documents = Array.from({ length: 60 }, (_, i) => ["anna", "bob", "annabel", "bobby"][i % 4]!);

for (const arch of ["gpt", "llama"] as const) {
  Deno.test(`a text as a ${arch} sees it`, async () => {
    const output = await Deno.makeTempDir();
    const small = {
      arch,
      nEmbd: 16,
      nHead: 2,
      nLayer: 2,
      vocabSize: 265,
      blockSize: 16,
      steps: 60,
      valFraction: 0,
    };
    for await (const _ of train({ documents, output, ...small }));
    const { tokens, next, attention } = await inspectText(output, "ann");
    assert.equal(tokens.map(({ text }) => text).join(""), "<bos>ann");
    for (const { probability } of [...tokens, ...next]) assert(probability >= 0 && probability <= 1 + 1e-6);
    assert(next[0]!.probability > 0.5, "it has learned how the name goes on");
    // greedy decoding on another device draws what is most probable here
    using model = await loadModel(output);
    const [text] = await model.samples({ prompt: "ann", numSamples: 1, maxTokens: 1, temperature: 0 });
    assert.equal(text!.replace(/^ann/, ""), next[0]!.text.replace("<bos>", ""));
    assert.deepEqual(attention.map((heads) => heads.length), [2, 2]);
    const T = tokens.length;
    for (const weights of attention.flat()) {
      for (let t = 0; t < T; t++) {
        const row = weights.subarray(t * T, (t + 1) * T);
        assert(Math.abs(row.reduce((a, b) => a + b, 0) - 1) < 1e-5);
        assert(row.subarray(t + 1).every((weight) => weight === 0));
      }
    }
    const answered = await inspectText(output, { prompt: "an" }, "na");
    assert.deepEqual(answered.tokens.slice(answered.start).map(({ text }) => text).join(""), "na");
    assert(answered.tokens.at(-1)!.expected.every(({ id, text }) => id >= 0 && text.length > 0));
    await assert.rejects(inspectText(output, "x".repeat(10_000)));
    const map = await mapTokens(output, 40);
    assert.equal(map.texts.length, 40);
    assert.equal(map.places.length, 80);
    assert(map.nearest.every((others, i) => others.length === 5 && !others.includes(i)));
    assert(map.shown > 0 && map.shown <= 1 && map.places.every(Number.isFinite));
    await Deno.remove(output, { recursive: true });
  });
}
