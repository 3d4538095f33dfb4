/** Paths of files: as the operating system writes them, in a browser with slashes. */
import { builtin } from "./host.ts";

/** The functions of `node:path` that are used. */
interface Paths {
  join(...parts: string[]): string;
  normalize(path: string): string;
  /** an absolute path; the first part counts from the current directory */
  resolve(...parts: string[]): string;
  dirname(path: string): string;
  basename(path: string): string;
  relative(from: string, to: string): string;
}

/** Drops `.` and empty parts and takes `..` back, as far as there is something to take back. */
function normalizeSlashes(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === ".." && parts.length > 0 && parts.at(-1) !== "..") parts.pop();
    else if (part === ".." && !path.startsWith("/")) parts.push(part);
    else if (part !== ".." && part !== "." && part !== "") parts.push(part);
  }
  const end = path.endsWith("/") ? "/" : "";
  if (path.startsWith("/")) return `/${parts.join("/")}${parts.length > 0 ? end : ""}`;
  return path === "" ? "." : `${parts.join("/") || "."}${end}`;
}

/** An absolute path without a slash at its end; relative ones lie below the root. */
function resolveSlashes(...parts: string[]): string {
  const from = parts.findLastIndex((part) => part.startsWith("/"));
  const path = normalizeSlashes(`/${parts.slice(Math.max(from, 0)).join("/")}`);
  return path.length > 1 ? path.replace(/\/$/, "") : path;
}

/** The paths of a browser's file system, as `node:path` has them on Linux with the root for current directory. */
export const SLASH_PATHS: Paths = {
  join: (...parts) => normalizeSlashes(parts.filter((part) => part !== "").join("/")),
  normalize: normalizeSlashes,
  resolve: resolveSlashes,
  dirname: (path) => {
    const [, above] = /^(.*)\/[^/]+\/*$/.exec(path) ?? [];
    return above || (path.startsWith("/") ? "/" : ".");
  },
  basename: (path) => /([^/]*)\/*$/.exec(path)![1]!,
  relative: (from, to) => {
    const [a, b] = [from, to].map((path) => resolveSlashes(path).split("/").filter((part) => part !== ""));
    let same = 0;
    while (same < a!.length && a![same] === b![same]) same++;
    return [...a!.slice(same).map(() => ".."), ...b!.slice(same)].join("/");
  },
};

export const { join, normalize, resolve, dirname, basename, relative } = builtin<Paths>("path") ??
  SLASH_PATHS;

/** The path of a `file:` URL. */
export function pathOfUrl(url: URL): string {
  return builtin<{ fileURLToPath(url: URL): string }>("url")?.fileURLToPath(url) ??
    decodeURIComponent(url.pathname);
}
