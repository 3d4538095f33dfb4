import project from "../deno.json" with { type: "json" };
import {
  type CacheDiagnosis,
  type DeviceDiagnosis,
  diagnose,
  type Diagnosis,
  type GpuDiagnosis,
  type MpiDiagnosis,
  RUN_OPTIONS,
} from "../mod.ts";
import type { Command, FlagValues } from "./command.ts";
import { flagsOf, inFlags } from "./flags.ts";
import { harmlessLine } from "./harmless.ts";
import { print, printJson, styled } from "./terminal.ts";

export const command: Command = {
  flags: [
    ...flagsOf({
      cacheDir: { ...RUN_OPTIONS.cacheDir, help: "look here for large data that is kept as tokens" },
    }),
    { name: "--json", help: "print one JSON object" },
  ],
  run: runDoctor,
};

/** @returns 1 when there is no device that can train */
async function runDoctor({ cacheDir, json }: FlagValues): Promise<number> {
  const program = {
    version: project.version,
    deno: Deno.version.deno,
    system: `${Deno.build.os} ${Deno.osRelease()}, ${Deno.build.arch}`,
  };
  const { library, cpu, webgpu, mpi, cache } = await diagnose(
    cacheDir === undefined ? {} : { cacheDir: cacheDir as string },
  );
  if (mpi.rank > 0) return 0; // rank 0 speaks for all
  const diagnosis: Diagnosis = {
    library: worded(library),
    cpu: worded(cpu),
    webgpu: worded(webgpu),
    mpi: worded(mpi),
    cache,
  };
  const limit = RUN_OPTIONS.cacheSize.default * 1e9;
  if (json) printJson({ ...program, ...diagnosis, cache: { ...cache, limit } });
  else show(program, diagnosis);
  return cpu.problem !== undefined && webgpu.problem !== undefined ? 1 : 0;
}

/** A finding in the words of the command line. */
function worded<Finding extends { problem?: string; warnings?: string[] }>(finding: Finding): Finding {
  const { problem, warnings } = finding;
  return {
    ...finding,
    ...(problem === undefined ? {} : { problem: inFlags(problem) }),
    ...(warnings ? { warnings: warnings.map(inFlags) } : {}),
  };
}

function show(
  program: { version: string; deno: string; system: string },
  { library, cpu, webgpu, mpi, cache }: Diagnosis,
): void {
  entry("microgpt", `${program.version}, Deno ${program.deno}, ${program.system}`);
  entry("library", library.path ? `${harmlessLine(library.path)}: works` : bad(library.problem!));
  device("cpu", cpu);
  device("webgpu", webgpu);
  if (webgpu.features) showGpu(webgpu);
  showMpi(mpi);
  showCache(cache);
}

function showCache({ dir, corpora, files, bytes, problem }: CacheDiagnosis): void {
  if (dir === undefined) return entry("cache", "none: large data is prepared anew for each run");
  if (problem !== undefined) return entry("cache", bad(`${dir}: ${problem}`));
  const held = corpora === 0
    ? "nothing is kept"
    : `${corpora} data ${corpora === 1 ? "set" : "sets"} as tokens in ${files} files, ${gigabytes(bytes)}`;
  const limit = RUN_OPTIONS.cacheSize.default;
  entry("cache", `${harmlessLine(dir)}: ${held}; at most ${limit} GB (train --cache-size)`);
}

function gigabytes(bytes: number): string {
  return bytes < 1e8 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}

function showMpi({ library, speed, problem }: MpiDiagnosis): void {
  const what = library && `${harmlessLine(library.version)}, ${harmlessLine(library.path)}, ${library.abi}`;
  // whoever trains on one machine does not need it, so that its absence is nothing bad
  entry(
    "mpi",
    [what, problem && (library ? bad(problem) : harmlessLine(problem))].filter(Boolean).join(": "),
  );
  if (speed === undefined) {
    if (problem === undefined) entry("", "how fast it is: mpirun -n 2 microgpt doctor, or on your machines");
    return;
  }
  const { ranks, values, sumSeconds, librarySumSeconds, bytesPerSecond, latencySeconds } = speed;
  entry(
    "",
    `${ranks} ranks add up ${figure(4 * values / 1e6)} MB in ${figure(1000 * sumSeconds)} ms ` +
      `(the library's own sum: ${figure(1000 * librarySumSeconds)} ms), ${
        figure(bytesPerSecond / 1e9)
      } GB/s; ` +
      `one number in ${Math.ceil(1e6 * latencySeconds)} µs`,
  );
}

function device(label: string, { name, problem, warnings, productGigaflops }: DeviceDiagnosis): void {
  entry(label, [name, problem && bad(problem)].filter(Boolean).join(": "));
  if (problem !== undefined) return;
  for (const warning of warnings ?? []) entry("", styled("yellow", `warning: ${warning}`, Deno.stdout));
  entry("", `self-test passed; matrix product of chat-medium: ${figure(productGigaflops!)} GFLOP/s`);
}

function showGpu(gpu: GpuDiagnosis): void {
  entry(
    "",
    `peak ${figure(gpu.peakGigaflops!)} GFLOP/s in registers, ${
      figure(gpu.gigabytesPerSecond!)
    } GB/s in memory`,
  );
  entry("", `vendor ${gpu.vendor || "not told"}, architecture ${gpu.architecture || "not told"}`);
  entry(
    "",
    `features ${gpu.features!.join(", ") || "none"}; subgroups ${gpu.subgroups ? "used" : "not used"}`,
  );
  for (const [name, value] of Object.entries(gpu.limits!)) entry("", `${name} ${value.toLocaleString("en")}`);
}

function entry(label: string, text: string): void {
  print(`${label.padEnd(10)} ${text}`);
}

function bad(problem: string): string {
  return styled("red", harmlessLine(problem), Deno.stdout);
}

function figure(value: number): string {
  return value.toPrecision(3);
}
