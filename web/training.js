/** A run as it goes on: losses, samples, pausing and going on. */
import { at, count, duration, make, tell } from "./shared/page.js";
import { Curves } from "./shared/curves.js";
import { Run, RunningMean } from "./shared/run.js";
import { attempt } from "./page.js";
import { choice } from "./setup.js";
import { calls, changed, hear, onChange, state } from "./state.js";
import { listKept } from "./kept.js";
import { useModel } from "./use.js";

/** The running mean of losses is over this part of a run, and at most so many steps. */
const MEAN = { part: 1 / 60, steps: 25 };
const MOST_SAMPLES = 12;
const SHOW_MS = 150;

const chart = new Curves(at("chart"), at("chart-read"));
let figures = new Run({ id: "", name: "", running: true, changed: 0, stepsTotal: null }, 0);
let mean = new RunningMean(0);

const TITLE = "microgpt";

/** What becomes of a run that is paused. */
const KEPT = "It is kept in this browser: continue now, or when you open this page again.";
const NOT_KEPT = "This browser could not keep it: continue, or take it home, before you close this page.";

/** steps when the tab was hidden while it trained @type {number | undefined} */
let hiddenAt;
/** @type {{release(): Promise<void>} | undefined} */
let wakeLock;

/** @param {string} name @param {boolean} chat @param {number | null} stepsTotal */
function startRun(name, chat, stepsTotal) {
  state.run = { name, chat, began: performance.now(), saved: false, kept: false };
  figures = new Run({ id: name, name, running: true, changed: 0, stepsTotal }, 0);
  at("samples").replaceChildren(
    make("p", { className: "faint", textContent: "Samples come every few steps. The first ones are noise." }),
  );
  at("run").hidden = false;
  at("run-name").textContent = name;
  show();
  at("run").scrollIntoView({ behavior: "smooth", block: "start" });
}

/** @param {"train" | "resume"} method @param {object} args */
async function trainWith(method, args) {
  state.training = true;
  figures.info.running = true;
  at("status").textContent = "Preparing: the text is cut into tokens…";
  changed();
  navigator.storage?.persist?.(); // what is kept is not thrown away when the disk fills; a browser may refuse
  await stayAwake();
  let stopped = false;
  try {
    await calls.call(method, args);
  } catch (error) {
    const { message, hint } = /** @type {any} */ (error);
    tell({ message: `training stopped: ${message}`, hint });
    at("status").textContent = "Stopped.";
    stopped = true;
  }
  state.training = false;
  figures.info.running = false;
  document.title = document.hidden ? `${stopped ? "stopped" : "done"} · ${TITLE}` : TITLE;
  wakeLock?.release();
  const models = await listKept();
  const { run } = state;
  if (run) run.saved = models.some(({ name }) => name === run.name);
  if (stopped) {
    at("status").textContent = run?.saved
      ? "Stopped. Nothing is lost up to the last checkpoint: continue from there."
      : "Stopped before the first checkpoint: there is nothing to continue from.";
  }
  changed();
}

/** A screen that goes dark would end the run on a phone. */
async function stayAwake() {
  const { wakeLock: screen } = /** @type {any} */ (navigator);
  wakeLock = await screen?.request("screen").catch(() => undefined); // a hidden page gets none
}

at("start").onclick = () =>
  attempt(async () => {
    const { data, ...settings } = choice();
    if (!data) return;
    const name = await calls.call("freeName", { name: data.name }); // no earlier model is written over
    startRun(name, data.chat, settings.steps ?? null);
    await trainWith("train", { name, data, ...settings });
  });
at("pause").onclick = () => {
  at("pause").disabled = true;
  at("status").textContent = "Saving…";
  attempt(() => calls.call("pause"));
};
at("resume").onclick = () => trainWith("resume", { name: state.run?.name, data: state.data });

/**
 * Shows the losses so far of what is kept, and goes on.
 * @param {{name: string, mode: string, stepsTotal: number}} kept @param {number} [steps] more than were planned
 */
export async function goOn({ name, mode, stepsTotal }, steps) {
  startRun(name, mode === "chat", stepsTotal);
  await calls.call("log", { name }); // comes as `metrics`
  show();
  await trainWith("resume", { name, steps, data: state.data });
}

// What is shown -------------------------------------------------------------------------------------------------------

/** Weight of what was before in the running mean. */
function smoothing() {
  const steps = Math.min((figures.info.stepsTotal ?? 0) * MEAN.part, MEAN.steps);
  return 1 - 1 / Math.max(1, steps);
}

