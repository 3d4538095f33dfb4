/** Which kernel, and which tile shape, a matrix product gets: one table, read by the product's shape and the adapter. */

/** Kinds of adapter that want different tiles. */
export type AdapterClass = "apple" | "nvidia" | "other" | "software";

/** A tile of matmul.wgsl: BM × BN results a workgroup, (4·groupsM) × (4·groupsN) a thread. */
export interface Tile {
  name: "small" | "medium" | "large";
  bm: number;
  bn: number;
  groupsM: 1 | 2;
  groupsN: 1 | 2;
  threads: number;
  /** half of the threads bring a, half b; otherwise each thread brings a block of both */
  sharedLoad: boolean;
}

/** From few results a workgroup (small matrices still fill the GPU) to many (each number brought in is used more often). */
export const TILES: Record<Tile["name"], Tile> = {
  small: { name: "small", bm: 32, bn: 32, groupsM: 1, groupsN: 1, threads: 64, sharedLoad: true },
  medium: { name: "medium", bm: 64, bn: 64, groupsM: 2, groupsN: 2, threads: 64, sharedLoad: false },
  large: { name: "large", bm: 128, bn: 128, groupsM: 2, groupsN: 2, threads: 256, sharedLoad: true },
};

/** What a class of adapters needs to be busy. WebGPU does not tell the number of cores, so these are for the middle of a class. */
interface Appetite {
  /** workgroups of the large tile (8 SIMD groups each) from which it is taken */
  large: number;
  /** workgroups of the medium tile (2 SIMD groups each) from which it is taken; fewer are split along K up to `busy` */
  medium: number;
  /** workgroups below which K is split */
  busy: number;
}

const APPETITE: Record<AdapterClass, Appetite> = {
  // 8 to 40 cores, each with room for 2 large or 8 medium workgroups at 128 registers a thread
  apple: { large: 80, medium: 16, busy: 120 },
  // 30 to 140 multiprocessors, each with room for 2 large or 8 medium workgroups
  nvidia: { large: 200, medium: 24, busy: 300 },
  other: { large: 160, medium: 16, busy: 160 },
  // A core computes one workgroup after the other; only the ratio of loads to products counts.
  software: { large: Infinity, medium: 4, busy: 2 },
};

/** Rows of `a` up to which a product with transposed b is computed row by row of b (matvec.wgsl). */
export const MATVEC_ROWS = 8;

/** A part of K is at least this long: below, adding the parts costs more than the split gains. */
const MIN_PART = 256;
/** at most so many parts, which bounds the scratch memory */
const MAX_PARTS = 8;
/** steps of K in matmul.wgsl */
const BK = 16;

/** How matmul.wgsl computes a product. */
export interface TilePlan {
  tile: Tile;
  /** workgroups along N and M */
  tilesN: number;
  tilesM: number;
  /** length of a part of K, a multiple of 16 */
  part: number;
  parts: number;
}

/** Chooses the tile and the split of K for out [M, N] over K. */
export function planTiles(M: number, N: number, K: number, adapter: AdapterClass): TilePlan {
  const appetite = APPETITE[adapter];
  const count = (tile: Tile) => Math.ceil(M / tile.bm) * Math.ceil(N / tile.bn);
  const tile = count(TILES.large) >= appetite.large
    ? TILES.large
    : count(TILES.medium) >= appetite.medium && M > 32 && N > 32
    ? TILES.medium
    : TILES.small;
  const wanted = Math.round(appetite.busy / count(tile));
  const parts = Math.max(1, Math.min(wanted, Math.floor(K / MIN_PART), MAX_PARTS));
  const part = Math.ceil(Math.ceil(K / parts) / BK) * BK;
  return {
    tile,
    tilesN: Math.ceil(N / tile.bn),
    tilesM: Math.ceil(M / tile.bm),
    part,
    parts: Math.max(1, Math.ceil(K / part)),
  };
}
