/**
 * The conversion on a small hand-made file of trees, from disk and from a server of our own. The real export is not
 * downloaded here.
 */

import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { main } from "../../scripts/prepare_oasst.ts";
import { readContent } from "../data/corpus_reading.ts";
import { withFile } from "../data/temporary_file.ts";

const message = (role: string, text: string, more: object = {}, replies: object[] = []) => (
  { message_id: text, role, text, lang: "en", deleted: false, review_result: true, replies, ...more }
);

const TREES = [
  // The best-ranked reply is not the first; below it the first of unranked questions; the last question gets no answer.
  message("prompter", "q1", {}, [
    message("assistant", "worse", { rank: 1 }, [message("prompter", "lost")]),
    message("assistant", " best \n", { rank: 0 }, [
      message("prompter", "q2", { rank: null }, [
        message("assistant", "unranked"),
        message("assistant", "second of ranked", { rank: 2 }, [message("prompter", "no answer")]),
        message("assistant", "spam", { rank: 0, review_result: false }),
        message("assistant", "gone", { rank: 1, deleted: true }),
      ]),
      message("prompter", "q2b", { rank: null }),
    ]),
  ]),
  message("prompter", "hola", { lang: "es" }, [message("assistant", "buenas", { lang: "es", rank: 0 })]),
  message("prompter", "never answered"),
  message("prompter", "answered in Spanish", {}, [message("assistant", "sí", { lang: "es" })]),
  message("prompter", "deleted root", { deleted: true }, [message("assistant", "x")]),
  message("prompter", "<bos> 👋", { review_result: null, rank: null }, [
    message("assistant", "x", { rank: 0 }),
  ]),
].map((prompt) => JSON.stringify({ message_tree_id: "t", tree_state: "ready_for_export", prompt })).join(
  "\n",
);

const ENGLISH = [
  [
    { role: "user", content: "q1" },
    { role: "assistant", content: "best" },
    { role: "user", content: "q2" },
    { role: "assistant", content: "second of ranked" },
  ],
  [{ role: "user", content: "<bos> 👋" }, { role: "assistant", content: "x" }],
];

/** Runs the program on an input; returns what it wrote. */
async function prepare(content: string | Uint8Array, lang: string): Promise<string> {
  return await withFile(content, async (input) => {
    await main(["--input", input, "--lang", lang, "--output", `${input}.out`]);
    assert.deepEqual(await names(input), ["trees", "trees.out"]);
    return await Deno.readTextFile(`${input}.out`);
  }, "trees");
}

async function names(file: string): Promise<string[]> {
  const entries = await Array.fromAsync(Deno.readDir(file.replace(/\/[^/]*$/u, "")));
  return entries.map((entry) => entry.name).sort();
}

Deno.test("prepare_oasst: follows the best usable replies of one language", async () => {
  const lines = (await prepare(TREES, "en")).trimEnd().split("\n");
  assert.deepEqual(lines.map((line) => JSON.parse(line)), ENGLISH);
  assert.equal(
    await prepare(TREES, "es"),
    '[{"role":"user","content":"hola"},{"role":"assistant","content":"buenas"}]\n',
  );
});

Deno.test("prepare_oasst: gzip is unpacked, and the chat loader reads the result", async () => {
  const written = await prepare(gzipSync(TREES), "en");
  const { documents, report } = await readContent(written, { chat: true }, "chats.jsonl");
  assert.deepEqual(documents, ENGLISH);
  assert(!report.notices.some((notice) => notice.startsWith("data cleanup")), report.notices.join());
});

Deno.test("prepare_oasst: downloads over HTTP", async () => {
  const body = new Uint8Array(gzipSync(TREES));
  const server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    (request) =>
      request.url.endsWith("/trees.gz") ? new Response(body) : new Response("no such file", { status: 404 }),
  );
  const url = `http://127.0.0.1:${server.addr.port}`;
  try {
    await withFile("", async (path) => {
      await main(["--input", `${url}/trees.gz`, "--output", `${path}.out`]);
      assert.equal((await Deno.readTextFile(`${path}.out`)).split("\n").length, 3);
      await assert.rejects(main(["--input", `${url}/other.gz`, "--output", `${path}.out2`]), {
        name: "MicrogptError",
        message: `cannot download ${url}/other.gz: the server answered 404`,
      });
    });
  } finally {
    await server.shutdown();
  }
});

Deno.test("prepare_oasst: on an error nothing is written and an older output stays", async () => {
  const gzip = gzipSync(TREES);
  const cases: [string | Uint8Array, RegExp][] = [
    [gzip.subarray(0, gzip.length - 20), /^cannot read .*trees: /u],
    ["not json", /trees line 1: not valid JSON$/u],
    [
      TREES + '\n{"prompt": {"text": "no role", "lang": "en"}}',
      /trees line 7: expected a conversation tree/u,
    ],
    [TREES.replace('"text":"lost"', '"text":null'), /trees line 1: expected a conversation tree/u],
    ["null", /trees line 1: expected a conversation tree/u],
    ["", /^no conversation in language "en" among 0 trees$/u],
  ];
  for (const [content, message] of cases) {
    await withFile(content, async (input) => {
      await Deno.writeTextFile(`${input}.out`, "older");
      await assert.rejects(main(["--input", input, "--output", `${input}.out`]), {
        name: "MicrogptError",
        message,
      });
      assert.deepEqual(await names(input), ["trees", "trees.out"]);
      assert.equal(await Deno.readTextFile(`${input}.out`), "older");
    }, "trees");
  }
});

Deno.test("prepare_oasst: errors of the command line and of writing", async () => {
  await assert.rejects(main(["--langauge", "en"]), { name: "MicrogptError", usage: true });
  await withFile(TREES, async (input) => {
    const output = `${input}.missing/out.jsonl`;
    await assert.rejects(main(["--input", input, "--output", output]), {
      name: "MicrogptError",
      message: new RegExp(`^cannot write ${output}: `, "u"),
    });
  });
});
