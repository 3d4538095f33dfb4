/** Pictures that teach: where attention heads look, and how tokens lie beside each other. */
import { make } from "./shared/page.js";
import { visible } from "./shared/tokens.js";

const DARK = matchMedia("(prefers-color-scheme: dark)");

/** Pictures that are drawn in a frame: a model may have hundreds, and the page is not to wait for them. */
const A_FRAME = 8;

/**
 * Draws pictures once they are on the page, and again when the colours change.
 * @param {HTMLElement} root all are in it @param {((colour: number[]) => void)[]} draws each gets the accent colour
 */
function drawInColours(root, draws) {
  const from = (/** @type {number} */ first) => {
    const colour = colourBytes(root);
    for (const draw of draws.slice(first, first + A_FRAME)) draw(colour);
    if (first + A_FRAME < draws.length) requestAnimationFrame(() => from(first + A_FRAME));
  };
  requestAnimationFrame(() => from(0));
  const again = () => root.isConnected ? from(0) : DARK.removeEventListener("change", again);
  DARK.addEventListener("change", again);
}

/** An element's colour as red, green, blue, however it is written. @param {HTMLElement} element */
function colourBytes(element) {
  const context = /** @type {CanvasRenderingContext2D} */ (make("canvas", { width: 1, height: 1 })
    .getContext("2d", { willReadFrequently: true }));
  context.fillStyle = getComputedStyle(element).color;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}

// Attention -----------------------------------------------------------------------------------------------------------

/**
 * What a head does most, in words.
 * @param {Float32Array} weights [T · T] @param {number} T
 */
function habitOf(weights, T) {
  const mean = (/** @type {(t: number) => number} */ of) => {
    let sum = 0;
    for (let t = 1; t < T; t++) sum += of(t);
    return sum / Math.max(1, T - 1);
  };
  const shares = [
    ["the token before", mean((t) => weights[t * T + t - 1])],
    ["the token itself", mean((t) => weights[t * T + t])],
    ["the very first token", mean((t) => t === 1 ? 0 : weights[t * T])],
  ];
  const [what, share] =
    /** @type {[string, number]} */ (shares.sort((a, b) => Number(b[1]) - Number(a[1]))[0]);
  return share > 0.4 ? `mostly at ${what}` : "here and there, depending on the text";
}

/**
 * A square with a row for each token.
 * @param {HTMLCanvasElement} canvas @param {Float32Array} weights @param {number} T @param {number[]} colour
 */
function drawSquare(canvas, weights, T, [red, green, blue]) {
  canvas.width = canvas.height = T;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const picture = context.createImageData(T, T);
  const { data } = picture;
  for (let i = 0; i < T * T; i++) {
    data[4 * i] = red;
    data[4 * i + 1] = green;
    data[4 * i + 2] = blue;
    data[4 * i + 3] = 255 * weights[i];
  }
  context.putImageData(picture, 0, 0);
}

/**
 * All heads as small squares; of the one that is chosen, a text in which those tokens light up that a token looks at.
 * @param {string[]} tokens @param {Float32Array[][]} attention [layers][heads][T · T]
 */
