/**
 * The view in which the model goes on with a text: each token is coloured by its probability, shows what else was
 * expected there, and the text goes on from any of that.
 */
import { ask, stream } from "./api.js";
import { announce, at, count, tell } from "../shared/page.js";
import { TokenText } from "../shared/token_text.js";

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
  /** @type {TokenText<Token>} */
  #shown;
  /** ids before the first token that is shown @type {number[]} */
  #before = [];
  /** @type {{tokens: Token[], note: string}[]} */
  #history = [];
  /** @type {AbortController | undefined} */
  #writing;

  /** @param {import("./chat.js").Model} model @param {import("./settings.js").Settings} settings */
  constructor(model, settings) {
    this.model = model;
    this.settings = settings;
    this.#shown = new TokenText(at("tokens"), at("expected"), (place, other) => this.#choose(place, other));
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
    this.#show([]);
  }

  get #tokens() {
    return this.#shown.tokens;
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
      this.#show(content.map((/** @type {any} */ entry) => tokenOf(entry, "person")));
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
        for (const entry of choice.logprobs?.content ?? []) this.#shown.add(tokenOf(entry, "model"));
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
    this.#show(last.tokens);
    this.#showState(last.note);
  }

  /** Goes on from something else that was expected. @param {number} place @param {Expected} other */
  #choose(place, other) {
    if (this.#writing) return;
    const hadFocus = at("expected").contains(document.activeElement);
    this.#remember();
    const { expected } = this.#tokens[place];
    this.#show([...this.#tokens.slice(0, place), { ...other, expected, by: "choice" }]);
    if (hadFocus) this.#shown.focus(place);
    this.#shown.close();
    return this.#write();
  }

  // What is shown -----------------------------------------------------------------------------------------------------

  /** @param {readonly Token[]} tokens */
  #show(tokens) {
    this.#shown.set(tokens);
    this.#showState("");
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
}
