/** Runs of the real program under an MPI launcher, and what becomes of them. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { programArgs, TINY } from "../../cli/program.ts";
import { ENVIRONMENT, type Launcher } from "../../native/mpi_launch.ts";

/** Flags of a small run that ranks share. */
export const SHARED = "--distributed mpi --threads 1 --grad-accum 4 --eval-every 3 --lr 0.01".split(" ");

/** The same, with checkpoints; the number of steps follows. */
export const LONG = [...TINY, ...SHARED, "--checkpoint-every", "10", "--steps"];

/** Flags with which such a run goes on. */
export function resumed(output: string): string[] {
  const args = ["--resume", output, "--output", output, "--checkpoint-every", "10"];
  return [...args, "--distributed", "mpi", "--threads", "1"];
}

/** Starts `microgpt train`; a `@RANK` in its words is the number of the process. */
export function start(
  { program }: Pick<Launcher, "program">,
  ranks: number,
  args: string[],
  command = programArgs(["train", ...args]),
  env: Record<string, string> = {},
): Deno.ChildProcess {
  const script = "RANK=${OMPI_COMM_WORLD_RANK:-$PMI_RANK}; for a; do shift; case $a in *@RANK*) " +
    'a="${a%@RANK*}$RANK${a#*@RANK}";; esac; set -- "$@" "$a"; done; exec "$@"';
  return new Deno.Command(program, {
    args: ["-n", String(ranks), "sh", "-c", script, "sh", ...command],
    env: { ...ENVIRONMENT, MICROGPT_DEBUG: "", ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(240_000), // mpirun ends its ranks when it is told to end
  }).spawn();
}

/** All that a run said, to its end. */
export async function ended(process: Deno.ChildProcess): Promise<{ code: number; text: string }> {
  const { code, stdout, stderr } = await process.output();
  return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

/** Digests of weights and moments. */
export async function digests(dir: string): Promise<string[]> {
  const files = ["weights", "optimizer_m", "optimizer_v"].map((name) => join(dir, `${name}.safetensors`));
  return await Promise.all(files.map(async (path) => {
    return createHash("sha256").update(await Deno.readFile(path)).digest("hex");
  }));
}

/** The processes that a launcher started with `--output dir`, by Linux's /proc. */
export function ranksOf(dir: string): number[] {
  return [...Deno.readDirSync("/proc")].map(({ name }) => Number(name)).filter((pid) => {
    if (!Number.isInteger(pid)) return false;
    try {
      const words = Deno.readTextFileSync(`/proc/${pid}/cmdline`).split("\0");
      return words[0] === Deno.execPath() && words[words.indexOf("--output") + 1] === dir;
    } catch {
      return false; // it ended meanwhile
    }
  });
}

/** Of the last checkpoint; 0 where there is none. */
export async function stepOf(directory: string): Promise<number> {
  try {
    return JSON.parse(await Deno.readTextFile(join(directory, "train_state.json"))).step;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 0;
    throw error;
  }
}

/** Waits until a run has saved a checkpoint after step `begun`. */
export async function untilSaved(directory: string, begun = 0): Promise<void> {
  for (let i = 0; i < 1200; i++) {
    if (await stepOf(directory) > begun) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${directory} gets no checkpoint`);
}
