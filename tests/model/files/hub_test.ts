/** Models of HuggingFace's hub, from a hub on this machine: downloaded, taken up again, checked, kept, refused. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { readAnyModel } from "../../../model/files/any_model.ts";
import { exportGguf } from "../../../model/files/gguf/llama_export.ts";
import type { HubLimits } from "../../../model/files/hub/connection.ts";
import { downloadModel } from "../../../model/files/hub/download.ts";
import type { DownloadProgress } from "../../../model/files/hub/local_model.ts";
import { parseHubName } from "../../../model/files/hub/name.ts";
import { describeModel } from "../../../model/files/summary.ts";
import { exportModel } from "../../../model/export/export.ts";
import { loadModel } from "../../../model/generate/language_model.ts";
import { MicrogptError } from "../../../device/errors.ts";
import { COMMIT, HubServer, type Listed, MODEL } from "./hub_server.ts";
import { inDirectory, shard, tinyModel, writeTiny } from "./tiny_llama.ts";

const LIMITS: HubLimits = { stall: 5000, tries: 3, pause: 1 };

/** Runs with a hub that has a tiny model, and an empty cache. */
async function withHub(
  run: (hub: HubServer, cache: string, model: string) => Promise<void>,
  env: Record<string, string> = {},
): Promise<void> {
  await inDirectory(async (dir) => {
    const [model, cache] = [join(dir, "model"), join(dir, "cache")];
    await Deno.mkdir(model);
    await writeTiny(model);
    await using hub = new HubServer();
    await hub.addDirectory(model);
    const before: Record<string, string | undefined> = {};
    const wanted = {
      HF_ENDPOINT: hub.endpoint,
      XDG_CACHE_HOME: cache,
      HF_TOKEN: "",
      HF_HUB_OFFLINE: "",
      ...env,
    };
    for (const [name, value] of Object.entries(wanted)) {
      before[name] = Deno.env.get(name);
      Deno.env.set(name, value);
    }
    try {
      await run(hub, join(cache, "microgpt", "hub", "tiny-org--tiny.model-1"), model);
    } finally {
      for (const [name, value] of Object.entries(before)) {
        if (value === undefined) Deno.env.delete(name);
        else Deno.env.set(name, value);
      }
    }
  });
}

async function refused(text: string, expected: RegExp, hint?: RegExp): Promise<void> {
  const error = await downloadModel(text, {}, LIMITS).then(() => undefined, (error) => error);
  assert(error instanceof MicrogptError, `not refused: ${error?.stack}`);
  assert.match(error.message, expected);
  for (const line of [error.message, error.hint ?? ""]) assert.doesNotMatch(line, /[\p{Cc}]|hf_secret/u);
  if (hint) assert.match(error.hint ?? "", hint);
}

async function sameFiles(a: string, b: string): Promise<void> {
  const names = (dir: string) => Array.from(Deno.readDirSync(dir), ({ name }) => name).sort();
  assert.deepEqual(names(a), names(b));
  for (const name of names(a)) {
    assert.deepEqual(await Deno.readFile(join(a, name)), await Deno.readFile(join(b, name)), name);
  }
}

Deno.test("a model of the hub is downloaded once: the files that are read, and no others", () =>
  withHub(async (hub, cache, model) => {
    for (const name of ["README.md", "pytorch_model.bin", "tiny.Q8_0.gguf", "tf_model.h5"]) {
      hub.files.set(name, new Uint8Array(10));
    }
    const seen: DownloadProgress[] = [];
    const dir = await downloadModel(MODEL, { progress: (progress) => seen.push(progress) }, LIMITS);
    assert.equal(dir, join(cache, COMMIT, "tiny.model-1"));
    await sameFiles(dir, model);
    const { total } = seen.at(-1)!;
    assert.equal(seen.at(-1)!.received, total);
    assert(seen.every(({ received }, i) => received >= (seen[i - 1]?.received ?? 0)));
    assert.equal((await readAnyModel(dir)).name, "tiny.model-1");

    hub.requests.length = 0;
    assert.equal(await downloadModel(MODEL, {}, LIMITS), dir);
    assert.deepEqual(
      hub.requests.map(({ path }) => path.split("/").at(-2)),
      ["revision"],
      "asked for the commit only",
    );
    hub.requests.length = 0;
    assert.equal(await downloadModel(`${MODEL}@${COMMIT}`, {}, LIMITS), dir);
    assert.deepEqual(hub.requests, [], "a commit never changes");
  }));