export function attentionView(tokens, attention) {
  const T = tokens.length;
  const root = make("div");
  const intro = make("p", {
    className: "faint",
    textContent:
      "To find the next token, each head looks back at the tokens so far, at some more than at others, and passes on " +
      "what it finds there. Each square is a head: a row for each token of the text, a column for each token that it may " +
      "look at, the fuller the colour the more it looks there. Choose one, then point at a token.",
  });
  const squares = make("div", { className: "heads" });
  const note = make("p", { className: "faint" });
  const line = make("p", { className: "written" });
  /** @type {Float32Array} */
  let chosen = attention[0][0];

  const spans = tokens.map((text, t) => {
    const span = make("span", { className: "token", tabIndex: 0, textContent: visible(text) });
    span.addEventListener("pointerenter", () => show(t));
    span.addEventListener("focus", () => show(t));
    return span;
  });
  line.append(...spans);

  /** @param {number} t */
  function show(t) {
    spans.forEach((span, s) => {
      const weight = s <= t ? chosen[t * T + s] : 0;
      span.style.background = `color-mix(in srgb, var(--accent) ${Math.round(weight * 60)}%, transparent)`;
      span.classList.toggle("looks", s === t);
    });
  }

  const buttons = attention.flatMap((heads, layer) =>
    heads.map((weights, head) => {
      const canvas = make("canvas");
      const name = `layer ${layer + 1}, head ${head + 1}`;
      const button = make("button", { className: "head" }, canvas, make("small", { textContent: name }));
      button.onclick = () => {
        chosen = weights;
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        note.textContent = `The head ${name} looks ${
          habitOf(weights, T)
        }. The token with the frame looks at the green ones:`;
        show(T - 1);
      };
      return button;
    })
  );
  squares.append(...buttons);
  root.append(intro, squares, note, line);
  const draws = attention.flat().map((weights, i) => (/** @type {number[]} */ colour) =>
    drawSquare(buttons[i].firstChild, weights, T, colour)
  );
  drawInColours(squares, draws);
  buttons[0].click();
  return root;
}

// Embeddings ----------------------------------------------------------------------------------------------------------

const [WIDTH, HEIGHT, EDGE] = [900, 560, 34];

/** @param {string} name @param {Record<string, string | number>} attributes */
function svg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}

/** Values laid between the edges. @param {number[]} values @param {number} size */
function laid(values, size) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return values.map((value) => EDGE + (value - low) / (high - low || 1) * (size - 2 * EDGE));
}

/** Kinds of tokens, by what they look like. @param {string} text */
function kindOf(text) {
  if (/^ ?[aeiouyäöü]$/iu.test(text)) return "vowel";
  if (/^ ?\p{L}$/u.test(text)) return "letter";
  return /\p{L}/u.test(text) ? "piece" : "sign";
}

/**
 * Tokens in the plane; pointing at one shows those that are most like it.
 * @param {{texts: string[], places: Float32Array, nearest: number[][], shown: number}} map
 */
export function tokenMap({ texts, places, nearest, shown }) {
  const x = laid(texts.map((_, i) => places[2 * i]), WIDTH);
  const y = laid(texts.map((_, i) => places[2 * i + 1]), HEIGHT);
  const picture = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    class: "map",
    role: "img",
    "aria-label": "map of tokens",
  });
  const note = make("p", { className: "faint" });
  note.setAttribute("role", "status");
  const labels = texts.map((text, i) => {
    const label = svg("text", { x: x[i], y: y[i], class: kindOf(text), tabindex: 0 });
    label.textContent = visible(text);
    label.addEventListener("pointerenter", () => point(i));
    label.addEventListener("focus", () => point(i));
    return label;
  });
  /** @param {number} i */
  function point(i) {
    const like = new Set(nearest[i]);
    labels.forEach((label, j) => {
      label.classList.toggle("pointed", j === i);
      label.classList.toggle("near", like.has(j));
    });
    picture.append(labels[i]); // above the others
    note.textContent = `Most like “${visible(texts[i])}”, by all of its numbers: ${
      nearest[i].map((j) => `“${visible(texts[j])}”`).join(", ")
    }`;
  }
  picture.append(...labels);
  const legend = make(
    "p",
    { className: "faint legend" },
    ...[["vowel", "vowels"], ["letter", "other letters"], ["piece", "pieces of words"], [
      "sign",
      "digits and signs",
    ]]
      .map(([kind, text]) => make("span", {}, make("span", { className: `key ${kind}` }), ` ${text}`)),
  );
  note.textContent =
    `${texts.length} tokens. The plane shows ${Math.round(shown * 100)} % of their differences. ` +
    "Point at one to see which others are most like it.";
  return make("div", {}, picture, note, legend);
}
