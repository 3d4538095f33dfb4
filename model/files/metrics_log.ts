import { type FileHandle, files } from "../../platform/files.ts";
import { join } from "../../platform/paths.ts";
import { MicrogptError } from "../../device/errors.ts";
import { forEachChunk } from "./digest.ts";
import { fileError, ifThere, isSameFile, isSystemError, openIfThere, WORKING_LOG } from "./directory.ts";

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

/** Samples in `metrics.jsonl`. */
export interface SamplesMetrics {
  step: number;
  samples: string[];
}

/** The log as it stood at one instant: the first `bytes` of `path`, then `rest`. */
export interface MetricsSnapshot {
  path: string;
  /** that file, open: read in place of the path, which leads elsewhere once the directory is moved or removed */
  file?: FileHandle;
  bytes: number;
  /** what could not be written there yet */
  rest?: Uint8Array;
}

/** No line of ours is near this long; a longer one is no line of a metrics file. */
const MAX_LINE_BYTES = 64 << 10;

/** Most that waits in memory while the disk is full, a hundred thousand lines; beyond that the oldest are dropped. */
const MAX_WAITING_BYTES = 16 << 20;

/**
 * Writes the metrics of a run as it goes to DIR/metrics.jsonl.part. `metrics.jsonl` itself belongs to the checkpoint:
 * each save copies what stood here at its step, so the two never disagree.
 */
export class MetricsLog {
  readonly #file: FileHandle;
  /** the same file with a position of its own, for saves that read it while lines are added */
  readonly #reader: FileHandle;
  readonly #path: string;
  /** written so far */
  #bytes = 0;
  /** lines that could not be written yet; the first may be the rest of one */
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  #droppedLines = 0;
  /** why lines wait */
  #failure: unknown;
  #notices: string[] = [];
  #lastEvaluation: number | undefined;

  private constructor(file: FileHandle, reader: FileHandle, path: string) {
    this.#file = file;
    this.#reader = reader;
    this.#path = path;
  }

  /**
   * Starts the log of a run.
   * @param dir the directory the run writes to, which exists
   * @param resumed the checkpoint the run goes on from: its lines up to that step come first
   * @throws {MicrogptError} when the file cannot be written or the old one not be read
   */
  static async open(dir: string, resumed?: { dir: string; step: number }): Promise<MetricsLog> {
    const path = join(dir, WORKING_LOG);
    let file: FileHandle | undefined;
    let reader: FileHandle | undefined;
    try {
      file = await files.open(path, { write: true, create: true, truncate: true });
      reader = await files.open(path);
      const log = new MetricsLog(file, reader, path);
      if (resumed) await log.#copyUpTo(resumed.dir, resumed.step);
      if (log.#failure !== undefined) throw log.#failure;
      return log;
    } catch (error) {
      file?.close();
      reader?.close();
      throw fileError(`cannot write ${path}`, error);
    }
  }

  /** Step of the last evaluation among the lines that a resumed run found; undefined when there is none. */
  get lastEvaluation(): number | undefined {
    return this.#lastEvaluation;
  }

  /**
   * Adds a line. A loss that is not finite becomes null, as JSON has it. A line that cannot be written, on a full disk,
   * waits in memory for the next that can: a run is not lost for that.
   */
  append(metrics: StepMetrics | EvaluationMetrics | SamplesMetrics): void {
    const failedBefore = this.#failure !== undefined;
    this.#write(JSON.stringify(metrics) + "\n");
    if (!failedBefore && this.#failure !== undefined) {
      const { message } = fileError(`cannot write ${this.#path}`, this.#failure) as Error;
      this.#notices.push(
        `warning: ${message}; training goes on, and lines wait in memory until there is room`,
      );
    } else if (failedBefore && this.#failure === undefined) {
      const lost = this.#droppedLines > 0 ? `, but for ${this.#droppedLines} lines` : "";
      this.#droppedLines = 0;
      this.#notices.push(`${this.#path} is written again: nothing is lost${lost}`);
    }
  }

  /** What a person should know since the last call. */
  takeNotices(): string[] {
    return this.#notices.splice(0);
  }

  /** The log as it stands now, for a checkpoint. */
  snapshot(): MetricsSnapshot {
    const snapshot = { path: this.#path, file: this.#reader, bytes: this.#bytes };
    if (this.#waiting.length === 0) return snapshot;
    const rest = new Uint8Array(this.#waitingBytes);
    let at = 0;
    for (const line of this.#waiting) {
      rest.set(line, at);
      at += line.length;
    }
    return { ...snapshot, rest };
  }

  /** Ends the log; the last checkpoint keeps its lines. @throws {MicrogptError} when the file cannot be removed */
  async close(): Promise<void> {
    const ours = await this.#file.stat();
    this.#file.close();
    this.#reader.close();
    try {
      const there = await ifThere(files.stat(this.#path));
      if (there && isSameFile(ours, there)) await files.remove(this.#path);
    } catch (error) {
      throw fileError(`cannot remove ${this.#path}`, error);
    }
  }

  /** Writes what waits, then `text`, as far as there is room. */
  #write(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    this.#failure = undefined;
    let done = 0;
    try {
      while (done < this.#waiting.length) {
        const next = this.#waiting[done]!;
        const written = this.#file.writeSync(next);
        this.#bytes += written;
        this.#waitingBytes -= written;
        if (written === next.length) done++;
        else this.#waiting[done] = next.subarray(written);
      }
    } catch (error) {
      if (!isSystemError(error)) throw error;
      this.#failure = error;
    }
    this.#waiting.splice(0, done);
    this.#dropOldest();
  }

  /** Keeps what waits within its bound. The first line stays: it may be half written. */
  #dropOldest(): void {
    while (this.#waitingBytes > MAX_WAITING_BYTES && this.#waiting.length > 1) {
      const [dropped] = this.#waiting.splice(1, 1);
      this.#waitingBytes -= dropped!.length;
      this.#droppedLines++;
    }
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
