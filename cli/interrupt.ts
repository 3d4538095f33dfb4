/** The signals that end a training run with a checkpoint. */

/** One press of Ctrl-C may come twice, from the terminal and from a parent that hands it on, as `deno task` does. */
const SAME_PRESS_MS = 100;

/**
 * Calls `stop` when the program is asked to end: by Ctrl-C, by SIGTERM, or when its terminal or session is gone.
 * Another Ctrl-C then ends it at once. Other signals may come twice by themselves: the shell and the system both report
 * a closed terminal.
 * @returns stops listening
 */
export function onInterrupt(stop: () => void): () => void {
  let state: "running" | "stopping" | "armed" = "running";
  let timer: ReturnType<typeof setTimeout> | undefined;
  const arm = () => {
    state = "armed";
  };
  const first = () => {
    if (state !== "running") return;
    state = "stopping";
    // the second timer lets a signal through that came while a long step blocked the first
    timer = setTimeout(() => timer = setTimeout(arm), SAME_PRESS_MS);
    stop();
  };
  const listeners: [Deno.Signal, () => void][] = [[
    "SIGINT",
    () => state === "armed" ? Deno.exit(130) : first(),
  ]];
  if (Deno.build.os === "windows") listeners.push(["SIGBREAK", first]);
  else {
    listeners.push(["SIGTERM", first]);
    if (!keepsNohup()) listeners.push(["SIGHUP", first]);
  }
  for (const [signal, listener] of listeners) Deno.addSignalListener(signal, listener);
  return () => {
    clearTimeout(timer);
    for (const [signal, listener] of listeners) Deno.removeSignalListener(signal, listener);
  };
}

let hangUpIgnored: boolean | undefined;

/**
 * Whether SIGHUP is to be ignored. Asked once, before the first listener: with that Deno catches SIGHUP too, and ends at it
 * unless there is a listener for it. One that does nothing, and stays, therefore keeps nohup's promise.
 */
function keepsNohup(): boolean {
  if (hangUpIgnored === undefined) {
    hangUpIgnored = ignoresHangUp();
    if (hangUpIgnored) Deno.addSignalListener("SIGHUP", () => {});
  }
  return hangUpIgnored;
}

const SIGHUP = 1;
const SIG_IGN = 1n;
/** Larger than `struct sigaction` anywhere; it begins with the handler's address. */
const SIGACTION_BYTES = 512;

/** Whether this process was started with SIGHUP ignored. Only the C library tells, so it asks there. */
function ignoresHangUp(): boolean {
  const path = Deno.build.os === "darwin" ? "libSystem.B.dylib" : "libc.so.6";
  if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") return false; // cannot know; saving and ending loses nothing
  const library = Deno.dlopen(path, {
    sigaction: { parameters: ["i32", "pointer", "buffer"], result: "i32" },
  });
  try {
    const action = new BigUint64Array(SIGACTION_BYTES / 8);
    const status = library.symbols.sigaction(SIGHUP, null, action);
    if (status !== 0) throw new Error("sigaction does not know SIGHUP");
    return action[0] === SIG_IGN;
  } finally {
    library.close();
  }
}
