/** What a {@link MicrogptError} may carry besides its message. */
export interface MicrogptErrorOptions {
  /** What the person can do about it, one line. */
  hint?: string;
  /** True when the command line or an option is wrong: the program then exits with 2 instead of 1. */
  usage?: boolean;
  /** The error that led to this one. */
  cause?: unknown;
}

/** The error for any use of any device after `destroy`. */
export function deviceClosed(): MicrogptError {
  return new MicrogptError("the device is closed", {
    hint: "nothing can be computed after destroy() or close(): open a device, or load the model, again",
  });
}

/**
 * An error meant for the person who runs the program: one line that says what is wrong and where, and a hint.
 * Mistakes of the calling program are plain exceptions instead.
 */
export class MicrogptError extends Error {
  /** "MicrogptError" */
  override readonly name: string = "MicrogptError";
  /** What the person can do about it, if anything. */
  readonly hint: string | undefined;
  /** True when the command line or an option is wrong. */
  readonly usage: boolean;

  /**
   * Makes an error.
   * @param message what is wrong and where, one line
   * @param options hint, usage, cause
   */
  constructor(message: string, options: MicrogptErrorOptions = {}) {
    super(message, "cause" in options ? { cause: options.cause } : undefined);
    this.hint = options.hint;
    this.usage = options.usage ?? false;
  }
}
