/**
 * The view in which the model goes on with a text: each token is coloured by its probability, shows what else was
 * expected there, and the text goes on from any of that.
 */
import { ask, stream } from "./api.js";
import { announce, at, count, make, tell } from "./page.js";
import { colourOf, percent, probabilityBars, visible } from "../shared/tokens.js";

/**
 * @typedef {{id: number, text: string, bytes: number[], probability: number}} Expected
 * @typedef {{
 *   id: number, text: string, bytes: number[], probability: number | undefined, expected: Expected[],
 *   by: "person" | "model" | "choice",
 * }} Token `probability` is undefined where nothing came before it
 */

/** So many tokens come where no setting says otherwise. */
const USUAL_TOKENS = 64;
/** Alternatives of a token. */
const ALTERNATIVES = 10;
/** How long the pointer may be between a token and what is shown about it. */
const LEAVE_MS = 250;

/** What a text that is not whole characters, or nothing to see, looks like. @param {string} name */
function shownName(name) {
  return visible(name.replace(/^bytes:/, "").replace(/^ (?=\S)|(?<=\S) $/g, "·"));
}

/** A token as the server tells it. @param {any} entry @param {Token["by"]} by @returns {Token} */
function tokenOf({ id, token, bytes, logprob, top_logprobs }, by) {
  const expected = top_logprobs.map((/** @type {any} */ other) => {
    return { id: other.id, text: other.token, bytes: other.bytes, probability: Math.exp(other.logprob) };
  });
  const probability = logprob === null ? undefined : Math.exp(logprob);
  return { id, text: token, bytes, probability, expected, by };
}

/** A text, its tokens, and what it was before. */
export class Completion {
  /** @type {Token[]} */
  #tokens = [];
  /** ids before the first token that is shown @type {number[]} */
  #before = [];
  /** @type {{tokens: Token[], note: string}[]} */
  #history = [];
  /** @type {AbortController | undefined} */
  #writing;
  /** the token whose alternatives are shown */
  #open = -1;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #leaving;

