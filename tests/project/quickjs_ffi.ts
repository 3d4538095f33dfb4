/**
 * Runs before the program in the compiled check, whose runtime has QuickJS in place of V8. That runtime loses a native
 * function now and then when it is bound soon after a garbage collection, and then aborts. So all functions are bound
 * at once, at the first call, before there is garbage, and handed out later. Programs on Deno's own runtime do not need
 * this.
 */
import { openLibrary } from "../../native/library.ts";
import { bindings, DEVICE, MPI, TOKENIZER } from "../../native/symbols.ts";

type Symbols = Record<string, { nonblocking?: boolean }>;

const open = Deno.dlopen;
const all = {
  ...bindings(DEVICE, "i32"),
  ...bindings(TOKENIZER, "i32"),
  ...bindings(MPI, "i32"),
} as unknown as Deno.ForeignLibraryInterface;
let bound: ReturnType<typeof open> | undefined;

Deno.dlopen = ((path: string, symbols: Deno.ForeignLibraryInterface) => {
  bound ??= open(path, { ...all, ...symbols });
  const there = bound.symbols as Record<string, unknown>;
  const known = Object.entries(symbols as Symbols).every(([name, { nonblocking }]) =>
    name in there && !nonblocking
  );
  return known ? bound : open(path, symbols);
}) as typeof open;

openLibrary(TOKENIZER);
