/** Server-sent events: a response whose body grows, and which knows whether its reader keeps up. */

/** Bytes that may wait for a reader before nothing more is made for it. */
const MOST_WAITING = 64 << 10;

/** A comment is sent when nothing else was for so long, so that nobody on the way thinks the connection dead. */
const KEEP_ALIVE_MS = 10_000;

const encoder = new TextEncoder();

/** A stream of `data:` lines, which go out together at `flush`: each piece of a body costs as much as a token. */
export class EventStream {
  readonly response: Response;
  #controller!: ReadableStreamDefaultController<Uint8Array>;
  #over = false;
  #text = "";
  #sent = performance.now();
  readonly #timer: ReturnType<typeof setInterval>;

  /** @param left called when the reader leaves before the end */
  constructor(left: () => void) {
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
      },
      cancel: () => {
        if (this.#over) return;
        this.#end();
        left();
      },
    }, new ByteLengthQueuingStrategy({ highWaterMark: MOST_WAITING }));
    this.response = new Response(body, {
      headers: {
        "content-type": "text/event-stream",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
      },
    });
    this.#timer = setInterval(() => {
      if (performance.now() - this.#sent > KEEP_ALIVE_MS) this.#comment();
    }, KEEP_ALIVE_MS / 2);
  }

  /** Whether the reader does not keep up. */
  get behind(): boolean {
    return !this.#over && this.#controller.desiredSize! <= 0;
  }

  /** Sends a value. @param json without line breaks */
  send(json: string): void {
    this.#write(`data: ${json}\n\n`);
  }

  /** Ends the stream, as OpenAI does with a line of its own. */
  done(): void {
    this.#write("data: [DONE]\n\n");
    this.end();
  }

  /** Ends the stream. */
  end(): void {
    if (this.#over) return;
    this.flush();
    this.#end();
    this.#controller.close();
  }

  /** Breaks the connection off: nobody reads what could be said. */
  abort(reason: unknown): void {
    if (this.#over) return;
    this.#end();
    this.#controller.error(reason);
  }

  #end(): void {
    this.#over = true;
    clearInterval(this.#timer);
  }

  #comment(): void {
    this.#write(": waiting\n\n");
    this.flush();
  }

  #write(text: string): void {
    if (this.#over) return;
    this.#sent = performance.now();
    this.#text += text;
  }

  /** Hands on what was sent. */
  flush(): void {
    if (this.#over || this.#text === "") return;
    this.#controller.enqueue(encoder.encode(this.#text));
    this.#text = "";
  }
}
