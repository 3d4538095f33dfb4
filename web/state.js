/** What is going on on the page, and the worker that computes. */
import { Calls } from "./calls.js";

/**
 * A run: what is shown of it is in run.js; `saved`: there is a checkpoint to go on from; `kept`: the
 * browser keeps the last one.
 * @typedef {{name: string, chat: boolean, began: number, saved: boolean, kept: boolean}} CurrentRun
 */

export const state = {
  webgpu: true,
  /** the GPU is the processor acting as one */
  software: false,
  /** @type {Record<string, {steps: number}>} */
  presets: {},
  /** the text that was chosen @type {{name: string, file: string, chat: boolean} | undefined} */
  data: undefined,
  /** @type {CurrentRun | undefined} */
  run: undefined,
  training: false,
  /** the model that is used @type {{name: string, chat: boolean, own: boolean, example: string} | undefined} */
  model: undefined,
};

/** @type {Record<string, (data: any) => void>} */
const listeners = {};
/** @type {(() => void)[]} */
const watchers = [];

export const calls = new Calls((event, data) => listeners[event]?.(data));

/** Hears what the worker tells. @param {Record<string, (data: any) => void>} events */
export function hear(events) {
  Object.assign(listeners, events);
}

/** @param {() => void} watch called when `state` has changed */
export function onChange(watch) {
  watchers.push(watch);
}

/** Says that `state` has changed. */
export function changed() {
  for (const watch of watchers) watch();
}
