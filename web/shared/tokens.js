/** Tokens as coloured text: the less a model expected one, the redder it is. Used by the page and by the server's page. */

/** White space that would not be seen. */
const SYMBOLS = new Map([["\n", "↵"], ["\t", "⇥"], [" ", "·"]]);

/** A token's text, with a sign where there would be nothing to see. @param {string} text */
export function visible(text) {
  return text === ""
    ? "∅"
    : text.replace(/^[\n\t ]+$/, (space) => [...space].map((c) => SYMBOLS.get(c)).join(""));
}

/** From red (surprised) over yellow to green (sure). @param {number} probability 0 … 1 */
export function colourOf(probability) {
  const sure = Math.min(1, Math.max(0, 1 + Math.log10(Math.max(probability, 1e-3)) / 3));
  const hue = Math.round(sure * 130);
  return `light-dark(hsl(${hue} 75% 82%), hsl(${hue} 75% 28%))`;
}

/** "83 %", "0.2 %" @param {number} probability */
export function percent(probability) {
  const value = probability * 100;
  return `${value >= 10 ? Math.round(value) : value >= 0.1 ? value.toFixed(1) : "< 0.1"} %`;
}

/**
 * A span that shows how probable its token was, and on hover what was expected.
 * @param {{text: string, probability: number, expected: {text: string, probability: number}[]}} token
 * @param {boolean} isFirst nothing came before it
 */
export function tokenElement({ text, probability, expected }, isFirst = false) {
  const span = document.createElement("span");
  span.className = "token";
  span.tabIndex = 0;
  span.textContent = visible(text);
  if (isFirst) {
    span.title = "every text begins with it";
    return span;
  }
  span.style.background = colourOf(probability);
  const others = expected.map((other) => `${visible(other.text)}  ${percent(other.probability)}`).join("\n");
  span.title = `probability ${percent(probability)}\nexpected here:\n${others}`;
  return span;
}

/**
 * A list of tokens with bars for their probabilities.
 * @param {{text: string, probability: number}[]} tokens
 * @param {(index: number) => void} [choose] makes buttons of them
 */
export function probabilityBars(tokens, choose) {
  const list = document.createElement("ol");
  list.className = "bars";
  for (const [index, { text, probability }] of tokens.entries()) {
    const item = document.createElement("li");
    const row = document.createElement(choose ? "button" : "div");
    row.className = "bar-row";
    if (choose) row.onclick = () => choose(index);
    const name = document.createElement("code");
    name.textContent = visible(text);
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.style.width = `${Math.max(1, probability * 100)}%`;
    const number = document.createElement("small");
    number.textContent = percent(probability);
    row.append(name, bar, number);
    item.append(row);
    list.append(item);
  }
  return list;
}
