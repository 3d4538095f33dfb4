const ONE_BYTE = new Uint8Array(1);

/**
 * Gives the event loop its turns during a long computation, so that signals, input and timers get through.
 *
 * Deno's `setImmediate` goes on without looking for signals and input: Ctrl-C then takes up to a second. A `setTimeout` of 0 looks,
 * and takes 2 ms. A promise that another thread settles looks too, within 0.2 ms, and a digest is the smallest of these.
 */
export class EventLoopTurns {
  #last = performance.now();

  /** @param every milliseconds from turn to turn */
  constructor(readonly every: number) {}

  /** The last turn was long enough ago. */
  get due(): boolean {
    return performance.now() - this.#last > this.every;
  }

  /** Lets the event loop go round once. */
  async take(): Promise<void> {
    await crypto.subtle.digest("SHA-256", ONE_BYTE);
    this.#last = performance.now();
  }
}
