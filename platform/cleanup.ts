/** What is to be done when a function ends, last things first: a `DisposableStack`, which Safari does not have. */
export class Cleanup implements Disposable {
  #callbacks: (() => void)[] = [];

  /** Does something at the end. */
  defer(callback: () => void): void {
    this.#callbacks.push(callback);
  }

  /** Does nothing at the end. */
  cancel(): void {
    this.#callbacks = [];
  }

  /** Does what was deferred. */
  [Symbol.dispose](): void {
    for (const callback of this.#callbacks.splice(0).reverse()) callback();
  }
}
