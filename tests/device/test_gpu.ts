import { openDevice } from "../../model/devices.ts";
import type { Device, Dtype } from "../../device/device.ts";

let saidSo = false;

/**
 * The GPU of the tests, or undefined, with one visible line, where there is none.
 * @throws where MICROGPT_REQUIRE_GPU=1 and there is none
 */
export async function openTestGpu(options: { dtype: Dtype }): Promise<Device | undefined> {
  if (Deno.env.get("MICROGPT_REQUIRE_GPU") === "1" || await navigator.gpu?.requestAdapter()) {
    return await openDevice({ device: "webgpu", ...options });
  }
  if (!saidSo) console.error("skipped: no WebGPU adapter on this machine");
  saidSo = true;
}

/** A test that runs where there is a GPU, or where one is required. */
export function gpuTest(name: string, fn: (t: Deno.TestContext) => Promise<void>): void {
  Deno.test({
    name,
    sanitizeResources: false,
    async fn(t) {
      const required = Deno.env.get("MICROGPT_REQUIRE_GPU") === "1";
      if (required || await navigator.gpu?.requestAdapter()) await fn(t);
      // Says, once, that tests are skipped.
      else await openTestGpu({ dtype: "f32" });
    },
  });
}

/** Runs `use` while `navigator.gpu` is something else. */
export async function withNavigatorGpu(gpu: unknown, use: () => Promise<void>): Promise<void> {
  const own = Object.getOwnPropertyDescriptor(navigator, "gpu");
  Object.defineProperty(navigator, "gpu", { value: gpu, configurable: true });
  try {
    await use();
  } finally {
    if (own) Object.defineProperty(navigator, "gpu", own);
    else delete (navigator as unknown as Record<string, unknown>).gpu;
  }
}
