/** The page: what a person chooses goes to the worker, what the worker tells is shown. */
import { Calls } from "./calls.js";
import { attentionView, tokenMap } from "./views.js";
import { LossChart } from "./shared/chart.js";
import { probabilityBars, tokenElement } from "./shared/tokens.js";
import { tar } from "./tar.js";

/** @param {string} id @returns {any} */
const at = (id) => document.getElementById(id);

const PRESETS = [
  { name: "names", title: "names: short words, trained in a minute or two on a GPU", llama: false },
  { name: "chat-small", title: "small: 1.3 million numbers, for stories and conversations", llama: true },
  { name: "chat-medium", title: "medium: for a real GPU and some patience", llama: true },
];

/** Larger files are hardly what a page is for. */
const MAX_BYTES = 200e6;

const chart = new LossChart(at("chart"));
const calls = new Calls((event, data) => events[event]?.(data));

/** What is going on: the run, the model that is used, the text that was chosen. */
const state = {
  webgpu: true,
  /** @type {any} */ presets: {},
  /** @type {{name: string, file: string, chat: boolean} | undefined} */ data: undefined,
  /** @type {{name: string, chat: boolean, totalSteps: number, step: number, times: number[], began: number} | undefined} */ run:
    undefined,
  training: false,
  /** @type {{name: string, chat: boolean} | undefined} */ model: undefined,
  /** steps when the tab was hidden */ hiddenAt: 0,
};

// What a person should know -------------------------------------------------------------------------------------------

/** @param {{message: string, hint?: string, what?: string}} problem @param {boolean} bad */
function tell({ message, hint, what }, bad = true) {
  const box = document.createElement("div");
  box.className = bad ? "message bad" : "message";
  const text = document.createElement("span");
  text.textContent = (what ? `${what}: ` : "") + message;
  box.append(text);
  if (hint) {
    const more = document.createElement("pre");
    more.textContent = hint;
    box.append(more);
  }
  const close = document.createElement("button");
  close.textContent = "×";
  close.setAttribute("aria-label", "close");
  close.onclick = () => box.remove();
  box.prepend(close);
  at("messages").append(box);
  while (at("messages").children.length > 4) at("messages").firstElementChild.remove();
}

/** Runs what a button does; what goes wrong is said on the page. @param {() => Promise<unknown>} action */
async function attempt(action, /** @type {HTMLButtonElement[]} */ ...buttons) {
  for (const button of buttons) button.disabled = true;
  try {
    await action();
  } catch (error) {
    tell(/** @type {any} */ (error));
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

/** @param {number} seconds */
function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} seconds`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} minutes`;
  return `${(seconds / 3600).toFixed(1)} hours`;
}