Deno.test("info, generate and export take a name of the hub", () =>
  withHub(async () => {
    assert.equal((await describeModel(MODEL)).source, "huggingface");
    using model = await loadModel(`${MODEL}@v1`, { device: "reference" });
    assert.equal((await model.samples({ numSamples: 1, maxTokens: 2 })).length, 1);
    await inDirectory(async (to) => {
      assert((await exportModel(MODEL, join(to, "gguf"), { format: "gguf" })).bytes > 1000);
    });
  }));

Deno.test("a transfer that is cut off goes on where it stopped, in the same call and in the next", () =>
  withHub(async (hub, cache, model) => {
    const size = hub.files.get("model.safetensors")!.length;
    hub.cuts = [1000, 500];
    await sameFiles(await downloadModel(MODEL, {}, LIMITS), model);
    const ranges = () =>
      hub.requests.filter(({ path }) => path.endsWith(".safetensors")).map(({ range }) => range);
    assert.deepEqual(ranges(), [null, `bytes=1000-${size - 1}`, `bytes=1500-${size - 1}`]);

    await Deno.remove(cache, { recursive: true });
    hub.requests.length = 0;
    hub.cuts = [700, 0, 0, 0];
    await refused(MODEL, /cannot be reached|was cut off after 700/, /goes on where it stopped/);
    assert.equal(
      (await Deno.stat(join(cache, COMMIT, "tiny.model-1.part", "model.safetensors.part"))).size,
      700,
    );
    hub.requests.length = 0;
    await sameFiles(await downloadModel(MODEL, {}, LIMITS), model);
    assert.deepEqual(hub.requests.map(({ path, range }) => [path.split("/").at(-1), range]), [
      ["main", null],
      [COMMIT, null],
      ["model.safetensors", `bytes=700-${size - 1}`],
    ]);

    await Deno.remove(cache, { recursive: true });
    hub.silentAfter = 10;
    const impatient = downloadModel(MODEL, {}, { ...LIMITS, stall: 100, tries: 2 });
    await assert.rejects(impatient, /cannot be reached: no data for 0.1 seconds/);
    hub.silentAfter = undefined;

    await Deno.remove(cache, { recursive: true });
    hub.cuts = [700];
    hub.ignoresRanges = true;
    await sameFiles(await downloadModel(MODEL, {}, LIMITS), model);
  }));

Deno.test("bytes that are not those of the list are refused, and nothing of them is kept", () =>
  withHub(async (hub, cache, model) => {
    const flipped = (bytes: Uint8Array) => bytes.with(bytes.length >> 1, bytes[bytes.length >> 1]! ^ 1);
    const longer = (bytes: Uint8Array) => new Uint8Array(bytes.length + 1);
    const cases: [string, (bytes: Uint8Array) => Uint8Array, RegExp][] = [
      [
        "model.safetensors",
        flipped,
        /model.safetensors has the SHA-256 [0-9a-f]{64}, not the [0-9a-f]{64} that the hub/,
      ],
      ["tokenizer.json", flipped, /tokenizer.json has the git digest/],
      ["model.safetensors", longer, /model.safetensors has more than the \d+ bytes that the hub lists/],
    ];
    for (const [victim, change, expected] of cases) {
      hub.tamper = (name, bytes) => name === victim ? change(bytes) : bytes;
      await Deno.remove(cache, { recursive: true }).catch(() => {});
      await refused(MODEL, expected, /nothing of it was kept/);
    }
    hub.tamper = (name, bytes) => name === "model.safetensors" ? bytes.slice(0, -3) : bytes;
    await refused(MODEL, /model.safetensors was cut off after \d+ of \d+ bytes/);
    await Deno.writeFile(
      join(cache, COMMIT, "tiny.model-1.part", "model.safetensors.part"),
      new Uint8Array(9),
    );
    hub.tamper = undefined;
    await refused(MODEL, /SHA-256/); // what was kept of another file is found out, too
    await sameFiles(await downloadModel(MODEL, {}, LIMITS), model);
  }));

