/** The model that a flag names: a path, or a model of HuggingFace's hub, which is downloaded with a bar. */
import { localModel } from "../mod.ts";
import { harmlessLine } from "./harmless.ts";
import { bar, columns, duration, isTerminal, LiveLine, say, sayNotice } from "./terminal.ts";

/** What the help says of a flag that takes any model. */
export const ANY_MODEL = "the model: a directory, a .gguf file, or hf:OWNER/NAME from HuggingFace's hub";

/**
 * The path of a model.
 * @throws {MicrogptError} when it cannot be downloaded
 */
export async function localModelDir(name: string): Promise<string> {
  const live = isTerminal() ? new LiveLine() : undefined;
  const started = performance.now();
  let first: number | undefined;
  let nextLine = started + LINE_EVERY_MS;
  try {
    return await localModel(name, {
      notice: (message) => {
        live?.clear();
        sayNotice(message);
      },
      progress: ({ file, received, total }) => {
        first ??= received; // what an earlier transfer brought took none of this one's time
        const seconds = (performance.now() - started) / 1000;
        const left = duration((total - received) * seconds / (received - first));
        const text = harmlessLine(`${file}  ${megabytes(received)} of ${megabytes(total)}  ETA ${left}`);
        if (live) {
          live.update(bar(received / total, Math.min(30, columns() - text.length - 2)) + ` ${text}`);
        } else if (performance.now() >= nextLine) {
          nextLine = performance.now() + LINE_EVERY_MS;
          say(`downloading ${text}`);
        }
      },
    });
  } finally {
    live?.clear();
  }
}

/** In a file or a pipe, where no line can be drawn again. */
const LINE_EVERY_MS = 5000;

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(0)} MB`;
}