const megabytes = (/** @type {number} */ bytes) =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} KB` : `${(bytes / 1e6).toFixed(1)} MB`;

// The text ------------------------------------------------------------------------------------------------------------

/** Whether bytes are text: UTF-8 without the zeros that pictures and archives have. @param {Blob} file */
async function isText(file) {
  const start = new Uint8Array(await file.slice(0, 1 << 16).arrayBuffer());
  if (start[0] === 0x1f && start[1] === 0x8b) return true; // gzip, which is unpacked
  if (start.includes(0)) return false;
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(start, { stream: true });
    return true;
  } catch {
    return false;
  }
}

/** @param {string} file @param {Blob} text @param {boolean} chat */
async function useText(file, text, chat) {
  state.data = undefined;
  update();
  if (text.size === 0) throw new Error(`${file} is empty`);
  if (text.size > MAX_BYTES) {
    throw Object.assign(new Error(`${file} has ${megabytes(text.size)}`), {
      hint: "a page takes up to 200 MB; use a part of it, or the command line",
    });
  }
  if (!await isText(text)) {
    throw Object.assign(new Error(`${file} is no text`), {
      hint:
        "choose a file of plain text (.txt, .md, .jsonl) in UTF-8; text of a Word or PDF file must be saved as plain text first",
    });
  }
  at("looked").textContent = `Reading ${file}…`;
  const name = file.replace(/\.\w+$/, "").replace(/[^\p{L}\p{N} _-]+/gu, "-").slice(0, 40) || "text";
  const plan = await calls.call("look", { name, file, text, chat }).catch((error) => {
    at("looked").textContent = "";
    throw error;
  });
  state.data = { name, file, chat };
  const kind = chat ? "conversations" : "documents, one a line";
  at("looked").textContent =
    `${file}: ${(plan.trainingDocuments + plan.validationDocuments).toLocaleString("en")} ${kind}, ` +
    `${plan.validationDocuments.toLocaleString("en")} of them held back to measure it with; ${
      megabytes(text.size)
    }.`;
  if (chat && at("preset").value === "names") choosePreset("chat-small");
  update();
}

async function useSample() {
  const response = await fetch("names.txt");
  if (!response.ok) throw new Error(`the sample could not be fetched: the server answers ${response.status}`);
  await useText("names.txt", await response.blob(), false);
}

at("source").onchange = () => {
  if (at("source").value === "names") return attempt(useSample);
  at("file").accept = at("source").value === "chat" ? ".jsonl,.json" : ".txt,.md,.jsonl,.csv,.json,text/*";
  at("file").click();
};
at("file").onchange = () => {
  const [file] = at("file").files;
  if (file) attempt(() => useText(file.name, file, at("source").value === "chat"));
  at("file").value = "";
};

addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  const entry = event.dataTransfer?.items[0]?.webkitGetAsEntry();
  const file = event.dataTransfer?.files[0];
  if (entry?.isDirectory) attempt(() => addModel(/** @type {FileSystemDirectoryEntry} */ (entry)));
  else if (file) {
    const chat = /\.jsonl$/.test(file.name);
    at("source").value = chat ? "chat" : "file";
    attempt(() => useText(file.name, file, chat));
  }
});

/** A model's folder, dropped. @param {FileSystemDirectoryEntry} folder */
async function addModel(folder) {
  const entries = await new Promise((resolve, reject) => folder.createReader().readEntries(resolve, reject));
  /** @type {Record<string, Blob>} */
  const files = {};
  for (const entry of entries.filter(({ isFile, name }) => isFile && !name.startsWith("."))) {
    files[entry.name] = await new Promise((resolve, reject) => entry.file(resolve, reject));
  }
  if (!files["weights.safetensors"] && !files["model.safetensors"]) {
    throw Object.assign(new Error(`${folder.name} is no model's folder`), {
      hint: "drop the folder that `microgpt train` wrote: it has weights.safetensors or model.safetensors",
    });
  }
  const { chat } = await calls.call("add", { name: folder.name, files });
  useModel(folder.name, chat);
  await listKept();
}

// The model and the run -----------------------------------------------------------------------------------------------

function choosePreset(/** @type {string} */ name) {
  at("preset").value = name;
  at("steps").value = state.webgpu ? state.presets[name].steps : 400;
  at("llama").disabled = !state.webgpu || !PRESETS.find((preset) => preset.name === name)?.llama;
  if (at("llama").disabled) at("llama").checked = false;
  at("estimate").textContent = "";
}
at("preset").onchange = () => choosePreset(at("preset").value);

function choice() {
  return {
    ...state.data,
    preset: at("preset").value,
    steps: Number(at("steps").value) || undefined,
    ...(at("llama").checked ? { arch: "llama" } : {}),
  };
}

at("measure").onclick = () =>
  attempt(
    async () => {
      at("estimate").textContent = "Doing a few steps to see how long they take…";
      const milliseconds = await calls.call("measure", choice()).catch((error) => {
        at("estimate").textContent = "";
        throw error;
      });
      const steps = Number(at("steps").value);
      at("estimate").textContent =
        `A step takes ${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms on this ` +
        `${state.webgpu ? "GPU" : "processor"}: ${steps.toLocaleString("en")} steps take about ${
          duration(milliseconds * steps / 1000)
        }.`;
    },
    at("measure"),
    at("start"),
  );

at("start").onclick = () => {
  const chosen = choice();
  startRun(chosen.name, chosen.steps ?? 0, chosen.chat);
  return trainWith("train", chosen);
};
at("pause").onclick = () => {
  at("pause").disabled = true;
  at("status").textContent = "Saving…";
  calls.call("pause");
};
at("resume").onclick = () => {
  const { name, totalSteps } = /** @type {any} */ (state.run);
  return trainWith("resume", { name, totalSteps });
};

