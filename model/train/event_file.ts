/**
 * Metrics as TensorBoard reads them: an event file of records, each a protobuf message `Event` between its length and
 * checksums (TensorFlow's `record_writer.h` and `event.proto`; a few numbers a message, written here by hand).
 */
import { type FileHandle, files, isFileError } from "../../platform/files.ts";
import { join } from "../../platform/paths.ts";
import { fileError, isSystemError } from "../files/directory.ts";
import type { EvaluationEvent, StepEvent } from "./trainer.ts";

/** Where the event files of a run are, in its directory. A run that goes on adds one; none is ever removed. */
export const EVENTS_DIR = "tensorboard";

/** The Castagnoli polynomial, bits reversed, as a table of bytes. */
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C (RFC 3720). */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255]! ^ (crc >>> 8);
  return (crc ^ 0xffff_ffff) >>> 0;
}

/** A checksum as records have it: of data that may hold checksums itself. */
export function maskedCrc(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** A record: u64 length, its checksum, the data, their checksum; all little-endian. */
function record(data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(data.length + 16);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length, true);
  view.setUint32(8, maskedCrc(bytes.subarray(0, 8)), true);
  bytes.set(data, 12);
  view.setUint32(12 + data.length, maskedCrc(data), true);
  return bytes;
}

/** A number in bits of seven, the lowest first. */
function varint(value: number): number[] {
  const bytes: number[] = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push(value % 128 + 128);
  return [...bytes, value];
}

/** A field of protobuf that is a number in a fixed width. */
function fixed(id: number, value: number, width: 4 | 8): number[] {
  const view = new DataView(new ArrayBuffer(width));
  if (width === 8) view.setFloat64(0, value, true);
  else view.setFloat32(0, value, true);
  return [id * 8 + (width === 8 ? 1 : 5), ...new Uint8Array(view.buffer)];
}

/** A field of protobuf that is text or another message. */
function block(id: number, content: readonly number[] | string): number[] {
  const bytes = typeof content === "string" ? [...new TextEncoder().encode(content)] : content;
  return [id * 8 + 2, ...varint(bytes.length), ...bytes];
}

/** `Event`: wall time in seconds, step, and either the version of the format or a `Summary` of named values. */
function event(seconds: number, step: number, content: string | Record<string, number>): Uint8Array {
  const rest = typeof content === "string" ? block(3, content) : block(
    5,
    Object.entries(content).flatMap(([tag, value]) => block(1, [...block(1, tag), ...fixed(2, value, 4)])),
  );
  return Uint8Array.from([...fixed(1, seconds, 8), 2 * 8, ...varint(step), ...rest]);
}

/** What an event of training has for TensorBoard, by its names there. */
function valuesOf(event: StepEvent | EvaluationEvent): Record<string, number> {
  if (event.type === "evaluation") {
    return { "loss/held out": event.loss, "bits per byte/held out": event.bitsPerByte };
  }
  return {
    "loss/training": event.loss,
    "learning rate": event.learningRate,
    "gradient norm": event.gradNorm,
    "tokens per second": 1000 * event.tokens / event.milliseconds,
  };
}

/** The event file of a run, written as it goes. */
export class EventFile {
  readonly #file: FileHandle;
  readonly #path: string;
  #failed = false;

  private constructor(file: FileHandle, path: string) {
    this.#file = file;
    this.#path = path;
  }

  /**
   * Begins a file in DIR/tensorboard.
   * @param dir the run's directory
   * @throws {MicrogptError} when it cannot be written
   */
  static async open(dir: string): Promise<EventFile> {
    const folder = join(dir, EVENTS_DIR);
    const seconds = Date.now() / 1000;
    try {
      await files.mkdir(folder, { recursive: true });
      for (let n = Math.floor(seconds);; n++) {
        const path = join(folder, `events.out.tfevents.${n}.microgpt`);
        const file = await createNew(path);
        if (!file) continue; // another run began in this second
        const events = new EventFile(file, path);
        events.#write(event(seconds, 0, "brain.Event:2"));
        return events;
      }
    } catch (error) {
      throw fileError(`cannot write to ${folder}`, error);
    }
  }

  /**
   * Adds what an event of training says.
   * @returns what a person should know: the run does not end for a log that cannot be written
   */
  append(of: StepEvent | EvaluationEvent): string | undefined {
    if (this.#failed) return undefined;
    try {
      this.#write(event(Date.now() / 1000, of.step, valuesOf(of)));
      return undefined;
    } catch (error) {
      if (!isSystemError(error)) throw error;
      this.#failed = true;
      const { message } = fileError(`cannot write ${this.#path}`, error) as Error;
      return `warning: ${message}; training goes on without it, metrics.jsonl has everything`;
    }
  }

  #write(data: Uint8Array): void {
    const bytes = record(data);
    for (let done = 0; done < bytes.length;) done += this.#file.writeSync(bytes.subarray(done));
  }

  /** Ends the file. */
  close(): void {
    this.#file.close();
  }
}

async function createNew(path: string): Promise<FileHandle | undefined> {
  try {
    return await files.open(path, { write: true, createNew: true });
  } catch (error) {
    if (isFileError(error, "AlreadyExists")) return undefined;
    throw error;
  }
}
