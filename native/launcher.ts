/** What started this process beside others, by the variables it leaves, and where its MPI library may lie. */
import { MicrogptError } from "../device/errors.ts";

/** Reads a variable of the environment. */
export type Environment = (name: string) => string | undefined;

/** A process started together with others. */
export interface Launch {
  /** number of processes that were started */
  size: number;
  /** the variable that says so */
  variable: string;
  /** whose MPI goes with it */
  family: "Open MPI" | "MPICH" | "any";
}

/**
 * Variables with the number of processes. Slurm's is that of a step, which `srun` sets: a batch script has the others, and is one
 * process. It comes last, because under `mpirun` in a batch job it counts the daemons of the launcher.
 */
const LAUNCHERS: Pick<Launch, "variable" | "family">[] = [
  { variable: "OMPI_COMM_WORLD_SIZE", family: "Open MPI" },
  { variable: "MV2_COMM_WORLD_SIZE", family: "MPICH" },
  { variable: "PMI_SIZE", family: "MPICH" },
  { variable: "SLURM_STEP_NUM_TASKS", family: "any" },
];

/** How this process was launched; undefined where no launcher is known to have started it. */
export function launchOf(env: Environment): Launch | undefined {
  for (const { variable, family } of LAUNCHERS) {
    const size = Number(env(variable) || NaN);
    if (Number.isInteger(size) && size > 0) return { size, variable, family };
  }
  return undefined;
}

/** Variables with the number of processes on this machine. */
const LOCAL_SIZES = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"];

/** How many processes of the launch are on this machine, as far as the launcher tells; else 1. */
export function localSizeOf(env: Environment): number {
  const told = LOCAL_SIZES.map((name) => Number(env(name) || NaN)).find((size) => Number.isInteger(size));
  return Math.max(1, told ?? 1);
}

/** What people put in front of a command to start it as this launch was started, in so many processes. */
export function launcherOf(env: Environment, size: number): string {
  if (launchOf(env)?.variable !== "SLURM_STEP_NUM_TASKS") return `mpirun -n ${size} `;
  return env("PMIX_RANK") === undefined ? `srun -n ${size} ` : `srun --mpi=pmix -n ${size} `;
}

/**
 * Refuses to train alone beside others: without this, each of N processes would take itself for the only one and write to the
 * same directory.
 * @throws {MicrogptError} when a launcher started several processes
 */
export function checkAlone(launch: Launch | undefined): void {
  if (launch === undefined || launch.size === 1) return;
  throw new MicrogptError(
    `${launch.size} processes were started (${launch.variable}), and each would train the whole model alone`,
    { hint: "add `distributed` mpi, or start one process without mpirun or srun", usage: true },
  );
}

/**
 * Compares what the launcher says with what the library counts.
 * @throws {MicrogptError} where they differ, where the process was not launched, and for numbers that are no power of two
 */
export function checkSize(launch: Launch | undefined, size: number, library: string): void {
  if (launch === undefined && size === 1) {
    throw new MicrogptError("`distributed` mpi: no launcher started this process", {
      hint: "start it with mpirun -n 4 or with srun",
      usage: true,
    });
  }
  if (launch !== undefined && launch.size !== size) {
    throw new MicrogptError(
      `${launch.variable} says that ${launch.size} processes were started, ${library} counts ${size}: ` +
        "launcher and library are of different kinds of MPI",
      {
        hint: launch.family === "any"
          ? "Open MPI wants srun --mpi=pmix, MPICH --mpi=pmi2; MICROGPT_MPI names the library of the other kind"
          : "set MICROGPT_MPI to the path of the launcher's own libmpi, or start with the library's own mpirun",
      },
    );
  }
  if (!Number.isInteger(Math.log2(size))) {
    const lower = 2 ** Math.floor(Math.log2(size));
    throw new MicrogptError(
      `${size} processes cannot share the micro-batches of a step evenly: the number must be a power of two`,
      { hint: `start ${lower} or ${2 * lower}`, usage: true },
    );
  }
}

/** Names of the library by system and family, those first that serve more versions. */
const NAMES: Record<"linux" | "darwin" | "windows", Record<"Open MPI" | "MPICH", string[]>> = {
  linux: {
    "Open MPI": ["libmpi.so.40", "libmpi.so"],
    "MPICH": ["libmpi_abi.so.1", "libmpi_abi.so.0", "libmpi.so.12", "libmpich.so.12"],
  },
  darwin: {
    "Open MPI": ["libmpi.40.dylib", "libmpi.dylib"],
    "MPICH": ["libmpi_abi.1.dylib", "libmpi_abi.dylib", "libmpi.12.dylib", "libpmpi.12.dylib"],
  },
  windows: { "Open MPI": [], "MPICH": ["msmpi.dll", "impi.dll"] },
};

/**
 * Where to look for the library, best first. MICROGPT_MPI wins; then what lies beside the launcher, then what the system's loader
 * finds by name.
 * @param folders the folders of launchers: of the parent process, and of mpirun on the PATH
 * @returns paths, or names that the system's loader knows
 */
export function libraryPaths(
  os: typeof Deno.build.os,
  env: Environment,
  folders: string[],
  isFile: (path: string) => boolean,
): string[] {
  const chosen = env("MICROGPT_MPI");
  if (chosen) return [chosen];
  const names = NAMES[os === "darwin" || os === "windows" ? os : "linux"];
  const family = launchOf(env)?.family;
  // Open MPI may run under PMI and MPICH under PMIx, too: then the library counts as the launcher does, or `checkSize` tells
  const first = family === "any" && env("PMIX_RANK") !== undefined ? "Open MPI" : "MPICH";
  const second = first === "MPICH" ? "Open MPI" : "MPICH";
  const wanted = family === "Open MPI" ? names[family] : [...names[first], ...names[second]];
  const beside = folders.flatMap((folder) => [`${folder}/../lib`, `${folder}/../lib64`]);
  if (os === "darwin") beside.push("/opt/homebrew/lib", "/usr/local/lib");
  return [...beside.flatMap((folder) => wanted.map((name) => `${folder}/${name}`)).filter(isFile), ...wanted];
}
