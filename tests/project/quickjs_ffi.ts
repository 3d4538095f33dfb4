/**
 * Runs before the program in the compiled check, whose runtime has QuickJS in place of V8. That runtime loses a native
 * function now and then when it is bound soon after a garbage collection, and then aborts. Here everything is bound
 * first, before there is garbage. Programs on Deno's own runtime do not need this.
 */
import { openCpuDevice } from "../../native/device.ts";
import { setTokenizerThreads } from "../../native/tokenizer.ts";

setTokenizerThreads(0);
openCpuDevice({ threads: 1 }).destroy();
