/**
 * Finds where the frames of a zstd file end (RFC 8878). Deno's decompressor drops what follows a frame in the same
 * piece of input, and takes a truncated file for a whole one: pieces must end with frames, and the last one must be
 * complete.
 */

const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
/** Largest window that is unpacked, as in the program `zstd` without `--long`. */
const MAX_WINDOW = 128 * 1024 * 1024;

/** What comes next. */
type Part =
  | "magic"
  | "skippable size"
  | "skipped"
  | "descriptor"
  | "header"
  | "block header"
  | "block"
  | "checksum";

/**
 * Cuts pieces anew so that each frame ends with a piece; frames of other data are left out.
 * @throws {Error} when the bytes are no frames, or end within one
 */
export async function* wholeFrames(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const walker = new FrameWalker();
  for await (const piece of pieces) {
    for (let at = 0; at < piece.length;) {
      const { end, skipped } = walker.walk(piece, at);
      if (!skipped) yield piece.subarray(at, end);
      at = end;
    }
  }
  if (!walker.atStart) throw new Error("unexpected end of file");
}

class FrameWalker {
  #part: Part = "magic";
  /** The bytes of a small part received so far, as a little-endian number. */
  #value = 0;
  #have = 0;
  /** Bytes of the whole part, or still to come of a block or of skipped data. */
  #need = 4;
  #descriptor = 0;
  #lastBlock = false;
  #inSkippable = false;

  /** Whether a frame may begin here, or the file end. */
  get atStart(): boolean {
    return this.#part === "magic" && this.#have === 0;
  }

  /**
   * Reads on.
   * @returns where to cut the piece, and whether what is before the cut is something other than compressed data
   */
  walk(piece: Uint8Array, from: number): { end: number; skipped: boolean } {
    let at = from;
    while (at < piece.length) {
      if (this.#part === "block" || this.#part === "skipped") {
        const n = Math.min(this.#need, piece.length - at);
        at += n;
        this.#need -= n;
        if (this.#need > 0) break;
        const ended = this.#part === "skipped" || this.#afterBlock();
        if (ended) return this.#endFrame(at);
        continue;
      }
      this.#value += piece[at++]! * 256 ** Math.min(this.#have, 4);
      if (++this.#have < this.#need) continue;
      if (this.#finishPart()) return this.#endFrame(at);
      // what a magic number begins is known only after it: skippable frames are cut off from there
      if (this.#part === "skippable size") return { end: at, skipped: true };
    }
    return { end: piece.length, skipped: this.#inSkippable };
  }

  #endFrame(at: number): { end: number; skipped: boolean } {
    const skipped = this.#inSkippable;
    this.#inSkippable = false;
    this.#next("magic", 4);
    return { end: at, skipped };
  }

  #next(part: Part, need: number): void {
    this.#part = part;
    this.#need = need;
    this.#have = 0;
    this.#value = 0;
  }

  /** All bytes of a small part have come. @returns whether the frame ends with it */
  #finishPart(): boolean {
    const value = this.#value;
    switch (this.#part) {
      case "magic":
        if (value === FRAME_MAGIC) this.#next("descriptor", 1);
        else if (value - value % 16 === SKIPPABLE_MAGIC) {
          this.#inSkippable = true;
          this.#next("skippable size", 4);
        } else throw new Error("bytes that are no frame follow a frame");
        return false;
      case "skippable size":
        if (value === 0) return true;
        this.#next("skipped", value);
        return false;
      case "descriptor":
        this.#descriptor = value;
        this.#next("header", headerBytes(value));
        return false;
      case "header":
        this.#checkWindow(value);
        this.#next("block header", 3);
        return false;
      case "block header":
        return this.#startBlock(value);
      default:
        return true; // the checksum
    }
  }

  /** Unless all of it lies in one segment, the header's first byte is the size of the window. */
  #checkWindow(header: number): void {
    if ((this.#descriptor & 0x20) !== 0) return;
    const first = header % 256;
    const window = 2 ** (10 + (first >> 3)) * (1 + (first & 7) / 8);
    if (window > MAX_WINDOW) {
      throw new Error(`it needs a window of ${Math.round(window / 1e6)} MB`);
    }
  }

  #startBlock(header: number): boolean {
    this.#lastBlock = header % 2 === 1;
    const type = header >> 1 & 3;
    if (type === 3) throw new Error("a block of an unknown type");
    const size = type === 1 ? 1 : header >> 3;
    if (size === 0) return this.#afterBlock();
    this.#next("block", size);
    return false;
  }

  /** @returns whether the frame ends here */
  #afterBlock(): boolean {
    if (!this.#lastBlock) this.#next("block header", 3);
    else if ((this.#descriptor & 4) === 0) return true;
    else this.#next("checksum", 4);
    return false;
  }
}

/** How long the header is after its descriptor: window, dictionary and content size. */
function headerBytes(descriptor: number): number {
  const single = (descriptor & 0x20) !== 0;
  const dictionary = [0, 1, 2, 4][descriptor & 3]!;
  const content = [single ? 1 : 0, 2, 4, 8][descriptor >> 6]!;
  return (single ? 0 : 1) + dictionary + content;
}
