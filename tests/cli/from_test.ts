/** The program starts runs from models: what it says of them, and one line for what cannot be. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { inDirectory, writeTiny } from "../model/files/tiny_llama.ts";
import { microgpt } from "./program.ts";

Deno.test("train --from: a chat model of others learns answers, and the program says from what and how", () =>
  inDirectory(async (dir) => {
    const [hf, chats, output] = [join(dir, "hf"), join(dir, "chats.jsonl"), join(dir, "new")];
    await Deno.mkdir(hf);
    await writeTiny(hf);
    const lines = Array.from(
      { length: 20 },
      (_, i) =>
        JSON.stringify([{ role: "user", content: `hello ${i}` }, { role: "assistant", content: `hi ${i}` }]),
    );
    await Deno.writeTextFile(chats, lines.join("\n"));
    const data = ["--chat", "--input", chats, "--output", output, "--steps", "2", "--batch-size", "2"];
    const trained = await microgpt(["train", "--from", hf, "--freeze", "embeddings,layers:0", ...data]);
    assert.equal(trained.code, 0, trained.stderr);
    assert.match(trained.stderr, new RegExp(`^from +${hf}$`, "m"));
    assert.match(
      trained.stderr,
      /^training .*; only answers count in the loss; frozen: embeddings,layers:0$/m,
    );
    assert.match(trained.stderr, /^step 0: held out loss [\d.]+, [\d.]+ bits per byte$/m);
    const resumed = await microgpt(["train", "--resume", output, "--steps", "1"]);
    assert.equal(resumed.code, 0, resumed.stderr);
    assert.match(resumed.stderr, new RegExp(`^from +${hf}$`, "m"));
    assert.match(resumed.stderr, /only answers count/);
    const refused: [string[], RegExp][] = [
      [["--from", join(dir, "nowhere")], /^error: there is no model at .*nowhere\nhint: .*\n$/],
      [["--from", hf, "--resume", output], /^error: --from and --resume are both given\nhint: .*\n$/],
      [
        ["--from", hf, "--preset", "names"],
        /^error: --preset is for new models, and --from has a shape of its own\n/,
      ],
      [["--from", hf, "--n-layer", "9"], /^error: --n-layer is 9, the model in .*hf has 2\nhint: .*\n$/],
      [
        ["--from", hf, "--freeze", "layers:0-2"],
        /^error: --freeze names layer 2, the model has layers 0 to 1\n/,
      ],
      [["--from", ""], /^error: --from is empty\n/],
    ];
    for (const [flags, message] of refused) {
      const { code, stderr } = await microgpt(["train", ...flags, ...data.with(4, join(dir, "none"))]);
      assert.notEqual(code, 0);
      assert.match(stderr, message);
    }
    const { code, stderr } = await microgpt(["train", "--loss", "answers", "--input", chats]);
    assert.equal(code, 2, stderr);
    assert.match(stderr, /^error: --loss answers is for conversations: plain text has no answers\n/);
    await assert.rejects(Deno.stat(join(dir, "none")), Deno.errors.NotFound);
  }));
