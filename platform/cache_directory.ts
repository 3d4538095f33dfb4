/** Where the program may keep what it can download again. */
import { os } from "./host.ts";
import { environment } from "./permissions.ts";

/** The variables that say where the user's cache directory is. */
export const CACHE_VARIABLES = os === "windows" ? ["LOCALAPPDATA"] : ["HOME", "XDG_CACHE_HOME"];

/** Our folder in the user's cache directory, which each system has elsewhere; undefined where the variables are not set. */
export function cacheDirectory(): string | undefined {
  const named = CACHE_VARIABLES.map(environment);
  if (os === "windows") return named[0] && `${named[0].replaceAll("\\", "/")}/microgpt`;
  const [home, xdg] = named;
  return (xdg && `${xdg}/microgpt`) ||
    (home && `${home}/${os === "darwin" ? "Library/Caches" : ".cache"}/microgpt`);
}
