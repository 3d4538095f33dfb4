/** One body of tests over every device: each kernel, forward and backward, against the reference in f64. */
import { openDevice } from "../devices.ts";
import type { Device } from "../model/device.ts";
import { ReferenceDevice } from "../model/reference_device.ts";
import { assertClose } from "./assert_close.ts";
import { DEVICE_CASES } from "./device_cases.ts";
import { openTestGpu } from "./test_gpu.ts";

const oracle = new ReferenceDevice("f64");

const openers: Record<string, () => Promise<Device | undefined>> = {
  reference: () => Promise.resolve(new ReferenceDevice("f32")),
  cpu: () => openDevice({ device: "cpu", threads: 2 }),
  webgpu: () => openTestGpu({ dtype: "f32" }),
};

for (const [name, open] of Object.entries(openers)) {
  Deno.test({
    name: `every kernel on ${name}`,
    sanitizeResources: false,
    async fn(t) {
      const device = await open();
      if (!device) return;
      for (const { name, tolerance, run } of DEVICE_CASES) {
        await t.step(name, async () => {
          const expected = await run(oracle);
          const actual = await run(device);
          for (const key of Object.keys(expected)) assertClose(actual[key]!, expected[key]!, tolerance, key);
        });
      }
      device.destroy();
    },
  });
}
