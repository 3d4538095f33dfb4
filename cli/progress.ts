/** How far data and a training run are: a live line in a terminal, plain lines in a file. */
import type { PreparationProgress, StepEvent } from "../mod.ts";
import { bar, columns, duration, isTerminal, LiveLine, say } from "./terminal.ts";

/** In fewer columns a bar would leave no room for the step. */
const NARROW = 20;

/** One live line, for a terminal. */
export class LiveProgress {
  readonly #pace = new Pace();
  constructor(readonly totalSteps: number, readonly live: LiveLine) {}

  step(event: StepEvent, smoothed: number): void {
    this.#pace.add(event);
    const { step, learningRate } = event;
    const left = duration((this.totalSteps - step) * this.#pace.milliseconds / 1000);
    const text =
      ` ${step}/${this.totalSteps}  loss ${smoothed.toFixed(4)}  lr ${learningRate.toPrecision(3)}  ` +
      `${Math.round(this.#pace.tokensPerSecond).toLocaleString("en")} tok/s  ${
        this.#pace.milliseconds.toFixed(1)
      } ms  ETA ${left}`;
    const width = columns();
    const room = width < NARROW ? 0 : Math.max(5, Math.min(30, width - text.length - 2));
    this.live.update((bar(step / this.totalSteps, room) + text).trimStart());
  }
}

/** Plain lines, for a file or a pipe: the first step, then one a while, the last. */
export class LineProgress {
  readonly #pace = new Pace();
  #next = 0;
  constructor(readonly totalSteps: number) {}

  step(event: StepEvent, _smoothed: number): void {
    this.#pace.add(event);
    const { step, tokens, loss } = event;
    const now = performance.now();
    if (now < this.#next && step !== this.totalSteps) return;
    this.#next = now + 2000;
    const seconds = this.#pace.milliseconds / 1000;
    say(
      `step ${step} / ${this.totalSteps} | len ${tokens} | loss ${loss.toFixed(4)} | ${
        seconds.toPrecision(3)
      }s/step | ` +
        `eta ${duration((this.totalSteps - step) * seconds)}`,
    );
  }
}

/** Speed over the last while. */
class Pace {
  milliseconds = NaN;
  #tokens = NaN;

  add({ milliseconds, tokens }: StepEvent): void {
    const smooth = (old: number, value: number) => Number.isNaN(old) ? value : old + 0.05 * (value - old);
    this.milliseconds = smooth(this.milliseconds, milliseconds);
    this.#tokens = smooth(this.#tokens, tokens);
  }

  get tokensPerSecond(): number {
    return this.#tokens / this.milliseconds * 1000;
  }
}

/** Small data is there before anybody asks how far it is. */
const SILENT_MS = 500;
const LINE_EVERY_MS = 10_000;

/** How far the preparation of data is: a live line in a terminal, elsewhere a line now and then. */
export class PreparationView {
  /** what was told last */
  last: PreparationProgress | undefined;
  readonly #live = isTerminal() ? new LiveLine() : undefined;
  readonly #started = performance.now();
  #nextLine = this.#started + LINE_EVERY_MS;
  #rate = new ByteRate();

  /** @param words what a phase is called, where not as in `train` */
  constructor(readonly words: Partial<Record<PreparationProgress["phase"], string>> = {}) {}

  show(progress: PreparationProgress): void {
    if (progress.phase !== this.last?.phase) this.#rate = new ByteRate();
    this.last = progress;
    this.#rate.add(progress.bytes);
    const now = performance.now();
    if (now - this.#started < SILENT_MS) return;
    if (this.#live) this.#live.update(this.#text(progress, columns()));
    else if (now >= this.#nextLine) {
      this.#nextLine = now + LINE_EVERY_MS;
      say(this.#text(progress, 0));
    }
  }

  /** @param width of the line, where it has a bar */
  #text({ phase, bytes, totalBytes }: PreparationProgress, width: number): string {
    const label = this.words[phase] ?? PHASES[phase];
    if (phase === "waiting") return label;
    // the words are counted, and become a tokenizer, which tells nothing
    if (phase === "words" && bytes === totalBytes) return "making the tokenizer";
    const all = totalBytes === undefined ? "" : ` of ${megabytes(totalBytes)}`;
    const rate = this.#rate.bytesPerSecond;
    const left = totalBytes === undefined ? "" : `  ETA ${duration((totalBytes - bytes) / rate)}`;
    const speed = Number.isFinite(rate) ? `  ${(rate / 1e6).toFixed(1)} MB/s${left}` : "";
    const text = `  ${megabytes(bytes)}${all}${speed}`;
    const room = Math.min(30, width - label.length - text.length - 2);
    const drawn = totalBytes === undefined ? "" : bar(bytes / totalBytes, room);
    return label + (drawn && ` ${drawn}`) + text;
  }

  /** Removes the line, so that others can follow. */
  end(): void {
    this.#live?.clear();
  }
}

const PHASES: Record<PreparationProgress["phase"], string> = {
  waiting: "another process prepares this data: waiting for it",
  words: "counting words",
  tokens: "encoding",
};

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 1e6).toLocaleString("en")} MB`;
}

/** Bytes a second over the last while. */
class ByteRate {
  static readonly #WINDOW_MS = 10_000;
  readonly #points: { at: number; bytes: number }[] = [];

  add(bytes: number): void {
    const at = performance.now();
    this.#points.push({ at, bytes });
    while (this.#points.length > 2 && at - this.#points[1]!.at > ByteRate.#WINDOW_MS) this.#points.shift();
  }

  /** NaN before two points are known */
  get bytesPerSecond(): number {
    const [first, last] = [this.#points[0], this.#points.at(-1)];
    if (!first || !last || last.at === first.at) return NaN;
    return 1000 * (last.bytes - first.bytes) / (last.at - first.at);
  }
}
