/** All that computes: training, generation and views, so that the page itself never waits. */
import * as microgpt from "./microgpt.js";

/** The names of a model's training data in what is kept. */
const dataName = (/** @type {string} */ name) => `${name} (data)`;
const modelDir = (/** @type {string} */ name) => `/models/${name}`;
const dataDir = (/** @type {string} */ name) => `/data/${name}`;

/** @type {AbortController | undefined} */
let running;
/** @type {{name: string, model: Awaited<ReturnType<typeof microgpt.loadModel>>} | undefined} */
let loaded;
/** @type {ReturnType<Awaited<ReturnType<typeof microgpt.loadModel>>["startChat"]> | undefined} */
let conversation;

/** Where there is no WebGPU, the reference device computes, and only tiny models are trained. */
const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
const device = adapter ? "webgpu" : "reference";

/** Sizes for a page without a GPU: a step takes a moment, not a minute. */
const TINY = {
  nEmbd: 16,
  nHead: 2,
  nLayer: 1,
  blockSize: 32,
  vocabSize: 300,
  batchSize: 16,
  learningRate: 0.01,
  steps: 400,
};

/** Lines of a log that are told at once: the page takes them in a millisecond or two. */
const LINES = 1000;

/** @param {string} event @param {unknown} data */
function tell(event, data) {
  postMessage({ event, data });
}

/**
 * What this worker has of a model, but for the log of steps after its checkpoint, which is a run's own.
 * @param {string} name @returns {Promise<Record<string, Blob> | undefined>}
 */
async function inMemory(name) {
  const tree = await microgpt.readDirectory(modelDir(name)).catch(() => undefined);
  return tree && Object.fromEntries(Object.entries(tree).filter(([path]) => !path.endsWith(".part")));
}

/** Keeps what a run has saved, under its name. Failing is no reason to end it. @param {string} name */
async function keepModel(name) {
  try {
    await microgpt.keep(name, await inMemory(name));
    tell("kept", true);
  } catch (error) {
    tell("kept", false);
    tellProblem("the checkpoint could not be kept in this browser", error);
  }
}

/** @param {unknown} error */
function problemOf(error) {
  const { message, hint } = /** @type {{message: string, hint?: string}} */ (error);
  const said = String(message ?? error).replaceAll(modelDir(""), ""); // folders that nobody has chosen
  const lost = /^the GPU .* was lost/.test(said);
  return { message: said, hint: lost ? "Its driver was reset, or its memory is full." : hint };
}

/** Says what went wrong, where a run goes on all the same. @param {string} what @param {unknown} error */
function tellProblem(what, error) {
  const { message, hint } = problemOf(error);
  tell("notice", { message: `${what}: ${message}`, hint, bad: true });
}

/** Settings of a run as the page chose them. @param {{preset: string, steps?: number, arch?: string}} choice */
function settingsOf({ preset, steps, arch }) {
  if (!adapter) return { ...TINY, ...(steps ? { steps: Math.min(steps, TINY.steps) } : {}) };
  const llama = arch === "llama" ? { arch } : {};
  return { preset, ...llama, ...(steps ? { steps } : {}) };
}

/** What the page says in words of its own. @param {string} message */
const known = (message) =>
  /reference device|software renderer|: [\d,]+ (documents|conversations)/.test(message);

/** A notice in the words of the page. @param {string} message */
function worded(message) {
  const [, from, to] = /device changes from (.+) to (.+), see/.exec(message) ?? [];
  if (from !== undefined) return `it was trained on ${from} so far, and goes on with ${to}`;
  const [, long, all, tokens] = /(\d+) \/ (\d+) docs are longer than block_size \((\d+)\)/.exec(message) ??
    [];
  if (long === undefined) return message;
  return `${long} of ${all} documents are longer than the ${tokens} tokens that this model sees at once: their ends are cut off`;
}

/**
 * Runs `train` and tells its events. Another tab that trains the same model would write over what this one keeps: the
 * first has it.
 * @param {string} name @param {object} options
 */
async function run(name, options) {
  loaded?.model.close();
  loaded = undefined;
  running = new AbortController();
  const { signal } = running;
  try {
    await navigator.locks.request(`microgpt: ${name}`, { ifAvailable: true }, async (lock) => {
      if (!lock) throw new Error(`another tab is training ${name}`);
      for await (const event of microgpt.train({ device, ...options, signal })) {
        if (event.type === "plan") tell("plan", planOf(event));
        else if (event.type !== "notice") tell(event.type, event);
        else if (!known(event.message)) tell("notice", { message: worded(event.message) });
        if (event.type === "checkpoint") await keepModel(name);
      }
    });
  } finally {
    running = undefined;
  }
}

