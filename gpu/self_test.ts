import type { GpuDevice } from "./device.ts";
export async function selfTest(_d: GpuDevice): Promise<void> {}
