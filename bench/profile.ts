/** Where the time of a device goes, for benchmarks: a wrapper that times every call. Exact only where calls are synchronous. */
import type { Device, Tensor } from "../device/device.ts";

/** Calls, milliseconds of all and of the fastest, and flops, by kernel. */
export type Profile = Map<
  string,
  { calls: number; milliseconds: number; fastest: number; flops: number }
>;

/** The device, with every call timed into `profile`; matrix products are told apart by form and shape. */
export function profiled(device: Device, profile: Profile): Device {
  const wrappers = new Map<string, unknown>();
  return new Proxy(device, {
    get(target, property) {
      const name = property as keyof Device;
      const value = target[name];
      if (typeof value !== "function") return value;
      let wrapper = wrappers.get(name);
      if (wrapper === undefined) {
        const method = (value as (...args: unknown[]) => unknown).bind(target);
        wrapper = (...args: unknown[]) => {
          const start = performance.now();
          const result = method(...args);
          const milliseconds = performance.now() - start;
          const { label, flops } = describe(name, args);
          const entry = profile.get(label) ??
            { calls: 0, milliseconds: 0, fastest: Infinity, flops: 0 };
          entry.calls++;
          entry.milliseconds += milliseconds;
          entry.fastest = Math.min(entry.fastest, milliseconds);
          entry.flops += flops;
          profile.set(label, entry);
          return result;
        };
        wrappers.set(name, wrapper);
      }
      return wrapper;
    },
  });
}

function describe(name: string, args: unknown[]): { label: string; flops: number } {
  if (name !== "matmul") return { label: name, flops: 0 };
  const [out, a, , form] = args as [Tensor, Tensor, Tensor, string];
  const k = form === "TN" ? a.rows : a.cols;
  // Only the sizes that weights have: the number of tokens changes from batch to batch.
  const shape = form === "NT"
    ? `T x ${out.cols} x ${k}`
    : form === "NN"
    ? `T x ${out.cols} x ${k}`
    : `${out.rows} x ${out.cols} x T`;
  return { label: `matmul ${form} ${shape}`, flops: 2 * out.rows * out.cols * k };
}

/**
 * Prints the profile as milliseconds a step, largest first. `fastest` is what a step would take if each call were as fast as the
 * fastest of its kind, which other programs on the machine disturb least.
 */
export function printProfile(profile: Profile, steps: number): void {
  const entries = [...profile].sort(([, a], [, b]) => b.milliseconds - a.milliseconds);
  const total = entries.reduce((sum, [, entry]) => sum + entry.milliseconds, 0);
  const fastest = entries.reduce((sum, [, entry]) => sum + entry.fastest * entry.calls, 0);
  console.log("ms a step   fastest   share  calls  GFLOP/s");
  for (const [label, { calls, milliseconds, fastest, flops }] of entries) {
    const columns = [
      (milliseconds / steps).toFixed(4).padStart(9),
      (fastest * calls / steps).toFixed(4).padStart(9),
      `${(100 * milliseconds / total).toFixed(1)}%`.padStart(7),
      (calls / steps).toFixed(0).padStart(6),
      (flops > 0 ? (flops / milliseconds / 1e6).toFixed(0) : "").padStart(8),
    ];
    console.log(columns.join(" "), label);
  }
  console.log((total / steps).toFixed(4).padStart(9), (fastest / steps).toFixed(4).padStart(9), "in all");
}
