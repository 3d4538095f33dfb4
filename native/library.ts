// Finds, checks and opens the native library. Nothing happens at import; the first openLibrary() pays for it. Whoever
// may need a download (a module imported by URL) awaits ensureLibrary() first.

import { MicrogptError } from "../device/errors.ts";
import type { Download } from "./download.ts";
import { environment, granted } from "../platform/permissions.ts";
import {
  BASE,
  type Bindings,
  bindings,
  DEVICE,
  interfaceVersion,
  MPI,
  type Signatures,
  TOKENIZER,
} from "./symbols.ts";

const HOW_TO_GET = "build it with `deno task build` (needs Rust's cargo), or set MICROGPT_NATIVE to its path";

/** The native library is not available: missing, damaged, of another version, or not allowed. */
export class NativeLibraryError extends MicrogptError {}

/** What signatures become when they are bound. */
type Symbols<S extends Signatures, Result extends Deno.NativeResultType> = Deno.DynamicLibrary<
  Bindings<S, Result>
>["symbols"];

interface Base {
  path: string;
  symbols: Symbols<typeof BASE, "u32">;
}

let base: Base | undefined;
/** The download under way. */
let download: Promise<Download> | undefined;
/** What became of the last one. */
let downloaded: Download | undefined;

/** File name of the library on this platform. */
export function libraryFileName(os: typeof Deno.build.os = Deno.build.os): string {
  if (os === "windows") return "microgpt_native.dll";
  return os === "darwin" ? "libmicrogpt_native.dylib" : "libmicrogpt_native.so";
}

/**
 * Opens the native library with some of its exports; finding the file and checking its version happen once per process.
 * @param signatures a table of symbols.ts, of exports that return a status for {@link check}
 * @returns the bound functions; the library stays open until the process ends
 * @throws {NativeLibraryError} when the library is missing, damaged, of another version, or not allowed
 */
export function openLibrary<const S extends Signatures>(signatures: S): Symbols<S, "i32"> {
  base ??= openBase(findLibrary());
  return open(base.path, bindings(signatures, "i32")).symbols;
}

/**
 * Opens exports that wait, to be called on a thread of their own: the program goes on meanwhile. Their messages stay on that
 * thread, so only exports that never fail are called so.
 */
export function openWaiting<const S extends Signatures>(signatures: S) {
  base ??= openBase(findLibrary());
  const bound = Object.entries(bindings(signatures, "i32")).map(([name, { parameters, result }]) => {
    return [name, { parameters, result, nonblocking: true }];
  });
  type Waiting = { [Name in keyof S]: Bindings<S, "i32">[Name] & { nonblocking: true } };
  return open(base.path, Object.fromEntries(bound) as Waiting).symbols;
}

/** The file that openLibrary() opened; undefined before that. */
export function openedLibrary(): string | undefined {
  return base?.path;
}

/**
 * Passes a good status on and turns a bad one into the library's message. Call it right after the native
 * call, on the same thread: the message is the thread's last.
 * @param status what an `mg_…` export returned
 * @throws {MicrogptError} when the status is negative
 */
export function check(status: number): void {
  if (status >= 0) return;
  const message = errorMessage();
  if (status === -2) {
    throw new MicrogptError(message, {
      hint: "this is a defect of microgpt's native library; please report it",
    });
  }
  throw new MicrogptError(message);
}

function errorMessage(): string {
  if (base === undefined) throw new Error("check() before openLibrary()");
  let buffer = new Uint8Array(512);
  const needed = base.symbols.mg_error_message(buffer, buffer.length);
  if (needed > buffer.length) {
    buffer = new Uint8Array(needed);
    base.symbols.mg_error_message(buffer, needed);
  }
  return new TextDecoder().decode(buffer.subarray(0, Math.min(needed, buffer.length)));
}

/**
 * Makes sure that there is a library to open: one that MICROGPT_NATIVE names, one embedded or built, or one downloaded
 * from the release of this module. Asks nobody for permissions. A damaged library counts as there.
 * @returns false where there is none, or it may not be opened; openLibrary() then throws an error that says why
 * @throws {MicrogptError} when MICROGPT_NATIVE names no file, or a download is not the file of the release
 */
export async function ensureLibrary(): Promise<boolean> {
  if (base !== undefined) return true;
  const chosen = environment("MICROGPT_NATIVE");
  for (const path of chosen ? [chosen] : ownPlaces()) {
    if (!granted({ name: "ffi", path }) || !granted({ name: "read", path })) return false;
    if (isFile(path)) return true;
    if (chosen) throw notAFile(chosen);
  }
  const { downloadLibrary } = await import("./download.ts");
  // Concurrent callers share one download; a later caller tries again, so no failure is remembered.
  downloaded = await (download ??= downloadLibrary().finally(() => download = undefined));
  return "path" in downloaded;
}

