/** What the program shows a person: errors, one live line, the loss curve. All of it on stderr. */
import { styleText } from "node:util";
import { MicrogptError } from "../mod.ts";
import { inFlags } from "./flags.ts";
import { harmlessLine } from "./harmless.ts";

const encoder = new TextEncoder();

/** TERM=dumb: the terminal takes no commands, neither colours nor "clear this line". */
const DUMB = mayRead("TERM") && Deno.env.get("TERM") === "dumb";

function mayRead(variable: string): boolean {
  return Deno.permissions.querySync({ name: "env", variable }).state === "granted";
}

/** True when stderr, or another stream, is a terminal that a live line may be drawn on. */
export function isTerminal(stream: { isTerminal(): boolean } = Deno.stderr): boolean {
  return !DUMB && stream.isTerminal();
}

/** Text in a style, where the terminal that it goes to shows colours and NO_COLOR does not forbid them. */
export function styled(
  style: "bold" | "dim" | "red" | "green" | "yellow" | "cyan",
  text: string,
  stream: { isTerminal(): boolean } = Deno.stderr,
): string {
  return isTerminal(stream) && !Deno.noColor ? styleText(style, text, { validateStream: false }) : text;
}

/** Nobody reads stderr any more (`2>&1 | head`, a closed terminal), or its disk is full: no reason to lose a run. */
let unread = false;

/** Writes a line to stderr; once its reader has left, nothing. */
export function say(line = ""): void {
  writeErr(line + "\n");
}

function writeErr(text: string): void {
  if (unread) return;
  try {
    writeAll(Deno.stderr, text);
  } catch (error) {
    if (!isGone(error) && !isFull(error)) throw error;
    unread = true;
  }
}

/** The pipe has no reader, or the terminal is gone. */
function isGone(error: unknown): boolean {
  return error instanceof Deno.errors.BrokenPipe || (error as { code?: string }).code === "EIO";
}

function isFull(error: unknown): boolean {
  return (error as { code?: string }).code === "ENOSPC";
}

/** Writes a line to stdout. A reader who left (`microgpt generate | head -1`) ends the program quietly. */
export function print(line: string): void {
  writeOut(line + "\n");
}

/** Writes a value to stdout as one line of JSON. */
export function printJson(value: unknown): void {
  print(jsonLine(value));
}

/** JSON, with its other spelling for the control characters that it would leave for a terminal to obey. */
export function jsonLine(value: unknown): string {
  const escaped = (c: string) => `\\u00${c.charCodeAt(0).toString(16)}`;
  return JSON.stringify(value).replace(/[\u007f-\u009f]/g, escaped);
}

/** Writes to stdout without a line's end. @throws {MicrogptError} when its disk is full */
export function writeOut(text: string): void {
  try {
    writeAll(Deno.stdout, text);
  } catch (error) {
    if (isGone(error)) Deno.exit(0);
    if (isFull(error)) {
      throw new MicrogptError("cannot write to standard output: no space left", { cause: error });
    }
    throw error;
  }
}

function writeAll(stream: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = encoder.encode(text);
  for (let done = 0; done < bytes.length;) done += stream.writeSync(bytes.subarray(done));
}

/** A notice, which may quote a file; those that begin with "warning:" stand out. */
export function sayNotice(message: string): void {
  const line = harmlessLine(inFlags(message));
  say(line.startsWith("warning") ? styled("yellow", line) : line);
}

/** What a person should know about the device that is used. */
export function sayWarnings({ warnings }: { warnings: readonly string[] }): void {
  for (const warning of warnings) sayNotice(`warning: ${warning}`);
}

/**
 * Prints an error as a person should see it.
 * @returns the exit code
 */
