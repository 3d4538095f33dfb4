/**
 * Draws a run's losses as an SVG from its metrics:
 *
 *   deno task picture names-model > docs/training.svg
 */
import { join } from "node:path";
import type { EvaluationMetrics, StepMetrics } from "../model/files/metrics_log.ts";
import { MicrogptError } from "../device/errors.ts";

/** A loss at a step. */
interface Point {
  step: number;
  loss: number;
}

/** The losses of a run. */
export interface Losses {
  training: Point[];
  /** held out */
  validation: Point[];
}

const WIDTH = 760;
const HEIGHT = 380;
/** Of the area in which the curves are. */
const LEFT = 56, RIGHT = WIDTH - 20, TOP = 46, BOTTOM = HEIGHT - 44;
/** How many parts of the run the training loss is averaged over. */
const PARTS = 240;

/**
 * Reads `metrics.jsonl`.
 * @throws {MicrogptError} when a line is no metrics, or there are fewer than two steps
 */
export function parseMetrics(text: string): Losses {
  const training: Point[] = [];
  const validation: Point[] = [];
  text.split("\n").forEach((line, i) => {
    if (line === "") return;
    let entry: Partial<StepMetrics & EvaluationMetrics>;
    try {
      entry = JSON.parse(line);
    } catch (cause) {
      throw new MicrogptError(`metrics.jsonl, line ${i + 1}: not JSON`, { cause });
    }
    const { step, loss, val_loss } = entry;
    if (!Number.isInteger(step)) throw new MicrogptError(`metrics.jsonl, line ${i + 1}: no step`);
    if (Number.isFinite(loss)) training.push({ step: step!, loss: loss! });
    if (Number.isFinite(val_loss)) validation.push({ step: step!, loss: val_loss! });
  });
  if (training.length < 2) throw new MicrogptError("metrics.jsonl has fewer than two steps");
  return { training, validation };
}

/**
 * The picture: training loss as a line, held-out loss as dots on a line, in light and dark.
 * @param title the heading
 */
export function trainingPicture({ training, validation }: Losses, title: string): string {
  const curve = averaged(training);
  const losses = [...curve, ...validation].map(({ loss }) => loss);
  const lowest = losses.reduce((a, b) => Math.min(a, b));
  const highest = losses.reduce((a, b) => Math.max(a, b));
  const yTicks = ticks(lowest, highest, 6);
  const last = training.at(-1)!.step;
  const xTicks = ticks(0, last, 6).filter((step) => step <= last);
  const [low, high] = [yTicks[0]!, yTicks.at(-1)!];
  const x = (step: number) => LEFT + step / last * (RIGHT - LEFT);
  const y = (loss: number) => BOTTOM - (loss - low) / (high - low) * (BOTTOM - TOP);
  const line = (points: Point[]) =>
    points.map((p) => `${x(p.step).toFixed(1)},${y(p.loss).toFixed(1)}`).join(" ");
  const text = (at: [number, number], anchor: string, content: string, kind = "") =>
    `<text x="${at[0].toFixed(1)}" y="${at[1].toFixed(1)}" text-anchor="${anchor}"${
      kind && ` class="${kind}"`
    }>${escaped(content)}</text>`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img">`,
    `<title>${escaped(title)}</title>`,
    STYLE,
    `<rect class="page" width="${WIDTH}" height="${HEIGHT}" rx="8"/>`,
    text([LEFT, 26], "start", title, "title"),
    ...yTicks.flatMap((loss) => [
      `<line class="grid" x1="${LEFT}" x2="${RIGHT}" y1="${y(loss).toFixed(1)}" y2="${y(loss).toFixed(1)}"/>`,
      text([LEFT - 8, y(loss) + 4], "end", loss.toFixed(1)),
    ]),
    ...xTicks.map((step) => text([x(step), BOTTOM + 18], "middle", step.toLocaleString("en"))),
    text([(LEFT + RIGHT) / 2, HEIGHT - 8], "middle", "step"),
    `<polyline class="training" points="${line(curve)}"/>`,
    `<polyline class="held" points="${line(validation)}"/>`,
    ...validation.map((p) =>
      `<circle class="dot" cx="${x(p.step).toFixed(1)}" cy="${y(p.loss).toFixed(1)}" r="3"/>`
    ),
    ...legend(validation.at(-1)),
    "</svg>\n",
  ].join("\n");
}

function legend(last: Point | undefined): string[] {
  const entry = (row: number, kind: string, label: string) => {
    const at = TOP + 14 + 20 * row;
    return `<line class="${kind}" x1="${RIGHT - 222}" x2="${RIGHT - 194}" y1="${at - 4}" y2="${at - 4}"/>` +
      `<text x="${RIGHT - 186}" y="${at}">${label}</text>`;
  };
  const training = entry(0, "training", "training, nats per token");
  return last ? [training, entry(1, "held", `held out, ${last.loss.toFixed(3)} at the end`)] : [training];
}

const STYLE = `<style>
.page { fill: #ffffff } .grid { stroke: #d8dee4 }
text { font: 12px system-ui, sans-serif; fill: #57606a } .title { font-size: 15px; fill: #1f2328 }
polyline, line.training, line.held { fill: none; stroke-width: 2; stroke-linejoin: round }
.training { stroke: #0969da } .held { stroke: #bc4c00 } .dot { fill: #bc4c00 }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117 } .grid { stroke: #30363d } text { fill: #9198a1 } .title { fill: #f0f6fc }
  .training { stroke: #4493f8 } .held { stroke: #f0883e } .dot { fill: #f0883e }
}
</style>`;

/** The mean loss of each part of the run. */
function averaged(points: Point[]): Point[] {
  const parts = Math.min(PARTS, points.length);
  return Array.from({ length: parts }, (_, i) => {
    const part = points.slice(
      Math.floor(i * points.length / parts),
      Math.floor((i + 1) * points.length / parts),
    );
    const mean = (of: (point: Point) => number) => part.reduce((sum, p) => sum + of(p), 0) / part.length;
    return { step: mean((p) => p.step), loss: mean((p) => p.loss) };
  });
}

/** Round numbers that cover a range, about \`count\` of them, 1, 2 or 5 times a power of ten apart. */
function ticks(low: number, high: number, count: number): number[] {
  const rough = Math.max(high - low, 1e-6) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= rough)!;
  const first = Math.floor(low / step);
  const last = Math.max(Math.ceil(high / step), first + 1);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}

if (import.meta.main) {
  const [directory, ...title] = Deno.args;
  if (directory === undefined) {
    console.error("usage: deno task picture DIR [TITLE]");
    Deno.exit(2);
  }
  const losses = parseMetrics(await Deno.readTextFile(join(directory, "metrics.jsonl")));
  const heading = title.join(" ") || `Training of ${directory}`;
  await Deno.stdout.write(new TextEncoder().encode(trainingPicture(losses, heading)));
}
