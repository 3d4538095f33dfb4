/** Models and training checkpoints: saved, loaded, kept, replaced. */

import assert from "node:assert/strict";
import { join } from "node:path";
import {
  type Checkpoint,
  heldCheckpoint,
  isReadWhileSaved,
  readCheckpoint,
  readModel,
  readModelHeader,
  readTrainState,
  saveCheckpoint,
  saveInferenceModel,
} from "../../../model/files/checkpoint.ts";
import { MicrogptError } from "../../../device/errors.ts";
import { writeHashed } from "../../../model/files/digest.ts";
import { keepBest, keepCheckpoint, keptSteps } from "../../../model/files/kept_checkpoints.ts";
import { MetricsLog } from "../../../model/files/metrics_log.ts";
import { CHECKPOINT_FILES, MODEL_FILES } from "../../../model/files/directory.ts";
import { prepareOutput } from "../../../model/files/output_directory.ts";
import type { ParameterEntry } from "../../../model/parameters.ts";
import {
  checkpointAt,
  CONFIG,
  loadedStep,
  namesIn,
  OTHER_CONFIG,
  TOKENIZER_JSON,
  withDirectory,
} from "./checkpoint_fixture.ts";
import { RUST_STATE, writeRustCheckpoint } from "../../golden/rust_checkpoint.ts";

/** Runs `use` with the path of a model directory to be, and one for metrics beside it. */
const withModel = (use: (dir: string, metrics: string) => Promise<void>) => () =>
  withDirectory((root) => use(join(root, "model"), join(root, "metrics")));

const message = (expected: RegExp) => (error: unknown) => {
  assert(error instanceof MicrogptError, `${error}`);
  assert.match(error.message, expected);
  return true;
};

Deno.test(
  "a checkpoint is loaded as it was saved",
  withModel(async (dir, metrics) => {
    const saved = await checkpointAt(3, metrics);
    Object.assign(saved.trainState, {
      val_fraction: 0.05,
      best_val_loss: 2.25,
      preset: "names",
      final: true,
    });
    await saveCheckpoint(dir, saved);
    assert.deepEqual(await namesIn(dir), [...CHECKPOINT_FILES.gpt].sort());
    assert.equal(await loadedStep(dir), 3);
    const { config, chat, tokenizerJson, trainState } = await readCheckpoint(dir);
    assert.deepEqual({ config, chat, tokenizerJson, trainState }, {
      config: CONFIG,
      chat: false,
      tokenizerJson: TOKENIZER_JSON,
      trainState: saved.trainState,
    });
    assert.equal((await Deno.readTextFile(join(dir, "metrics.jsonl"))).split("\n").length, 4);
    const summary = await readModelHeader(dir);
    assert.deepEqual([summary.fileDtype, summary.parameters, summary.trainState], [
      "F32",
      1344,
      saved.trainState,
    ]);
  }),
);

Deno.test(
  "an inference model has three files and no training state",
  withModel(async (dir, metrics) => {
    const model = await checkpointAt(3, metrics);
    await saveInferenceModel(dir, model, { half: true });
    assert.deepEqual(await namesIn(dir), [...MODEL_FILES].sort());
    const loaded = await readModel(dir);
    assert.deepEqual([loaded.fileDtype, loaded.params[0], loaded.config], ["F16", 3, CONFIG]);
    assert.equal(await readTrainState(dir), undefined);
    await assert.rejects(readCheckpoint(dir), message(/train_state\.json is missing$/));
    await saveInferenceModel(dir, model);
    assert.equal((await readModel(dir)).fileDtype, "F32");
  }),
);

Deno.test(
  "an inference model is not saved over a training checkpoint",
  withModel(async (dir, metrics) => {
    const saved = await checkpointAt(3, metrics);
    await saveCheckpoint(dir, saved);
    await assert.rejects(saveInferenceModel(dir, saved), message(/holds a training checkpoint/));
    assert.equal(await loadedStep(dir), 3);
  }),
);

