/** Nothing of a person's is lost: only files that this program wrote are replaced, moved or removed. */

import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { exportModel } from "../../../model/export/export.ts";
import { readModel, saveCheckpoint, saveInferenceModel } from "../../../model/files/checkpoint.ts";
import { MicrogptError } from "../../../device/errors.ts";
import { keepBest, keepCheckpoint } from "../../../model/files/kept_checkpoints.ts";
import { CHECKPOINT_FILES } from "../../../model/files/directory.ts";
import { oldModelPlace } from "../../../model/files/old_model.ts";
import { checkTrainingOutput, prepareOutput } from "../../../model/files/output_directory.ts";
import { train } from "../../../model/train/train.ts";
import {
  checkpointAt,
  contentsOf,
  loadedStep,
  namesIn,
  OTHER_CONFIG,
  TOKENIZER_JSON,
  withDirectory,
} from "./checkpoint_fixture.ts";
import { writeRustCheckpoint } from "../../golden/rust_checkpoint.ts";

const RUN = { documents: ["anna", "bob", "carla", "dora"], nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 260 };

const run = async (output: string, steps: number, options = {}) =>
  await Array.fromAsync(train({ ...RUN, device: "reference", output, steps, ...options }));

const withModel = (use: (dir: string, metrics: string) => Promise<void>) => () =>
  withDirectory((root) => use(join(root, "model"), join(root, "metrics")));

/** Checks that `act` is refused with one line, a hint, and nothing changed on disk. @returns the line with DIR in it */
async function refused(dir: string, act: () => Promise<unknown>): Promise<string> {
  const before = await contentsOf(dirname(dir));
  const error = await act().then(() => undefined, (error) => error);
  assert(error instanceof MicrogptError, `not refused: ${error?.stack}`);
  assert.match(error.hint ?? "", /choose another directory with `output`/);
  assert.deepEqual(await contentsOf(dirname(dir)), before);
  return error.message.replaceAll(dir, "DIR");
}

const POSIX = { ignore: Deno.build.os === "windows" };

