/** How answers are drawn: a form, kept in this browser, whose values become fields of requests. */

const KEPT = "microgpt.settings";

/**
 * @typedef {{
 *   name: string, label: string, help: string, type: "number" | "lines" | "text" | "switch" | "bias",
 *   min?: number, max?: number, step?: number, view?: "chat" | "complete", default?: boolean,
 * }} Field
 */

/** @type {Field[]} */
const FIELDS = [
  {
    name: "system",
    label: "System message",
    type: "text",
    view: "chat",
    help: "stands before the conversation",
  },
  {
    name: "temperature",
    label: "Temperature",
    type: "number",
    min: 0,
    max: 2,
    step: 0.05,
    help: "how daring it is; 0 always takes the most probable token",
  },
  {
    name: "top_p",
    label: "Top p",
    type: "number",
    min: 0,
    max: 1,
    step: 0.01,
    help: "draws from the most probable tokens that together have this probability; 1 = all",
  },
  {
    name: "top_k",
    label: "Top k",
    type: "number",
    min: 0,
    max: 1e6,
    step: 1,
    help: "draws from so many of the most probable tokens; 0 = all",
  },
  {
    name: "min_p",
    label: "Min p",
    type: "number",
    min: 0,
    max: 1,
    step: 0.01,
    help: "leaves out tokens below this share of the most probable one's probability",
  },
  {
    name: "repetition_penalty",
    label: "Repetition penalty",
    type: "number",
    min: 0.01,
    max: 100,
    step: 0.05,
    help: "above 1: what was said, in the prompt too, is less probable",
  },
  {
    name: "frequency_penalty",
    label: "Frequency penalty",
    type: "number",
    min: -2,
    max: 2,
    step: 0.1,
    help: "taken off for each time that the answer has had a token",
  },
  {
    name: "presence_penalty",
    label: "Presence penalty",
    type: "number",
    min: -2,
    max: 2,
    step: 0.1,
    help: "taken off once for what the answer has had",
  },
  {
    name: "max_tokens",
    label: "Most tokens",
    type: "number",
    min: 1,
    max: 1e6,
    step: 1,
    help: "of an answer or a continuation",
  },
  {
    name: "seed",
    label: "Seed",
    type: "number",
    min: 0,
    max: 2 ** 52,
    step: 1,
    help: "the same seed says the same; empty: another one each time",
  },
  { name: "stop", label: "Stop at", type: "lines", help: "up to four texts, one a line, that end an answer" },
  {
    name: "logit_bias",
    label: "Bias",
    type: "bias",
    help: "“id: number” a line, added to a token's logit; −100 forbids it",
  },
  {
    name: "truncate",
    label: "Leave out what is too old",
    type: "switch",
    default: true,
    help: "when a conversation or text is longer than the model's context",
  },
];

/** What is left to each request. */
const OPEN = { seed: "any", max_tokens: "auto" };

/** The form, and what is in it. */
export class Settings {
  /** @type {Record<string, string | boolean>} */
  #values = {};
  /** @type {Map<string, any>} */
  #inputs = new Map();

  /** @param {HTMLElement} form */
  constructor(form) {
    try {
      this.#values = JSON.parse(localStorage.getItem(KEPT) ?? "{}");
    } catch {
      localStorage.removeItem(KEPT); // it is not ours
    }
    for (const field of FIELDS) form.append(this.#row(field));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => this.#keep());
  }

  /** @param {Field} field */
  #row({ name, label, type, help, min, max, step, view, default: usual }) {
    const row = document.createElement("div");
    row.className = `field ${type}`;
    if (view) row.dataset.view = view;
    const input = document.createElement(type === "number" || type === "switch" ? "input" : "textarea");
    input.id = `setting-${name}`;
    input.setAttribute("aria-describedby", `help-${name}`);
    if (input instanceof HTMLInputElement) {
      input.type = type === "switch" ? "checkbox" : "number";
      if (type === "number") Object.assign(input, { min, max, step, inputMode: "decimal" });
      if (type === "switch") input.checked = /** @type {boolean} */ (this.#values[name] ?? usual ?? false);
    } else input.rows = type === "text" ? 3 : 2;
    if (type !== "switch") input.value = String(this.#values[name] ?? "");
    const title = document.createElement("label");
    title.htmlFor = input.id;
    title.textContent = label;
    const small = document.createElement("small");
    small.id = `help-${name}`;
    small.textContent = help;
    row.append(title, input, small);
    this.#inputs.set(name, input);
    return row;
  }

  #keep() {
    for (const { name, type } of FIELDS) {
      const input = this.#inputs.get(name);
      if (type === "switch") this.#values[name] = input.checked;
      else if (input.value === "") delete this.#values[name];
      else this.#values[name] = input.value;
      input.removeAttribute("aria-invalid");
    }
    localStorage.setItem(KEPT, JSON.stringify(this.#values));
  }

  /** Everything as the server has it. */
  reset() {
    for (const { name, type, default: usual } of FIELDS) {
      const input = this.#inputs.get(name);
      if (type === "switch") input.checked = usual ?? false;
      else input.value = "";
    }
    this.#keep();
  }

  /** Shows what the server takes for what is left empty. @param {Record<string, number>} defaults */
  showDefaults(defaults) {
    for (const [name, value] of Object.entries({ ...OPEN, ...defaults })) {
      const input = this.#inputs.get(name);
      if (input) input.placeholder = String(value);
    }
  }

  /** The message before the conversation; "" = none. */
  get system() {
    return String(this.#values.system ?? "").trim();
  }

  /**
   * The fields of a request.
   * @param {"chat" | "complete"} view
   * @returns {Record<string, unknown>} without what the server decides
   * @throws {Error} naming the setting that cannot be sent
   */
  fields(view) {
    /** @type {Record<string, unknown>} */
    const fields = {};
    for (const field of FIELDS) {
      const { name, type } = field;
      const input = this.#inputs.get(name);
      if (name === "system" || (field.view && field.view !== view)) continue;
      if (type === "switch") fields[name] = input.checked;
      else if (type === "number") {
        const { validity } = input;
        // a step is how far the arrows go; between them lie numbers too, but of what is counted
        const between = validity.stepMismatch && !Number.isInteger(field.step) && !validity.rangeOverflow &&
          !validity.rangeUnderflow;
        if (!validity.valid && !between) throw this.#wrong(field, input.validationMessage);
        if (input.value !== "") fields[name] = Number(input.value);
      } else if (input.value !== "") fields[name] = this.#lines(field, input.value);
    }
    return fields;
  }

  /** @param {Field} field @param {string} text */
  #lines(field, text) {
    const lines = text.split("\n").filter((line) => line !== "");
    if (field.type === "lines") {
      if (lines.length > 4) throw this.#wrong(field, "at most four lines");
      return lines;
    }
    return Object.fromEntries(lines.map((line) => {
      const [, id, value] = /^\s*(\d+)\s*:\s*([-−+]?[\d.]+)\s*$/.exec(line) ?? [];
      if (id === undefined) throw this.#wrong(field, `“${line}” is not “id: number”`);
      return [id, Number(value.replace("−", "-"))];
    }));
  }

  /** @param {Field} field @param {string} why */
  #wrong({ name, label }, why) {
    this.#inputs.get(name).setAttribute("aria-invalid", "true");
    return new Error(`${label}: ${why}`);
  }
}