Deno.test(
  "a chat model names its special tokens",
  withModel(async (dir, metrics) => {
    const saved = await checkpointAt(1, metrics);
    const tokenizer = JSON.parse(TOKENIZER_JSON);
    ["<user>", "<assistant>", "<end_turn>"].forEach((content, i) =>
      tokenizer.added_tokens.push({ id: 28 + i, content })
    );
    const config = { ...CONFIG, vocab_size: 31 };
    const chat = await checkpointAt(1, metrics, config);
    chat.chat = true;
    chat.tokenizerJson = JSON.stringify(tokenizer);
    await saveCheckpoint(dir, chat);
    const meta = JSON.parse(await Deno.readTextFile(join(dir, "meta.json")));
    assert.deepEqual(meta, { ...config, special_tokens: ["user", "assistant", "end_turn"] });
    assert((await readModel(dir)).chat);
    await assert.rejects(
      readCheckpoint(dir),
      message(/dataset_mode is text, but meta\.json describes a chat model/),
    );
    chat.tokenizerJson = saved.tokenizerJson;
    await Deno.writeTextFile(join(dir, "tokenizer.json"), chat.tokenizerJson);
    await assert.rejects(
      readModel(dir),
      message(/tokenizer\.json has 28 tokens, meta\.json has vocab_size 31/),
    );
  }),
);

for (const dtype of ["F32", "BF16", "F16"] as const) {
  Deno.test(
    `a ${dtype} checkpoint of the Rust program loads, is resumed and exported`,
    withModel(async (dir, metrics) => {
      await writeRustCheckpoint(dir, dtype);
      const { trainState, layout, params, optimizer, fileDtype, ...description } = await readCheckpoint(dir);
      const { candle_version: _, ...known } = RUST_STATE;
      assert.deepEqual(trainState, { ...known, dtype: dtype.toLowerCase() });
      assert.deepEqual([fileDtype, layout.count, params[0], optimizer.m[0], optimizer.v[0]], [
        dtype,
        2176,
        -3 / 256,
        -3 / 256 / 64,
        (3 / 256) ** 2,
      ]);
      await saveInferenceModel(`${dir}-export`, { ...description, params }, { half: true });
      assert.deepEqual((await readModel(`${dir}-export`)).params, params);
      await Deno.writeTextFile(metrics, "");
      const next = { ...description, params, optimizer, trainState: { ...trainState, step: 121 } };
      await saveCheckpoint(dir, { ...next, metrics: { path: metrics, bytes: 0 } });
      const again = await readCheckpoint(dir);
      assert.deepEqual([again.params, again.optimizer, again.trainState.step], [params, optimizer, 121]);
    }),
  );
}

Deno.test(
  "a chat checkpoint of the Rust program loads",
  withModel(async (dir) => {
    await writeRustCheckpoint(dir, "F32", true);
    const { chat, trainState } = await readCheckpoint(dir);
    assert.deepEqual([chat, trainState.dataset_mode], [true, "chat"]);
  }),
);

Deno.test(
  "a checkpoint that lacks a file does not load",
  withModel(async (dir, metrics) => {
    const saved = await checkpointAt(3, metrics);
    for (const name of CHECKPOINT_FILES.gpt) {
      await saveCheckpoint(dir, saved);
      await Deno.remove(join(dir, name));
      await assert.rejects(readCheckpoint(dir), message(new RegExp(`${name} is missing$`)));
    }
  }),
);

Deno.test(
  "a checkpoint with a file of another save does not load",
  withModel(async (dir, metrics) => {
    for (const name of CHECKPOINT_FILES.gpt) {
      if (name === "meta.json" || name === "tokenizer.json") continue; // the same in every save of a run
      await saveCheckpoint(dir, await checkpointAt(3, metrics));
      await saveCheckpoint(`${dir}-other`, await checkpointAt(4, metrics));
      await Deno.copyFile(join(`${dir}-other`, name), join(dir, name));
      await assert.rejects(
        readCheckpoint(dir),
        message(/is not the file that train_state\.json was saved with/),
      );
    }
    await saveCheckpoint(dir, await checkpointAt(3, metrics));
    await Deno.writeTextFile(join(dir, "tokenizer.json"), TOKENIZER_JSON + "\n");
    await assert.rejects(readCheckpoint(dir), message(/tokenizer\.json is not the file/));
  }),
);

