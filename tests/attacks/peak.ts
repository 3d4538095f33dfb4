/** The most memory that a process of a test has held. */
import { resourceUsage } from "node:process";

/**
 * In MB, of this process. Linux lets maxRSS begin with that of the process that started this one, which holds all tests;
 * VmHWM is this program's own.
 */
export function peakMegabytes(): number {
  if (Deno.build.os === "linux") {
    const found = /^VmHWM:\s+(\d+) kB$/m.exec(Deno.readTextFileSync("/proc/self/status"));
    if (found) return Number(found[1]) / 1024;
  }
  return resourceUsage().maxRSS / 1024;
}