  /** @param {import("./chat.js").Model} model @param {import("./settings.js").Settings} settings */
  constructor(model, settings) {
    this.model = model;
    this.settings = settings;
    at("begin-form").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.begin();
    };
    at("begin").onkeydown = (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.begin();
    };
    at("go-on").onclick = () => this.#write();
    at("stop-text").onclick = () => this.stop();
    at("back").onclick = () => this.#back();
    at("copy-text").onclick = () =>
      navigator.clipboard.writeText(this.text).then(() => announce("copied"), tell);
    this.#listen();
    this.#show();
  }

  /** The whole text. Characters may be parts of several tokens. */
  get text() {
    return new TextDecoder().decode(new Uint8Array(this.#tokens.flatMap(({ bytes }) => bytes)));
  }

  stop() {
    this.#writing?.abort();
  }

  /** Goes on with what the person wrote. */
  async begin() {
    await this.#work(async (signal) => {
      const { truncate } = this.settings.fields("complete");
      const body = {
        model: this.model.id,
        prompt: at("begin").value,
        echo: true,
        max_tokens: 0,
        logprobs: ALTERNATIVES,
        return_token_ids: true,
        truncate,
      };
      const response = await ask("v1/completions", { body, signal });
      const { choices: [{ logprobs, prompt_token_ids }] } = await response.json();
      this.#remember();
      const { content } = logprobs;
      this.#before = prompt_token_ids.slice(0, prompt_token_ids.length - content.length);
      this.#tokens = content.map((/** @type {any} */ entry) => tokenOf(entry, "person"));
      this.#show();
      await this.#goOn(signal);
    });
  }

  /** Lets the model write at the end. */
  #write() {
    return this.#work((signal) => this.#goOn(signal));
  }

  /** Does one thing at a time, which can be stopped. @param {(signal: AbortSignal) => Promise<void>} task */
  async #work(task) {
    if (this.#writing) return;
    const writing = this.#writing = new AbortController();
    this.#showState();
    try {
      await task(writing.signal);
    } catch (error) {
      if (!writing.signal.aborted) tell(error);
    }
    this.#writing = undefined;
    this.#showState();
    announce(this.text);
  }

  /** @param {AbortSignal} signal */
  async #goOn(signal) {
    const body = {
      max_tokens: USUAL_TOKENS,
      ...this.settings.fields("complete"),
      model: this.model.id,
      prompt: [...this.#before, ...this.#tokens.map(({ id }) => id)],
      logprobs: ALTERNATIVES,
      return_token_ids: true,
    };
    this.#showState("");
    try {
      for await (const { choices: [choice], microgpt } of stream("v1/completions", body, signal)) {
        for (const entry of choice.logprobs?.content ?? []) this.#add(tokenOf(entry, "model"));
        if (choice.finish_reason) this.#note(choice.finish_reason, microgpt);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
      this.#note("stopped");
    }
  }

  /** @param {string} reason why it ended @param {any} [told] what the server says of it */
  #note(reason, told) {
    const scored = this.#tokens.filter(({ probability }) => probability !== undefined);
    const bits = scored.reduce(
      (sum, { probability }) => sum - Math.log2(/** @type {number} */ (probability)),
      0,
    );
    const ends = { stop: "it ended here", length: "cut off", stopped: "stopped" };
    const notes = [ends[reason], `${count(this.#tokens.length)} tokens`];
    if (scored.length > 0) notes.push(`${(bits / scored.length).toFixed(2)} bits a token`);
    if (told?.tokens_dropped > 0) notes.push(`${count(told.tokens_dropped)} tokens dropped`);
    if (told) notes.push(`${count(Math.round(told.tokens_per_second))} tokens/s`, `seed ${told.seed}`);
    this.#showState(notes.join(" · "));
  }

  #remember() {
    if (this.#tokens.length > 0) {
      this.#history.push({ tokens: this.#tokens, note: at("text-note").textContent });
    }
  }

  /** As it was before the last choice. */
  #back() {
    const last = this.#history.pop();
    if (!last || this.#writing) return;
    this.#tokens = last.tokens;
    this.#show();
    this.#showState(last.note);
  }

  /** Goes on from something else that was expected. @param {number} place @param {Expected} other */
  #choose(place, other) {
    if (this.#writing) return;
    const hadFocus = at("expected").contains(document.activeElement);
    this.#remember();
    const { expected } = this.#tokens[place];
    this.#tokens = [...this.#tokens.slice(0, place), { ...other, expected, by: "choice" }];
    this.#show();
    if (hadFocus) at("tokens").children[place].focus();
    this.#close();
    return this.#write();
  }

  // What is shown -----------------------------------------------------------------------------------------------------

  #show() {
    const tokens = this.#tokens;
    this.#tokens = [];
    at("tokens").replaceChildren();
    for (const token of tokens) this.#add(token);
    this.#showState("");
  }

  /** @param {Token} token */
  #add(token) {
    const span = make("span", {
      className: `text-token ${token.by}`,
      textContent: token.text === "" || token.text.startsWith("bytes:")
        ? shownName(token.text)
        : token.text.replaceAll("\n", "↵\n"),
      tabIndex: this.#tokens.length === 0 ? 0 : -1,
    });
    span.setAttribute("role", "button");
    const { probability } = token;
    span.setAttribute(
      "aria-label",
      `${shownName(token.text)}${probability === undefined ? "" : `, ${percent(probability)}`}`,
    );
    span.setAttribute("aria-haspopup", "dialog");
    if (probability !== undefined) span.style.background = colourOf(probability);
    this.#tokens.push(token);
    at("tokens").append(span);
  }

  /** @param {string} [note] default: as it is */
  #showState(note) {
    if (note !== undefined) at("text-note").textContent = note;
    const busy = this.#writing !== undefined;
    at("stop-text").hidden = !busy;
    at("begin-text").disabled = busy;
    at("go-on").disabled = at("copy-text").disabled = busy || this.#tokens.length === 0;
    at("back").disabled = busy || this.#history.length === 0;
    at("text-help").hidden = this.#tokens.length === 0;
  }

  // What else was expected --------------------------------------------------------------------------------------------

  #listen() {
    const tokens = at("tokens");
    const card = at("expected");
    const placeOf = (/** @type {any} */ { target }) => [...tokens.children].indexOf(target);
    const stay = () => clearTimeout(this.#leaving);
    const leave = () => {
      stay();
      // who came by keyboard or click stays until it is closed
      if (tokens.contains(document.activeElement) || card.contains(document.activeElement)) return;
      this.#leaving = setTimeout(() => this.#close(), LEAVE_MS);
    };
    tokens.onpointerover = (/** @type {PointerEvent} */ event) => {
      if (event.pointerType === "mouse" && placeOf(event) >= 0) this.#openAt(placeOf(event));
    };
    tokens.onpointerleave = leave;
    tokens.onclick = (/** @type {Event} */ event) => placeOf(event) >= 0 && this.#openAt(placeOf(event));
    tokens.addEventListener("focusin", (event) => placeOf(event) >= 0 && this.#openAt(placeOf(event)));
    tokens.onkeydown = (/** @type {KeyboardEvent} */ event) => this.#keys(event, placeOf(event));
    card.onpointerenter = stay;
    card.onpointerleave = leave;
    card.onkeydown = (/** @type {KeyboardEvent} */ event) => this.#cardKeys(event);
    const outside = ({ target }) => !card.contains(target) && !tokens.contains(target);
    addEventListener("pointerdown", (event) => outside(event) && this.#close());
    tokens.closest(".scroll").addEventListener("scroll", () => this.#close());
  }

  /** @param {KeyboardEvent} event @param {number} place */
  #keys(event, place) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by !== undefined) at("tokens").children[place + by]?.focus();
    else if (event.key === "ArrowDown" || event.key === "Enter") {
      at("expected").querySelector("button")?.focus();
    } else if (event.key === "Escape" && this.#open >= 0) this.#close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {KeyboardEvent} event */
  #cardKeys(event) {
    const choices = [...at("expected").querySelectorAll("button")];
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (by !== undefined) choices[choices.indexOf(document.activeElement) + by]?.focus();
    else if (event.key === "Escape") {
      const place = this.#open;
      at("tokens").children[place]?.focus();
      this.#close();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {number} place */
  #openAt(place) {
    clearTimeout(this.#leaving);
    if (place === this.#open) return;
    this.#close();
    this.#open = place;
    const token = this.#tokens[place];
    const span = at("tokens").children[place];
    at("tokens").querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
    span.tabIndex = 0;
    span.classList.add("open");
    at("expected").replaceChildren(...this.#about(token, place));
    at("expected").hidden = false;
    this.#placeBeside(span);
  }

  /** @param {Token} token @param {number} place @returns {(Node | string)[]} */
  #about({ id, text, bytes, probability, expected }, place) {
    if (probability === undefined) return ["nothing came before it"];
    const isListed = expected.some((other) => other.id === id);
    const all = isListed ? expected : [...expected, { id, text, bytes, probability }];
    const bars = probabilityBars(
      all.map((other) => ({ text: shownName(other.text), probability: other.probability })),
      (chosen) => this.#choose(place, all[chosen]),
    );
    const own = all.findIndex((other) => other.id === id);
    bars.children[own]?.classList.add("own");
    const title = make("small", {
      textContent: `${shownName(text)}: ${percent(probability)}. Expected here:`,
    });
    return [title, bars];
  }

  /** @param {HTMLElement} span */
  #placeBeside(span) {
    const card = at("expected");
    const [line] = span.getClientRects();
    if (!line) return;
    const { width, height } = card.getBoundingClientRect();
    const left = Math.max(8, Math.min(line.left, innerWidth - width - 8));
    const below = line.bottom + 4;
    const top = below + height < innerHeight ? below : Math.max(8, line.top - height - 4);
    card.style.left = `${left}px`;
    card.style.top = `${top}px`;
  }

  #close() {
    clearTimeout(this.#leaving);
    at("tokens").children[this.#open]?.classList.remove("open");
    this.#open = -1;
    at("expected").hidden = true;
  }
}