export function printError(error: unknown): number {
  const debug = mayRead("MICROGPT_DEBUG") && Deno.env.get("MICROGPT_DEBUG") === "1";
  if (debug) console.error(error);
  if (error instanceof MicrogptError) {
    say(`${styled("red", "error:")} ${harmlessLine(inFlags(error.message))}`);
    if (error.hint) say(`${styled("cyan", "hint:")} ${harmlessLine(inFlags(error.hint))}`);
    return error.usage ? 2 : 1;
  }
  say(`${styled("red", "error:")} ${harmlessLine(error instanceof Error ? error.message : String(error))}`);
  say(
    `${
      styled("cyan", "hint:")
    } this looks like a defect of microgpt; MICROGPT_DEBUG=1 shows where it happened`,
  );
  return 1;
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
    writeErr(`\r\x1b[K${text.slice(0, columns() - 1)}`);
  }

  /** Removes it, so that ordinary lines can follow. */
  clear(): void {
    if (this.#shown) writeErr("\r\x1b[K");
    this.#shown = false;
    this.#last = 0;
  }
}

const SHORTEST_BAR = 5;

/** Width of the terminal; 80 where there is none, or one that does not say. */
export function columns(): number {
  return isTerminal() && Deno.consoleSize().columns || 80;
}

/** A bar of `width` characters, filled to `fraction`; nothing where there is no room for one. */
export function bar(fraction: number, width: number): string {
  if (width < SHORTEST_BAR) return "";
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

const CURVE_ROWS = 10;
/** Beside the curve: its labels and the axis. */
const CURVE_MARGIN = 12;
const NARROWEST_CURVE = 8;

/**
 * The loss curve as lines of text: the training loss, averaged over each column, and the held-out loss where it was
 * measured. None where the terminal is too narrow.
 */
export function lossCurve(training: CurvePoint[], validation: CurvePoint[]): string[] {
  const points = training.filter(({ loss }) => Number.isFinite(loss));
  if (points.length < 2) return [];
  const first = points[0]!.step;
  const span = points.at(-1)!.step - first + 1;
  const room = columns() - CURVE_MARGIN;
  if (room < NARROWEST_CURVE) return [];
  const width = Math.min(room, 72, points.length);
  const column = (step: number) => Math.min(width - 1, Math.floor((step - first) / span * width));
  const curve = columnMeans(points, width, column);
  const held = validation.filter(({ step, loss }) => step >= first && Number.isFinite(loss));
  // there may be more evaluations than a call may have arguments
  const all = [...curve, ...held.map(({ loss }) => loss)];
  const [min, max] = [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))];
  const row = (loss: number) => Math.round((max - loss) / (max - min || 1) * (CURVE_ROWS - 1));

  const grid = Array.from({ length: CURVE_ROWS }, () => new Array<string>(width).fill(" "));
  curve.forEach((loss, x) => {
    const [from, to] = [row(curve[x - 1] ?? loss), row(loss)];
    for (let y = Math.min(from, to) + 1; y < Math.max(from, to); y++) grid[y]![x] = "│";
    grid[to]![x] = "─";
    if (from !== to) grid[from]![x] = from < to ? "╮" : "╯";
    if (from !== to) grid[to]![x] = from < to ? "╰" : "╭";
  });
  for (const { step, loss } of held) grid[row(loss)]![column(step)] = styled("yellow", "●");
  const label = (y: number) => (max - y * (max - min) / (CURVE_ROWS - 1)).toFixed(2).padStart(7);
  return [
    `loss: ─ training${held.length > 0 ? `, ${styled("yellow", "●")} held out` : ""}`,
    ...grid.map((cells, y) => `${label(y)} ┤${cells.join("")}`),
    `${" ".repeat(8)}└${"─".repeat(width)}`,
    `${" ".repeat(9)}${first}${` ${first + span - 1}`.padStart(width - String(first).length)}`,
  ];
}

/** The mean loss of each column's steps; a column without steps repeats the one before. */
function columnMeans(points: CurvePoint[], width: number, column: (step: number) => number): number[] {
  const sums = Array.from({ length: width }, () => ({ sum: 0, count: 0 }));
  for (const { step, loss } of points) {
    const at = sums[column(step)]!;
    at.sum += loss;
    at.count++;
  }
  let mean = points[0]!.loss;
  return sums.map(({ sum, count }) => mean = count > 0 ? sum / count : mean);
}