/** Steps between two looks at the held-out text, samples and checkpoints. @param {number} steps */
function rhythm(steps) {
  const every = Math.max(10, Math.round(steps / 20));
  return { evalEvery: every, sampleEvery: every, checkpointEvery: every };
}

/** @param {Extract<import("./microgpt.d.ts").TrainEvent, {type: "plan"}>} plan */
function planOf(plan) {
  const { trainingDocuments, validationDocuments, network, parameters, device, startStep, totalSteps, mode } =
    plan;
  return { trainingDocuments, validationDocuments, network, parameters, device, startStep, totalSteps, mode };
}

/** What a model of others is kept as. */
const GGUF = "model.gguf";
/** Names of the models here that are one file. @type {Set<string>} */
const ggufs = new Set();
const modelPath = (/** @type {string} */ name) =>
  ggufs.has(name) ? `${modelDir(name)}/${GGUF}` : modelDir(name);

/** Puts a model where the rest of the worker reads it. @param {string} name @param {Record<string, Blob>} files */
async function place(name, files) {
  if (loaded?.name === name) loaded.model.close(), loaded = undefined;
  await microgpt.removeDirectory(modelDir(name));
  await microgpt.writeDirectory(modelDir(name), files);
  if (files[GGUF]) ggufs.add(name);
  else ggufs.delete(name);
}

async function model(/** @type {string} */ name) {
  if (loaded?.name === name) return loaded.model;
  loaded?.model.close();
  loaded = undefined;
  loaded = { name, model: await microgpt.loadModel(modelPath(name), { device }) };
  conversation = undefined;
  return loaded.model;
}

/** How far a checkpoint is; -1 where there is none. @param {Record<string, Blob> | undefined} tree */
async function stepOf(tree) {
  const text = await tree?.["train_state.json"]?.text();
  return text === undefined ? -1 : JSON.parse(text).step;
}

/**
 * Puts a model where the rest of the worker reads it: what is kept, or what is here already where that is further, since
 * the browser had no room for it.
 * @param {string} name
 */
async function fetchKept(name) {
  const [here, tree] = [await inMemory(name), await microgpt.kept(name)];
  if (!here && !tree) throw new Error(`nothing is kept under the name ${name}`);
  if (tree && (!here || await stepOf(tree) > await stepOf(here))) await place(name, tree);
  const data = await microgpt.kept(dataName(name));
  if (data) await microgpt.writeDirectory(dataDir(name), data);
}

/** What the browser keeps of a model, or what this worker has, where that is further. @param {string} name */
async function furthest(name) {
  const [kept, here] = [await microgpt.kept(name).catch(() => undefined), await inMemory(name)];
  return kept && await stepOf(kept) >= await stepOf(here) ? kept : here;
}

/** The one file of a run's text; undefined where there is none. @param {string} name */
async function textOf(name) {
  const [file] = Object.keys(await microgpt.readDirectory(dataDir(name)).catch(() => ({})));
  return file && `${dataDir(name)}/${file}`;
}

/** Files of a model that may be on a server beside those that must. */
const MORE_FILES = ["config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"];

/** A .zip of files. @param {string} folder @param {Record<string, Blob>} files @returns {Promise<Blob>} */
async function zipped(folder, files) {
  const { zipSync } = await import("./zip.js");
  const entries = Object.entries(files).map(async ([name, blob]) => [
    `${folder}/${name}`,
    new Uint8Array(await blob.arrayBuffer()),
  ]);
  // weights hardly get smaller
  return new Blob([zipSync(Object.fromEntries(await Promise.all(entries)), { level: 0 })], {
    type: "application/zip",
  });
}

