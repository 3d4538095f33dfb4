/** How far a training run is: a live line in a terminal, plain lines in a file. */
import type { StepEvent } from "../mod.ts";
import { bar, columns, duration, type LiveLine, say } from "./terminal.ts";

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
