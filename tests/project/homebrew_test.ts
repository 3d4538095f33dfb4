/** The Homebrew formula: against a file that is kept, and read by Ruby. MICROGPT_UPDATE=1 writes the file anew. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { chatModelAsset, homebrewFormula, programAsset, type Release } from "../../scripts/homebrew.ts";
import { TARGETS } from "../../scripts/compile.ts";

const GOLDEN = new URL("../golden/microgpt.rb", import.meta.url);
const VERSION = "1.2.3";

/** Made-up sums of a made-up release: the position of the asset, 64 times. */
const RELEASE: Release = {
  repository: "https://github.com/example/microgpt",
  version: VERSION,
  checksums: [...TARGETS.map((target) => programAsset(VERSION, target)), chatModelAsset(VERSION)]
    .map((asset, i) => `${String(i + 1).repeat(64)}  ${asset}\n`).join(""),
};

Deno.test("the formula is the one that is kept", async () => {
  const formula = homebrewFormula(RELEASE);
  if (Deno.env.get("MICROGPT_UPDATE") === "1") await Deno.writeTextFile(GOLDEN, formula);
  assert.equal(formula, await Deno.readTextFile(GOLDEN));
});

Deno.test("a checksums file that is malformed or lacks an asset is an error", () => {
  const without = RELEASE.checksums.split("\n").slice(1).join("\n");
  assert.throws(
    () => homebrewFormula({ ...RELEASE, checksums: without }),
    /no line for microgpt-1\.2\.3-aarch64-apple-darwin\.tar\.gz/,
  );
  assert.throws(() => homebrewFormula({ ...RELEASE, checksums: "abc  file" }), /not a line of sha256sum/);
});

const ruby = await runs("ruby");

Deno.test({
  name: `Ruby reads the formula${ruby ? "" : " (skipped: there is no ruby)"}`,
  ignore: !ruby,
  fn: async () => {
    const { code, stdout, stderr } = await new Deno.Command("ruby", { args: ["-c", fileURLToPath(GOLDEN)] })
      .output();
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    assert.match(new TextDecoder().decode(stdout), /Syntax OK/);
  },
});

async function runs(program: string): Promise<boolean> {
  try {
    return (await new Deno.Command(program, { args: ["--version"], stdout: "null" }).output()).success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