/** @param {string} name @param {number} totalSteps @param {boolean} chat */
function startRun(name, totalSteps, chat) {
  state.run = { name, chat, totalSteps, step: 0, times: [], began: performance.now() };
  chart.clear(totalSteps);
  at("samples").innerHTML = "";
  at("progress").value = 0;
  at("run").hidden = false;
  at("run-name").textContent = name;
}

/** @param {"train" | "resume"} method @param {object} args */
async function trainWith(method, args) {
  state.training = true;
  at("status").textContent = "Preparing: the tokenizer, and the kernels of this GPU…";
  update();
  try {
    await calls.call(method, args);
  } catch (error) {
    const { message, hint } = /** @type {any} */ (error);
    tell({ message, hint, what: "training stopped" });
    at("status").textContent = "Stopped. Nothing is lost up to the last checkpoint: continue from there.";
  }
  state.training = false;
  document.title = "microgpt";
  await listKept();
  update();
}

function showStatus() {
  const { run } = state;
  if (!run) return;
  const recent = run.times.slice(-50);
  const mean = recent.reduce((sum, time) => sum + time, 0) / recent.length;
  const left = mean * (run.totalSteps - run.step) / 1000;
  at("progress").value = run.step / run.totalSteps;
  const loss = chart.mean.at(-1)?.loss.toFixed(3);
  at("status").textContent =
    `step ${run.step.toLocaleString("en")} of ${run.totalSteps.toLocaleString("en")} · loss ${loss} · ` +
    `${mean < 10 ? mean.toFixed(1) : Math.round(mean)} ms a step · about ${duration(left)} left`;
  document.title = `${Math.round(100 * run.step / run.totalSteps)} % · microgpt`;
}

let statusWaits = false;
function statusLater() {
  if (statusWaits) return;
  statusWaits = true;
  setTimeout(() => {
    statusWaits = false;
    if (state.training) showStatus();
  }, 150);
}

/** @type {Record<string, (data: any) => void>} */
const events = {
  plan({ network, parameters, device, totalSteps, trainingDocuments }) {
    const { run } = state;
    if (!run) return;
    run.totalSteps = totalSteps;
    chart.totalSteps = totalSteps;
    at("status").textContent = `${network}: ${parameters.toLocaleString("en")} numbers to learn from ` +
      `${trainingDocuments.toLocaleString("en")} documents on ${device}. Compiling for it…`;
  },
  step({ step, loss, milliseconds }) {
    if (!state.run) return;
    state.run.step = step;
    state.run.times.push(milliseconds);
    chart.add(step, loss);
    statusLater();
  },
  evaluation: ({ step, loss }) => chart.addHeldOut(step, loss),
  samples({ step, texts }) {
    const box = document.createElement("div");
    const title = document.createElement("small");
    title.textContent = `after ${step.toLocaleString("en")} steps`;
    const text = document.createElement("pre");
    text.textContent = texts.map((/** @type {string} */ sample) => sample.trim()).join("\n");
    box.append(title, text);
    at("samples").prepend(box);
    while (at("samples").children.length > 12) at("samples").lastElementChild.remove();
  },
  notice: (notice) => tell(notice, notice.what !== undefined),
  recovery: ({ step, learningRate }) =>
    tell(
      { message: `the loss was no number: back to step ${step}, with learning rate ${learningRate}` },
      false,
    ),
  end({ step, complete }) {
    const { run } = state;
    if (!run) return;
    run.step = step;
    showStatus();
    at("status").textContent = complete
      ? `Done: ${step.toLocaleString("en")} steps in ${duration((performance.now() - run.began) / 1000)}.`
      : `Paused after ${
        step.toLocaleString("en")
      } steps. It is kept in this browser: continue now, or when you open this page again.`;
    useModel(run.name, run.chat);
  },
  piece(piece) {
    at("turns").lastElementChild.textContent += piece;
  },
};

