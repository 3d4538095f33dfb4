/** Where parameters lie in the flat array, and what the networks declare. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { readModel } from "../../model/files/checkpoint.ts";
import { gptNetwork } from "../../model/gpt.ts";
import { networkKind } from "../../model/networks.ts";
import { layOut, rangesOf } from "../../model/parameters.ts";
import { withDirectory } from "./files/checkpoint_fixture.ts";

Deno.test("blocks are aligned, parameters of a block are neighbours, one dimension is one row", () => {
  const layout = layOut([
    [{ name: "tokens", shape: [3, 5], role: "embedding" }],
    [{ name: "q", shape: [4, 4], role: "matrix" }, { name: "k", shape: [2, 4], role: "matrix" }],
    [{ name: "norm", shape: [4], role: "norm" }],
  ]);
  const places = layout.entries.map(({ name, rows, cols, offset }) => [name, rows, cols, offset]);
  assert.deepEqual(places, [["tokens", 3, 5, 0], ["q", 4, 4, 128], ["k", 2, 4, 144], ["norm", 1, 4, 256]]);
  assert.deepEqual([layout.length, layout.count], [384, 15 + 16 + 8 + 4]);
});

Deno.test("ranges cover the whole array and end where the key changes", () => {
  const layout = layOut([
    [{ name: "tokens", shape: [3, 5], role: "embedding" }],
    [{ name: "q", shape: [4, 4], role: "matrix" }],
    [{ name: "k", shape: [4, 4], role: "matrix" }],
    [{ name: "norm", shape: [4], role: "norm" }],
  ]);
  assert.deepEqual(rangesOf(layout, ({ role }) => role), [
    { start: 0, end: 128, key: "embedding" },
    { start: 128, end: 384, key: "matrix" },
    { start: 384, end: 512, key: "norm" },
  ]);
  assert.deepEqual(rangesOf(layout, () => 1), [{ start: 0, end: 512, key: 1 }]);
});

Deno.test("a gpt's parameters: which are hidden matrices, and what its meta.json says", () => {
  const config = { vocab_size: 11, n_embd: 8, n_head: 2, n_layer: 1, block_size: 4 };
  const { layout, toMeta, cacheWidth, toShape } = gptNetwork(config);
  const roles = Object.fromEntries(layout.entries.map(({ name, role }) => [name, role]));
  assert.deepEqual(roles, {
    wte: "embedding",
    wpe: "embedding",
    lm_head: "head",
    "layer0.attn_wq": "matrix",
    "layer0.attn_wk": "matrix",
    "layer0.attn_wv": "matrix",
    "layer0.attn_wo": "matrix",
    "layer0.mlp_fc1": "matrix",
    "layer0.mlp_fc2": "matrix",
  });
  assert.equal(JSON.stringify(toMeta()), JSON.stringify(config));
  assert.deepEqual(networkKind().readConfig(toMeta()), config);
  assert.deepEqual(networkKind().configOf(toShape(), 11), config);
  assert.equal(cacheWidth, 16);
});

Deno.test("what begins at 0 is the head and what layers add; all else is drawn as ever", () => {
  const shape = {
    nEmbd: 8,
    nHead: 2,
    nLayer: 2,
    blockSize: 4,
    nKvHead: 0,
    headDim: 0,
    ffn: 8,
    ropeTheta: 1e4,
  };
  for (const arch of ["gpt", "llama"] as const) {
    for (const tie of arch === "llama" ? [false, true] : [false]) {
      const kind = networkKind(arch);
      const network = kind.create(kind.configOf({ arch, ...shape, tie }, 11));
      const [drawn, zero] = [network.initialParameters(5), network.initialParameters(5, undefined, true)];
      const zeros: string[] = [];
      for (const { name, offset, rows, cols } of network.layout.entries) {
        const [a, b] = [drawn, zero].map((flat) => flat!.slice(offset, offset + rows * cols));
        if (b!.every((value) => value === 0)) zeros.push(name.replace(/\d/, "N"));
        else assert.deepEqual(a, b, name);
      }
      const added = arch === "gpt"
        ? ["layerN.attn_wo", "layerN.mlp_fc2", "lm_head"]
        : ["model.layers.N.mlp.down_proj.weight", "model.layers.N.self_attn.o_proj.weight"];
      const head = arch === "llama" && !tie ? ["lm_head.weight"] : [];
      assert.deepEqual([...new Set(zeros)].sort(), [...added, ...head].sort());
    }
  }
});

Deno.test("a model of an unknown architecture is refused, not read as another", async () => {
  await withDirectory(async (dir) => {
    const meta = {
      architecture: "toString",
      vocab_size: 28,
      n_embd: 8,
      n_head: 2,
      n_layer: 1,
      block_size: 4,
    };
    await Deno.writeTextFile(join(dir, "meta.json"), JSON.stringify(meta));
    await assert.rejects(readModel(dir), /meta\.json: architecture must be one of: gpt, llama$/);
  });
});
