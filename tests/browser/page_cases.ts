/** Runs in a page: cases of the device suite on its GPU, against the reference device there. */
import { ReferenceDevice } from "../../device/reference_device.ts";
import { openAdapter } from "../../gpu/adapter.ts";
import { GpuDevice, openGpuDevice } from "../../gpu/device.ts";
import { measurePeak } from "../../gpu/peak.ts";
import { DEVICE_CASES } from "../device/device_cases.ts";
import { forceLeastLimits } from "../device/least_limits.ts";

/** How far results are from what they should be: the largest |difference| / (1 + |expected|), ∞ where one is no number. */
function distance(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let largest = 0;
  for (let i = 0; i < actual.length; i++) {
    if (Object.is(actual[i], expected[i])) continue;
    const off = Math.abs(actual[i]! - expected[i]!) / (1 + Math.abs(expected[i]!));
    largest = Math.max(largest, Number.isNaN(off) ? Infinity : off);
  }
  return largest;
}

/** What a page tells of its cases. */
export interface CaseReport {
  device: string;
  subgroups: boolean;
  limits: Record<string, number>;
  cases: number;
  failed: string[];
}

/**
 * @param names a regular expression for the cases to run
 * @param subgroups how reductions are done
 */
export async function runCases(
  names: string,
  subgroups: "auto" | "on" | "off",
  progress: (line: string) => void = () => {},
): Promise<CaseReport> {
  const device = await openGpuDevice({ dtype: "f32", subgroups });
  const oracle = new ReferenceDevice("f64");
  const failed: string[] = [];
  const chosen = DEVICE_CASES.filter(({ name }) => new RegExp(names).test(name));
  for (const { name, tolerance, run } of chosen) {
    const began = performance.now();
    const [expected, actual] = [await run(oracle), await run(device)];
    for (const key of Object.keys(expected)) {
      const off = distance(actual[key]!, expected[key]!);
      if (!(off <= tolerance)) failed.push(`${name}: ${key} is off by ${off}, ${tolerance} is allowed`);
    }
    progress(`${Math.round(performance.now() - began)} ms ${name}`);
  }
  const { limits } = device.description;
  device.destroy();
  return { device: device.name, subgroups: device.subgroups, limits, cases: chosen.length, failed };
}

/** The same peak, measured twice, and a run of a known length: time is awaited, not the return of a call. */
export async function peaks(): Promise<number[]> {
  const device = await openGpuDevice({ dtype: "f32" });
  const all = [await measurePeak(device), await measurePeak(device)];
  device.destroy();
  return all.map(({ gigaflops }) => gigaflops);
}

/** How a lost GPU is told. */
export async function lose(): Promise<string> {
  const opened = await openAdapter("f32", false);
  const device = new GpuDevice(opened, "f32", false);
  const x = device.tensor("x", 4, 4);
  const reading = device.read(x);
  opened.gpu.destroy();
  return await reading.then(() => device.read(x)).then(() => "nothing happened", (error) => error.message);
}

Object.assign(globalThis, { cases: { runCases, forceLeastLimits, peaks, lose } });