document.addEventListener("visibilitychange", () => {
  const step = state.run?.step ?? 0;
  if (document.hidden) state.hiddenAt = step;
  else if (state.training && step > state.hiddenAt) {
    tell({ message: `training went on while the tab was hidden: ${step - state.hiddenAt} steps` }, false);
  }
});
addEventListener("beforeunload", (event) => state.training && event.preventDefault());

// Using it ------------------------------------------------------------------------------------------------------------

/** @param {string} name @param {boolean} chat */
function useModel(name, chat) {
  state.model = { name, chat };
  at("use").hidden = false;
  for (const id of ["written", "turns", "seen", "token-map"]) at(id).innerHTML = "";
  at("look-at").value ||= chat ? "hello" : "annabel";
  showTab("write");
  update();
}

/** @param {string} name */
function showTab(name) {
  for (const tab of at("tabs").children) {
    tab.setAttribute("aria-selected", tab.dataset.tab === name);
    tab.className = tab.dataset.tab === name ? "main" : "";
  }
  for (const panel of document.querySelectorAll("[data-panel]")) {
    /** @type {HTMLElement} */ (panel).hidden = /** @type {HTMLElement} */ (panel).dataset.panel !== name;
  }
  if (name === "map" && !at("token-map").hasChildNodes()) {
    attempt(async () =>
      at("token-map").replaceChildren(tokenMap(await calls.call("map", { name: state.model?.name })))
    );
  }
}
at("tabs").onclick = (/** @type {any} */ { target }) => target.dataset.tab && showTab(target.dataset.tab);

let seed = 1;
at("write").onclick = () =>
  attempt(async () => {
    const args = {
      name: state.model?.name,
      prompt: at("prompt").value,
      temperature: Number(at("temperature").value),
      seed: seed++ * 100,
    };
    const texts = await calls.call("generate", args);
    at("written").replaceChildren(...texts.map((/** @type {string} */ text) => {
      const pre = document.createElement("pre");
      pre.textContent = text.trim() || "(nothing: it ended at once)";
      return pre;
    }));
  }, at("write"));

/** @param {string} role @param {string} text */
function addTurn(role, text) {
  const turn = document.createElement("div");
  turn.className = `turn ${role}`;
  turn.textContent = text;
  at("turns").append(turn);
}
at("send").onclick = () =>
  attempt(async () => {
    const text = at("say").value.trim();
    if (!text) return;
    at("say").value = "";
    addTurn("user", text);
    addTurn("assistant", "");
    await calls.call("chat", { name: state.model?.name, text, temperature: Number(at("temperature").value) });
  }, at("send"));
at("new-chat").onclick = () => attempt(() => (at("turns").replaceChildren(), calls.call("newChat")));

at("look").onclick = () =>
  attempt(async () => {
    const { tokens, next, attention } = await calls.call("inspect", {
      name: state.model?.name,
      text: at("look-at").value,
    });
    const line = document.createElement("p");
    line.style.lineHeight = "2.2";
    line.append(
      ...tokens.map((/** @type {any} */ token, /** @type {number} */ i) => tokenElement(token, i === 0)),
    );
    const heading = document.createElement("h2");
    heading.textContent = "What may come next";
    const attentionHeading = document.createElement("h2");
    attentionHeading.textContent = "Attention";
    const texts = tokens.map((/** @type {any} */ { text }) => text);
    at("seen").replaceChildren(
      line,
      heading,
      probabilityBars(next),
      attentionHeading,
      attentionView(texts, attention),
    );
  }, at("look"));
for (const [field, button] of [["prompt", "write"], ["say", "send"], ["look-at", "look"]]) {
  at(field).onkeydown = (/** @type {KeyboardEvent} */ { key }) => key === "Enter" && at(button).click();
}

/** @param {string} kind */
async function take(kind) {
  const { name } = /** @type {any} */ (state.model);
  const files = await calls.call("files", { name, kind });
  const single = kind === "gguf" ? files["model.gguf"] : undefined;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(single ?? tar(name, files));
  link.download = single ? `${name}.gguf` : `${name}.tar`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  at("take-note").textContent = `${link.download}: ${
    megabytes(single?.size ?? Object.values(files).reduce((sum, { size }) => sum + size, 0))
  }`;
}
at("take-model").onclick = () => attempt(() => take("model"), at("take-model"));
at("take-gguf").onclick = () => attempt(() => take("gguf"), at("take-gguf"));