Deno.test("sharded weights, one GGUF file of several, and the only one", () =>
  withHub(async (hub, cache, model) => {
    await shard(model);
    hub.files.clear();
    await hub.addDirectory(model);
    await sameFiles(await downloadModel(MODEL, {}, LIMITS), model);

    const gguf = join(cache, "tiny.gguf");
    const tiny = tinyModel();
    await exportGguf(gguf, { name: "tiny", ...tiny, tokenizer: tiny }, "Q8_0");
    hub.files.set("tiny.Q8_0.gguf", await Deno.readFile(gguf));
    const named = await downloadModel(`${MODEL}:tiny.Q8_0.gguf`, {}, LIMITS);
    assert.equal(named, join(cache, COMMIT, "tiny.Q8_0.gguf"));
    assert.equal((await readAnyModel(named)).kind, "gguf");
    await refused(`${MODEL}:other.gguf`, /has no file other.gguf/, /it has tiny.Q8_0.gguf/);

    for (const name of [...hub.files.keys()]) if (!name.endsWith(".gguf")) hub.files.delete(name);
    await Deno.remove(join(cache, COMMIT, "tiny.model-1"), { recursive: true });
    assert.equal(await downloadModel(MODEL, {}, LIMITS), named);
    hub.files.set("tiny.Q4_0.gguf", new Uint8Array(1));
    await refused(`${MODEL}@v1`, /has 2 GGUF files/, /hf:tiny-org\/tiny.model-1@v1:tiny.Q8_0.gguf/);
    hub.files.clear();
    hub.files.set("pytorch_model.bin", new Uint8Array(1));
    await refused(MODEL, /has no weights as safetensors or GGUF/, /pytorch_model.bin/);
  }));

Deno.test("without a network a model that was downloaded is used, and another is refused in a line", () =>
  withHub(async (hub) => {
    const dir = await downloadModel(MODEL, {}, LIMITS);
    hub.status = { code: 503 };
    const notices: string[] = [];
    assert.equal(await downloadModel(MODEL, { notice: (message) => notices.push(message) }, LIMITS), dir);
    assert.match(
      notices.join(),
      /cannot be reached: it answers 503; using the hf:tiny-org\/tiny.model-1 that was/,
    );
    Deno.env.set("HF_ENDPOINT", "http://127.0.0.1:1"); // nobody listens there
    assert.equal(await downloadModel(MODEL, {}, LIMITS), dir);
    await refused(`${MODEL}@v1`, /127.0.0.1:1 cannot be reached/, /when there is a network/);
    Deno.env.set("HF_HUB_OFFLINE", "1");
    assert.equal(await downloadModel(MODEL, {}, LIMITS), dir);
    await refused("hf:tiny-org/other", /is not in the cache, and HF_HUB_OFFLINE is 1/);
  }));

Deno.test("what the hub refuses is said in a line", () =>
  withHub(async (hub) => {
    await refused(`${MODEL}@nowhere`, /there is no such revision nowhere \(127.0.0.1:\d+ answers 404\)/);
    await refused("hf:tiny-org/none", /hf:tiny-org\/none: there is no such model/);
    hub.status = { code: 401 };
    await refused(MODEL, /no such model, or it is private or gated \(.* answers 401\)/, /set HF_TOKEN$/);
    Deno.env.set("HF_TOKEN", "hf_secret");
    await refused(MODEL, /answers 401/, /HF_TOKEN is of a user who may read it/);
    hub.status = { code: 403, headers: { "x-error-code": "GatedRepo" } };
    await refused(MODEL, /terms of its own/, /accept them at http:.*tiny.model-1, then set HF_TOKEN/);
    hub.status = { code: 400 };
    await refused(MODEL, /answers 400/);
    hub.status = { code: 200 };
    await refused(MODEL, /is not understood/, /HF_ENDPOINT must be the address of a hub/);
    Deno.env.set("HF_TOKEN", "secret");
    await refused(MODEL, /HF_TOKEN is no token/);
    Deno.env.set("HF_ENDPOINT", "nonsense");
    await refused(MODEL, /HF_ENDPOINT is no web address/);
  }));

Deno.test("the token goes to the hub and not where it redirects to, and only to web addresses", () =>
  withHub(async (hub, cache, model) => {
    hub.redirects = true;
    await sameFiles(await downloadModel(MODEL, {}, LIMITS), model);
    const [asked, stored] = ["hub", "storage"].map((name) =>
      hub.requests.filter(({ server }) => server === name)
    );
    assert(asked!.length > 2 && asked!.every(({ authorization }) => authorization === "Bearer hf_secret"));
    assert(stored!.length > 2 && stored!.every(({ authorization }) => authorization === null));
    await Deno.remove(cache, { recursive: true });
    for (const target of ["file:///etc/passwd", "data:text/plain,a", "http://"]) {
      hub.elsewhere = target;
      await refused(MODEL, /redirects to what is no safe web address/);
    }
    hub.elsewhere = `${hub.endpoint}/tiny-org/tiny.model-1/resolve/${COMMIT}/config.json`;
    await refused(MODEL, /redirects more than 5 times/);
  }, { HF_TOKEN: "hf_secret" }));

