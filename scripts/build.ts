/**
 * Builds the native library with cargo: `deno task build`. Quiet when it is fresh. Where there is no cargo, a library that
 * was built before is used as it is.
 */
import { fileURLToPath } from "node:url";
import { libraryFileName } from "../native/library.ts";

const library = fileURLToPath(new URL(`../native/target/release/${libraryFileName()}`, import.meta.url));
const manifest = fileURLToPath(new URL("../native/Cargo.toml", import.meta.url));

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

const there = exists(library);
try {
  if (!there) console.error("building the native library, once; this takes a minute or a few");
  const build = new Deno.Command("cargo", {
    args: ["build", "--release", "--quiet", "--manifest-path", manifest],
  });
  const { code } = await build.spawn().status;
  Deno.exit(code);
} catch (error) {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
  if (there) Deno.exit(0);
  console.error("error: the native library is built with Rust's cargo, which was not found");
  console.error("hint: install Rust from https://rustup.rs, then run this again");
  Deno.exit(1);
}
