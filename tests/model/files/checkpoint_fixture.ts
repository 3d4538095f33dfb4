/** Small checkpoints for tests, whose contents all follow from their step. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { type Checkpoint, type LoadedCheckpoint, readCheckpoint } from "../../../model/files/checkpoint.ts";
import type { ModelConfig } from "../../../model/config.ts";
import { networkOf } from "../../../model/networks.ts";

/** 28 tokens. */
export const CONFIG: ModelConfig = { vocab_size: 28, n_embd: 8, n_head: 2, n_layer: 1, block_size: 16 };

/** Another architecture, for what a fresh run replaces. */
export const OTHER_CONFIG: ModelConfig = { ...CONFIG, n_embd: 4, n_layer: 2 };

/** A tokenizer.json of `<bos>`, the letters and a full stop. */
export const TOKENIZER_JSON = JSON.stringify({
  version: "1.0",
  added_tokens: [{ id: 0, content: "<bos>", special: true }],
  model: {
    type: "BPE",
    vocab: Object.fromEntries(["<bos>", ..."abcdefghijklmnopqrstuvwxyz."].map((token, id) => [token, id])),
    merges: [],
  },
});

/** Runs `use` with a new directory, then removes it. */
export async function withDirectory<T>(use: (dir: string) => Promise<T>): Promise<T> {
  const dir = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  try {
    return await use(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

/** A checkpoint after `step` steps: weights `step`, moments 2·step and 3·step, `step` lines of metrics in `metricsPath`. */
export async function checkpointAt(
  step: number,
  metricsPath: string,
  config: ModelConfig = CONFIG,
): Promise<Checkpoint & { params: Float32Array }> {
  const { length } = networkOf(config).layout;
  const lines = Array.from({ length: step }, (_, i) => JSON.stringify({ step: i + 1, loss: 1 }) + "\n").join(
    "",
  );
  await Deno.writeTextFile(metricsPath, lines);
  return {
    config,
    chat: false,
    tokenizerJson: TOKENIZER_JSON,
    params: new Float32Array(length).fill(step),
    optimizer: { m: new Float32Array(length).fill(2 * step), v: new Float32Array(length).fill(3 * step) },
    trainState: {
      step,
      adam_step: step,
      learning_rate: 0.01,
      batch_size: 8,
      dataset_path: "names.txt",
      dataset_mode: "text",
      dtype: "f32",
      seed: 42,
    },
    metrics: { path: metricsPath, bytes: lines.length },
  };
}

/** Loads a checkpoint made by `checkpointAt` and checks that every file of it is of one step. @returns that step */
export async function loadedStep(dir: string): Promise<number> {
  const loaded: LoadedCheckpoint = await readCheckpoint(dir);
  const { step } = loaded.trainState;
  const { m, v } = loaded.optimizer;
  for (const { offset, rows, cols, name } of loaded.layout.entries) {
    for (const [factor, values] of [[1, loaded.params], [2, m], [3, v]] as const) {
      const other = values.subarray(offset, offset + rows * cols).find((value) => value !== factor * step);
      assert.equal(other, undefined, `${name} of another step than ${step}`);
    }
  }
  return step;
}

/** Names in a directory, sorted. */
export async function namesIn(dir: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(dir), (entry) => entry.name)).sort();
}

/** The contents of all files below a directory by their paths in it, to see that nothing was written. */
export async function contentsOf(dir: string, prefix = ""): Promise<Record<string, string>> {
  const contents: Record<string, string> = {};
  for (const name of await namesIn(dir)) {
    const path = join(dir, name);
    const info = await Deno.lstat(path);
    if (info.isDirectory) Object.assign(contents, await contentsOf(path, `${prefix}${name}/`));
    else if (info.isSymlink) contents[prefix + name] = `-> ${await Deno.readLink(path)}`;
    else contents[prefix + name] = `${info.size} bytes, changed ${info.mtime?.getTime()}`;
  }
  return contents;
}