// What is kept --------------------------------------------------------------------------------------------------------

async function listKept() {
  const models = await calls.call("list");
  at("kept-section").hidden = models.length === 0;
  at("kept").replaceChildren(...models.map((/** @type {any} */ kept) => {
    const row = document.createElement("div");
    row.className = "row";
    const title = document.createElement("span");
    title.style.flex = "1";
    title.textContent = `${kept.name}, ${kept.step.toLocaleString("en")} steps, ${megabytes(kept.bytes)}`;
    const button = (/** @type {string} */ text, /** @type {() => Promise<unknown>} */ action) => {
      const made = document.createElement("button");
      made.textContent = text;
      made.onclick = () => attempt(action, made);
      made.disabled = state.training;
      return made;
    };
    const total = Number(localStorage.getItem(`steps of ${kept.name}`)) || kept.step;
    row.append(
      title,
      button("Use", async () => {
        const { chat } = await calls.call("open", { name: kept.name });
        useModel(kept.name, chat);
      }),
    );
    if (total > kept.step) row.append(button("Continue training", () => goOn(kept, total)));
    row.append(button("Remove", async () => {
      if (!confirm(`Remove ${kept.name} from this browser?`)) return;
      await calls.call("remove", { name: kept.name });
      if (state.model?.name === kept.name) at("use").hidden = true;
      await listKept();
    }));
    return row;
  }));
}

/** Shows the losses so far and goes on. @param {any} kept @param {number} totalSteps */
async function goOn(kept, totalSteps) {
  startRun(kept.name, totalSteps, kept.mode === "chat");
  for (const { step, loss, val_loss: heldOut } of kept.metrics) {
    if (Number.isFinite(loss)) chart.add(step, loss);
    if (Number.isFinite(heldOut)) chart.addHeldOut(step, heldOut);
  }
  await trainWith("resume", { name: kept.name, totalSteps });
}

// ---------------------------------------------------------------------------------------------------------------------

function update() {
  const { training, run, model } = state;
  at("start").disabled = at("measure").disabled = training || !state.data?.file;
  at("source").disabled = training;
  at("pause").hidden = !training;
  at("pause").disabled = false;
  at("resume").hidden = training || !run || run.step >= run.totalSteps;
  if (run) localStorage.setItem(`steps of ${run.name}`, String(run.totalSteps));
  for (const id of ["write", "send", "look", "take-model", "take-gguf"]) at(id).disabled = training || !model;
  at("take-gguf").hidden = false;
  const talk = document.querySelector('[data-tab="talk"]');
  if (talk) /** @type {HTMLElement} */ (talk).hidden = !model?.chat;
}

function sayNoGpu() {
  at("device").textContent = "There is no WebGPU here, so a tiny model is trained on the processor, slowly.";
  tell({
    message:
      "This browser gives pages no GPU (WebGPU). You can train a tiny model all the same, to see how it goes.",
    hint:
      "WebGPU is in Chrome and Edge 113 and later, Safari 26 (macOS, iOS), Firefox 141 and later on Windows and macOS. " +
      "On Linux it may have to be switched on: chrome://flags/#enable-unsafe-webgpu. The page must be served by https or from 127.0.0.1.",
  }, false);
  at("preset").replaceChildren(new Option("tiny: one layer, for the processor", "names"));
}

attempt(async () => {
  await calls.ready;
  const { webgpu, software, device, presets } = await calls.call("about");
  state.webgpu = webgpu;
  state.presets = presets;
  for (const { name, title } of PRESETS) at("preset").add(new Option(title, name));
  if (webgpu) {
    const slow = software ? ", which is no GPU but the processor acting as one: right, and very slow" : "";
    at("device").textContent = `Trains on ${device || "a GPU"} by WebGPU${slow}.`;
  } else sayNoGpu();
  choosePreset("names");
  document.body.dataset.ready = "yes";
  await listKept();
  await useSample();
});
