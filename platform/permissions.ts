/** What the program may do, found out without asking anybody. */
import { deno } from "./host.ts";

/** A permission as Deno describes it. */
type Permission = Parameters<NonNullable<typeof deno>["permissions"]["querySync"]>[0];

/** Whether a permission was given; a browser has its own ways. */
export function granted(permission: Permission): boolean {
  return !deno || deno.permissions.querySync(permission).state === "granted";
}

/** An environment variable, or undefined where the program is not allowed to look, or there are none. */
export function environment(variable: string): string | undefined {
  return deno && granted({ name: "env", variable }) ? deno.env.get(variable) : undefined;
}
