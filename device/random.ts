/**
 * Random numbers that are functions of a seed and a counter, not of a state. What was drawn before never matters, so
 * a resumed run, a larger batch and another device draw the same numbers.
 */

/** Mixes 32 bits well enough that neighbours share nothing (the `lowbias32` finaliser, C. Wellons 2018). */
export function hash32(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/** A seed of any size as the 32 mixed bits that `uniform` expects. */
export function mixSeed(seed: number): number {
  const high = Math.floor(seed / 0x1_0000_0000) >>> 0;
  return hash32((seed >>> 0) ^ hash32(high ^ 0x9e3779b9));
}

/** Draw number `counter` of a mixed seed: uniform in [0, 1), 24 bits, exact in f32. */
export function uniform(mixedSeed: number, counter: number): number {
  return (hash32(mixedSeed ^ hash32(counter ^ 0x85ebca6b)) >>> 8) / 0x100_0000;
}

/** Standard normal draw number `counter` of a mixed seed (Box–Muller over two uniforms). */
export function normal(mixedSeed: number, counter: number): number {
  const u = 1 - uniform(mixedSeed, 2 * counter);
  return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * uniform(mixedSeed, 2 * counter + 1));
}

/**
 * Draw number `counter` of a mixed seed: a whole number from 0 to n − 1. Above 2^24 it takes 53 bits, because 24 do not
 * reach every number there.
 */
export function uniformInteger(mixedSeed: number, counter: number, n: number): number {
  if (n <= 0x100_0000) return Math.floor(uniform(mixedSeed, counter) * n);
  const high = hash32(mixedSeed ^ hash32(counter ^ 0x85ebca6b));
  const low = hash32(mixedSeed ^ hash32(counter ^ 0xc2b2ae35));
  return Math.floor((high * 2 ** 21 + (low >>> 11)) / 2 ** 53 * n);
}

/** A permutation of 0 … n−1 (Fisher–Yates). */
export function permutation(mixedSeed: number, n: number): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = uniformInteger(mixedSeed, i, i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

/** Most numbers that are shuffled by a table of all of them, which takes 16 MB. */
const MAX_TABLE = 1 << 22;

/**
 * A permutation of 0 … n−1 as a function, without a table where that would be large.
 * @param maxTable most numbers in a table
 */
export function shuffled(mixedSeed: number, n: number, maxTable = MAX_TABLE): (position: number) => number {
  if (n > maxTable) return cycleWalk(mixedSeed, n);
  const order = permutation(mixedSeed, n);
  return (position) => order[position]!;
}

const ROUNDS = 6;

/**
 * A Feistel network of six rounds permutes the numbers of an even number of bits (Luby and Rackoff 1988); what falls
 * outside 0 … n−1 is permuted again until it does not (Black and Rogaway 2002), on average less than four times.
 */
function cycleWalk(mixedSeed: number, n: number): (position: number) => number {
  const bits = Math.max(Math.ceil(Math.log2(n) / 2), 1);
  const half = 2 ** bits;
  const keys = Uint32Array.from(
    { length: ROUNDS },
    (_, round) => hash32(mixedSeed ^ hash32(round ^ 0xa5a5a5a5)),
  );
  return (position) => {
    let x = position;
    do {
      let [left, right] = [Math.floor(x / half), x % half];
      for (const key of keys) [left, right] = [right, left ^ (hash32(right ^ key) >>> (32 - bits))];
      x = left * half + right;
    } while (x >= n);
    return x;
  };
}
