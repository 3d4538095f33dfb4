/** The workflows of GitHub Actions, read by actionlint where there is one (.ci/run installs it). */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import project from "../../deno.json" with { type: "json" };
import manifest from "../../native/manifest.json" with { type: "json" };
import { TARGETS } from "../../scripts/compile.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

const actionlint = await (async () => {
  try {
    return (await new Deno.Command("actionlint", { args: ["-version"], stdout: "null" }).output()).success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
})();

Deno.test({
  name: `actionlint finds nothing in the workflows${actionlint ? "" : " (skipped: there is no actionlint)"}`,
  ignore: !actionlint,
  fn: async () => {
    const files = Array.from(
      Deno.readDirSync(`${root}.github/workflows`),
      ({ name }) => `.github/workflows/${name}`,
    );
    assert.ok(files.length >= 2);
    const { code, stdout } = await new Deno.Command("actionlint", {
      args: ["-no-color", ...files],
      cwd: root,
    })
      .output();
    assert.equal(code, 0, new TextDecoder().decode(stdout));
  },
});

Deno.test("the release is made for every system that the program can be compiled for", async () => {
  const workflow = await Deno.readTextFile(`${root}.github/workflows/release.yml`);
  const targets = [...workflow.matchAll(/target: ([\w-]+),/g)].map(([, target]) => target);
  assert.deepEqual(targets.sort(), [...TARGETS].sort());
});

Deno.test("the manifest of native libraries is of this version", () => {
  assert.equal(manifest.version, project.version);
});
