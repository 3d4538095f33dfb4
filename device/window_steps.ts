/**
 * How many steps to queue before reading from a device where a read waits. The read blocks the thread until the device
 * is done, so the terminal, Ctrl-C and checkpoints wait for a window: of slow steps it must be short. Of fast steps it must
 * be long, because the device idles for a moment between two windows.
 */

/** A window takes about so long. */
const WINDOW_MS = 100;

/**
 * Steps of the next window.
 * @param last steps that were meant for the last one; the next gets twice as many at most, so that no single measurement
 * makes a long one
 * @param milliseconds a step of the last window took
 * @param most what the device allows
 */
export function nextWindowSteps(last: number, milliseconds: number, most: number): number {
  return Math.max(1, Math.min(2 * last, most, Math.round(WINDOW_MS / milliseconds)));
}
