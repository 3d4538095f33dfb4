/** What the program shows a person: errors, one live line, the loss curve. All of it on stderr. */
import { stripVTControlCharacters, styleText } from "node:util";
import asciichart from "npm:asciichart@1.5.25";
import { MicrogptError } from "../model/errors.ts";

const encoder = new TextEncoder();

/** True when stderr is a terminal that a live line may be drawn on. */
export function isTerminal(): boolean {
  return Deno.stderr.isTerminal();
}

/** Text in a style, where the terminal shows colours and NO_COLOR does not forbid them. */
export function styled(style: "bold" | "dim" | "red" | "green" | "yellow" | "cyan", text: string): string {
  return isTerminal() && !Deno.noColor ? styleText(style, text, { validateStream: false }) : text;
}

/** Writes a line to stderr. */
export function say(line = ""): void {
  writeAll(Deno.stderr, line + "\n");
}

/** Writes a line to stdout. A reader who left (`microgpt generate | head -1`) ends the program quietly. */
export function print(line: string): void {
  writeOut(line + "\n");
}

/** Writes to stdout without a line's end. */
export function writeOut(text: string): void {
  try {
    writeAll(Deno.stdout, text);
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) Deno.exit(0);
    throw error;
  }
}

function writeAll(stream: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = encoder.encode(text);
  for (let done = 0; done < bytes.length;) done += stream.writeSync(bytes.subarray(done));
}

/** Generated text without what a terminal would take as a command. */
export function harmless(text: string): string {
  // deno-lint-ignore no-control-regex
  return stripVTControlCharacters(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "");
}

/** A notice; those that begin with "warning:" stand out. */
export function sayNotice(message: string): void {
  say(message.startsWith("warning") ? styled("yellow", message) : message);
}

/**
 * Prints an error as a person should see it.
 * @returns the exit code
 */
export function printError(error: unknown): number {
  const debug = Deno.permissions.querySync({ name: "env", variable: "MICROGPT_DEBUG" }).state === "granted" &&
    Deno.env.get("MICROGPT_DEBUG") === "1";
  if (debug) console.error(error);
  if (error instanceof MicrogptError) {
    say(`${styled("red", "error:")} ${oneLine(error.message)}`);
    if (error.hint) say(`${styled("cyan", "hint:")} ${oneLine(error.hint)}`);
    return error.usage ? 2 : 1;
  }
  say(`${styled("red", "error:")} ${oneLine(error instanceof Error ? error.message : String(error))}`);
  say(
    `${
      styled("cyan", "hint:")
    } this looks like a defect of microgpt; MICROGPT_DEBUG=1 shows where it happened`,
  );
  return 1;
}

function oneLine(text: string): string {
  return harmless(text.replace(/\s*\n\s*/g, " "));
}

/** One line of stderr that is drawn again and again. */
export class LiveLine {
  #shown = false;
  #last = 0;

  /** Draws the line, at most 15 times a second. */
  update(text: string): void {
    const now = performance.now();
    if (now - this.#last < 66) return;
    this.#last = now;
    this.#shown = true;
    writeAll(Deno.stderr, `\r\x1b[K${text.slice(0, columns() - 1)}`);
  }

  /** Removes it, so that ordinary lines can follow. */
  clear(): void {
    if (this.#shown) writeAll(Deno.stderr, "\r\x1b[K");
    this.#shown = false;
    this.#last = 0;
  }
}

/** Width of the terminal. */
export function columns(): number {
  try {
    return Deno.consoleSize().columns;
  } catch {
    return 80; // not a terminal
  }
}

/** A bar of `width` characters, filled to `fraction`. */
export function bar(fraction: number, width: number): string {
  const filled = Math.round(Math.min(Math.max(fraction, 0), 1) * width);
  return "━".repeat(filled) + "─".repeat(width - filled);
}

/** 75 as "1m 15s". */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const s = Math.round(seconds);
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${s % 60}s`;
  return `${Math.floor(s / 3600)}h ${Math.floor(s % 3600 / 60)}m`;
}

/** A point of a curve. */
export interface CurvePoint {
  step: number;
  loss: number;
}

/** The loss curve as lines of text: training loss averaged over each column, and the held-out loss where it was measured. */
export function lossCurve(training: CurvePoint[], validation: CurvePoint[]): string[] {
  const finite = training.filter(({ loss }) => Number.isFinite(loss));
  if (finite.length < 2) return [];
  const first = finite[0]!.step;
  const last = finite.at(-1)!.step;
  const width = Math.min(columns() - 12, 72, finite.length);
  const column = (step: number) =>
    Math.min(width - 1, Math.floor((step - first) / (last - first + 1) * width));
  const sums = Array.from({ length: width }, () => ({ sum: 0, count: 0 }));
  for (const { step, loss } of finite) {
    const at = sums[column(step)]!;
    at.sum += loss;
    at.count++;
  }
  let previous = finite[0]!.loss;
  const curve = sums.map(({ sum, count }) => previous = count > 0 ? sum / count : previous);
  const held: number[] = new Array(width).fill(NaN);
  for (const { step, loss } of validation) {
    if (step >= first && Number.isFinite(loss)) held[column(step)] = loss;
  }
  const series = validation.length > 0 ? [curve, filled(held)] : [curve];
  const colors = Deno.noColor || !isTerminal() ? {} : { colors: [asciichart.blue, asciichart.yellow] };
  const chart = asciichart.plot(series, { height: 10, ...colors });
  const legend = validation.length > 0 ? "loss (blue: training, yellow: held out)" : "loss";
  const title = isTerminal() && !Deno.noColor ? legend : legend.replace(/ \(.*/, ", training and held out");
  return [title, ...chart.split("\n"), `         step ${first} … ${last}`];
}

/** Straight lines between the values that are there; asciichart leaves NaN out. */
function filled(values: number[]): number[] {
  const known = values.flatMap((value, i) => Number.isNaN(value) ? [] : [i]);
  return values.map((value, i) => {
    if (!Number.isNaN(value)) return value;
    const right = known.find((k) => k > i);
    const left = known.findLast((k) => k < i);
    if (right === undefined || left === undefined) return NaN;
    return values[left]! + (values[right]! - values[left]!) * (i - left) / (right - left);
  });
}
