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

/** Says something to the person, until it is closed. @param {unknown} problem */
export function tell(problem) {
  const message = problem instanceof Error ? problem.message : String(problem);
  const close = make("button", { className: "plain", textContent: "×", onclick: () => box.remove() });
  close.setAttribute("aria-label", "close");
  const box = make("div", { className: "message bad" }, close, message);
  at("messages").append(box);
  while (at("messages").children.length > 3) at("messages").firstElementChild.remove();
}

/** Says something that one would see, to those who hear the page. @param {string} text */
export function announce(text) {
  at("announced").textContent = text;
}

/** Hands the person a file. @param {string} name @param {string} text */
export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** @param {number} value */
export const count = (value) => value.toLocaleString("en");
