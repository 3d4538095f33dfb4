/** The view of training runs as they go on. */
import { ask } from "./api.js";
import { at, count, duration, make } from "../shared/page.js";
import { Curves, short } from "../shared/curves.js";
import { Run, smoothed } from "../shared/run.js";

/** @typedef {import("../shared/run.js").RunInfo} RunInfo */

const POLL_MS = 1000;
const COLOURS = 8;
const MOST_SAMPLES = 30;
const HIDDEN = "microgpt.hidden-runs";

/**
 * All runs that the server shows, and what some have logged since they were last asked about.
 * @param {Run[]} [known] those of which that is wanted
 * @returns {Promise<{watching: boolean, runs: (RunInfo & {piece?: any})[]}>}
 */
export async function watchedRuns(known = []) {
  const query = new URLSearchParams(known.flatMap((run) => [["run", run.info.id], ["after", run.cursor]]));
  return await (await ask(`microgpt/v1/runs?${query}`)).json();
}

/** Runs, their curves and their samples. */
export class Watch {
  /** in the order in which they were first seen @type {Map<string, Run>} */
  #runs = new Map();
  #seen = 0;
  /** @type {Set<string>} */
  #hidden = new Set(JSON.parse(sessionStorage.getItem(HIDDEN) ?? "[]"));
  #charts = {
    loss: new Curves(at("chart-loss"), at("read-loss")),
    heldOut: new Curves(at("chart-held"), at("read-held")),
    learningRate: new Curves(at("chart-lr"), at("read-lr")),
    speed: new Curves(at("chart-speed"), at("read-speed")),
    gradNorm: new Curves(at("chart-norm"), at("read-norm")),
  };
  #shownSamples = "";
  /** rows of the table, which stay while what they say changes @type {Map<string, HTMLElement>} */
  #rows = new Map();

  constructor() {
    at("smoothing").oninput = () => this.#draw();
    at("log-loss").onchange = () => this.#draw();
  }

  /** Looks again and again, while the page can be seen. */
  async follow() {
    for (;;) {
      if (!document.hidden && document.body.dataset.view === "watch") {
        try {
          await this.#look();
          at("watch-state").textContent = "";
        } catch (error) {
          at("watch-state").textContent = /** @type {Error} */ (error).message;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  async #look() {
    for (let [isMore, changed] = [true, false]; isMore;) {
      const shown = [...this.#runs.values()].filter(({ info }) => !this.#hidden.has(info.id));
      const { runs } = await watchedRuns(shown);
      const ids = new Set(runs.map(({ id }) => id));
      for (const id of this.#runs.keys()) if (!ids.has(id)) this.#runs.delete(id);
      isMore = false;
      for (const { piece, ...info } of runs) {
        const run = this.#runs.get(info.id) ?? new Run(info, this.#seen++);
        const isNew = !this.#runs.has(info.id);
        this.#runs.set(info.id, run);
        run.info = info;
        if (piece) changed = run.take(piece) || changed;
        // one that was not known is asked about at once
        isMore ||= piece?.more || (isNew && !this.#hidden.has(info.id));
      }
      this.#list();
      if (changed && !isMore) this.#draw();
    }
  }

  /** @param {string} id @param {boolean} isShown */
  #choose(id, isShown) {
    if (isShown) this.#hidden.delete(id);
    else this.#hidden.add(id);
    sessionStorage.setItem(HIDDEN, JSON.stringify([...this.#hidden]));
    this.#draw();
    this.#look().catch(() => {}); // `follow` says what is wrong
  }

  /** The colour of a run stays the same while others come and go. @param {string} id */
  #colour(id) {
    return `--run-${(this.#runs.get(id)?.number ?? 0) % COLOURS}`;
  }

  #list() {
    at("no-runs").hidden = this.#runs.size > 0;
    at("runs").hidden = this.#runs.size === 0;
    for (const [id, row] of this.#rows) {
      if (this.#runs.has(id)) continue;
      row.remove();
      this.#rows.delete(id);
    }
    for (const [id, run] of this.#runs) {
      const row = this.#rows.get(id) ?? this.#row(id, run);
      if (!this.#rows.has(id)) at("run-rows").append(row);
      this.#rows.set(id, row);
      this.#figures(run).forEach((text, i) => row.children[i + 1].textContent = text);
    }
  }

  /** @param {string} id @param {Run} run */
  #row(id, run) {
    const box = make("input", { type: "checkbox", checked: !this.#hidden.has(id) });
    box.dataset.run = id;
    box.onchange = () => this.#choose(id, box.checked);
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = `var(${this.#colour(id)})`;
    const name = make("label", { className: "check" }, box, swatch, run.info.name);
    const cells = this.#figures(run).map(() => make("td"));
    return make("tr", {}, make("th", { scope: "row" }, name), ...cells);
  }

  /** What its row says. @param {Run} run */
  #figures(run) {
    const { step, secondsLeft, info: { stepsTotal } } = run;
    const best = run.heldOut.reduce((low, { value }) => Math.min(low, value), Infinity);
    return [
      step === 0 ? "–" : count(step) + (stepsTotal === null ? "" : ` of ${count(stepsTotal)}`),
      short(smoothed(run.loss.slice(-200), 0.95).at(-1)?.value ?? NaN),
      short(run.heldOut.at(-1)?.value ?? NaN),
      short(best),
      short(run.speed.at(-1)?.value ?? NaN),
      run.state + (secondsLeft === undefined ? "" : `, ${duration(secondsLeft)} left`),
    ];
  }

  #draw() {
    const runs = [...this.#runs].filter(([id]) => !this.#hidden.has(id));
    const weight = Number(at("smoothing").value);
    const last = runs.reduce((most, [, run]) => Math.max(most, run.step), 1);
    const log = at("log-loss").checked;
    this.#charts.loss.log = this.#charts.heldOut.log = log;
    const curves = (/** @type {(run: Run) => object} */ of) =>
      runs.map(([id, run]) => ({ name: run.info.name, colour: this.#colour(id), ...of(run) }));
    const raw = weight > 0 ? curves((run) => ({ points: run.loss, faint: true })) : [];
    const { loss, heldOut, learningRate, speed, gradNorm } = this.#charts;
    loss.show(
      /** @type {any} */ ([...raw, ...curves((run) => ({ points: smoothed(run.loss, weight) }))]),
      last,
    );
    heldOut.show(/** @type {any} */ (curves((run) => ({ points: run.heldOut, dots: true }))), last);
    learningRate.show(/** @type {any} */ (curves((run) => ({ points: run.learningRate }))), last);
    speed.show(/** @type {any} */ (curves((run) => ({ points: run.speed }))), last);
    gradNorm.show(/** @type {any} */ (curves((run) => ({ points: smoothed(run.gradNorm, weight) }))), last);
    this.#showSamples(runs);
  }

  /** The latest first. @param {[string, Run][]} runs */
  #showSamples(runs) {
    const all = runs.flatMap(([id, run]) =>
      run.samples.map((sample) => ({ ...sample, id, name: run.info.name }))
    );
    const latest = all.sort((a, b) => b.step - a.step).slice(0, MOST_SAMPLES);
    const shown = latest.map(({ id, step }) => `${id} ${step}`).join("\n");
    if (shown === this.#shownSamples) return; // whoever reads there is not disturbed
    this.#shownSamples = shown;
    at("no-samples").hidden = latest.length > 0;
    at("run-samples").replaceChildren(...latest.map(({ id, name, step, texts }) => {
      const swatch = make("span", { className: "swatch" });
      swatch.style.background = `var(${this.#colour(id)})`;
      const title = make("small", {}, swatch, ` ${name}, after ${count(step)} steps`);
      return make(
        "div",
        { className: "sample" },
        title,
        ...texts.map((text) => make("pre", { textContent: text })),
      );
    }));
  }
}
