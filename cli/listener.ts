/** The address of a server, which is listened on until the server ends. */
import { MicrogptError, SERVE_OPTIONS, type ServeOptions } from "../mod.ts";
import { say, sayNotice } from "./terminal.ts";

/** After so long it is tried again to take connections. */
const AGAIN_MS = 250;

type Answer = (request: Request) => Promise<Response>;

/**
 * Listens, and goes on after a flood of connections: where the system lets the process open no more files, `Deno.serve` ends
 * with an error. Connections that are there stay.
 */
export class Listener {
  readonly #answer: Answer;
  readonly #options: Deno.ServeTcpOptions & Partial<Deno.TlsCertifiedKeyPem>;
  /** undefined while none can be */
  #server: Deno.HttpServer<Deno.NetAddr> | undefined;
  #closed = false;

  /** @throws {MicrogptError} when the address is in use or not ours */
  constructor(
    answer: Answer,
    { host = SERVE_OPTIONS.host.default, port = SERVE_OPTIONS.port.default }: Partial<ServeOptions>,
    tls?: Deno.TlsCertifiedKeyPem,
  ) {
    this.#answer = answer;
    this.#options = { hostname: host, port, onListen() {}, ...tls };
    let addr: Deno.NetAddr;
    try {
      addr = this.#listen();
    } catch (cause) {
      const reason = cause instanceof Deno.errors.AddrInUse ? "it is in use" : (cause as Error).message;
      throw new MicrogptError(`cannot listen on ${host} port ${port}: ${reason}`, {
        hint: "choose another with `port`",
        cause,
      });
    }
    this.#options.port = addr.port; // 0 became another
    const name = addr.hostname.includes(":") ? `[${addr.hostname}]` : addr.hostname;
    say(`listening on ${tls ? "https" : "http"}://${name}:${addr.port}`);
  }

  #listen(): Deno.NetAddr {
    this.#server = Deno.serve(this.#options, this.#answer);
    this.#server.finished.catch((error) => this.#again(error));
    return this.#server.addr;
  }

  async #again(error: Error): Promise<void> {
    this.#server = undefined;
    sayNotice(`warning: no connections are taken for a moment: ${error.message}`);
    while (!this.#closed) {
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      if (this.#closed) return;
      try {
        this.#listen();
        return;
      } catch {
        // the flood goes on
      }
    }
  }

  /** Takes no more connections, and waits for those that are there. */
  async shutdown(): Promise<void> {
    this.#closed = true;
    await this.#server?.shutdown();
  }
}
