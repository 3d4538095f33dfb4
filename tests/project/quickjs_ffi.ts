/**
 * Runs before the program in the compiled check, whose runtime has QuickJS in place of V8. That runtime loses a native
 * function now and then when it is bound soon after a garbage collection, and then aborts. Here everything is bound
 * first, before there is garbage, and handed out later. Programs on Deno's own runtime do not need this.
 */
import { openLibrary } from "../../native/library.ts";
import { DEVICE, TOKENIZER } from "../../native/symbols.ts";

const open = Deno.dlopen;
const opened = new Map<string, unknown>();
Deno.dlopen = ((path: string, symbols: Deno.ForeignLibraryInterface) => {
  const key = Object.keys(symbols).join();
  if (!opened.has(key)) opened.set(key, open(path, symbols));
  return opened.get(key);
}) as typeof open;

openLibrary(TOKENIZER);
openLibrary(DEVICE);