/** Calls `between` once, just before a file of that name is opened for reading. */
async function beforeReading<T>(
  name: string,
  between: () => Promise<void>,
  read: () => Promise<T>,
): Promise<T> {
  const { open } = Deno;
  Deno.open = async (path, options) => {
    if (!options?.write && `${path}`.endsWith(name)) {
      Deno.open = open;
      await between();
    }
    return await open(path, options);
  };
  try {
    return await read();
  } finally {
    Deno.open = open;
  }
}

for (const name of CHECKPOINT_FILES.gpt) {
  Deno.test(
    `a save that comes while a checkpoint is read, before ${name}: all is of the new one`,
    withModel(async (dir, metrics) => {
      const save = async (step: number, config = CONFIG) =>
        await saveCheckpoint(dir, await checkpointAt(step, metrics, config));
      await save(3);
      assert.equal(await beforeReading(name, () => save(4), () => loadedStep(dir)), 4);
      // without digests, as the Rust program has it, nothing but the look at the files tells
      const withoutDigests = async () => {
        const path = join(dir, "train_state.json");
        const { files: _, ...state } = JSON.parse(await Deno.readTextFile(path));
        await Deno.writeTextFile(path, JSON.stringify(state));
      };
      await withoutDigests();
      const bothWithout = () => save(5).then(withoutDigests);
      if (name !== "metrics.jsonl") {
        assert.equal(await beforeReading(name, bothWithout, () => loadedStep(dir)), 5);
      }
      // the new run's model is another: shapes that do not fit are no damage
      await save(6, OTHER_CONFIG);
      assert.equal(await beforeReading(name, () => save(7), () => loadedStep(dir)), 7);
      if (!(MODEL_FILES as readonly string[]).includes(name)) return;
      const model = await beforeReading(name, () => save(8, OTHER_CONFIG), () => readModel(dir));
      assert.deepEqual([model.params[0], model.config], [8, OTHER_CONFIG]);
    }),
  );
}

Deno.test(
  "saves that leave no time to read are told",
  withModel(async (dir, metrics) => {
    await saveCheckpoint(dir, await checkpointAt(1, metrics));
    const { open } = Deno;
    let step = 1;
    Deno.open = async (path, options) => {
      if (`${path}` === join(dir, "meta.json")) {
        const busy = Deno.open;
        Deno.open = open;
        await saveCheckpoint(dir, await checkpointAt(++step, metrics));
        Deno.open = busy;
      }
      return await open(path, options);
    };
    try {
      await assert.rejects(readModel(dir), message(/model is saved to faster than it can be read$/));
    } finally {
      Deno.open = open;
    }
    assert.equal(await loadedStep(dir), step);
  }),
);

Deno.test(
  "files that are not the model's stay where they are",
  withModel(async (dir, metrics) => {
    await saveCheckpoint(dir, await checkpointAt(1, metrics));
    await Deno.writeTextFile(join(dir, "README.md"), "mine");
    await Deno.mkdir(join(dir, "notes"));
    await saveCheckpoint(dir, await checkpointAt(2, metrics));
    await saveCheckpoint(dir, await checkpointAt(3, metrics), { keepOld: true });
    assert.deepEqual(await namesIn(dir), ["README.md", ...CHECKPOINT_FILES.gpt, "notes"].sort());
  }),
);

Deno.test(
  "a fresh run keeps the model it replaces once",
  withModel(async (dir, metrics) => {
    assert.deepEqual(await prepareOutput(dir), { kind: "nothing", steps: undefined });
    await saveCheckpoint(dir, await checkpointAt(1, metrics, OTHER_CONFIG));
    await keepCheckpoint(dir, 1, 2);
    await keepBest(dir);
    assert.deepEqual(await prepareOutput(dir), { kind: "checkpoint", steps: 1 });
    await saveCheckpoint(dir, await checkpointAt(2, metrics), { keepOld: true });
    await saveCheckpoint(dir, await checkpointAt(3, metrics));
    assert.equal(await loadedStep(dir), 3);
    assert.equal(await loadedStep(`${dir}.old`), 1);
    assert.equal(await loadedStep(`${dir}.old/checkpoints/best`), 1);
    assert.deepEqual(await namesIn(dir), [...CHECKPOINT_FILES.gpt].sort());
    await saveCheckpoint(dir, await checkpointAt(4, metrics), { keepOld: true });
    assert.deepEqual([await loadedStep(dir), await loadedStep(`${dir}.old`)], [4, 3]);
    assert.deepEqual(await namesIn(`${dir}.old`), [...CHECKPOINT_FILES.gpt].sort());
  }),
);

