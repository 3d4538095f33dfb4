/** A text whose tokens are coloured by their probability; each shows what else was expected there. */
import { make } from "./page.js";
import { colourOf, percent, probabilityBars, visible } from "./tokens.js";

/**
 * @typedef {{id: number, text: string, probability: number}} Expected
 * @typedef {{
 *   id: number, text: string, probability: number | undefined, expected: Expected[], by?: "person" | "model" | "choice",
 * }} Token `probability` is undefined where nothing came before it; `by` is who wrote it
 */

/** How long the pointer may be between a token and what is shown about it. */
const LEAVE_MS = 250;

/** The text whose card is open. @type {TokenText<any> | undefined} */
let opened;
addEventListener("pointerdown", ({ target }) => opened?.leaveFor(/** @type {Node} */ (target)));
addEventListener("scroll", ({ target }) => opened?.leaveFor(/** @type {Node} */ (target)), true);

/** What a text that is not whole characters, or nothing to see, looks like. @param {string} name */
function shownName(name) {
  return visible(name.replace(/^bytes:/, "").replace(/^ (?=\S)|(?<=\S) $/g, "·"));
}

/** Tokens of type T in an element, and a card that is placed beside one of them. @template {Token} T */
export class TokenText {
  /** @type {T[]} */
  #tokens = [];
  /** the token whose alternatives are shown */
  #open = -1;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #leaving;

  /**
   * @param {HTMLElement} element gets the tokens
   * @param {HTMLElement} card shows what was expected; texts may share it
   * @param {(place: number, other: any) => void} [choose] called when something else that was expected is chosen
   */
  constructor(element, card, choose) {
    this.element = element;
    this.card = card;
    this.choose = choose;
    this.#listen();
  }

  /** @param {readonly T[]} tokens in place of those that were there */
  set(tokens) {
    this.close();
    this.#tokens = [];
    this.element.replaceChildren();
    for (const token of tokens) this.add(token);
  }

  /** Puts a token at the end. @param {T} token */
  add(token) {
    const { text, probability, by = "model" } = token;
    const span = make("span", {
      className: `text-token ${by}`,
      textContent: text === "" || text.startsWith("bytes:") ? shownName(text) : text.replaceAll("\n", "↵\n"),
      tabIndex: this.#tokens.length === 0 ? 0 : -1,
    });
    span.setAttribute("role", "button");
    const chance = probability === undefined ? "" : `, ${percent(probability)}`;
    span.setAttribute("aria-label", shownName(text) + chance);
    span.setAttribute("aria-haspopup", "dialog");
    if (probability !== undefined) span.style.background = colourOf(probability);
    this.#tokens.push(token);
    this.element.append(span);
  }

  /** The tokens that are shown. */
  get tokens() {
    return this.#tokens;
  }

  /** Puts the keyboard on a token. @param {number} place */
  focus(place) {
    /** @type {HTMLElement | undefined} */ (this.element.children[place])?.focus();
  }

  #listen() {
    const { element } = this;
    const placeOf = (/** @type {any} */ { target }) => [...element.children].indexOf(target);
    element.onpointerover = (/** @type {PointerEvent} */ event) => {
      if (event.pointerType === "mouse" && placeOf(event) >= 0) this.#openAt(placeOf(event));
    };
    element.onpointerleave = () => this.#leave();
    element.onclick = (/** @type {Event} */ event) => placeOf(event) >= 0 && this.#openAt(placeOf(event));
    element.addEventListener("focusin", (event) => placeOf(event) >= 0 && this.#openAt(placeOf(event)));
    element.onkeydown = (/** @type {KeyboardEvent} */ event) => this.#keys(event, placeOf(event));
  }

  #leave() {
    const { element, card } = this;
    clearTimeout(this.#leaving);
    // who came by keyboard or click stays until it is closed
    if (element.contains(document.activeElement) || card.contains(document.activeElement)) return;
    this.#leaving = setTimeout(() => this.close(), LEAVE_MS);
  }

  /** Closes the card when something else was touched or scrolled. @param {Node} target */
  leaveFor(target) {
    if (!this.card.contains(target) && !this.element.contains(target)) this.close();
  }

  /** @param {KeyboardEvent} event @param {number} place */
  #keys(event, place) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by !== undefined) this.focus(place + by);
    else if (event.key === "ArrowDown" || event.key === "Enter") {
      this.card.querySelector("button")?.focus();
    } else if (event.key === "Escape" && this.#open >= 0) this.close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {KeyboardEvent} event */
  #cardKeys(event) {
    const choices = [...this.card.querySelectorAll("button")];
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (by !== undefined) choices[choices.indexOf(/** @type {any} */ (document.activeElement)) + by]?.focus();
    else if (event.key === "Escape") {
      this.focus(this.#open);
      this.close();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {number} place */
  #openAt(place) {
    clearTimeout(this.#leaving);
    if (place === this.#open) return;
    opened?.close();
    opened = this;
    this.#open = place;
    const span = /** @type {HTMLElement} */ (this.element.children[place]);
    this.element.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
    span.tabIndex = 0;
    span.classList.add("open");
    this.card.replaceChildren(...this.#about(this.#tokens[place], place));
    const { card } = this;
    card.onpointerenter = () => clearTimeout(this.#leaving);
    card.onpointerleave = () => this.#leave();
    card.onkeydown = (event) => this.#cardKeys(event);
    card.hidden = false;
    this.#placeBeside(span);
  }

  /** @param {T} token @param {number} place @returns {(Node | string)[]} */
  #about(token, place) {
    const { id, text, probability, expected } = token;
    if (probability === undefined) return ["nothing came before it"];
    const isListed = expected.some((other) => other.id === id);
    const all = isListed ? expected : [...expected, { ...token, probability }];
    const { choose } = this;
    const bars = probabilityBars(
      all.map((other) => ({ text: shownName(other.text), probability: other.probability })),
      choose && ((chosen) => choose(place, all[chosen])),
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
    const { card } = this;
    const [line] = span.getClientRects();
    if (!line) return;
    const { width, height } = card.getBoundingClientRect();
    const left = Math.max(8, Math.min(line.left, innerWidth - width - 8));
    const below = line.bottom + 4;
    const top = below + height < innerHeight ? below : Math.max(8, line.top - height - 4);
    card.style.left = `${left}px`;
    card.style.top = `${top}px`;
  }

  /** Closes the card, where it is this text's. */
  close() {
    clearTimeout(this.#leaving);
    if (this.#open < 0) return;
    this.element.children[this.#open]?.classList.remove("open");
    this.#open = -1;
    opened = undefined;
    this.card.hidden = true;
  }
}
