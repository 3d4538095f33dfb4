/**
 * Which tile, and which split of K, a matrix product gets: a table of tiles, a table of GPUs, and an estimate of the
 * time that the two take together. `bench/gpu.ts --tiles` measures every choice beside the one made here.
 */
import { STEP_ROWS } from "../device/device.ts";

/** A tile of matmul.wgsl: BM × BN results a workgroup, (4·groupsM) × (4·groupsN) a thread. */
export interface Tile {
  name: string;
  bm: number;
  bn: number;
  groupsM: 1 | 2;
  groupsN: 1 | 2;
  threads: number;
  /** half of the threads bring a, half b; otherwise each thread brings a block of both */
  sharedLoad: boolean;
  /** a thread's sums, operands, what it fetches ahead, and about 14 for addresses */
  registers: number;
}

/**
 * From many results per workgroup (each number brought in is used more often) to few (small matrices still fill the
 * GPU).
 */
export const TILES: readonly Tile[] = [
  {
    name: "128x128",
    bm: 128,
    bn: 128,
    groupsM: 2,
    groupsN: 2,
    threads: 256,
    sharedLoad: true,
    registers: 110,
  },
  { name: "64x64", bm: 64, bn: 64, groupsM: 2, groupsN: 2, threads: 64, sharedLoad: false, registers: 126 },
  {
    name: "64x64 light",
    bm: 64,
    bn: 64,
    groupsM: 2,
    groupsN: 1,
    threads: 128,
    sharedLoad: true,
    registers: 74,
  },
  { name: "32x32", bm: 32, bn: 32, groupsM: 1, groupsN: 1, threads: 64, sharedLoad: true, registers: 54 },
];

/** What decides which tile is fast on a GPU. Of this, WebGPU reveals only the workgroup memory. */
export interface Hardware {
  /**
   * cores (Apple), multiprocessors (NVIDIA), pairs of compute units (AMD): four schedulers each, a multiply-add of 32
   * threads a cycle
   */
  cores: number;
  /** 32-bit registers that a thread can have before some spill to memory, less a few for the compiler's own use */
  registers: number;
  /** bytes a workgroup */
  workgroupMemory: number;
}

/** Cores and registers by the name of the adapter; the first that matches, else an average GPU. */
const GPUS: [name: RegExp, cores: number, registers: number][] = [
  [/apple .*ultra/i, 72, 120],
  [/apple .*max/i, 38, 120],
  [/apple .*pro/i, 18, 120],
  [/apple/i, 10, 120],
  [/H100|H200|GH200/, 132, 240],
  [/A100|A800/, 108, 240],
  [/RTX .*(4090|5090)|L40/i, 142, 240],
  [/nvidia|geforce|quadro|tesla|rtx/i, 60, 240],
];

/** The hardware behind an adapter's name. A software adapter computes one group of threads after the other. */
export function hardwareOf(name: string, software: boolean, workgroupMemory: number): Hardware {
  if (software) return { cores: 1 / 4, registers: 240, workgroupMemory };
  const [, cores, registers] = GPUS.find(([pattern]) => pattern.test(name)) ?? [/./, 32, 240];
  return { cores, registers, workgroupMemory };
}

/** Rows of `a` up to which a product with transposed b is computed row by row of b (matvec.wgsl), a row like any other. */
export const MATVEC_ROWS = STEP_ROWS;

/** steps of K in matmul.wgsl */
export const K_STEP = 16;

/** Least length of a part of K, and most parts, which bounds the scratch memory. */
const MIN_PART = 256;
const MAX_PARTS = 8;

// Estimated costs, in cycles in which a scheduler could do a multiply-add of 32 threads.
/** a vec4 of 32 threads from workgroup memory, which a core's four schedulers share */
const LOAD = 8;
/** a vec4 from memory into workgroup memory: address, load, store */
const FETCH = 12;
/** the two barriers of a step of K */
const BARRIERS = 80;
/** a scheduler with one group of threads waits for memory half as long as it computes; several groups fill the gaps */
const WAITING = 0.5;
/** one more call of a kernel, for adding up the parts of K */
const CALL = 6000;
/** bytes of memory per core and cycle */
const BYTES = 12;

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

/** Bytes of workgroup memory that a tile takes. */
export function tileBytes({ bm, bn }: Tile): number {
  return 16 * K_STEP * (bm / 4 + 2 + bn / 4 + 2);
}

/** Cuts a product into tiles and parts of K. */
export function cut(tile: Tile, parts: number, M: number, N: number, K: number): TilePlan {
  const part = Math.max(1, Math.ceil(Math.ceil(K / parts) / K_STEP)) * K_STEP;
  return {
    tile,
    tilesN: Math.ceil(N / tile.bn),
    tilesM: Math.ceil(M / tile.bm),
    part,
    parts: Math.max(1, Math.ceil(K / part)),
  };
}

/** All cuts that the hardware can handle, the plain ones first. */
export function possibleCuts(M: number, N: number, K: number, hardware: Hardware): TilePlan[] {
  const tiles = TILES.filter((tile) =>
    tile.registers <= hardware.registers && tileBytes(tile) <= hardware.workgroupMemory
  );
  const most = Math.max(1, Math.min(MAX_PARTS, Math.floor(K / MIN_PART)));
  return Array.from({ length: most }, (_, i) => tiles.map((tile) => cut(tile, i + 1, M, N, K))).flat();
}

/** Estimated time of a cut, in cycles. */
function cycles({ tile, tilesM, tilesN, part, parts }: TilePlan, M: number, N: number, { cores }: Hardware) {
  const workgroupsOfCore = Math.ceil(tilesM * tilesN * parts / cores);
  const groupsOfScheduler = Math.ceil(workgroupsOfCore * tile.threads / 32 / 4);
  const fetched = 4 * (tile.bm + tile.bn) / tile.threads / K_STEP; // vec4 a thread and k
  const perK = 16 * tile.groupsM * tile.groupsN + LOAD * (tile.groupsM + tile.groupsN) + FETCH * fetched +
    BARRIERS / K_STEP;
  const adding = parts === 1 ? 0 : CALL + 4 * (parts + 2) * M * N / (BYTES * cores);
  return (groupsOfScheduler + WAITING) * perK * part + adding;
}

/** Chooses the tile and the split of K for out [M, N] over K: the least estimated time. */
export function planTiles(M: number, N: number, K: number, hardware: Hardware): TilePlan {
  let best: TilePlan | undefined;
  let least = Infinity;
  for (const plan of possibleCuts(M, N, K, hardware)) {
    const time = cycles(plan, M, N, hardware);
    if (time < least) [best, least] = [plan, time];
  }
  return best!;
}