function show() {
  const { info: { stepsTotal }, loss, heldOut, step } = figures;
  const weight = smoothing();
  if (mean.weight !== weight) mean = new RunningMean(weight);
  chart.show([
    { name: "", colour: "--training", points: loss, faint: true },
    { name: "loss", colour: "--training", points: mean.of(loss) },
    { name: "held-out loss", colour: "--held-out", points: heldOut, dots: true },
  ], Math.max(stepsTotal ?? 1, step));
  at("progress").value = stepsTotal ? step / stepsTotal : 0;
}

function showStatus() {
  const { step, info: { stepsTotal }, secondsLeft, stepMs } = figures;
  show();
  if (step === 0 || stepsTotal === null) return;
  const loss = mean.points.at(-1)?.value ?? NaN;
  const speed = stepMs === undefined
    ? ""
    : ` · ${stepMs < 10 ? stepMs.toFixed(1) : Math.round(stepMs)} ms a step`;
  const left = secondsLeft === undefined ? "" : ` · about ${duration(secondsLeft)} left`;
  at("status").textContent = `step ${count(step)} of ${count(stepsTotal)} · loss ${
    loss.toFixed(3)
  }${speed}${left}`;
  document.title = `${Math.round(100 * step / stepsTotal)} % · microgpt`;
}

let waits = false;
/** However many steps come, the page is drawn a few times a second. */
function showLater() {
  if (waits) return;
  waits = true;
  setTimeout(() => {
    waits = false;
    if (state.training) showStatus();
  }, SHOW_MS);
}

hear({
  plan({ network, parameters, device, totalSteps, trainingDocuments }) {
    figures.info.stepsTotal = totalSteps;
    show();
    at("status").textContent = `${network}: ${count(parameters)} numbers to learn from ` +
      `${count(trainingDocuments)} documents on ${device}. ` +
      (state.webgpu ? "Its programs are compiled: the first step takes longest…" : "");
  },
  step({ step, loss, learningRate: lr, gradNorm: grad_norm, tokens, milliseconds: ms }) {
    figures.add({ step, loss, lr, grad_norm, tokens, ms });
    showLater();
  },
  /** Lines of the log of what is kept, some at a time. @param {any[]} lines */
  metrics(lines) {
    for (const line of lines) figures.add(line);
  },
  evaluation({ step, loss, bitsPerByte }) {
    figures.add({ step, val_loss: loss, val_bits_per_byte: bitsPerByte });
    showLater();
  },
  samples({ step, texts }) {
    const title = make("small", { textContent: `after ${count(step)} steps` });
    const text = make("pre", {
      textContent: texts.map((/** @type {string} */ sample) => sample.trim() || "(nothing)").join("\n"),
    });
    if (at("samples").querySelector("pre") === null) at("samples").replaceChildren();
    at("samples").prepend(make("div", { className: "sample" }, title, text));
    while (at("samples").children.length > MOST_SAMPLES) at("samples").lastElementChild.remove();
  },
  kept(kept) {
    if (state.run) state.run.kept = kept;
  },
  notice: (notice) => tell(notice, { bad: notice.bad === true }),
  recovery: ({ step, learningRate }) =>
    tell(`the loss was no number: back to step ${step}, with learning rate ${learningRate}`, { bad: false }),
  end({ step, complete }) {
    const { run } = state;
    if (!run) return;
    showStatus();
    at("status").textContent = complete
      ? `Done: ${count(step)} steps, in ${duration((performance.now() - run.began) / 1000)}. Try it below.`
      : `Paused after ${count(step)} steps. ${run.kept ? KEPT : NOT_KEPT}`;
    useModel(run.name, run.chat);
  },
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    hiddenAt = state.training ? figures.step : undefined;
    return;
  }
  if (state.training) stayAwake();
  else document.title = TITLE;
  const steps = hiddenAt === undefined ? 0 : figures.step - hiddenAt;
  if (steps > 0) tell(`training went on while the tab was hidden: ${count(steps)} steps`, { bad: false });
});
addEventListener("beforeunload", (event) => state.training && event.preventDefault());

onChange(() => {
  const { training, run } = state;
  const { step, info: { stepsTotal } } = figures;
  at("pause").hidden = !training;
  at("pause").disabled = false;
  at("resume").hidden = training || !run?.saved || (stepsTotal !== null && step >= stepsTotal);
});
