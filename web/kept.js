/** What the browser keeps: models to use, to go on with, to remove; and models that come from elsewhere. */
import { at, count, make } from "./shared/page.js";
import { attempt, problem, sizeOf } from "./page.js";
import { calls, onChange, state } from "./state.js";
import { goOn } from "./training.js";
import { forgetModel, useModel } from "./use.js";

/** Lists what is kept. @returns {Promise<{name: string}[]>} */
export async function listKept() {
  const models = await calls.call("list");
  at("kept-section").hidden = models.length === 0;
  at("kept").replaceChildren(...models.map(row));
  await showRoom();
  return models;
}

/** @param {any} kept */
function row(kept) {
  const { name, step, stepsTotal, bytes } = kept;
  const action = (/** @type {string} */ text, /** @type {() => unknown} */ act) => {
    const made = make("button", { textContent: text, disabled: state.training });
    made.onclick = () => attempt(act, made);
    return made;
  };
  const of = step < stepsTotal ? ` of ${count(stepsTotal)}` : "";
  const what = step === undefined ? "a model" : `${count(step)}${of} steps`;
  const title = make("span", { className: "grow", textContent: `${name}, ${what}, ${sizeOf(bytes)}` });
  const actions = [action("Use", async () => {
    const { chat } = await calls.call("open", { name });
    useModel(name, chat);
    at("use").scrollIntoView({ behavior: "smooth" });
  })];
  if (step < stepsTotal) actions.push(action("Continue training", () => goOn(kept)));
  else if (step !== undefined) {
    const steps = () => Number(at("steps").value) || 100;
    const further = action("Train further", () => goOn({ ...kept, stepsTotal: step + steps() }, steps()));
    further.title = "as many steps more as are chosen under 2";
    actions.push(further);
  }
  actions.push(action("Remove", async () => {
    if (!confirm(`Remove ${name} from this browser?`)) return;
    await calls.call("remove", { name });
    forgetModel(name);
    await listKept();
  }));
  return make("div", { className: "row" }, title, ...actions);
}

/** How much room the browser gives. */
async function showRoom() {
  const { usage, quota } = await navigator.storage?.estimate?.() ?? {};
  at("room").textContent = usage === undefined || quota === undefined
    ? ""
    : `${sizeOf(usage)} of the ${sizeOf(quota)} that this browser gives to the page are in use.`;
}

// Models from elsewhere -----------------------------------------------------------------------------------------------

/** Files that hold a model's weights; the worker knows a .gguf by that name. */
const WEIGHTS = ["weights.safetensors", "model.safetensors", "model.gguf"];

/** @param {string} name @param {Record<string, Blob>} files */
async function addModel(name, files) {
  if (!WEIGHTS.some((weights) => files[weights])) {
    throw problem(
      `there is no model in ${name}`,
      "Take the folder that `microgpt train` wrote, or the .zip of this page: it has weights.safetensors or model.safetensors.",
    );
  }
  const { chat } = await calls.call("add", { name, files });
  useModel(name, chat);
  await listKept();
}

/** All files of a folder that was dropped. @param {FileSystemDirectoryEntry} folder @param {string} [prefix] */
async function filesOf(folder, prefix = "") {
  /** @type {Record<string, Blob>} */
  const files = {};
  const reader = folder.createReader();
  for (;;) { // comes in pieces
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return files;
    for (const entry of entries) {
      if (entry.name.startsWith(".")) continue;
      const path = prefix + entry.name;
      if (entry.isDirectory) Object.assign(files, await filesOf(entry, `${path}/`));
      else files[path] = await new Promise((resolve, reject) => entry.file(resolve, reject));
    }
  }
}

/** @param {FileSystemDirectoryEntry} folder */
export async function addFolder(folder) {
  await addModel(folder.name, await filesOf(folder));
}

/** A file that holds a model. @param {{name: string}} file */
export const isModelFile = ({ name }) => /\.(zip|gguf)$/i.test(name);

/** A .zip as this page hands it out, or a .gguf. @param {File} file */
export async function addFile(file) {
  if (/\.gguf$/i.test(file.name)) {
    return await addModel(file.name.slice(0, -".gguf".length), { "model.gguf": file });
  }
  const { name, files } = await calls.call("unzip", { file });
  await addModel(name, files);
}

/** A model's folder on a server, or a .gguf. @param {string} address */
export async function addAddress(address) {
  const url = new URL(address, location.href);
  const last = decodeURIComponent(url.pathname).split("/").filter(Boolean).at(-1) ?? url.host;
  const name = last.replace(/\.gguf$/i, "");
  await addModel(name, await calls.call("fetchModel", { url: url.href }));
}

at("folder").onchange = () => {
  const files = [.../** @type {File[]} */ (at("folder").files)];
  at("folder").value = "";
  if (files.length === 0) return;
  const name = files[0].webkitRelativePath.split("/")[0];
  const tree = files.map((file) => [file.webkitRelativePath.slice(name.length + 1), file]);
  const seen = tree.filter(([path]) => !/(^|\/)\./.test(/** @type {string} */ (path)));
  attempt(() => addModel(name, Object.fromEntries(seen)));
};
at("model-file").onchange = () => {
  const [file] = at("model-file").files;
  if (file) attempt(() => addFile(file));
  at("model-file").value = "";
};
at("open-folder").onclick = () => at("folder").click();
at("open-file").onclick = () => at("model-file").click();
at("open-address").onclick = () => attempt(() => addAddress(at("address").value), at("open-address"));
at("address").onkeydown = (/** @type {KeyboardEvent} */ { key }) =>
  key === "Enter" && at("open-address").click();

onChange(() => {
  for (const id of ["open-folder", "open-file", "open-address"]) at(id).disabled = state.training;
  for (const button of at("kept").querySelectorAll("button")) button.disabled = state.training;
});
