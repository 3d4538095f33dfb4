/** Python programs that tests compare with. */
import { fileURLToPath } from "node:url";

/** The Python that has the packages of tests/requirements.txt; MICROGPT_PYTHON names another than the system's. */
const PYTHON = Deno.env.get("MICROGPT_PYTHON") || "python3";

async function python(args: string[]): Promise<Deno.CommandOutput | undefined> {
  try {
    return await new Deno.Command(PYTHON, { args, stdout: "piped", stderr: "piped" }).output();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/**
 * A test that needs Python modules; without them it is skipped, and its name says so. (What a test prints is not seen
 * under `deno test --quiet`.)
 * @param modules what must be importable
 * @throws where MICROGPT_REQUIRE_PEERS=1 and one is not
 */
export async function pythonTest(name: string, modules: string[], fn: () => Promise<void>): Promise<void> {
  const ignore = !(await python(["-c", `import ${modules.join(", ")}`]))?.success;
  if (ignore && Deno.env.get("MICROGPT_REQUIRE_PEERS") === "1") {
    throw new Error(`MICROGPT_REQUIRE_PEERS=1, and ${PYTHON} lacks ${modules.join(" or ")}`);
  }
  const reason = ignore
    ? ` (skipped: ${PYTHON} lacks ${modules.join(" or ")}, see tests/requirements.txt)`
    : "";
  Deno.test({ name: name + reason, ignore, fn });
}

/**
 * Runs a Python program.
 * @param file its path from this folder
 * @returns what it printed
 */
export async function runPython(file: string, args: string[]): Promise<string> {
  const output = await python([fileURLToPath(new URL(file, import.meta.url)), ...args]);
  if (!output?.success) throw new Error(`${file}: ${new TextDecoder().decode(output?.stderr)}`);
  return new TextDecoder().decode(output.stdout);
}
