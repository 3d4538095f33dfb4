/** SHA-256 of what comes in pieces: by Node's implementation in Deno, by one of our own in a browser, whose is for whole texts. */
import { MicrogptError } from "../device/errors.ts";
import { builtin } from "./host.ts";

/** A hash under way. */
export interface Hash {
  update(data: Uint8Array | string): Hash;
  /** of all data so far, in lower-case hexadecimal; call once, at the end */
  digest(encoding: "hex"): string;
}

/** Begins a SHA-256. */
export function sha256(): Hash {
  const node = builtin<{ createHash(name: string): Hash }>("crypto");
  return node ? node.createHash("sha256") : new Sha256();
}

/** Begins a SHA-1, which git names its objects by. @throws {MicrogptError} in a browser */
export function sha1(): Hash {
  const node = builtin<{ createHash(name: string): Hash }>("crypto");
  if (node) return node.createHash("sha1");
  throw new MicrogptError("a browser has no SHA-1 of what comes in pieces");
}

/** The first 32 bits of the fractional parts of the nth roots of the first primes (FIPS 180-4). */
function rootBits(count: number, root: (n: number) => number): Uint32Array {
  const bits: number[] = [];
  for (let n = 2; bits.length < count; n++) {
    let prime = true;
    for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false;
    if (prime) bits.push((root(n) % 1) * 2 ** 32);
  }
  return Uint32Array.from(bits);
}

const START = rootBits(8, Math.sqrt);
const ROUNDS = rootBits(64, Math.cbrt);
const BLOCK = 64;

const rotate = (x: number, n: number) => (x >>> n) | (x << (32 - n));

/** SHA-256 as FIPS 180-4 has it. */
export class Sha256 implements Hash {
  readonly #state = START.slice();
  readonly #block = new Uint8Array(BLOCK);
  readonly #words = new Uint32Array(64);
  #length = 0;

  update(data: Uint8Array | string): this {
    const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
    let done = 0;
    while (done < bytes.length) {
      const filled = this.#length % BLOCK;
      const taken = Math.min(BLOCK - filled, bytes.length - done);
      if (taken === BLOCK) this.#compress(bytes, done);
      else {
        this.#block.set(bytes.subarray(done, done + taken), filled);
        if (filled + taken === BLOCK) this.#compress(this.#block, 0);
      }
      done += taken;
      this.#length += taken;
    }
    return this;
  }

  digest(_encoding: "hex"): string {
    const bits = this.#length * 8;
    const padding = new Uint8Array((this.#length % BLOCK < 56 ? 56 : 120) - this.#length % BLOCK + 8);
    padding[0] = 0x80;
    const view = new DataView(padding.buffer);
    view.setUint32(padding.length - 8, Math.floor(bits / 2 ** 32));
    view.setUint32(padding.length - 4, bits >>> 0);
    this.update(padding);
    return [...this.#state].map((word) => word.toString(16).padStart(8, "0")).join("");
  }

  #compress(bytes: Uint8Array, at: number): void {
    const w = this.#words;
    for (let i = 0; i < 16; i++) {
      const j = at + 4 * i;
      w[i] = (bytes[j]! << 24) | (bytes[j + 1]! << 16) | (bytes[j + 2]! << 8) | bytes[j + 3]!;
    }
    for (let i = 16; i < 64; i++) {
      const [x, y] = [w[i - 15]!, w[i - 2]!];
      const small0 = rotate(x, 7) ^ rotate(x, 18) ^ (x >>> 3);
      const small1 = rotate(y, 17) ^ rotate(y, 19) ^ (y >>> 10);
      w[i] = w[i - 16]! + small0 + w[i - 7]! + small1;
    }
    const state = this.#state;
    let a = state[0]!, b = state[1]!, c = state[2]!, d = state[3]!;
    let e = state[4]!, f = state[5]!, g = state[6]!, h = state[7]!;
    for (let i = 0; i < 64; i++) {
      const large1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const first = (h + large1 + ((e & f) ^ (~e & g)) + ROUNDS[i]! + w[i]!) | 0;
      const large0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const second = (large0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g, g = f, f = e;
      e = (d + first) | 0;
      d = c, c = b, b = a;
      a = (first + second) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => state[i] = state[i]! + value);
  }
}
