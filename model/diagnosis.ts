/** What this machine can compute with, checked and measured: what `microgpt doctor` prints. */
import { isFileError } from "../platform/files.ts";
import { type DeviceName, openDevice } from "./devices.ts";
import type { Device } from "../device/device.ts";
import { MicrogptError } from "../device/errors.ts";
import type { MpiLibrary } from "../native/mpi.ts";
import type { MpiSpeed } from "../native/mpi_speed.ts";

export type { MpiLibrary, MpiSpeed };

/** What was found. */
export interface Diagnosis {
  /** the native library */
  library: LibraryDiagnosis;
  /** the processor */
  cpu: DeviceDiagnosis;
  /** the GPU */
  webgpu: GpuDiagnosis;
  /** the MPI library */
  mpi: MpiDiagnosis;
  /** large data that is kept as tokens */
  cache: CacheDiagnosis;
}

/** The native library. */
export interface LibraryDiagnosis {
  /** the file that was opened */
  path?: string;
  /** why it cannot be used */
  problem?: string;
}

/** Large data that training keeps as tokens. */
export interface CacheDiagnosis {
  /** where; undefined where the user has no cache directory */
  dir?: string;
  /** how many different data sets */
  corpora: number;
  /** how many files */
  files: number;
  /** how large these are */
  bytes: number;
  /** why it cannot be looked into */
  problem?: string;
}

/** A device. */
export interface DeviceDiagnosis {
  /** the hardware's own name; undefined where it cannot be opened */
  name?: string;
  /** why it cannot be used: not there, or wrong numbers */
  problem?: string;
  /** what a person should know before computing on it */
  warnings?: string[];
  /** f32 speed of the product [2048, 256] · [1024, 256]ᵀ, as in a layer of chat-medium; 10⁹ operations a second */
  productGigaflops?: number;
}

/** The GPU. */
export interface GpuDiagnosis extends DeviceDiagnosis {
  /** who made it */
  vendor?: string;
  /** its family */
  architecture?: string;
  /** what WebGPU offers on it beyond the least */
  features?: string[];
  /** what WebGPU allows on it */
  limits?: Record<string, number>;
  /** reductions use subgroup operations: the adapter has them and a probe found them right */
  subgroups?: boolean;
  /** multiply-adds in registers alone; 10⁹ operations a second */
  peakGigaflops?: number;
  /** copies in memory, bytes read and written together; 10⁹ a second */
  gigabytesPerSecond?: number;
}

/** What training on many machines needs. */
export interface MpiDiagnosis {
  /** the library that fits the launcher, or the first that was found; undefined where there is none */
  library?: MpiLibrary;
  /** number of this process; 0 without a launcher */
  rank: number;
  /** under `mpirun` or `srun`, with all processes */
  speed?: MpiSpeed;
  /** why it cannot be used */
  problem?: string;
}

/**
 * Opens, checks and measures; takes about a second per device. Failures are reported, not thrown.
 * @param options.cacheDir where training keeps large data, if not in the user's cache directory
 */
export async function diagnose({ cacheDir }: { cacheDir?: string } = {}): Promise<Diagnosis> {
  const cpu = await diagnoseDevice("cpu", () => Promise.resolve({}));
  return {
    library: await diagnoseLibrary(),
    cpu,
    webgpu: await diagnoseGpu(),
    mpi: await diagnoseMpi(),
    cache: await diagnoseCache(cacheDir),
  };
}

async function diagnoseCache(cacheDir: string | undefined): Promise<CacheDiagnosis> {
  const nothing = { corpora: 0, files: 0, bytes: 0 };
  const { cacheUsage, defaultCacheDir } = await import("../data/tokens/cache.ts");
  const dir = cacheDir ?? defaultCacheDir();
  if (dir === undefined) return nothing;
  try {
    return { dir, ...await cacheUsage(dir) };
  } catch (error) {
    if (!isFileError(error, "PermissionDenied", "NotCapable", "NotADirectory")) throw error;
    return { dir, ...nothing, problem: (error as Error).message };
  }
}

