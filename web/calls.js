/** Calls to the worker, as functions that return promises. */

/** What a call of the worker threw: a message for the person and a hint. */
export class Problem extends Error {
  /** @param {{message: string, hint?: string}} told */
  constructor({ message, hint }) {
    super(message);
    this.hint = hint;
  }
}

/** The worker, its methods and what it tells without being asked. */
export class Calls {
  #next = 1;
  /** @type {Map<number, {resolve: (value: any) => void, reject: (error: Problem) => void}>} */
  #waiting = new Map();

  /** @param {(event: string, data: any) => void} told */
  constructor(told) {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.ready = new Promise((resolve, reject) => {
      this.worker.addEventListener("message", ({ data }) => {
        if (data.event === "ready") resolve(undefined);
        else if (data.event) told(data.event, data.data);
        else this.#answer(data);
      });
      this.worker.addEventListener("error", (event) => {
        const problem = new Problem({ message: event.message || "the worker could not be started" });
        reject(problem);
        for (const { reject } of this.#waiting.values()) reject(problem);
      });
    });
  }

  /** @param {{id: number, result?: any, error?: {message: string, hint?: string}}} answer */
  #answer({ id, result, error }) {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error) waiting?.reject(new Problem(error));
    else waiting?.resolve(result);
  }

  /** @param {string} method @param {object} [args] @returns {Promise<any>} */
  call(method, args = {}) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, method, args });
    });
  }
}
