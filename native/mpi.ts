/** The processes of an MPI launch as a group: bindings of native/src/mpi/. */
import type { Group, NativeMemory } from "../device/group.ts";
import { MicrogptError } from "../device/errors.ts";
import { checkSize, launcherOf, launchOf, libraryPaths, localSizeOf } from "./launcher.ts";
import { check, openLibrary } from "./library.ts";
import { environment, granted } from "../platform/permissions.ts";
import { MPI } from "./symbols.ts";

/** How gradients travel between ranks; bf16 halves the traffic and changes the sums a little. */
export type ReduceDtype = "f32" | "bf16";

/** An MPI library. */
export interface MpiLibrary {
  /** as it was asked for: a path, or a name that the system's loader knows */
  path: string;
  /** in the library's own words */
  version: string;
  /** which constants it is called with */
  abi: string;
}

let symbols: ReturnType<typeof openSymbols> | undefined;
const openSymbols = () => openLibrary(MPI);

/**
 * Opens the MPI library that fits the launcher, without starting MPI.
 * @throws {MicrogptError} when there is none, naming what was tried
 */
export function openMpiLibrary(): MpiLibrary {
  const native = symbols ??= openSymbols();
  const paths = libraryPaths(Deno.build.os, environment, launcherFolders(), isFile);
  const bytes = new TextEncoder().encode(paths.join("\n"));
  try {
    check(native.mg_mpi_load(bytes, bytes.length));
  } catch (error) {
    if (!(error instanceof MicrogptError)) throw error;
    const hint = environment("MICROGPT_MPI")
      ? "MICROGPT_MPI is to be the path of libmpi, such as /usr/lib/libmpi.so.40"
      : "install Open MPI or MPICH, or set MICROGPT_MPI to the path of its libmpi";
    throw new MicrogptError(error.message, { hint, cause: error });
  }
  const text = new Uint8Array(1024);
  const length = native.mg_mpi_describe(text, text.length);
  check(length);
  const [path, version, abi] = new TextDecoder().decode(text.subarray(0, length)).split("\n");
  return { path: path!, version: version!, abi: abi! };
}

/**
 * Joins the group of all processes of this launch. To be done once a process, and by all of them.
 * @param reduceDtype how gradients travel
 * @throws {MicrogptError} when there is no MPI library, it does not work, or it does not belong to the launcher
 */
export function openMpiGroup(reduceDtype: ReduceDtype = "f32"): MpiGroup {
  const library = openMpiLibrary();
  const place = new Uint32Array(2);
  check(symbols!.mg_mpi_start(place, place.length));
  const [rank, size] = place as unknown as [number, number];
  const group = new MpiGroup(library, rank, size, reduceDtype);
  try {
    checkSize(launchOf(environment), size, `${library.version} (${library.path})`);
  } catch (error) {
    group.close();
    throw error;
  }
  return group;
}

/** See {@link openMpiGroup}. */
export class MpiGroup implements Group {
  readonly localSize = localSizeOf(environment);
  readonly launcher: string;

  constructor(
    readonly library: MpiLibrary,
    readonly rank: number,
    readonly size: number,
    readonly reduceDtype: ReduceDtype,
  ) {
    this.launcher = launcherOf(environment, size);
  }

  sum(values: Float32Array | NativeMemory): void {
    const bf16 = Number(this.reduceDtype === "bf16");
    if (values instanceof Float32Array) {
      check(symbols!.mg_mpi_sum(values as Float32Array<ArrayBuffer>, values.length, bf16));
    } else {
      const { device, tensor, offset, length } = values;
      check(symbols!.mg_mpi_sum_tensor(device, tensor, offset, length, bf16));
    }
  }

  beginSum({ device, tensor, offset, length }: NativeMemory): void {
    check(symbols!.mg_mpi_begin_sum(device, tensor, offset, length, Number(this.reduceDtype === "bf16")));
  }

  finishSums(): void {
    check(symbols!.mg_mpi_finish());
  }

  /** What `sum` would be by the library's own algorithm, in an order of its own; to compare speeds. */
  librarySum(values: Float32Array<ArrayBuffer>): void {
    check(symbols!.mg_mpi_all_reduce(values, values.length));
  }

  total(values: readonly number[]): number[] {
    return this.#combine(values, false);
  }

  max(values: readonly number[]): number[] {
    return this.#combine(values, true);
  }

  #combine(values: readonly number[], largest: boolean): number[] {
    const numbers = Float64Array.from(values);
    check(symbols!.mg_mpi_combine(numbers, numbers.length, Number(largest)));
    return [...numbers];
  }

  broadcast(bytes: Uint8Array): Uint8Array {
    const [length] = this.total([this.rank === 0 ? bytes.length : 0]);
    const all = new Uint8Array(length!);
    if (this.rank === 0) all.set(bytes);
    check(symbols!.mg_mpi_broadcast(all, all.length));
    return all;
  }

  barrier(): void {
    check(symbols!.mg_mpi_barrier());
  }

  abort(code: number): void {
    check(symbols!.mg_mpi_abort(code));
  }

  close(): void {
    check(symbols!.mg_mpi_close());
  }
}

/** The folders of the parent process's program, where it can be seen, and of mpirun on the PATH. */
function launcherFolders(): string[] {
  const programs = (environment("PATH") ?? "").split(Deno.build.os === "windows" ? ";" : ":")
    .filter((folder) => folder !== "").map((folder) => `${folder}/mpirun`);
  if (Deno.build.os === "linux") programs.unshift(`/proc/${Deno.ppid}/exe`);
  return programs.filter((path) => granted({ name: "read", path })).flatMap((program) => {
    try {
      return [Deno.realPathSync(program).replace(/[\\/][^\\/]*$/, "")];
    } catch (error) {
      // not there, or not to be seen: then the library is looked for by its name alone
      if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotCapable) return [];
      if (error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.NotADirectory) {
        return [];
      }
      throw error;
    }
  });
}

function isFile(path: string): boolean {
  if (!granted({ name: "read", path })) return false;
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return false;
    throw error;
  }
}
