/** How a long computation shares its thread: breathers for the event loop, and how much is queued before a wait. */

const ONE_BYTE = new Uint8Array(1);

/**
 * Interrupts a long computation now and then, so that the event loop gets to signals, input and timers.
 *
 * Deno's `setImmediate` resumes without looking for signals and input: Ctrl-C then takes up to a second. A `setTimeout`
 * of 0 looks, and takes 2 ms. A promise settled by another thread looks too, within 0.2 ms, and a digest is the
 * smallest of these.
 */
export class Breather {
  #last = performance.now();

  /** @param every milliseconds from one breather to the next */
  constructor(readonly every: number) {}

  /** Whether the last breather was long enough ago. */
  get due(): boolean {
    return performance.now() - this.#last > this.every;
  }

  /** Lets the event loop go round once. */
  async take(): Promise<void> {
    await crypto.subtle.digest("SHA-256", ONE_BYTE);
    this.#last = performance.now();
  }
}

/**
 * How long a window should take: the steps that are queued together and then read together. The read blocks the
 * thread until the device is done, so the terminal, Ctrl-C and checkpoints wait for it: a window must not be long. Nor
 * must it be short, because the device idles for a moment between two windows.
 */
const WINDOW_MS = 100;

/**
 * Steps of the next window.
 * @param last steps planned for the last one; the next gets at most twice as many, so that no single measurement makes
 * a long one
 * @param milliseconds a step of the last window took
 * @param most what the device allows
 */
export function nextWindowSteps(last: number, milliseconds: number, most: number): number {
  return Math.max(1, Math.min(2 * last, most, Math.round(WINDOW_MS / milliseconds)));
}
