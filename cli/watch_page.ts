/** The page of `train --watch`: the server, with this run and no model. */
import { DEFAULTS, handler, MicrogptError, type PresetName, PRESETS, type ServeHandler } from "../mod.ts";
import type { FlagValues } from "./command.ts";
import { Listener } from "./listener.ts";

/** Where the page is when no port is named. */
export const WATCH_PORT = 8080;

/** Parts of a run after which the page gets samples, where nothing else is asked for. */
const SAMPLED_PARTS = 20;

/** How often a run that is watched draws samples. */
export function samplesOfWatched({ steps, preset }: FlagValues): number {
  const planned = steps ?? PRESETS[preset as PresetName]?.steps ?? DEFAULTS.steps;
  return Math.max(1, Math.round(Number(planned) / SAMPLED_PARTS));
}

/**
 * The port of `--watch`.
 * @param given `true` is the usual one
 * @throws {MicrogptError} when it is none
 */
export function watchPort(given: FlagValues[string]): number {
  if (given === true) return WATCH_PORT;
  const port = given as number;
  if (Number.isInteger(port) && port >= 0 && port <= 65535) return port;
  throw new MicrogptError(`--watch must be a port from 0 to 65535, got ${port}`, { usage: true });
}

/** A page that somebody looks at asks more often than that, and hears of the run's end. */
const LAST_LOOK_MS = 2000;

/** A page on this machine that shows a run. */
export class WatchPage {
  #asked = -Infinity;
  readonly server: Listener;

  private constructor(readonly serve: ServeHandler, port: number) {
    const answer = (request: Request) => {
      this.#asked = performance.now();
      return serve(request);
    };
    this.server = new Listener(answer, { port });
  }

  /**
   * @param dir where the run writes
   * @throws {MicrogptError} when the port is in use
   */
  static async open(dir: string, port: number): Promise<WatchPage> {
    const serve = await handler(undefined, { watch: [dir] });
    return new WatchPage(serve, port);
  }

  async close(): Promise<void> {
    const isSeen = performance.now() - this.#asked < LAST_LOOK_MS;
    if (isSeen) await new Promise((resolve) => setTimeout(resolve, LAST_LOOK_MS));
    await this.serve.close();
    await this.server.shutdown();
  }
}