Deno.test(
  "a save that could not be moved into place costs no old model when the next finishes it",
  withModel(async (dir, metrics) => {
    await saveCheckpoint(dir, await checkpointAt(1, metrics, OTHER_CONFIG));
    const first = join(dir, ".saved");
    await saveCheckpoint(first, await checkpointAt(2, metrics));
    await Deno.writeTextFile(join(first, "keep-old"), "");
    await saveCheckpoint(dir, await checkpointAt(3, metrics), { keepOld: true });
    assert.deepEqual([await loadedStep(dir), await loadedStep(`${dir}.old`)], [3, 1]);
  }),
);

Deno.test(
  "an inference model is replaced by a fresh run too",
  withModel(async (dir, metrics) => {
    await saveInferenceModel(dir, await checkpointAt(1, metrics, OTHER_CONFIG));
    await saveCheckpoint(dir, await checkpointAt(2, metrics), { keepOld: true });
    assert.equal(await loadedStep(dir), 2);
    assert.equal((await readModel(`${dir}.old`)).params[0], 1);
    assert.deepEqual(await namesIn(`${dir}.old`), [...MODEL_FILES].sort());
  }),
);

Deno.test(
  "the last checkpoints and the best are kept",
  withModel(async (dir, metrics) => {
    for (const step of [250, 500, 750, 1000]) {
      await saveCheckpoint(dir, await checkpointAt(step, metrics));
      await keepCheckpoint(dir, step, 2);
      if (step === 500) await keepBest(dir);
    }
    assert.deepEqual(await namesIn(join(dir, "checkpoints")), ["best", "step-000750", "step-001000"]);
    assert.deepEqual(await keptSteps(dir), ["step-000750", "step-001000"]);
    assert.equal(await loadedStep(join(dir, "checkpoints/best")), 500);
    assert.equal(await loadedStep(join(dir, "checkpoints/step-000750")), 750);
    assert.equal(await loadedStep(dir), 1000);
  }),
);

Deno.test(
  "metrics go with the checkpoint, those beyond it are dropped",
  withModel(async (dir, metrics) => {
    await prepareOutput(dir);
    const step = (n: number) => ({ step: n, loss: 1 / n, lr: 0.01, grad_norm: 1, tokens: 24, ms: 2 });
    const log = await MetricsLog.open(dir);
    log.append(step(1));
    log.append({ step: 1, val_loss: 2, val_bits_per_byte: 3 });
    const snapshot = log.snapshot();
    log.append(step(2)); // the run goes on while the checkpoint is saved
    await saveCheckpoint(dir, { ...await checkpointAt(1, metrics), metrics: snapshot });
    const lines = (name: string) => Deno.readTextFile(join(dir, name)).then((text) => text.split("\n"));
    assert.deepEqual((await lines("metrics.jsonl")).length, 3);
    assert.deepEqual((await lines("metrics.jsonl.part")).length, 4);
    await log.close();
    assert.deepEqual(await namesIn(dir), [...CHECKPOINT_FILES.gpt].sort());

    // as a program writes that logs to the checkpoint's own file, cut off by a crash
    await Deno.writeTextFile(
      join(dir, "metrics.jsonl"),
      [1, 2, 3].map((n) => JSON.stringify(step(n))).join("\n"),
    );
    const resumed = await MetricsLog.open(dir, { dir, step: 2 });
    resumed.append(step(3));
    assert.deepEqual(
      (await lines("metrics.jsonl.part")).filter((line) => line).map((line) => JSON.parse(line)),
      [
        step(1),
        step(2),
        step(3),
      ],
    );
    await resumed.close();
    await Deno.writeTextFile(join(dir, "metrics.jsonl"), '{"step":1}\nnonsense\n');
    await assert.rejects(
      MetricsLog.open(dir, { dir, step: 2 }),
      message(/metrics\.jsonl: line 2 is no JSON object/),
    );
  }),
);

