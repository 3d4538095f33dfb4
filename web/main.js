/** The page: a text and a model are chosen, trained and used; what computes is the worker. */
import { at, make } from "./shared/page.js";
import { attempt } from "./page.js";
import { addAddress, addFile, addFolder, isModelFile, listKept } from "./kept.js";
import { offerPresets, useFile, useSample } from "./setup.js";
import { calls, changed, state } from "./state.js";

addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  if (state.training) return;
  const entry = event.dataTransfer?.items[0]?.webkitGetAsEntry();
  const file = event.dataTransfer?.files[0];
  attempt(() => {
    if (entry?.isDirectory) return addFolder(/** @type {FileSystemDirectoryEntry} */ (entry));
    if (file) return isModelFile(file) ? addFile(file) : useFile(file);
  });
});

/** What to do where a page is given no GPU. */
const NO_GPU = [
  "This browser gives pages no GPU (WebGPU), so a very tiny model is trained on the processor, slowly: enough to see how it goes.",
  "WebGPU is in Chrome and Edge, in Safari 26 (macOS, iOS), in Firefox 141 and later on Windows and 145 on macOS. On Linux it " +
  "may have to be switched on: chrome://flags/#enable-unsafe-webgpu, or dom.webgpu.enabled in Firefox’s about:config. " +
  "The page must be served by https or from 127.0.0.1.",
];

attempt(async () => {
  await calls.ready;
  const { webgpu, software, device, presets } = await calls.call("about");
  Object.assign(state, { webgpu, software, presets });
  if (webgpu) {
    const slow = software ? ", which is no GPU but the processor acting as one: right, and very slow" : "";
    const name = device || (software ? "a software adapter" : "your GPU");
    at("device").textContent = `Trains on ${name} by WebGPU${slow}.`;
  } else at("device").replaceChildren(...NO_GPU.map((textContent) => make("p", { textContent })));
  offerPresets();
  changed();
  document.body.dataset.ready = "yes";
  await listKept();
  const address = new URL(location.href).searchParams.get("model");
  if (address) await attempt(() => addAddress(address));
  await useSample("names");
});
