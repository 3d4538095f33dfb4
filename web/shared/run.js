/** What is known of a training run, from the lines of its log. */

/**
 * @typedef {{step: number, value: number}} Point
 * @typedef {{id: string, name: string, running: boolean, changed: number, stepsTotal: number | null}} RunInfo
 */

/** Steps over which speed is told, and from how many on: kernels are compiled in the first ones. */
const SPEED_STEPS = 50;
const FIRST_STEPS = 3;

/** Removes points from a step on. @param {{step: number}[]} points @param {number} step */
function cutAt(points, step) {
  while (points.length > 0 && points[points.length - 1].step >= step) points.pop();
}

/** A run's curves and samples. */
export class Run {
  cursor = "";
  /** @type {Point[]} */ loss = [];
  /** @type {Point[]} */ learningRate = [];
  /** @type {Point[]} */ gradNorm = [];
  /** tokens a second, each over some steps @type {Point[]} */ speed = [];
  /** @type {(Point & {bits: number})[]} */ heldOut = [];
  /** @type {{step: number, texts: string[]}[]} */ samples = [];
  /** @type {{tokens: number, ms: number}[]} */ #recent = [];

  /** @param {RunInfo} info @param {number} number how many were seen before it */
  constructor(info, number) {
    this.info = info;
    this.number = number;
  }

  /** Forgets its lines: another log follows. */
  clear() {
    this.cursor = "";
    for (const points of [...this.#curves, this.heldOut, this.samples]) points.length = 0;
    this.#recent = [];
  }

  /** Takes the next piece of its log. @param {any} piece as the server tells it @returns {boolean} whether it says anything */
  take({ reset, cursor, metrics }) {
    if (reset) this.clear();
    for (const line of metrics) this.add(line);
    this.cursor = cursor;
    return metrics.length > 0;
  }

  get #curves() {
    return [this.loss, this.learningRate, this.gradNorm, this.speed];
  }

  /** Takes a line. A step that comes again counts in place of what was there. @param {any} line */
  add({ step, loss, lr, grad_norm, tokens, ms, val_loss, val_bits_per_byte, samples }) {
    if (typeof step !== "number") return;
    if (Array.isArray(samples)) {
      cutAt(this.samples, step);
      this.samples.push({ step, texts: samples.map(String) });
    } else if (val_loss !== undefined) {
      cutAt(this.heldOut, step);
      this.heldOut.push({ step, value: val_loss ?? NaN, bits: val_bits_per_byte ?? NaN });
    } else if (loss !== undefined) {
      for (const points of this.#curves) cutAt(points, step);
      this.loss.push({ step, value: loss ?? NaN });
      this.learningRate.push({ step, value: lr ?? NaN });
      this.gradNorm.push({ step, value: grad_norm ?? NaN });
      this.#recent.push({ tokens, ms });
      if (this.#recent.length > SPEED_STEPS) this.#recent.shift();
      const sum = (/** @type {"tokens" | "ms"} */ key) =>
        this.#recent.reduce((all, entry) => all + entry[key], 0);
      this.speed.push({ step, value: 1000 * sum("tokens") / sum("ms") });
    }
  }

  /** Steps done. */
  get step() {
    return this.loss.at(-1)?.step ?? 0;
  }

  /** "running", "done" or "stopped" */
  get state() {
    const { running, stepsTotal } = this.info;
    if (running) return "running";
    return stepsTotal !== null && this.step >= stepsTotal ? "done" : "stopped";
  }

  /** Milliseconds of a step, the median of the last ones; undefined before there are a few. */
  get stepMs() {
    if (this.#recent.length < FIRST_STEPS) return undefined;
    return this.#recent.map(({ ms }) => ms).sort((a, b) => a - b)[this.#recent.length >> 1];
  }

  /** Seconds to its end; undefined where that is not known. */
  get secondsLeft() {
    const { stepMs, info: { running, stepsTotal } } = this;
    if (!running || stepsTotal === null || stepMs === undefined) return undefined;
    return Math.max(0, stepsTotal - this.step) * stepMs / 1000;
  }
}

/** A running mean, which is not drawn towards where it began, and costs only what is new when points are added. */
export class RunningMean {
  /** the means, without what is no number @type {Point[]} */
  points = [];
  #taken = 0;
  /** the last point that was taken @type {Point | undefined} */
  #last;
  #mean = 0;
  #rest = 1;

  /** @param {number} weight 0 … 1, of what was before */
  constructor(weight) {
    this.weight = weight;
  }

  /** @param {Point[]} points those of before with more at their end; from the start where they are others @returns {Point[]} */
  of(points) {
    if (points[this.#taken - 1] !== this.#last) {
      this.points = [];
      [this.#taken, this.#mean, this.#rest] = [0, 0, 1];
    }
    for (; this.#taken < points.length; this.#taken++) {
      const { step, value } = points[this.#taken];
      if (!Number.isFinite(value)) continue;
      this.#mean = this.weight * this.#mean + (1 - this.weight) * value;
      this.#rest *= this.weight;
      this.points.push({ step, value: this.#mean / (1 - this.#rest) });
    }
    this.#last = points.at(-1);
    return this.points;
  }
}

/** The running mean of all points. @param {Point[]} points @param {number} weight 0 … 1, of what was before */
export function smoothed(points, weight) {
  return new RunningMean(weight).of(points);
}
