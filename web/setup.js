/** The first two steps: a text, and a model to train on it. */
import { at, count, duration } from "./shared/page.js";
import { attempt, problem, sizeOf } from "./page.js";
import { calls, changed, onChange, state } from "./state.js";

const PRESETS = [
  { name: "names", title: "tiny: 80,000 numbers, for names and verses", llama: false },
  { name: "chat-small", title: "small: 1.3 million numbers, for stories and conversations", llama: true },
  { name: "chat-medium", title: "medium: 6 million numbers, for a real GPU and some patience", llama: true },
];

/** Texts that come with the page; `example` is what one may look at later. */
const SAMPLES = {
  names: { file: "names.txt", example: "annabel" },
  verses: { file: "verses.txt", example: "To be, or not to be" },
};

/** Steps of the tiny model that is trained without a GPU. */
const STEPS_WITHOUT_GPU = 400;

/** Larger files are hardly what a page is for. */
const MAX_BYTES = 200e6;

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
export async function useText(file, text, chat) {
  state.data = undefined;
  changed();
  if (text.size === 0) throw new Error(`${file} is empty`);
  if (text.size > MAX_BYTES) {
    throw problem(
      `${file} has ${sizeOf(text.size)}`,
      "A page takes up to 200 MB; use a part of it, or the command line.",
    );
  }
  if (!await isText(text)) {
    throw problem(
      `${file} is no text`,
      "Choose a file of plain text (.txt, .md, .jsonl) in UTF-8; text of a Word or PDF file must be saved as plain text first.",
    );
  }
  at("looked").textContent = `Reading ${file}…`;
  const name = file.replace(/\.\w+$/, "").replace(/[^\p{L}\p{N} _-]+/gu, "-").slice(0, 40) || "text";
  const { trainingDocuments, validationDocuments } = await calls.call("look", { name, file, text, chat })
    .catch((error) => {
      at("looked").textContent = "";
      throw error;
    });
  state.data = { name, file, chat };
  const kind = chat ? "conversations" : "documents, one a line";
  at("looked").textContent = `${file}: ${count(trainingDocuments + validationDocuments)} ${kind}, ` +
    `${count(validationDocuments)} of them held back to measure it with; ${sizeOf(text.size)}.`;
  if (chat && state.webgpu && at("preset").value === "names") choosePreset("chat-small");
  changed();
}

/** @param {keyof typeof SAMPLES} name */
export async function useSample(name) {
  const { file } = SAMPLES[name];
  const response = await fetch(file);
  if (!response.ok) throw new Error(`the sample could not be fetched: the server answers ${response.status}`);
  await useText(file, await response.blob(), false);
}

/** What to look at with a model of a text. @param {string} name of the model @param {boolean} chat */
export function exampleFor(name, chat) {
  return SAMPLES[/** @type {keyof typeof SAMPLES} */ (name)]?.example ?? (chat ? "hello" : "");
}

at("source").onchange = () => {
  const { value } = at("source");
  if (value in SAMPLES) return attempt(() => useSample(value));
  at("file").accept = value === "chat" ? ".jsonl,.json" : ".txt,.md,.jsonl,.csv,.json,text/*";
  at("file").click();
};
at("file").onchange = () => {
  const [file] = at("file").files;
  if (file) attempt(() => useText(file.name, file, at("source").value === "chat"));
  at("file").value = "";
};

/** A file that was dropped. @param {File} file */
export function useFile(file) {
  const chat = /\.jsonl$/.test(file.name);
  at("source").value = chat ? "chat" : "file";
  return useText(file.name, file, chat);
}

// The model -----------------------------------------------------------------------------------------------------------

/** Offers what can be trained here. */
export function offerPresets() {
  at("preset").replaceChildren(
    ...state.webgpu
      ? PRESETS.map(({ name, title }) => new Option(title, name))
      : [new Option("very tiny: 8,000 numbers, for the processor", "names")],
  );
  choosePreset("names");
}

/** @param {string} name */
function choosePreset(name) {
  at("preset").value = name;
  at("steps").value = state.webgpu ? state.presets[name].steps : STEPS_WITHOUT_GPU;
  at("llama").disabled = !state.webgpu || !PRESETS.find((preset) => preset.name === name)?.llama;
  at("llama").closest("p").hidden = at("llama").disabled;
  if (at("llama").disabled) at("llama").checked = false;
  at("estimate").textContent = "";
}
at("preset").onchange = () => choosePreset(at("preset").value);

/** What is to be trained. */
export function choice() {
  return {
    data: state.data,
    preset: at("preset").value,
    steps: Number(at("steps").value) || undefined,
    ...(at("llama").checked ? { arch: "llama" } : {}),
  };
}

async function measure() {
  at("estimate").textContent = "Doing a few steps to see how long they take…";
  const milliseconds = await calls.call("measure", choice()).catch((error) => {
    at("estimate").textContent = "";
    throw error;
  });
  const steps = Number(at("steps").value);
  const step = milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds);
  const where = state.webgpu && !state.software ? "GPU" : "processor";
  at("estimate").textContent = `A step takes ${step} ms on this ${where}: ${count(steps)} steps take about ${
    duration(milliseconds * steps / 1000)
  }.`;
}
at("measure").onclick = () => attempt(measure, at("measure"), at("start"));

onChange(() => {
  const { training, data } = state;
  at("start").disabled = at("measure").disabled = training || !data;
  at("source").disabled = training;
});
