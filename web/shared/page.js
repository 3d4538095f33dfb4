/** Small things that all views use. */

/** @param {string} id @returns {any} */
export const at = (id) => document.getElementById(id);

/**
 * An element.
 * @param {string} tag @param {Record<string, any>} [properties] @param {(Node | string)[]} children
 * @returns {any}
 */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A button that says what it does. @param {string} text @param {() => unknown} onclick @param {string} [label] */
export function button(text, onclick, label) {
  const made = make("button", { type: "button", className: "plain small", textContent: text, onclick });
  if (label) made.setAttribute("aria-label", label);
  return made;
}

/** How long what is no problem is said. */
const SAID_MS = 15_000;

/** Takes a message away after a while; one that nobody saw, since the page was hidden, gets its while later. @param {any} box */
function removeLater(box) {
  setTimeout(() => {
    if (!document.hidden) box.remove();
    else document.addEventListener("visibilitychange", () => removeLater(box), { once: true });
  }, SAID_MS);
}

/**
 * Says something to the person: a problem until it is closed, anything else for a while. What stands there already is said
 * once.
 * @param {unknown} problem an error, or words; `hint` of an error is said below it
 * @param {{bad?: boolean}} [options] false: it is no problem
 */
export function tell(problem, { bad = true } = {}) {
  const { message = String(problem), hint } =
    /** @type {{message?: string, hint?: string}} */ (problem ?? {});
  const close = make("button", { className: "plain", textContent: "×", onclick: () => box.remove() });
  close.setAttribute("aria-label", "close");
  const box = make("div", { className: bad ? "message bad" : "message" }, close, message);
  if (hint) box.append(make("small", { textContent: hint }));
  if (!bad) removeLater(box);
  for (const other of [...at("messages").children]) {
    if (other.textContent === box.textContent) other.remove();
  }
  at("messages").append(box);
  while (at("messages").children.length > 3) at("messages").firstElementChild.remove();
}

/** Says something that one would see, to those who hear the page. @param {string} text */
export function announce(text) {
  at("announced").textContent = text;
}

/** Hands the person a file. @param {string} name @param {Blob} contents */
export function download(name, contents) {
  const url = URL.createObjectURL(contents);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** @param {number} value */
export const count = (value) => value.toLocaleString("en");

/** "40 s", "3 min", "1.5 h" @param {number} seconds */
export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
