/** What the parts of the page have in common beside what the server's page has too. */
import { tell } from "./shared/page.js";

/**
 * Runs what a button does; what goes wrong is said on the page.
 * @param {() => unknown} action @param {HTMLButtonElement[]} buttons that wait meanwhile
 */
export async function attempt(action, ...buttons) {
  for (const button of buttons) button.disabled = true;
  try {
    await action();
  } catch (error) {
    tell(error);
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

/** An error for the person. @param {string} message @param {string} hint */
export function problem(message, hint) {
  return Object.assign(new Error(message), { hint });
}

/** @param {number} bytes */
export function sizeOf(bytes) {
  if (bytes < 1e6) return `${Math.ceil(bytes / 1e3)} KB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}