for (
  const [name, text, expected] of [
    ["meta.json", '{"name": "my project"}', /^DIR holds meta\.json, .* \(DIR\/meta\.json: vocab_size is mi/],
    ["meta.json", "x", /^DIR holds meta\.json, which microgpt did not write \(DIR\/meta\.json is not valid/],
    ["tokenizer.json", TOKENIZER_JSON, /^DIR holds tokenizer\.json, which .* \(there is no meta\.json besi/],
    ["weights.safetensors", "x", /^DIR holds weights\.safetensors, which microgpt did not write/],
    ["optimizer_m.safetensors", "x", /^DIR holds optimizer_m\.safetensors, which microgpt did not write/],
    ["metrics.jsonl", '{"step":1,"loss":2}\n', /^DIR holds metrics\.jsonl, which microgpt did not write/],
    ["metrics.jsonl.part", "epoch 1\n", /^DIR holds metrics\.jsonl\.part, which microgpt did not write/],
    ["train_state.json", "{}", /^DIR holds train_state\.json, which microgpt did not write/],
    ["checkpoints", "a list", /^DIR holds checkpoints, which .* \(it is no directory\)$/],
    [".saving", "x", /^DIR holds \.saving, which microgpt did not write \(it is no directory\)$/],
    [".saving/thesis.txt", "x", /^DIR\/\.saving holds thesis\.txt, which microgpt did not write/],
    [".saving/meta.json", "mine", /^DIR holds \.saving\/meta\.json, which microgpt did not write/],
    [".saved/weights.safetensors", "x".repeat(9), /^DIR holds \.saved\/weights\.safetensors, which/],
    [".saved/keep-old/x", "x", /^DIR\/\.saved holds keep-old, which .* \(it is no file\)$/],
    ["checkpoints/step-000005", "x", /^DIR\/checkpoints holds step-000005, .* \(it is no directory\)$/],
    ["checkpoints/best/mine.bin", "x", /^DIR\/checkpoints\/best holds mine\.bin, which microgpt did not/],
    ["checkpoints/best/meta.json", "x", /^DIR\/checkpoints\/best holds meta\.json, which microgpt did no/],
  ] as const
) {
  Deno.test(
    `a person's ${name} (${text.slice(0, 9)}) where a save would write: refused, by train and by export`,
    withModel(async (dir, metrics) => {
      await Deno.mkdir(dirname(join(dir, name)), { recursive: true });
      await Deno.writeTextFile(join(dir, name), text);
      // before the data is read: there is none
      const absent = join(dir, "absent.txt");
      assert.match(
        await refused(dir, () => run(dir, 1, { documents: undefined, input: absent })),
        expected,
      );
      assert.match(await refused(dir, () => prepareOutput(dir)), expected);
      const model = await checkpointAt(1, metrics);
      assert.match(await refused(dir, () => saveInferenceModel(dir, model)), expected);
    }),
  );
}

Deno.test(
  "a person's files of other names stay, in `checkpoints` too, however many runs follow",
  withModel(async (dir) => {
    const mine = [
      "checkpoints/mine.bin",
      "checkpoints/sub/mine.bin",
      "notes.txt",
      "config.json",
      "old/a.txt",
    ];
    for (const name of mine) {
      await Deno.mkdir(dirname(join(dir, name)), { recursive: true });
      await Deno.writeTextFile(join(dir, name), name);
    }
    for (const steps of [2, 3, 4]) {
      await run(dir, steps, { checkpointEvery: 1, keep: 1, evalEvery: 1, valFraction: 0.3 });
      for (const name of mine) assert.equal(await Deno.readTextFile(join(dir, name)), name);
      const kept = await namesIn(join(dir, "checkpoints"));
      assert.deepEqual(kept.filter((name) => !/^best$|^step-/.test(name)), ["mine.bin", "sub"]);
    }
    assert.deepEqual(
      (await namesIn(`${dir}.old/checkpoints`)).filter((name) => !/^best$|^step-/.test(name)),
      [],
    );
  }),
);

Deno.test(
  "a checkpoint with a changed file, or one too many, is not replaced by a fresh run",
  withModel(async (dir, metrics) => {
    const save = async () => {
      await saveCheckpoint(dir, await checkpointAt(3, metrics));
      return await checkTrainingOutput(dir);
    };
    for (
      const name of ["weights.safetensors", "optimizer_v.safetensors", "tokenizer.json", "metrics.jsonl"]
    ) {
      await save();
      const bytes = await Deno.readFile(join(dir, name));
      bytes[bytes.length - 1]! ^= 1;
      await Deno.writeFile(join(dir, name), bytes);
      assert.equal(
        await refused(dir, () => checkTrainingOutput(dir)),
        `DIR holds ${name}, which microgpt did not write (it is not the file that train_state.json was saved with)`,
      );
      await Deno.remove(dir, { recursive: true });
    }
    // what a person removed is nobody's loss
    await save();
    await Deno.remove(join(dir, "optimizer_m.safetensors"));
    await checkTrainingOutput(dir);
  }),
);

Deno.test(
  "a checkpoint of the Rust program, and an inference model, are known by their contents",
  withModel(async (dir, metrics) => {
    await writeRustCheckpoint(dir, "BF16");
    assert.deepEqual(await prepareOutput(dir), { kind: "checkpoint", steps: 120 });
    await Deno.writeTextFile(join(dir, "metrics.jsonl"), '{"step":1,"loss":2}\n{"step":2,"lo');
    await prepareOutput(dir);
    await Deno.writeTextFile(join(dir, "metrics.jsonl"), "mine");
    assert.match(await refused(dir, () => prepareOutput(dir)), /^DIR holds metrics\.jsonl, which/);
    const model = await checkpointAt(1, metrics);
    await saveInferenceModel(`${dir}-export`, model);
    assert.deepEqual(await prepareOutput(`${dir}-export`), { kind: "model", steps: undefined });
    await Deno.writeTextFile(join(`${dir}-export`, "metrics.jsonl"), '{"step":1}\n');
    assert.match(
      await refused(`${dir}-export`, () => prepareOutput(`${dir}-export`)),
      /^DIR holds metrics\.jsonl, which .* \(there is no train_state\.json beside it\)$/,
    );
  }),
);

Deno.test(
  "a longer run at DIR.old stays, and so does what a person has there",
  withModel(async (dir, metrics) => {
    const replace = async (step: number) =>
      await saveCheckpoint(dir, await checkpointAt(step, metrics), { keepOld: true });
    const old = async (number: string) => await loadedStep(`${dir}.old${number}`);
    await saveCheckpoint(dir, await checkpointAt(500, metrics, OTHER_CONFIG));
    await replace(5); // 500 is old
    const { names, ...place } = await oldModelPlace(dir);
    assert.deepEqual([...names], [...CHECKPOINT_FILES.gpt]);
    assert.deepEqual(place, { path: `${await Deno.realPath(dir)}.old-2`, replaces: false });
    await replace(7);
    assert.deepEqual([await old(""), await old("-2")], [500, 5]);
    await replace(6); // 7 takes the place of 5
    assert.deepEqual([await old(""), await old("-2")], [500, 7]);
    await Deno.writeTextFile(`${dir}.old-2/notes.txt`, "mine");
    await replace(8);
    assert.deepEqual([await old(""), await old("-2"), await old("-3")], [500, 7, 6]);
    // kept checkpoints count, and how long an inference model was trained nobody knows
    await Deno.remove(`${dir}.old`, { recursive: true });
    await saveInferenceModel(`${dir}.old`, await checkpointAt(1, metrics));
    await saveCheckpoint(`${dir}.old-3`, await checkpointAt(900, metrics));
    await keepCheckpoint(`${dir}.old-3`, 900, 2);
    await saveCheckpoint(`${dir}.old-3`, await checkpointAt(1, metrics));
    await Deno.writeTextFile(`${dir}.old-4`, "a file of that name");
    await replace(9);
    assert.equal(await old("-5"), 8);
    assert.equal((await readModel(`${dir}.old`)).params[0], 1);
    assert.deepEqual([await loadedStep(`${dir}.old-3/checkpoints/step-000900`)], [900]);
  }),
);

Deno.test("a fresh run says where the old model goes, and what it replaces there", () =>
  withDirectory(async (root) => {
    const dir = join(await Deno.realPath(root), "model");
    const said = async (steps: number) =>
      (await run(dir, steps)).flatMap((event) => event.type === "notice" ? [event.message] : [])
        .filter((message) => message.includes("holds a model"));
    const message =
      `${dir} holds a model: it stays until this run's first checkpoint, then moves to ${dir}.old`;
    assert.deepEqual(await said(2), []);
    assert.deepEqual(await said(3), [message]);
    assert.deepEqual(await said(1), [`${message}, in place of the one there`]);
    assert.deepEqual(await said(1), [`${message}-2`]);
  }));

Deno.test(
  "pruning leaves a kept checkpoint in which a person put something, and a run is refused one's own name",
  withModel(async (dir, metrics) => {
    const keep = async (step: number) => {
      await saveCheckpoint(dir, await checkpointAt(step, metrics));
      await keepCheckpoint(dir, step, 1);
    };
    await keep(1);
    await exportModel(dir, join(dir, "checkpoints/step-000001/export"));
    await keep(2);
    await keep(3);
    assert.deepEqual(await namesIn(join(dir, "checkpoints")), ["step-000001", "step-000003"]);
    await readModel(join(dir, "checkpoints/step-000001/export"));
    assert.match(
      await refused(dir, () => prepareOutput(dir)),
      /^DIR\/checkpoints\/step-000001 holds export, which/,
    );
    await Deno.mkdir(join(dir, "checkpoints/step-000004"));
    await Deno.writeTextFile(join(dir, "checkpoints/step-000004/mine"), "x");
    await assert.rejects(keep(4), { name: "MicrogptError", message: /step-000004 holds mine, which/ });
    assert.equal(await Deno.readTextFile(join(dir, "checkpoints/step-000004/mine")), "x");
  }),
);

Deno.test(
  "kept checkpoints whose run's last one is gone are not pruned by the next run",
  withModel(async (dir, metrics) => {
    await saveCheckpoint(dir, await checkpointAt(500, metrics));
    await keepCheckpoint(dir, 500, 1);
    await keepBest(dir);
    for (const name of CHECKPOINT_FILES.gpt) await Deno.remove(join(dir, name));
    await run(dir, 2, { checkpointEvery: 1, keep: 1 });
    assert.deepEqual(await namesIn(join(dir, "checkpoints")), ["best", "step-000002"]);
    assert.deepEqual(await namesIn(join(`${dir}.old`, "checkpoints")), ["best", "step-000500"]);
    assert.equal(await loadedStep(`${dir}.old/checkpoints/best`), 500);
  }),
);

Deno.test(
  "a checkpoint that a run keeps is no output",
  withModel(async (dir, metrics) => {
    await saveCheckpoint(dir, await checkpointAt(1, metrics));
    await keepCheckpoint(dir, 1, 1);
    await keepBest(dir);
    for (const name of ["best", "step-000001", "step-000007"]) {
      const kept = join(dir, "checkpoints", name);
      const expected = /is a checkpoint that the run in DIR keeps, and may remove$/;
      assert.match(await refused(dir, () => run(kept, 1)), expected);
      assert.match(await refused(dir, () => exportModel(dir, kept)), expected);
      assert.match(await refused(dir, () => exportModel(dir, kept, { format: "onnx" })), expected);
    }
  }),
);

Deno.test(
  "links below the output are not followed; the output itself may be one",
  POSIX,
  () =>
    withDirectory(async (root) => {
      const dir = join(root, "model"), metrics = join(root, "metrics"), elsewhere = join(root, "elsewhere");
      await Deno.mkdir(elsewhere);
      for (const name of ["metrics.jsonl.part", "meta.json", "checkpoints", ".saving", ".saved"]) {
        await Deno.mkdir(dir);
        await Deno.symlink(elsewhere, join(dir, name));
        assert.equal(
          await refused(dir, () => run(dir, 1)),
          `DIR holds ${name}, which microgpt did not write (it is a symbolic link)`,
        );
        await Deno.remove(dir, { recursive: true });
      }
      await Deno.mkdir(join(elsewhere, "model"));
      await Deno.symlink(join(elsewhere, "model"), dir);
      await saveCheckpoint(dir, await checkpointAt(1, metrics));
      await Deno.symlink(root, join(elsewhere, "model.old"));
      await saveCheckpoint(dir, await checkpointAt(2, metrics), { keepOld: true });
      assert.deepEqual(await namesIn(elsewhere), ["model", "model.old", "model.old-2"]);
      assert.equal(await loadedStep(join(elsewhere, "model.old-2")), 1);
      assert((await Deno.lstat(dir)).isSymlink);
    }),
);

Deno.test(
  "an export onto its own source is refused by whatever path",
  POSIX,
  () =>
    withDirectory(async (root) => {
      const dir = join(root, "model");
      await saveInferenceModel(dir, await checkpointAt(1, join(root, "metrics")));
      await Deno.symlink(dir, join(root, "link"));
      await Deno.mkdir(join(root, "sub"));
      for (const to of [dir, `${dir}/`, join(root, "link"), `${root}/sub/../model/.`]) {
        for (const format of ["safetensors", "onnx"] as const) {
          await assert.rejects(exportModel(dir, to, { format }), {
            name: "MicrogptError",
            message: /^the export would replace the model it is made from/,
          });
        }
      }
    }),
);

Deno.test("files that a person made read-only stay", POSIX, () =>
  withDirectory(async (root) => {
    const dir = join(root, "model"), metrics = join(root, "metrics");
    await saveCheckpoint(dir, await checkpointAt(1, metrics));
    await Deno.chmod(join(dir, "weights.safetensors"), 0o444);
    assert.equal(
      await refused(dir, () => run(dir, 1)),
      "DIR/weights.safetensors is read-only, so it is not replaced",
    );
    await Deno.rename(dir, `${dir}.old`);
    await saveCheckpoint(dir, await checkpointAt(2, metrics));
    await saveCheckpoint(dir, await checkpointAt(3, metrics), { keepOld: true });
    assert.deepEqual([await loadedStep(`${dir}.old`), await loadedStep(`${dir}.old-2`)], [1, 2]);
  }));
