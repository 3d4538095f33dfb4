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

/** @param {string} event @param {unknown} data */
function tell(event, data) {
  postMessage({ event, data });
}

/** Keeps what a run has saved, under its name. Failing is no reason to end it. @param {string} name */
async function keepModel(name) {
  try {
    await microgpt.keep(name, await microgpt.readDirectory(modelDir(name)));
    tell("kept", name);
  } catch (error) {
    tell("notice", { ...problemOf(error), what: "the checkpoint could not be kept in this browser" });
  }
}

/** @param {unknown} error */
function problemOf(error) {
  const { message, hint } = /** @type {{message: string, hint?: string}} */ (error);
  return { message: String(message ?? error), hint };
}

/** Settings of a run as the page chose them. @param {{preset: string, steps?: number, arch?: string}} choice */
function settingsOf({ preset, steps, arch }) {
  if (!adapter) return { ...TINY, ...(steps ? { steps: Math.min(steps, TINY.steps) } : {}) };
  const llama = arch === "llama" ? { arch } : {};
  return { preset, ...llama, ...(steps ? { steps } : {}) };
}

/** Notices about the device, which the page words for itself. @param {string} message */
const deviceNotice = (message) => /reference device|software renderer/.test(message);

/** Runs `train` and tells its events. @param {string} name @param {object} options */
async function run(name, options) {
  loaded?.model.close();
  loaded = undefined;
  running = new AbortController();
  try {
    for await (const event of microgpt.train({ device, ...options, signal: running.signal })) {
      if (event.type === "plan") tell("plan", planOf(event));
      else if (event.type !== "notice" || !deviceNotice(event.message)) tell(event.type, event);
      if (event.type === "checkpoint") await keepModel(name);
    }
  } finally {
    running = undefined;
  }
}

/** @param {Extract<import("./microgpt.d.ts").TrainEvent, {type: "plan"}>} plan */
function planOf(plan) {
  const { trainingDocuments, validationDocuments, network, parameters, device, startStep, totalSteps, mode } =
    plan;
  return { trainingDocuments, validationDocuments, network, parameters, device, startStep, totalSteps, mode };
}

async function model(/** @type {string} */ name) {
  if (loaded?.name === name) return loaded.model;
  loaded?.model.close();
  loaded = { name, model: await microgpt.loadModel(modelDir(name), { device }) };
  conversation = undefined;
  return loaded.model;
}

/** Puts what is kept of a model where the rest of the worker reads it. @param {string} name */
async function fetchKept(name) {
  const [tree, data] = [await microgpt.kept(name), await microgpt.kept(dataName(name))];
  if (!tree) throw new Error(`nothing is kept under the name ${name}`);
  await microgpt.removeDirectory(modelDir(name));
  await microgpt.writeDirectory(modelDir(name), tree);
  if (data) await microgpt.writeDirectory(dataDir(name), data);
  return tree;
}

const methods = {
  about() {
    const { info } = adapter ?? {};
    return {
      webgpu: Boolean(adapter),
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
  async measure({ name, file, chat, ...choice }) {
    await microgpt.removeDirectory("/trial");
    const times = [];
    const options = { ...settingsOf(choice), steps: 6, evalEvery: 0, checkpointEvery: 0 };
    for await (
      const event of microgpt.train({
        device,
        ...options,
        input: `${dataDir(name)}/${file}`,
        chat,
        output: "/trial",
      })
    ) {
      if (event.type === "step" && event.step > 2) times.push(event.milliseconds);
    }
    await microgpt.removeDirectory("/trial");
    return times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
  },

  /** Trains a new model. */
  async train({ name, file, chat, ...choice }) {
    await microgpt.removeDirectory(modelDir(name));
    const settings = settingsOf(choice);
    const steps = settings.steps ?? microgpt.PRESETS[choice.preset].steps;
    const data = await microgpt.readDirectory(dataDir(name));
    await microgpt.keep(dataName(name), data).catch((error) => {
      tell("notice", { ...problemOf(error), what: "the text could not be kept in this browser" });
    });
    const every = Math.max(10, Math.round(steps / 20));
    await run(name, {
      ...settings,
      evalEvery: every,
      sampleEvery: every,
      checkpointEvery: every,
      input: `${dataDir(name)}/${file}`,
      chat,
      output: modelDir(name),
    });
  },

  /** Goes on with a run, in this page or after it was opened again, to the step that it was to end with. */
  async resume({ name, totalSteps }) {
    const tree = await fetchKept(name);
    const { step } = JSON.parse(await tree["train_state.json"].text());
    const every = Math.max(10, Math.round(totalSteps / 20));
    if (step >= totalSteps) return;
    await run(name, {
      resume: modelDir(name),
      steps: totalSteps - step,
      evalEvery: every,
      sampleEvery: every,
      checkpointEvery: every,
    });
  },

  pause() {
    running?.abort();
  },

  /** What the browser keeps: names, steps, losses so far. */
  async list() {
    const names = await microgpt.keptNames().catch(() => []);
    const models = [];
    for (const name of names.filter((name) => !name.endsWith(dataName("")))) {
      const tree = await microgpt.kept(name);
      if (!tree?.["train_state.json"]) continue;
      const state = JSON.parse(await tree["train_state.json"].text());
      const lines = (await tree["metrics.jsonl"]?.text() ?? "").trim().split("\n").filter(Boolean);
      const bytes = Object.values(tree).reduce((sum, { size }) => sum + size, 0);
      models.push({
        name,
        step: state.step,
        mode: state.dataset_mode,
        bytes,
        metrics: lines.map((line) => JSON.parse(line)),
      });
    }
    return models;
  },

  async open({ name }) {
    await fetchKept(name);
    const opened = await model(name);
    return { chat: opened.chat, parameters: opened.parameters };
  },

  /** A model from files: dropped, or of a folder. @param {{name: string, files: Record<string, Blob>}} model */
  async add({ name, files }) {
    await microgpt.removeDirectory(modelDir(name));
    await microgpt.writeDirectory(modelDir(name), files);
    const opened = await model(name);
    await microgpt.keep(name, files);
    return { chat: opened.chat, parameters: opened.parameters };
  },

  async remove({ name }) {
    if (loaded?.name === name) loaded.model.close(), loaded = undefined;
    await microgpt.removeKept(name);
    await microgpt.removeKept(dataName(name));
  },

  async generate({ name, prompt, temperature, seed }) {
    return await (await model(name)).samples({ prompt, temperature, seed, numSamples: 5, maxTokens: 120 });
  },

  async chat({ name, text, temperature }) {
    conversation ??= (await model(name)).startChat({ maxTokens: 200, temperature });
    for await (const piece of conversation.send(text)) tell("piece", piece);
  },

  newChat() {
    conversation?.close();
    conversation = undefined;
  },

  async inspect({ name, text }) {
    return await microgpt.inspectText(modelDir(name), text);
  },

  async map({ name }) {
    return await microgpt.mapTokens(modelDir(name));
  },

  /** The files of a model, or of an export of it. @param {{name: string, kind: "model" | "gguf"}} wanted */
  async files({ name, kind }) {
    if (kind === "model") return await microgpt.readDirectory(modelDir(name));
    await microgpt.removeDirectory("/export");
    await microgpt.exportModel(modelDir(name), "/export", { format: kind });
    return await microgpt.readDirectory("/export");
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
