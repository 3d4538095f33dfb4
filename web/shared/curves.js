/** A chart of several runs' curves over steps. */
/**
 * @typedef {import("./run.js").Point} Point
 * @typedef {{name: string, colour: string, points: Point[], dots?: boolean, faint?: boolean}} Curve `colour`: a CSS variable
 */

const MARGIN = { left: 52, right: 12, top: 8, bottom: 24 };
/** More than so many points of a curve are not seen. */
const MOST_POINTS = 1500;

/** Round numbers between two others, about n of them. @param {number} low @param {number} high @param {number} n */
function ticks(low, high, n) {
  const rough = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough) ?? rough;
  const all = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) all.push(value);
  return all;
}

/** As many points as can be seen, and the last. @param {Point[]} points */
function thinned(points) {
  const every = Math.floor(points.length / MOST_POINTS);
  if (every < 2) return points;
  const few = [];
  for (let i = 0; i < points.length - 1; i += every) few.push(points[i]);
  return [...few, points[points.length - 1]];
}

/** The last point up to a step, else the first. @param {Point[]} points @param {number} step */
function pointAt(points, step) {
  let [low, high] = [0, points.length]; // the first that is later lies between
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].step <= step) low = middle + 1;
    else high = middle;
  }
  return points[Math.max(0, low - 1)];
}

/** A number, short. @param {number} value */
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e4) return `${Number((value / 1000).toPrecision(3))}k`;
  return size !== 0 && size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(4)));
}

/** Draws into a canvas, and reads out what is under the pointer. */
export class Curves {
  /** @type {Curve[]} */
  #curves = [];
  #lastStep = 1;
  /** @type {number | undefined} */
  #pointed;
  #waiting = false;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLElement} readout
   * @param {{log?: boolean}} [options] log: powers of ten are equally far apart
   */
  constructor(canvas, readout, { log = false } = {}) {
    this.canvas = canvas;
    this.readout = readout;
    this.log = log;
    canvas.onpointermove = ({ offsetX }) => this.#point(offsetX);
    canvas.onpointerleave = () => this.#point(undefined);
    new ResizeObserver(() => this.#later()).observe(canvas);
    canvas.addEventListener("contextrestored", () => this.#later()); // the GPU was lost, which draws pages too
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#later());
  }

  /** @param {Curve[]} curves @param {number} lastStep where the axis ends */
  show(curves, lastStep) {
    this.#curves = curves;
    this.#lastStep = Math.max(1, lastStep);
    this.#later();
  }

  /** @param {number | undefined} x */
  #point(x) {
    const width = this.canvas.clientWidth - MARGIN.left - MARGIN.right;
    this.#pointed = x === undefined
      ? undefined
      : Math.round(Math.min(1, Math.max(0, (x - MARGIN.left) / width)) * this.#lastStep);
    this.#later();
  }

  #later() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#draw();
    });
  }

  #draw() {
    const { canvas } = this;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (width === 0) return;
    canvas.width = width * devicePixelRatio;
    canvas.height = height * devicePixelRatio;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.scale(devicePixelRatio, devicePixelRatio);
    const scaled = (/** @type {number} */ value) => this.log ? Math.log10(value) : value;
    const shown = this.#curves.map((curve) => ({ ...curve, points: thinned(curve.points) }));
    const values = shown.flatMap(({ points }) => points.map(({ value }) => scaled(value)))
      .filter(Number.isFinite);
    const low = values.reduce((a, b) => Math.min(a, b), values.length ? Infinity : 0);
    const high = values.reduce((a, b) => Math.max(a, b), values.length ? -Infinity : 1);
    const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    const [bottom, top] = [low - room, high + room];
    const inside = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    const x = (/** @type {number} */ step) => MARGIN.left + step / this.#lastStep * inside.width;
    const y = (/** @type {number} */ value) =>
      MARGIN.top + (top - scaled(value)) / (top - bottom) * inside.height;
    this.#axes(context, { width, height, bottom, top, x, y });
    for (const curve of shown) this.#curve(context, curve, x, y);
    this.#read(context, height, x, y);
  }

  /** A canvas knows neither variables nor light-dark(). @param {string} name */
  #colour(name) {
    this.canvas.style.color = `var(${name})`;
    return getComputedStyle(this.canvas).color;
  }

  /** @param {CanvasRenderingContext2D} context @param {any} view */
  #axes(context, { width, height, bottom, top, x, y }) {
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = this.#colour("--faint");
    context.strokeStyle = this.#colour("--line");
    context.lineWidth = 1;
    context.textAlign = "right";
    for (const tick of ticks(bottom, top, 4)) {
      const value = this.log ? 10 ** tick : tick;
      context.fillText(short(value), MARGIN.left - 8, y(value) + 4);
      context.beginPath();
      context.moveTo(MARGIN.left, y(value));
      context.lineTo(width - MARGIN.right, y(value));
      context.stroke();
    }
    context.textAlign = "center";
    const labels = ticks(0, this.#lastStep, Math.max(2, width / 110)).filter((step) => x(step) < width - 20);
    for (const step of labels) context.fillText(step.toLocaleString("en"), x(step), height - 7);
  }

  /**
   * @param {CanvasRenderingContext2D} context @param {Curve} curve
   * @param {(step: number) => number} x @param {(value: number) => number} y
   */
  #curve(context, { colour, points, dots = false, faint = false }, x, y) {
    context.strokeStyle = context.fillStyle = this.#colour(colour);
    context.globalAlpha = faint ? 0.3 : 1;
    context.lineWidth = faint ? 1 : 2;
    context.setLineDash(dots ? [5, 4] : []);
    context.beginPath();
    for (const { step, value } of points) {
      if (Number.isFinite(value)) context.lineTo(x(step), y(value));
    }
    context.stroke();
    context.setLineDash([]);
    if (dots) {
      for (const { step, value } of points) {
        context.beginPath();
        context.arc(x(step), y(value), 3, 0, 7);
        context.fill();
      }
    }
    context.globalAlpha = 1;
  }

  /**
   * What the curves are where the pointer is, else at their ends.
   * @param {CanvasRenderingContext2D} context @param {number} height
   * @param {(step: number) => number} x @param {(value: number) => number} y
   */
  #read(context, height, x, y) {
    const pointed = this.#pointed;
    if (pointed !== undefined) {
      context.strokeStyle = this.#colour("--faint");
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(x(pointed), MARGIN.top);
      context.lineTo(x(pointed), height - MARGIN.bottom);
      context.stroke();
    }
    const said = this.#curves.filter(({ faint }) => !faint).flatMap(({ name, colour, points }) => {
      const point = pointed === undefined ? points.at(-1) : pointAt(points, pointed);
      if (!point) return [];
      if (pointed !== undefined) {
        context.fillStyle = this.#colour(colour);
        context.beginPath();
        context.arc(x(point.step), y(point.value), 4, 0, 7);
        context.fill();
      }
      return [`${name} ${short(point.value)}`];
    });
    const where = pointed === undefined ? "" : `step ${pointed.toLocaleString("en")}: `;
    this.readout.textContent = where + said.join(" · ");
    this.canvas.setAttribute(
      "aria-label",
      `${this.canvas.dataset.name}: ${said.join(", ") || "nothing yet"}`,
    );
  }
}
