/** What the device `auto` decides by. */
import assert from "node:assert/strict";
import { type DeviceOptions, openDevice } from "../../model/devices.ts";
import { withNavigatorGpu } from "../device/test_gpu.ts";

/** Runs `use` where there seems to be a GPU, which gives no device. */
async function withBrokenGpu(use: () => Promise<void>): Promise<void> {
  const info = {
    vendor: "test",
    architecture: "",
    device: "",
    description: "Test GPU",
    isFallbackAdapter: false,
  };
  const requestDevice = () => Promise.reject(new Error("broken"));
  const adapter = { features: new Set(), limits: {}, info, requestDevice };
  await withNavigatorGpu({ requestAdapter: () => Promise.resolve(adapter) }, use);
}

Deno.test("auto goes on with a run on the device that it was begun on, whatever is faster now", async () => {
  const begun = await openDevice({ device: "cpu", threads: 1 });
  begun.destroy();
  await withBrokenGpu(async () => {
    let measured = 0;
    const trial = () => Promise.resolve(++measured);
    const before = { device: begun.name, dtype: begun.dtype };
    const again = await openDevice({ device: "auto", threads: 2 }, { trial, before });
    assert.equal(again.kind, "cpu");
    assert.equal(measured, 0, "nothing is measured");
    again.destroy();
    // A run that was begun elsewhere, and a new one, are decided by the trial.
    for (const unknown of [{ before: { device: "another GPU" } }, {}]) {
      measured = 0;
      const device = await openDevice({ device: "auto", threads: 1 }, { trial, ...unknown });
      assert.deepEqual([device.kind, measured], ["cpu", 1]);
      assert.match(device.warnings.join(), /`device` auto had no choice: .*broken/);
      device.destroy();
    }
  });
});

Deno.test("an adapter is refused where no GPU computes", async () => {
  for (const device of ["cpu", "reference", "auto"] as const) {
    await assert.rejects(openDevice({ device, adapter: 0 }), /`adapter` chooses a GPU, `device` is /);
  }
});

Deno.test("where to compute is checked before anything is opened", async () => {
  for (const wrong of [{ device: "gpu" }, { dtype: "f64" }, { threads: -1 }, { adapter: 0.5 }]) {
    const [name] = Object.keys(wrong);
    await assert.rejects(
      openDevice(wrong as DeviceOptions),
      new RegExp(`^MicrogptError: \`${name}\` must be `),
    );
  }
});
