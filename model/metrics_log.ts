import { join } from "node:path";
import { MicrogptError } from "./errors.ts";
import { forEachChunk } from "./file_digest.ts";
import { fileError, openIfThere } from "./model_dir.ts";

/** A training step in `metrics.jsonl`. */
export interface StepMetrics {
  /** counts from 1 */
  step: number;
  loss: number;
  lr: number;
  grad_norm: number;
  /** tokens trained on in this step */
  tokens: number;
  /** milliseconds */
  ms: number;
}

/** An evaluation in `metrics.jsonl`. */
export interface EvaluationMetrics {
  step: number;
  val_loss: number;
  val_bits_per_byte: number;
}

/** The log as it stood at one instant: the first `bytes` of `path`. */
export interface MetricsSnapshot {
  path: string;
  bytes: number;
}

/** The log of a run that goes on. It becomes `metrics.jsonl` with each checkpoint, and follows no other file. */
const WORKING_NAME = "metrics.jsonl.part";

/** No line of ours is near this long; a longer one is no line of a metrics file. */
const MAX_LINE_BYTES = 64 << 10;

/**
 * Writes the metrics of a run as it goes to DIR/metrics.jsonl.part. `metrics.jsonl` itself belongs to the checkpoint:
 * each save copies what stood here at its step, so the two never disagree.
 */
export class MetricsLog {
  readonly #file: Deno.FsFile;
  readonly #path: string;
  #bytes = 0;
  #lastEvaluation: number | undefined;

  private constructor(file: Deno.FsFile, path: string) {
    this.#file = file;
    this.#path = path;
  }

  /**
   * Starts the log of a run.
   * @param dir the directory the run writes to, which exists
   * @param resumed the checkpoint the run goes on from: its lines up to that step come first
   * @throws {MicrogptError} when the file cannot be written or the old one not be read
   */
  static async open(dir: string, resumed?: { dir: string; step: number }): Promise<MetricsLog> {
    const path = join(dir, WORKING_NAME);
    let file: Deno.FsFile | undefined;
    try {
      file = await Deno.open(path, { write: true, create: true, truncate: true });
      const log = new MetricsLog(file, path);
      if (resumed) await log.#copyUpTo(resumed.dir, resumed.step);
      return log;
    } catch (error) {
      file?.close();
      throw fileError(`cannot write ${path}`, error);
    }
  }

  /** Step of the last evaluation among the lines that a resumed run found; undefined when there is none. */
  get lastEvaluation(): number | undefined {
    return this.#lastEvaluation;
  }

  /** Adds a line. A loss that is not finite becomes null, as JSON has it. */
  append(metrics: StepMetrics | EvaluationMetrics): void {
    this.#write(JSON.stringify(metrics) + "\n");
  }

  /** The log as it stands now, for a checkpoint. */
  snapshot(): MetricsSnapshot {
    return { path: this.#path, bytes: this.#bytes };
  }

  /** Ends the log; the last checkpoint keeps its lines. */
  async close(): Promise<void> {
    this.#file.close();
    await Deno.remove(this.#path);
  }

  #write(text: string): void {
    const bytes = new TextEncoder().encode(text);
    try {
      for (let done = 0; done < bytes.length;) done += this.#file.writeSync(bytes.subarray(done));
    } catch (error) {
      throw fileError(`cannot write ${this.#path}`, error);
    }
    this.#bytes += bytes.length;
  }

  /** Copies the lines of a checkpoint's metrics up to a step; the Rust program may have logged beyond it. */
  async #copyUpTo(dir: string, lastStep: number): Promise<void> {
    using source = await openIfThere(dir, "metrics.jsonl");
    if (!source) return;
    const decoder = new TextDecoder();
    let rest = "";
    let number = 0;
    await forEachChunk(source, (chunk) => {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop()!;
      const kept = lines.filter((line) => {
        const step = stepOf(line, join(dir, "metrics.jsonl"), ++number);
        if (step <= lastStep && line.includes('"val_loss"')) this.#lastEvaluation = step;
        return step <= lastStep;
      });
      if (rest.length > MAX_LINE_BYTES) throw badLine(join(dir, "metrics.jsonl"), number + 1);
      if (kept.length > 0) this.#write(kept.join("\n") + "\n");
    });
    // what follows the last line feed is a line that a crash cut off
  }
}

function badLine(path: string, number: number): MicrogptError {
  return new MicrogptError(`${path}: line ${number} is no JSON object with a step`, {
    hint: "remove the line, or the file: it is only a record",
  });
}

/** The step of a line; an empty line has none and counts as too late. */
function stepOf(line: string, path: string, number: number): number {
  if (line.trim() === "") return Infinity;
  try {
    const { step } = JSON.parse(line);
    if (typeof step === "number") return step;
  } catch {
    // reported below, with the line's number
  }
  throw badLine(path, number);
}
