import project from "../deno.json" with { type: "json" };
import { type DeviceDiagnosis, diagnose, type Diagnosis, type GpuDiagnosis } from "../mod.ts";
import type { Command, FlagValues } from "./command.ts";
import { harmlessLine } from "./harmless.ts";
import { print, printJson, styled } from "./terminal.ts";

export const command: Command = {
  flags: [{ name: "--json", help: "print one JSON object" }],
  run: runDoctor,
};

/** @returns 1 when there is no device that can train */
async function runDoctor({ json }: FlagValues): Promise<number> {
  const program = {
    version: project.version,
    deno: Deno.version.deno,
    system: `${Deno.build.os} ${Deno.osRelease()}, ${Deno.build.arch}`,
  };
  const diagnosis = await diagnose();
  if (json) printJson({ ...program, ...diagnosis });
  else show(program, diagnosis);
  return diagnosis.cpu.problem !== undefined && diagnosis.webgpu.problem !== undefined ? 1 : 0;
}

function show(
  program: { version: string; deno: string; system: string },
  { library, cpu, webgpu }: Diagnosis,
): void {
  row("microgpt", `${program.version}, Deno ${program.deno}, ${program.system}`);
  row("library", library.path ? `${harmlessLine(library.path)}: works` : bad(library.problem!));
  device("cpu", cpu);
  device("webgpu", webgpu);
  if (webgpu.features) showGpu(webgpu);
}

function device(label: string, { name, problem, warnings, productGigaflops }: DeviceDiagnosis): void {
  row(label, [name, problem && bad(problem)].filter(Boolean).join(": "));
  if (problem !== undefined) return;
  for (const warning of warnings ?? []) row("", styled("yellow", `warning: ${warning}`, Deno.stdout));
  row("", `self-test passed; matrix product of chat-medium: ${figure(productGigaflops!)} GFLOP/s`);
}

function showGpu(gpu: GpuDiagnosis): void {
  row(
    "",
    `peak ${figure(gpu.peakGigaflops!)} GFLOP/s in registers, ${
      figure(gpu.gigabytesPerSecond!)
    } GB/s in memory`,
  );
  row("", `vendor ${gpu.vendor || "not told"}, architecture ${gpu.architecture || "not told"}`);
  row("", `features ${gpu.features!.join(", ") || "none"}; subgroups ${gpu.subgroups ? "used" : "not used"}`);
  for (const [name, value] of Object.entries(gpu.limits!)) row("", `${name} ${value.toLocaleString("en")}`);
}

function row(label: string, text: string): void {
  print(`${label.padEnd(10)} ${text}`);
}

function bad(problem: string): string {
  return styled("red", harmlessLine(problem), Deno.stdout);
}

function figure(value: number): string {
  return value.toPrecision(3);
}