/** Saves step 2 in a process whose files may have at most 8 KB. */
const SAVE_TOO_LARGE = `
  import { saveCheckpoint } from ${JSON.stringify(import.meta.resolve("../../../model/files/checkpoint.ts"))};
  import { checkpointAt, CONFIG } from ${JSON.stringify(import.meta.resolve("./checkpoint_fixture.ts"))};
  const [dir, metrics] = Deno.args;
  const big = await checkpointAt(2, metrics, { ...CONFIG, n_embd: 64 });
  await saveCheckpoint(dir, big).catch((error) => console.log(error.name + ": " + error.message));`;

Deno.test({
  name: "a disk that is full keeps the old checkpoint",
  ignore: Deno.build.os === "windows", // has no limit on file sizes to set
  fn: withModel(async (dir, metrics) => {
    await saveCheckpoint(dir, await checkpointAt(1, metrics));
    await Deno.writeTextFile(`${dir}.ts`, SAVE_TOO_LARGE);
    // counted in blocks of 512 or 1024 bytes; ignoring the signal turns it into an error of write()
    const script = `trap '' XFSZ; ulimit -f 8; exec "$0" run -A --no-check --no-code-cache "$@"`;
    const args = ["-c", script, Deno.execPath(), `${dir}.ts`, dir, metrics];
    const { stdout, stderr } = await new Deno.Command("sh", { args }).output();
    const text = new TextDecoder().decode(stdout);
    assert.match(
      text,
      /^MicrogptError: cannot save to .*model: File too large\n$/,
      new TextDecoder().decode(stderr),
    );
    assert.deepEqual(await namesIn(dir), [...CHECKPOINT_FILES.gpt].sort());
    assert.equal(await loadedStep(dir), 1);
  }),
});

Deno.test(
  "a file that cannot be flushed is closed",
  withModel(async (dir, metrics) => {
    const { sync, close } = Deno.FsFile.prototype;
    let closed = 0;
    Deno.FsFile.prototype.sync = () => Promise.reject(new Deno.errors.WriteZero("no room (os error 28)"));
    Deno.FsFile.prototype.close = function () {
      closed++;
      close.call(this);
    };
    try {
      await assert.rejects(
        writeHashed(metrics, (file) => file.write(new Uint8Array(5))),
        Deno.errors.WriteZero,
      );
      assert.equal(closed, 1);
      await assert.rejects(saveCheckpoint(dir, await checkpointAt(1, metrics)), message(/: no room$/));
    } finally {
      Object.assign(Deno.FsFile.prototype, { sync, close });
    }
  }),
);

Deno.test(
  "an output that cannot be written is refused before training",
  withModel(async (dir) => {
    await Deno.writeTextFile(dir, "a file");
    await assert.rejects(prepareOutput(dir), message(/^cannot write to .*model: /));
    await assert.rejects(
      prepareOutput(join(dir, "below")),
      message(/^cannot write to .*below: Not a directory$/),
    );
    assert.equal(await Deno.readTextFile(dir), "a file");
  }),
);

Deno.test("a checkpoint that is read a parameter at a time is saved as one in memory is", () =>
  withDirectory(async (dir) => {
    const held = await checkpointAt(3, `${dir}-metrics`);
    held.params = held.params.map((_, i) => i);
    const reader = (flat: Float32Array) => ({ offset, rows, cols }: ParameterEntry) =>
      Promise.resolve(flat.slice(offset, offset + rows * cols));
    const read: Checkpoint = {
      ...held,
      params: reader(held.params),
      optimizer: {
        m: reader(held.optimizer.m as Float32Array),
        v: reader(held.optimizer.v as Float32Array),
      },
    };
    assert.deepEqual([isReadWhileSaved(held), isReadWhileSaved(read)], [false, true]);
    const states = []; // each has the digests of the other files
    for (const [i, checkpoint] of [held, read, await heldCheckpoint(read)].entries()) {
      await saveCheckpoint(`${dir}/${i}`, checkpoint);
      states.push(await Deno.readTextFile(`${dir}/${i}/train_state.json`));
    }
    assert.equal(states[1], states[0]);
    assert.equal(states[2], states[0]);
    assert.equal(isReadWhileSaved(await heldCheckpoint(read)), false);
  }));
