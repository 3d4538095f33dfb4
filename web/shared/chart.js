/** A chart of losses that is drawn as they come: dots and their running mean for training, a line for held-out text. */

/** @typedef {{step: number, loss: number}} Point */

const MARGIN = { left: 44, right: 12, top: 10, bottom: 26 };

/** Round numbers between two others, about n of them. @param {number} low @param {number} high @param {number} n */
export function ticks(low, high, n) {
  const rough = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough) ?? rough;
  const all = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) all.push(value);
  return all;
}

/** Draws into a canvas; `add` and `addHeldOut` come in the order of their steps. */
export class LossChart {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    /** @type {Point[]} */ this.training = [];
    /** @type {Point[]} */ this.mean = [];
    /** @type {Point[]} */ this.heldOut = [];
    this.totalSteps = 1;
    this.waiting = false;
    new ResizeObserver(() => this.later()).observe(canvas);
  }

  /** Starts anew. @param {number} totalSteps */
  clear(totalSteps) {
    this.training = [];
    this.mean = [];
    this.heldOut = [];
    this.totalSteps = totalSteps;
    this.later();
  }

  /** @param {number} step @param {number} loss in nats a token */
  add(step, loss) {
    this.training.push({ step, loss });
    const before = this.mean.at(-1)?.loss ?? loss;
    // over a fortieth of the run, at most 40 steps, and at its steep beginning over less
    const window = Math.max(1, Math.min(this.training.length / 4, this.totalSteps / 40, 40));
    this.mean.push({ step, loss: before + (loss - before) / window });
    this.later();
  }

  /** @param {number} step @param {number} loss */
  addHeldOut(step, loss) {
    this.heldOut.push({ step, loss });
    this.later();
  }

  /** Draws with the next picture of the page, however many points came. */
  later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const { canvas } = this;
    const { clientWidth: width, clientHeight: height } = canvas;
    const ratio = devicePixelRatio;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.scale(ratio, ratio);
    const colour = (/** @type {string} */ name) => {
      canvas.style.color = `var(${name})`; // a canvas knows neither variables nor light-dark()
      return getComputedStyle(canvas).color;
    };
    const losses = [...this.training, ...this.heldOut].map(({ loss }) => loss).filter(Number.isFinite);
    const high = losses.reduce((a, b) => Math.max(a, b), losses.length ? -Infinity : 6);
    const low = losses.reduce((a, b) => Math.min(a, b), losses.length ? Infinity : 0);
    const room = (high - low) * 0.05 || 0.1;
    const [bottom, top] = [low - room, high + room];
    const x = (/** @type {number} */ step) =>
      MARGIN.left + step / this.totalSteps * (width - MARGIN.left - MARGIN.right);
    const y = (/** @type {number} */ loss) =>
      MARGIN.top + (top - loss) / (top - bottom) * (height - MARGIN.top - MARGIN.bottom);
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = colour("--faint");
    context.strokeStyle = colour("--line");
    for (const loss of ticks(bottom, top, 4)) {
      context.textAlign = "right";
      context.fillText(String(Number(loss.toFixed(3))), MARGIN.left - 8, y(loss) + 4);
      line([[MARGIN.left, y(loss)], [width - MARGIN.right, y(loss)]], 1);
    }
    context.textAlign = "center";
    for (const step of ticks(0, this.totalSteps, 5)) context.fillText(String(step), x(step), height - 8);
    context.fillStyle = colour("--training-dots");
    const every = Math.max(1, Math.floor(this.training.length / 2000));
    for (let i = 0; i < this.training.length; i += every) {
      const { step, loss } = this.training[i];
      context.fillRect(x(step) - 1, y(loss) - 1, 2, 2);
    }
    context.strokeStyle = colour("--training");
    line(this.mean.map(({ step, loss }) => [x(step), y(loss)]), 2);
    context.strokeStyle = context.fillStyle = colour("--held-out");
    line(this.heldOut.map(({ step, loss }) => [x(step), y(loss)]), 2);
    for (const { step, loss } of this.heldOut) {
      context.beginPath();
      context.arc(x(step), y(loss), 3, 0, 7);
      context.fill();
    }

    /** @param {number[][]} points @param {number} lineWidth */
    function line(points, lineWidth) {
      context.lineWidth = lineWidth;
      context.beginPath();
      for (const [px, py] of points) context.lineTo(px, py);
      context.stroke();
    }
  }
}
