import { openDevice } from "../devices.ts";
import type { Device, Dtype } from "../model/device.ts";

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
