/** Python's transformers reads what we write as we do: config, tokens, the prompt of a conversation. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { OWN_TEMPLATE } from "../../../model/files/description.ts";
import { ChatTemplate } from "../../../model/generate/chat_template.ts";
import { NativeTokenizer } from "../../../native/tokenizer.ts";
import { pythonTest, runPython } from "../python.ts";
import { inDirectory, tinyModel, writeTiny } from "./tiny_llama.ts";

const TEXTS = ["hello hi", "  naïve 日本語 🙂\r\n\n x 123", "<bos><user>don't", "tabs\t\t\u00a0\u0085end "];
const MESSAGES = [
  { role: "user" as const, content: "hello" },
  { role: "assistant" as const, content: "hi" },
  {
    role: "user" as const,
    content: "hello hi",
  },
];

const LLAMA3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position: 8192 };

const VARIANTS = [
  ["LlamaConfig", { rope_theta: 500000, rope_scaling: LLAMA3 }],
  ["Qwen3Config", { qk_norm: true, tie: true }],
  ["Qwen2Config", { qkv_bias: true }],
] as const;

// one Python for all: it takes seconds to start
await pythonTest(
  "transformers reads directories of ours as we do",
  ["transformers", "jinja2"],
  () =>
    inDirectory(async (dir) => {
      const models = VARIANTS.map(([type, change]) => {
        return { type, dir: join(dir, type), ...tinyModel(change), chatTemplate: OWN_TEMPLATE };
      });
      for (const model of models) {
        await Deno.mkdir(model.dir);
        await writeTiny(model.dir, model);
      }
      const args = [JSON.stringify(TEXTS), JSON.stringify(MESSAGES), ...models.map(({ dir }) => dir)];
      const all = JSON.parse(await runPython("./files/transformers_reads.py", args));
      for (const [i, { type, config, ends, tokenizer: file }] of models.entries()) {
        const read = all[i];
        assert.deepEqual([read.type, read.head_dim, read.kv_heads], [type, 16, 2]);
        assert.deepEqual([read.eps, read.tie], [config.norm_eps, config.tie]);
        assert.deepEqual([read.rope.rope_theta, read.rope.factor], [
          config.rope_theta,
          config.rope_scaling?.factor,
        ]);
        using tokenizer = NativeTokenizer.fromFile(file);
        assert.deepEqual(read.ids, TEXTS.map((text) => [...tokenizer.encodeOne(text)]));
        assert.deepEqual(read.with_bos, [tokenizer.id("<bos>"), ...tokenizer.encodeOne("hello")]);
        const template = await ChatTemplate.read(OWN_TEMPLATE, tokenizer, ends);
        assert.deepEqual(read.chat, template.encode(MESSAGES));
      }
    }),
);