const methods = {
  about() {
    const { info } = adapter ?? {};
    return {
      webgpu: Boolean(adapter),
      software: info?.isFallbackAdapter ||
        /swiftshader|llvmpipe|basic render/i.test(info?.architecture ?? ""),
      device: info && (info.description || info.architecture || info.vendor),
      presets: microgpt.PRESETS,
      tiny: TINY,
    };
  },

  /** Looks at data before anything is trained. @param {{name: string, file: string, text: Blob, chat: boolean}} data */
  async look({ name, file, text, chat }) {
    await microgpt.removeDirectory(dataDir(name));
    await microgpt.writeDirectory(dataDir(name), { [file]: text });
    let plan;
    const options = {
      input: `${dataDir(name)}/${file}`,
      chat,
      output: "/trial",
      dryRun: true,
      device: "reference",
      ...TINY,
    };
    for await (const event of microgpt.train(options)) if (event.type === "plan") plan = planOf(event);
    return plan;
  },

  /** Milliseconds of a step, measured with a few of them. */
  async measure({ data, ...choice }) {
    await microgpt.removeDirectory("/trial");
    const times = [];
    const options = {
      ...settingsOf(choice),
      steps: 6,
      evalEvery: 0,
      checkpointEvery: 0,
      input: `${dataDir(data.name)}/${data.file}`,
      chat: data.chat,
      output: "/trial",
    };
    for await (const event of microgpt.train({ device, ...options })) {
      if (event.type === "step" && event.step > 2) times.push(event.milliseconds);
    }
    await microgpt.removeDirectory("/trial");
    return times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
  },

  /** A name that no model has: the wanted one, or with a number. @param {{name: string}} wanted */
  async freeName({ name }) {
    const taken = new Set(await methods.list().then((models) => models.map((model) => model.name)));
    for (let number = 1;; number++) {
      const free = number === 1 ? name : `${name} ${number}`;
      if (!taken.has(free)) return free;
    }
  },

  /** Trains a new model. @param {any} choice its name, `data` that was looked at, preset, steps, architecture */
  async train({ name, data: { name: from, file, chat }, ...choice }) {
    await microgpt.removeDirectory(modelDir(name));
    const settings = settingsOf(choice);
    const steps = settings.steps ?? microgpt.PRESETS[choice.preset].steps;
    const text = { [file]: (await microgpt.readDirectory(dataDir(from)))[file] };
    if (from !== name) await microgpt.removeDirectory(dataDir(name));
    await microgpt.writeDirectory(dataDir(name), text);
    await microgpt.keep(dataName(name), text).catch((error) => {
      tellProblem("the text could not be kept in this browser", error);
    });
    await run(name, {
      ...settings,
      ...rhythm(steps),
      input: `${dataDir(name)}/${file}`,
      chat,
      output: modelDir(name),
    });
  },

  /**
   * Goes on with a run, in this page or after it was opened again.
   * @param {{name: string, steps?: number, data?: {name: string, file: string}}} run `steps`: more than were planned;
   *   `data`: a text for a run that has none here
   */
  async resume({ name, steps, data }) {
    await fetchKept(name);
    const state = JSON.parse(await (await inMemory(name))["train_state.json"].text());
    const input = await textOf(name) ?? (data && `${dataDir(data.name)}/${data.file}`);
    await run(name, {
      resume: modelDir(name),
      ...(input ? { input } : {}),
      ...(steps ? { steps } : {}),
      ...rhythm(steps ? state.step + steps : state.steps_total),
    });
  },

  pause() {
    running?.abort();
  },

  /** What the browser keeps, and what only this page has: names, steps. */
  async list() {
    const kept = await microgpt.keptNames().catch(() => []);
    const here = Object.keys(await microgpt.readDirectory("/models").catch(() => ({})))
      .map((path) => path.split("/")[0]);
    const models = [];
    for (const name of new Set([...kept, ...here])) {
      if (name.endsWith(dataName(""))) continue;
      const tree = await furthest(name);
      if (!tree?.["meta.json"] && !tree?.["config.json"] && !tree?.[GGUF]) continue;
      const state = JSON.parse(await tree["train_state.json"]?.text() ?? "{}");
      models.push({
        name,
        step: state.step,
        stepsTotal: state.steps_total,
        mode: state.dataset_mode,
        bytes: Object.values(tree).reduce((sum, { size }) => sum + size, 0),
      });
    }
    return models;
  },

  /** Tells the losses so far of a model, some at a time, so that the page never has many to take. @param {{name: string}} model */
  async log({ name }) {
    const text = await (await furthest(name))?.["metrics.jsonl"]?.text() ?? "";
    const lines = text.split("\n").filter(Boolean);
    for (let i = 0; i < lines.length; i += LINES) {
      tell("metrics", lines.slice(i, i + LINES).map((line) => JSON.parse(line)));
    }
  },

  async open({ name }) {
    await fetchKept(name);
    const opened = await model(name);
    return { chat: opened.chat, parameters: opened.parameters };
  },

  /** A model from files: dropped, or of a folder. @param {{name: string, files: Record<string, Blob>}} model */
  async add({ name, files }) {
    await place(name, files);
    try {
      const opened = await model(name);
      await microgpt.keep(name, files).catch((error) => {
        tellProblem("the model could not be kept in this browser", error);
      });
      return { chat: opened.chat, parameters: opened.parameters };
    } catch (error) {
      await microgpt.removeDirectory(modelDir(name));
      throw error;
    }
  },

  /** The files of a .zip that `take` made. @param {{file: Blob}} args */
  async unzip({ file }) {
    const { unzipSync } = await import("./zip.js");
    const entries = Object.entries(unzipSync(new Uint8Array(await file.arrayBuffer())))
      .filter(([path]) => !path.endsWith("/"));
    // a kept checkpoint has a meta.json too, further down
    const [first = ""] = entries.map(([path]) => path).filter((path) => path.endsWith("meta.json"))
      .sort((a, b) => a.length - b.length);
    const folder = first.slice(0, -"meta.json".length);
    const files = entries.filter(([path]) => path.startsWith(folder))
      .map(([path, bytes]) => [path.slice(folder.length), new Blob([bytes])]);
    return {
      name: folder.split("/").at(-2) ?? file.name.replace(/\.zip$/, ""),
      files: Object.fromEntries(files),
    };
  },

  /** A model's folder on a server. @param {{url: string}} args */
  async fetchModel({ url }) {
    if (/\.gguf$/i.test(url)) {
      const file = url.split("/").at(-1) ?? "";
      return { [GGUF]: (await microgpt.fetchDirectory(url.slice(0, -file.length), [file]))[file] };
    }
    const texts = await microgpt.fetchDirectory(url, ["meta.json", "tokenizer.json"]);
    const { architecture } = JSON.parse(await texts["meta.json"].text());
    const weights = architecture === "llama" ? ["model.safetensors"] : ["weights.safetensors"];
    const files = { ...texts, ...await microgpt.fetchDirectory(url, weights) };
    for (const name of architecture === "llama" ? MORE_FILES : []) {
      Object.assign(files, await microgpt.fetchDirectory(url, [name]).catch(() => ({}))); // may be missing
    }
    return files;
  },

  async remove({ name }) {
    if (loaded?.name === name) loaded.model.close(), loaded = undefined;
    await microgpt.removeDirectory(modelDir(name));
    await microgpt.removeKept(name);
    await microgpt.removeKept(dataName(name));
  },

  async generate({ name, prompt, temperature, seed }) {
    return await (await model(name)).samples({ prompt, temperature, seed, numSamples: 5, maxTokens: 120 });
  },

  async chat({ name, text, temperature }) {
    conversation ??= (await model(name)).startChat({ maxTokens: 200, temperature });
    let answer = "";
    for await (const piece of conversation.send(text)) {
      answer += piece;
      tell("piece", piece);
    }
    return answer;
  },

  newChat() {
    conversation?.close();
    conversation = undefined;
  },

  /** A text, or an answer in a conversation, as the model sees it. */
  async inspect({ name, text, messages, answer }) {
    return await microgpt.inspectText(modelDir(name), messages ? { messages } : { prompt: text }, answer);
  },

  async map({ name }) {
    return await microgpt.mapTokens(modelDir(name));
  },

  /** Whether a model is this program's, whose insides can be shown, and what it can be exported as. @param {{name: string}} model */
  async describe({ name }) {
    const { source, formats } = await microgpt.describeModel(modelPath(name));
    return { own: source === "microgpt", formats };
  },

  /** A model, or an export of it, as one file. @param {{name: string, kind: "model" | "hf" | "gguf" | "onnx"}} wanted */
  async take({ name, kind }) {
    if (kind === "model") return { name: `${name}.zip`, file: await zipped(name, await inMemory(name)) };
    await microgpt.removeDirectory("/export");
    await microgpt.exportModel(modelPath(name), "/export", { format: kind, device });
    const files = await microgpt.readDirectory("/export");
    if (kind === "gguf") return { name: `${name}.gguf`, file: files["model.gguf"] };
    return { name: `${name}-${kind}.zip`, file: await zipped(`${name}-${kind}`, files) };
  },
};

addEventListener("message", async ({ data: { id, method, args } }) => {
  try {
    postMessage({ id, result: await methods[method](args) });
  } catch (error) {
    postMessage({ id, error: problemOf(error) });
  }
});
postMessage({ event: "ready" });
