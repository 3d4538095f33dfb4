/** Pictures that teach: where attention heads look, and how tokens lie beside each other. */
import { visible } from "./shared/tokens.js";

/** @param {string} name @param {Record<string, string | number>} attributes */
function svg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}

/**
 * A text in which, for the token that one points at, the tokens that a head looks at light up.
 * @param {string[]} tokens @param {Float32Array[][]} attention [layers][heads][T · T]
 */
export function attentionView(tokens, attention) {
  const T = tokens.length;
  const root = document.createElement("div");
  const choice = document.createElement("div");
  choice.className = "row";
  const select = document.createElement("select");
  select.setAttribute("aria-label", "attention head");
  attention.forEach((heads, layer) =>
    heads.forEach((_, head) =>
      select.add(new Option(`layer ${layer + 1}, head ${head + 1}`, `${layer} ${head}`))
    )
  );
  const note = document.createElement("small");
  choice.append("Where does", select, "look?", note);
  const line = document.createElement("p");
  line.style.lineHeight = "2.2";
  const spans = tokens.map((text, t) => {
    const span = document.createElement("span");
    span.className = "token";
    span.tabIndex = 0;
    span.textContent = visible(text);
    span.addEventListener("pointerenter", () => show(t));
    span.addEventListener("focus", () => show(t));
    return span;
  });
  line.append(...spans);
  const grid = document.createElement("canvas");
  grid.style.cssText = "width: min(100%, 26rem); image-rendering: pixelated; border: 1px solid var(--line)";
  grid.width = grid.height = T;
  grid.setAttribute("role", "img");
  grid.setAttribute("aria-label", "how much each token (row) looks at each before it (column)");
  const legend = document.createElement("p");
  legend.className = "faint";
  legend.textContent =
    "The square: a row for each token, a column for each token that it may look at, dark where it looks. " +
    "A token sees only what comes before it, so the upper right stays empty.";

  const weights = () => {
    const [layer, head] = select.value.split(" ").map(Number);
    return attention[layer][head];
  };
  /** @param {number} t */
  function show(t) {
    const all = weights();
    spans.forEach((span, s) => {
      const weight = s <= t ? all[t * T + s] : 0;
      span.style.background = `color-mix(in srgb, var(--accent) ${Math.round(weight * 100)}%, transparent)`;
      span.style.outline = s === t ? "2px solid var(--held-out)" : "";
    });
    note.textContent = `“${visible(tokens[t])}” looks at what is green`;
  }
  function draw() {
    const all = weights();
    const context = /** @type {CanvasRenderingContext2D} */ (grid.getContext("2d"));
    context.clearRect(0, 0, T, T);
    for (let t = 0; t < T; t++) {
      for (let s = 0; s <= t; s++) {
        context.fillStyle = `rgb(11 110 99 / ${all[t * T + s]})`;
        context.fillRect(s, t, 1, 1);
      }
    }
    show(T - 1);
  }
  select.addEventListener("change", draw);
  root.append(choice, line, grid, legend);
  draw();
  return root;
}

/** Tokens in the plane. @param {{texts: string[], places: Float32Array, shown: number}} map */
export function tokenMap({ texts, places, shown }) {
  const [width, height] = [900, 560];
  const xs = texts.map((_, i) => places[2 * i]);
  const ys = texts.map((_, i) => places[2 * i + 1]);
  const scale = (/** @type {number[]} */ values, /** @type {number} */ size) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return (/** @type {number} */ value) => 30 + (value - low) / (high - low || 1) * (size - 60);
  };
  const [x, y] = [scale(xs, width), scale(ys, height)];
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    width: "100%",
    role: "img",
    "aria-label": "map of tokens",
  });
  texts.forEach((text, i) => {
    const label = svg("text", {
      x: x(xs[i]),
      y: y(ys[i]),
      "font-size": 13,
      "text-anchor": "middle",
      fill: kindColour(text),
    });
    label.textContent = visible(text);
    picture.append(label);
  });
  const root = document.createElement("div");
  const note = document.createElement("small");
  note.textContent =
    `${texts.length} tokens; the plane shows ${Math.round(shown * 100)} % of their differences. ` +
    "Green: vowels alone. Orange: other single letters. Grey: digits and signs. Black or white: pieces of words.";
  root.append(picture, note);
  return root;
}

/** @param {string} text */
function kindColour(text) {
  if (/^ ?[aeiouyäöü]$/iu.test(text)) return "var(--training)";
  if (/^ ?\p{L}$/u.test(text)) return "var(--held-out)";
  return /\p{L}/u.test(text) ? "var(--ink)" : "var(--faint)";
}