async function diagnoseMpi(): Promise<MpiDiagnosis> {
  const { launchOf } = await import("../native/launcher.ts");
  const { openMpiGroup, openMpiLibrary } = await import("../native/mpi.ts");
  const { environment } = await import("../platform/permissions.ts");
  let library: MpiLibrary | undefined;
  try {
    library = openMpiLibrary();
    if ((launchOf(environment)?.size ?? 1) === 1) return { library, rank: 0 };
    const group = openMpiGroup();
    const { measureMpi } = await import("../native/mpi_speed.ts");
    const speed = measureMpi(group);
    group.close();
    return { library, rank: group.rank, speed };
  } catch (error) {
    return { ...(library ? { library } : {}), rank: 0, problem: problemOf(error) };
  }
}

async function diagnoseLibrary(): Promise<LibraryDiagnosis> {
  const { openedLibrary, openLibrary } = await import("../native/library.ts");
  try {
    openLibrary({});
    return { path: openedLibrary()! };
  } catch (error) {
    return { problem: problemOf(error) };
  }
}

async function diagnoseGpu(): Promise<GpuDiagnosis> {
  const { GpuDevice } = await import("../gpu/device.ts");
  const { measurePeak } = await import("../gpu/peak.ts");
  return await diagnoseDevice<GpuDiagnosis>("webgpu", async (device) => {
    if (!(device instanceof GpuDevice)) return {};
    const { vendor, architecture, features, limits } = device.description;
    const { gigaflops, gigabytesPerSecond } = await measurePeak(device);
    const { subgroups } = device;
    return {
      vendor,
      architecture,
      features,
      limits,
      subgroups,
      peakGigaflops: gigaflops,
      gigabytesPerSecond,
    };
  });
}

async function diagnoseDevice<D extends DeviceDiagnosis>(
  device: DeviceName,
  more: (device: Device) => Promise<Partial<D>>,
): Promise<D> {
  let opened: Device | undefined;
  try {
    opened = await openDevice({ device, dtype: "f32" });
    const { name, warnings } = opened;
    await checkProduct(opened);
    return { name, warnings, ...await more(opened), productGigaflops: await productSpeed(opened) } as D;
  } catch (error) {
    return { ...(opened ? { name: opened.name } : {}), problem: problemOf(error) } as D;
  } finally {
    opened?.destroy();
  }
}

/** A user's error in words; this program's own mistakes stay errors. */
function problemOf(error: unknown): string {
  if (!(error instanceof MicrogptError)) throw error;
  return error.hint ? `${error.message} (${error.hint})` : error.message;
}

/**
 * @throws {MicrogptError} unless a product of small whole numbers, which f32 holds exactly, is right to the last digit
 */
async function checkProduct(device: Device): Promise<void> {
  const [M, N, K] = [67, 45, 129];
  const value = (i: number, k: number) => (i * 7 + k * 5) % 13 - 6;
  const values = (rows: number) =>
    Float32Array.from({ length: rows * K }, (_, i) => value(Math.floor(i / K), i % K));
  const [a, b, out] = [
    device.tensor("check a", M, K),
    device.tensor("check b", N, K),
    device.tensor("check", M, N),
  ];
  device.write(a, values(M));
  device.write(b, values(N));
  device.matmul(out, a, b, "NT");
  const actual = await device.read(out);
  for (const tensor of [a, b, out]) device.free(tensor);
  for (let i = 0; i < M * N; i++) {
    const [m, n] = [Math.floor(i / N), i % N];
    let expected = 0;
    for (let k = 0; k < K; k++) expected += value(m, k) * value(n, k);
    if (actual[i] === expected) continue;
    throw new MicrogptError(`${device.name} computes wrong numbers: ${actual[i]} instead of ${expected}`);
  }
}

/** Times more and more products until they take long enough, then takes the fastest of three rounds. */
async function productSpeed(device: Device): Promise<number> {
  const [M, N, K] = [2048, 1024, 256];
  const [a, b, out] = [device.tensor("a", M, K), device.tensor("b", N, K), device.tensor("out", M, N)];
  const marker = device.tensor("marker", 1, 1);
  const fill = (n: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(i));
  device.write(a, fill(M * K));
  device.write(b, fill(N * K));
  const time = async (products: number) => {
    const started = performance.now();
    for (let i = 0; i < products; i++) device.matmul(out, a, b, "NT");
    device.submit();
    await device.read(marker);
    return performance.now() - started;
  };
  let products = 1;
  while (await time(products) < 100 && products < 1 << 12) products *= 2;
  const best = Math.min(await time(products), await time(products), await time(products));
  for (const tensor of [a, b, out, marker]) device.free(tensor);
  return 2 * M * N * K * products / (best / 1000) / 1e9;
}
