/**
 * Our sum over ranks against the MPI library's own `MPI_Allreduce`: the same numbers, in one job, in turn.
 *
 *     deno run -A bench/allreduce.ts --mpirun mpirun.openmpi,mpirun.mpich
 */
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { openMpiGroup } from "../native/mpi.ts";
import { median } from "./documents_file.ts";

const { values: flags } = parseArgs({
  options: {
    /** gradients of so many parameters; those of chat-medium are 28 MB */
    parameters: { type: "string", default: "7077888" },
    ranks: { type: "string", default: "2" },
    /** sums of each kind in a launch; the first three are not counted */
    sums: { type: "string", default: "28" },
    /** launches of each MPI */
    rounds: { type: "string", default: "3" },
    /** launchers, with a comma between two */
    mpirun: { type: "string", default: "mpirun.openmpi,mpirun.mpich" },
    /** one process of a measurement */
    rank: { type: "boolean", default: false },
  },
});
const WARMUP = 3;

/** What rank 0 prints: medians of the slowest rank's times. */
interface Measured {
  version: string;
  ours: number;
  library: number;
}

function measure(): void {
  const group = openMpiGroup();
  const values = new Float32Array(Number(flags.parameters));
  const seconds = (sum: (values: Float32Array<ArrayBuffer>) => void) => {
    values.fill(1 + group.rank);
    group.barrier();
    const started = performance.now();
    sum(values);
    const ended = performance.now();
    if (values.some((value) => value !== group.size * (group.size + 1) / 2)) throw new Error("a wrong sum");
    return group.max([(ended - started) / 1000])[0]!;
  };
  const [ours, library]: [number[], number[]] = [[], []];
  for (let i = 0; i < Number(flags.sums); i++) {
    ours.push(seconds((values) => group.sum(values)));
    library.push(seconds((values) => group.librarySum(values)));
  }
  const measured: Measured = {
    version: group.library.version,
    ours: median(ours.slice(WARMUP)),
    library: median(library.slice(WARMUP)),
  };
  if (group.rank === 0) console.log(JSON.stringify(measured));
  group.close();
}

async function launch(mpirun: string): Promise<Measured> {
  const own = ["run", "-A", "--quiet", fileURLToPath(import.meta.url), "--rank"];
  const given = (["parameters", "sums"] as const).flatMap((name) => [`--${name}`, flags[name]]);
  const { code, stdout, stderr } = await new Deno.Command(mpirun, {
    args: ["-n", flags.ranks, Deno.execPath(), ...own, ...given],
    env: { OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1" },
  }).output();
  const text = new TextDecoder();
  if (code !== 0) throw new Error(`${mpirun}\n${text.decode(stderr)}`);
  return JSON.parse(text.decode(stdout).trim().split("\n").at(-1)!);
}

async function compare(): Promise<void> {
  const ms = (seconds: number) => `${(1000 * seconds).toFixed(1)} ms`;
  for (const mpirun of flags.mpirun.split(",")) {
    const rounds: Measured[] = [];
    for (let round = 0; round < Number(flags.rounds); round++) rounds.push(await launch(mpirun));
    const each = rounds.map(({ ours, library }) => `${ms(ours)} / ${ms(library)}`).join(", ");
    const ratio = median(rounds.map(({ ours, library }) => ours / library));
    console.log(`${rounds[0]!.version}: ours / library's ${each}; median ratio ${ratio.toFixed(2)}`);
  }
}

if (flags.rank) measure();
else await compare();
