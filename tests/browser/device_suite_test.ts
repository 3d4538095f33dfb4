/**
 * The device suite in a real Chromium: cases of every kernel on its WebGPU. Without a GPU each kernel takes seconds to compile there, so some cases stand for all;
 * MICROGPT_WHOLE_DEVICE_SUITE=1 runs them all (some two minutes).
 */
import assert from "node:assert/strict";
import { DEVICE_CASES } from "../device/device_cases.ts";
import { bundleModule } from "../../scripts/bundle.ts";
import { LEAST_LIMITS } from "../device/least_limits.ts";
import { Chromium, chromiumTest, PageServer, ROOT } from "./chromium.ts";
import type { CaseReport } from "./page_cases.ts";

/** Of each kernel a case or two. */
const CASES = Deno.env.get("MICROGPT_WHOLE_DEVICE_SUITE") === "1"
  ? "."
  : /^(embed.*E = 12.*33|lookup.*E = 12.*33|rmsNorm.*\[130|scaledRmsNorm.*\[33|rope.*17|swiglu.*\[33|.*attention.*E = 12, 4.*33|grouped attention.*2,33|crossEntropy.*\[33|dropout.*\[33|adam|attentionCached.*64|rmsNormMatmul \[7|copy|add|sample from (97|NaN)|decoding)/
    .source;
chromiumTest("device cases in Chromium", async (t) => {
  const code = await bundleModule(`${ROOT}tests/browser/page_cases.ts`);
  await using server = new PageServer({}, {
    "": '<link rel="icon" href="data:,"><script type="module" src="/cases.js"></script>',
    "cases.js": code,
  });
  await using chromium = await Chromium.start();
  const problems: string[] = [];
  const page = await chromium.open(`${server.url}/`, problems);
  await page.waitForFunction("globalThis.cases");
  const run = (names: string, subgroups: "auto" | "off") =>
    page.evaluate(`cases.runCases(${JSON.stringify(names)}, "${subgroups}")`) as Promise<CaseReport>;

  await t.step("with WebGPU's least limits", async () => {
    await page.evaluate("cases.forceLeastLimits()");
    const report = await run(CASES, "auto");
    assert.deepEqual({ ...report.limits, ...LEAST_LIMITS }, report.limits);
    assert.deepEqual(report.failed, []);
    assert(report.cases > 20 && report.cases <= DEVICE_CASES.length, `${report.cases} cases`);
    // Chromium lists them: a shader without `enable subgroups;` would not compile, and the probe would say no
    assert.equal(report.subgroups, true);
  });
  await t.step("a peak is the same twice, because time is awaited", async () => {
    const [first, second] = await page.evaluate("cases.peaks()") as [number, number];
    assert(
      first > 0.1 && first < 1e6 && second / first > 0.2 && second / first < 5,
      `${first} and ${second}`,
    );
  });
  await t.step("a GPU that is lost is told", async () => {
    assert.match(await page.evaluate("cases.lose()") as string, /^the GPU \(swiftshader\) was lost/);
  });
  assert.deepEqual(problems, []);
});