Deno.test("a list from a hostile hub leads nowhere else", () =>
  withHub(async (hub, cache, model) => {
    const [evil] = [new TextEncoder().encode("{}")];
    const names = [
      "../evil.json",
      "/tmp/evil.gguf",
      "..\\evil.gguf",
      "a/../../evil.gguf",
      "..",
      "evil\0.gguf",
    ];
    for (const name of names) hub.files.set(name, evil);
    await sameFiles(await downloadModel(MODEL, {}, LIMITS), model);
    await Deno.remove(cache, { recursive: true });

    const listings: [(files: Listed[]) => unknown, RegExp][] = [
      [(files) => files.map((file) => ({ ...file, size: -1, lfs: undefined })), /no weights/],
      [(files) => files.map((file) => ({ ...file, oid: "../../x", lfs: undefined })), /no weights/],
      [(files) => files.map((file) => ({ ...file, size: 1e300, lfs: undefined })), /no weights/],
      [(files) => files.filter(({ path }) => path !== "tokenizer.json"), /has no tokenizer.json/],
      [
        (files) => files.map((file) => file.path === "config.json" ? { ...file, size: 2 ** 40 } : file),
        /config.json has \d+ bytes/,
      ],
      [(files) => Array(20_001).fill(files[0]), /more than 20000 files/],
      [() => ({ error: "none" }), /is not understood/],
      [() => [null, 1, "x", {}], /no weights/],
    ];
    for (const [listing, expected] of listings) {
      hub.listing = listing;
      await refused(MODEL, expected);
    }
    hub.listing = undefined;
    await shard(model);
    hub.files.clear();
    await hub.addDirectory(model);
    const index = { weight_map: { a: "../../../outside.safetensors" } };
    hub.files.set("model.safetensors.index.json", new TextEncoder().encode(JSON.stringify(index)));
    await refused(MODEL, /which is no safetensors file of this directory/);
    hub.files.set("config.json", new TextEncoder().encode('{"model_type": "gemma3"}'));
    await Deno.remove(cache, { recursive: true });
    await refused(MODEL, /hf:tiny-org\/tiny.model-1: model_type is "gemma3"/);
    const found = Array.from(Deno.readDirSync(join(cache, COMMIT, "tiny.model-1.part")), ({ name }) => name);
    assert(
      !found.some((name) => name.includes(".safetensors") && !name.endsWith(".json")),
      "no weights were asked for",
    );
  }));

Deno.test("two downloads of one model at once take turns", () =>
  withHub(async (hub, _cache, model) => {
    const [a, b] = await Promise.all([downloadModel(MODEL, {}, LIMITS), downloadModel(MODEL, {}, LIMITS)]);
    assert.equal(a, b);
    await sameFiles(a, model);
    assert.equal(hub.requests.filter(({ path }) => path.endsWith("model.safetensors")).length, 1);
  }));

Deno.test("names of models on the hub", () => {
  assert.deepEqual(parseHubName("hf:a-b/C_d.2@refs/pr/1:x-Q4.GGUF"), {
    text: "hf:a-b/C_d.2@refs/pr/1:x-Q4.GGUF",
    owner: "a-b",
    name: "C_d.2",
    revision: "refs/pr/1",
    file: "x-Q4.GGUF",
  });
  assert.equal(parseHubName("hf:a/b").revision, "main");
  const wrong = [
    "",
    "a",
    "a/b/c",
    "../b",
    "a/..",
    "a/b@",
    "a/b@../x",
    "a/b@/x",
    "a/b:x.bin",
    "a/b:../x.gguf",
    "a/b@x..y",
  ];
  for (const rest of [...wrong, "a/b:c/d.gguf", "a\n/b", "a--b/c", "-a/b", "a/b@x//y"]) {
    assert.throws(() => parseHubName(`hf:${rest}`), /names no model of the hub/, rest);
  }
});
