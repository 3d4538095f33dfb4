/** The MPI launchers of this machine, for tests. */
import { fileURLToPath } from "node:url";

/** A launcher that works. */
export interface Launcher {
  program: string;
  /** "Open MPI" or "MPICH": a library of the other kind does not go with it */
  family: string;
  /** of the program, before all others */
  args?: string[];
}

const RANK = fileURLToPath(new URL("mpi_rank.ts", import.meta.url));

/** A launch that takes longer hangs. */
const MOST_MS = 60_000;

const TWO_MACHINES = fileURLToPath(new URL("two_machines.sh", import.meta.url));

/** Has Open MPI's launcher notice that a machine falls silent. MPICH's ends when a rank does. */
const ASKING = [["time", 3], ["intvl", 2], ["probes", 3]].flatMap(([what, value]) => {
  return ["--mca", `oob_tcp_keepalive_${what}`, String(value)];
});

/** The launcher for two ranks on the two machines of two_machines.sh, which agree over TCP. */
export function onTwoMachines({ program, family }: Launcher, rate = "-"): Launcher {
  const hosts = "10.77.0.1,10.77.0.2";
  const flags = family === "Open MPI"
    ? ["--mca", "plm_rsh_agent", TWO_MACHINES, "--host", hosts, ...ASKING]
    : ["-genv", "UCX_TLS", "tcp", "-launcher", "ssh", "-launcher-exec", TWO_MACHINES, "-hosts", hosts];
  return { program: TWO_MACHINES, family, args: [rate, program, ...flags] };
}

/** Why this machine cannot play two; undefined where it can. */
export async function notTwoMachines(): Promise<string | undefined> {
  if (Deno.build.os !== "linux") return "needs Linux";
  const { success, stderr } = await new Deno.Command(TWO_MACHINES, { args: ["-", "true"] }).output();
  return success
    ? undefined
    : `no network namespaces: ${new TextDecoder().decode(stderr).trim().split("\n")[0]}`;
}

/** Of launchers. Two ranks on one core must not wait for each other too eagerly, and tests may be run by root. */
export const ENVIRONMENT = {
  NO_COLOR: "1",
  OMPI_ALLOW_RUN_AS_ROOT: "1",
  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1",
  OMPI_MCA_rmaps_base_oversubscribe: "1",
  OMPI_MCA_mpi_yield_when_idle: "1",
  PRTE_MCA_rmaps_default_mapping_policy: ":oversubscribe",
};

/** Those of some programs that are there. */
async function working(programs: string[]): Promise<Launcher[]> {
  const found: Launcher[] = [];
  for (const program of programs) {
    const version = await output(program, ["--version"]);
    if (version === undefined) continue;
    found.push({ program, family: /open ?mpi|open-?rte|prte/i.test(version) ? "Open MPI" : "MPICH" });
  }
  return found;
}

const named = (variable: string) => Deno.env.get(variable)?.split(":").filter((one) => one !== "") ?? [];

/** The launchers of this machine: those that MICROGPT_MPIRUN names, with a colon between two; else Debian's, else mpirun. */
export const LAUNCHERS = await working(named("MICROGPT_MPIRUN"));
if (LAUNCHERS.length === 0) LAUNCHERS.push(...await working(["mpirun.openmpi", "mpirun.mpich"]));
if (LAUNCHERS.length === 0) LAUNCHERS.push(...await working(["mpirun"]));

/** Other versions, which MICROGPT_MORE_MPIRUN names; they take part in what depends on the library most. */
const MORE = await working(named("MICROGPT_MORE_MPIRUN"));

/**
 * A test under each launcher; without one it is skipped, and its name says so.
 * @param options.everywhere under other versions of MPI, too
 * @param options.skipped why it cannot run on this machine
 * @throws where MICROGPT_REQUIRE_MPI=1 and there is none
 */
export function mpiTest(
  name: string,
  fn: (launcher: Launcher) => Promise<void>,
  { everywhere = false, skipped = undefined as string | undefined } = {},
): void {
  if (skipped !== undefined) {
    Deno.test({ name: `${name} (skipped: ${skipped})`, ignore: true, fn() {} });
    return;
  }
  if (LAUNCHERS.length === 0) {
    if (Deno.env.get("MICROGPT_REQUIRE_MPI") === "1") {
      throw new Error("MICROGPT_REQUIRE_MPI=1, and no mpirun");
    }
    Deno.test({ name: `${name} (skipped: no mpirun)`, ignore: true, fn() {} });
  }
  for (const launcher of [...LAUNCHERS, ...everywhere ? MORE : []]) {
    Deno.test(`${name}, ${launcher.program}`, () => fn(launcher));
  }
}

async function output(program: string, args: string[]): Promise<string | undefined> {
  try {
    const { stdout } = await new Deno.Command(program, { args, env: ENVIRONMENT }).output();
    return new TextDecoder().decode(stdout);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Runs mpi_rank.ts on some ranks. */
export async function launch(
  { program, args = [] }: Launcher,
  ranks: number,
  what: string,
  env: Record<string, string> = {},
): Promise<{ code: number; text: string; errors: string; seconds: number }> {
  const started = performance.now();
  const { code, stdout, stderr } = await new Deno.Command(program, {
    args: [...args, "-n", String(ranks), Deno.execPath(), "run", "-A", "--quiet", RANK, what],
    env: { ...ENVIRONMENT, ...env },
    signal: AbortSignal.timeout(MOST_MS), // mpirun ends its ranks when it is told to end
  }).output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  const seconds = (performance.now() - started) / 1000;
  return { code, text: decode(stdout), errors: decode(stderr), seconds };
}
