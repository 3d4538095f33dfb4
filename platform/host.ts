/** Where the program runs: in Deno, or in a browser, which has no operating system to speak of. */

/** What of Deno's own namespace is used here and in the rest of this room, and nowhere else below `native/`. */
export const deno: typeof Deno | undefined = (globalThis as { Deno?: typeof Deno }).Deno;

/** The operating system as Deno names it, or "browser". */
export const os: string = deno?.build.os ?? "browser";

/**
 * A module of Node's that Deno has built in, without importing it, which a browser could not.
 * @param name as after `node:`
 * @returns undefined in a browser
 */
export function builtin<Module>(name: string): Module | undefined {
  if (!deno) return undefined;
  const { process } = globalThis as { process?: { getBuiltinModule(name: string): unknown } };
  return process?.getBuiltinModule(`node:${name}`) as Module | undefined;
}

/** What standard input brings; in a browser there is none, and it ends at once. */
export function standardInput(): ReadableStream<Uint8Array> {
  return deno?.stdin.readable ?? new ReadableStream({ start: (controller) => controller.close() });
}

/** This process, for people who look who holds a lock. */
export interface ProcessDescription {
  pid: number;
  /** the command line after the program's name */
  command: string;
  /** @throws where the program's permissions do not extend to it */
  host(): string | undefined;
}

/** Describes the process that asks; a page is process 0. */
export function thisProcess(): ProcessDescription {
  return {
    pid: deno?.pid ?? 0,
    command: deno?.args.join(" ") ?? "a page",
    host: () => deno?.hostname(),
  };
}

/** Whether files below a path may be used without asking the person; in a browser they are the program's own. */
export async function isPermitted(name: "read" | "write", path: string): Promise<boolean> {
  return !deno || (await deno.permissions.query({ name, path })).state === "granted";
}
