/** Python programs that tests compare with. */
import { fileURLToPath } from "node:url";
import { peerTest } from "../peers.ts";

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
 * A test that needs Python modules, see `peerTest`.
 * @param modules what must be importable
 */
export async function pythonTest(name: string, modules: string[], fn: () => Promise<void>): Promise<void> {
  const there = (await python(["-c", `import ${modules.join(", ")}`]))?.success;
  peerTest(name, there ? undefined : `${modules.join(" or ")} in ${PYTHON}, see tests/requirements.txt`, fn);
}

/** The folder of a package, which need not be importable; absent: it is not installed. */
export async function packageFolder(name: string): Promise<string | undefined> {
  const find = `import importlib.util as u; print(u.find_spec("${name}").submodule_search_locations[0])`;
  const output = await python(["-c", find]);
  return output?.success ? new TextDecoder().decode(output.stdout).trim() : undefined;
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