function findLibrary(): string {
  const chosen = environment("MICROGPT_NATIVE");
  if (chosen) {
    if (!isFile(chosen)) throw notAFile(chosen);
    return chosen;
  }
  const places = ownPlaces();
  const path = places.find(isFile);
  if (path !== undefined) return path;
  if (downloaded === undefined) {
    throw new NativeLibraryError("the native library is missing", { hint: HOW_TO_GET });
  }
  if ("path" in downloaded) return downloaded.path;
  const { why, hint } = downloaded;
  if (places.length === 0) throw new NativeLibraryError(`there is no native library: ${why}`, { hint });
  throw new NativeLibraryError(`the native library is missing (native/target/release/${libraryFileName()})`, {
    hint: HOW_TO_GET,
  });
}

/**
 * Where the library may lie beside this file. They are both the checkout's build folders and, in a program made by
 * `deno compile --include`, the embedded copies of them. A module imported by URL has none.
 */
function ownPlaces(): string[] {
  if (import.meta.dirname === undefined) return [];
  const built = `${import.meta.dirname}/target`;
  return [
    `${built}/release/${libraryFileName()}`,
    `${built}/${Deno.build.target}/release/${libraryFileName()}`,
  ];
}

function notAFile(chosen: string): NativeLibraryError {
  return new NativeLibraryError(`MICROGPT_NATIVE names ${chosen}, which is not a file`, { hint: HOW_TO_GET });
}

function openBase(path: string): Base {
  checkWholeElf(path);
  const library = open(path, bindings(BASE, "u32"));
  const version = library.symbols.mg_abi_version();
  const needed = interfaceVersion(BASE, DEVICE, TOKENIZER, MPI);
  if (version !== needed) {
    library.close();
    throw new NativeLibraryError(
      `the native library ${path} has interface version ${version}, this program needs ${needed}`,
      { hint: HOW_TO_GET },
    );
  }
  return { path, symbols: library.symbols };
}

function open<const S extends Deno.ForeignLibraryInterface>(
  path: string,
  symbols: S,
): Deno.DynamicLibrary<S> {
  try {
    return Deno.dlopen(path, symbols);
  } catch (cause) {
    if (cause instanceof Deno.errors.NotCapable) {
      throw new NativeLibraryError(`not allowed to open the native library ${path}`, {
        hint: "run Deno with --allow-ffi",
        cause,
      });
    }
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new NativeLibraryError(`cannot open the native library ${path}: ${reason.split("\n")[0]}`, {
      hint: HOW_TO_GET,
      cause,
    });
  }
}

/**
 * Linux maps a truncated library without complaint and then kills the process with SIGBUS when a missing page
 * is touched, so the end of every segment is compared with the file's size first. The loaders of macOS and
 * Windows check this themselves.
 */
function checkWholeElf(path: string): void {
  if (Deno.build.os === "darwin" || Deno.build.os === "windows") return;
  const { size } = Deno.statSync(path);
  using file = Deno.openSync(path);
  const header = readAt(file, 0, 64);
  const damaged = (why: string) =>
    new NativeLibraryError(`the native library ${path} is damaged: ${why}`, { hint: HOW_TO_GET });
  const magic = header.byteLength === 64 ? header.getUint32(0) : 0;
  if (magic !== 0x7f454c46) throw damaged("not an ELF file");
  if (header.getUint8(4) !== 2 || header.getUint8(5) !== 1) throw damaged("not 64-bit little-endian");
  const [offset, entry, count] = [
    Number(header.getBigUint64(32, true)), // e_phoff
    header.getUint16(54, true), // e_phentsize
    header.getUint16(56, true), // e_phnum
  ];
  if (entry !== 56) throw damaged(`its segments take ${entry} bytes, not 56`);
  if (offset + entry * count > size) throw damaged(`truncated at ${size} bytes`);
  const table = readAt(file, offset, entry * count);
  for (let i = 0; i < count; i++) {
    const start = Number(table.getBigUint64(i * entry + 8, true)); // p_offset
    const length = Number(table.getBigUint64(i * entry + 32, true)); // p_filesz
    if (start + length > size) throw damaged(`truncated at ${size} bytes`);
  }
}

/** Up to `length` bytes at `offset`; fewer where the file ends. */
function readAt(file: Deno.FsFile, offset: number, length: number): DataView {
  const bytes = new Uint8Array(length);
  file.seekSync(offset, Deno.SeekMode.Start);
  let filled = 0;
  while (filled < length) {
    const n = file.readSync(bytes.subarray(filled));
    if (n === null) break;
    filled += n;
  }
  return new DataView(bytes.buffer, 0, filled);
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return false;
    if (error instanceof Deno.errors.NotCapable) {
      throw new NativeLibraryError(`not allowed to look for the native library ${path}`, {
        hint: "run Deno with --allow-read --allow-ffi",
        cause: error,
      });
    }
    throw error;
  }
}
