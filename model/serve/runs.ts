/** Training runs to watch: what the files of their directories say while others write them. */
import { files, SEEK_START } from "../../platform/files.ts";
import { basename, join, resolve } from "../../platform/paths.ts";
import { ifThere, isSystemError, openIfThere, readTextIfThere, WORKING_LOG } from "../files/directory.ts";
import { isLocked } from "../files/lock.ts";
import { STATE_MAX_BYTES } from "../files/train_state.ts";

/** What one answer tells of a log, and of all logs. */
const PIECE_BYTES = 512 << 10;
const ANSWER_BYTES = 2 << 20;
/** Most runs of a folder. */
const MOST_RUNS = 100;

/** A run as the page lists it. */
export interface RunInfo {
  id: string;
  name: string;
  /** some process writes to it */
  running: boolean;
  /** when something was last written, in milliseconds since 1970 */
  changed: number;
  /** the step that it ends with, where a checkpoint says so */
  stepsTotal: number | null;
  /** what its log says since, where that was asked for */
  piece?: LogPiece;
}

/** Lines of a run's log. */
export interface LogPiece {
  /** they are the first ones: what was told before is of another log */
  reset: boolean;
  /** more is there already */
  more: boolean;
  /** where the next piece begins */
  cursor: string;
  metrics: unknown[];
}

/** Looks into directories for runs. */
export class Runs {
  /** @param places directories of runs, and folders of them */
  constructor(readonly places: readonly string[]) {}

  /**
   * All runs that are there now, with what some of them have logged since.
   * @param since where a run's log was read to, by id: the cursor of the piece before; "" begins
   */
  async list(since: ReadonlyMap<string, string> = new Map()): Promise<RunInfo[]> {
    const found = await Promise.all(
      [...await this.#find()].map(async ([id, dir]) => ({ info: await describe(id, dir), dir })),
    );
    let left = ANSWER_BYTES;
    for (const { info, dir } of found) {
      const cursor = since.get(info.id);
      if (cursor === undefined) continue;
      const { bytes, ...piece } = await readPiece(dir, cursor, Math.min(PIECE_BYTES, left));
      left -= bytes;
      info.piece = piece;
    }
    return found.map(({ info }) => info);
  }

  /** The directories of runs by their ids, which are their names where those differ. */
  async #find(): Promise<Map<string, string>> {
    const found = new Map<string, string>();
    const add = (dir: string) => {
      const name = basename(resolve(dir));
      let id = name;
      for (let n = 2; found.has(id); n++) id = `${name} (${n})`;
      found.set(id, dir);
    };
    for (const place of this.places) {
      if (await isRun(place)) add(place);
      for (const name of await folders(place)) {
        if (found.size < MOST_RUNS && await isRun(join(place, name))) add(join(place, name));
      }
    }
    return found;
  }
}

async function isRun(dir: string): Promise<boolean> {
  return await lastChange(dir) !== undefined;
}

/** When the log last grew; undefined where there is none. */
async function lastChange(dir: string): Promise<number | undefined> {
  for (const name of [WORKING_LOG, "metrics.jsonl"]) {
    const info = await quiet(files.stat(join(dir, name)));
    if (info?.isFile) return info.mtime?.getTime() ?? 0;
  }
  return undefined;
}

/** The folders in a directory that may be runs, by name. */
async function folders(dir: string): Promise<string[]> {
  const entries = await quiet(Array.fromAsync(files.readDir(dir))) ?? [];
  return entries.filter(({ name, isFile }) => !isFile && !name.startsWith(".")).map(({ name }) => name)
    .sort();
}

/** What comes of looking at a file that others may be moving, and that we may not be allowed to see. */
async function quiet<T>(look: Promise<T>): Promise<T | undefined> {
  try {
    return await ifThere(look);
  } catch (error) {
    if (isSystemError(error)) return undefined;
    throw error;
  }
}

async function describe(id: string, dir: string): Promise<RunInfo> {
  const isOpen = await quiet(files.stat(join(dir, WORKING_LOG))) !== undefined;
  return {
    id,
    name: id,
    // where we may not look there is somebody else's
    running: isOpen && (await quiet(isLocked(dir)) ?? true),
    changed: await lastChange(dir) ?? 0,
    stepsTotal: await stepsTotal(dir),
  };
}

async function stepsTotal(dir: string): Promise<number | null> {
  try {
    const text = await readTextIfThere(dir, "train_state.json", STATE_MAX_BYTES);
    const total: unknown = JSON.parse(text ?? "{}").steps_total;
    return typeof total === "number" ? total : null;
  } catch {
    return null; // whatever is wrong with it, the log can be watched
  }
}

/**
 * Reads on in a run's log. The same file is known by its number; a checkpoint's log is another file than the run's.
 * @param most bytes; none where others have taken them all: there may be more then
 */
async function readPiece(dir: string, cursor: string, most: number): Promise<LogPiece & { bytes: number }> {
  if (most === 0) return { reset: false, more: true, cursor, metrics: [], bytes: 0 };
  using file = await quiet(files.open(join(dir, WORKING_LOG))) ?? await openIfThere(dir, "metrics.jsonl");
  if (!file) return { reset: true, more: false, cursor: "", metrics: [], bytes: 0 };
  const { ino, size, mtime } = await file.stat();
  const number = ino ?? mtime?.getTime() ?? 0;
  const [sameNumber, place] = cursor.split("-").map(Number);
  const goesOn = sameNumber === number && place! <= size;
  const start = goesOn ? place! : 0;
  await file.seek(start, SEEK_START);
  const bytes = new Uint8Array(Math.min(most, size - start));
  let length = 0;
  for (let read; length < bytes.length && (read = await file.read(bytes.subarray(length)));) length += read;
  const end = bytes.subarray(0, length).lastIndexOf(10) + 1; // the rest is half a line
  const metrics = new TextDecoder().decode(bytes.subarray(0, end)).split("\n").flatMap(parsed);
  const next = start + end;
  return {
    reset: !goesOn,
    more: end > 0 && length === most,
    cursor: `${number}-${next}`,
    metrics,
    bytes: length,
  };
}

/** A line's object; none where it is not JSON. */
function parsed(line: string): unknown[] {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? [value] : [];
  } catch {
    return [];
  }
}
