/** The server's page in Chromium, over a real socket. */
import { join } from "node:path";
import type { Page } from "npm:puppeteer-core@25.16.0";
import type { Chromium } from "./chromium.ts";

/** A server with its page open. */
export class ServedPage implements AsyncDisposable {
  /** errors of the page, what it logs as one, and requests to elsewhere */
  readonly problems: string[] = [];
  /** milliseconds between the events of a stream */
  pace = 0;
  /** posts get no answer until their client leaves */
  hold = false;
  page!: Page;
  readonly url: string;
  readonly #http: Deno.HttpServer<Deno.NetAddr>;

  private constructor(serve: (request: Request) => Promise<Response>) {
    const answer = async (request: Request) => {
      if (!this.hold || request.method !== "POST") return this.#paced(await serve(request));
      await new Promise((resolve) => request.signal.addEventListener("abort", resolve));
      return new Response();
    };
    this.#http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, answer);
    this.url = `http://127.0.0.1:${this.#http.addr.port}/`;
  }

  static async open(
    chromium: Chromium,
    serve: (request: Request) => Promise<Response>,
    view = "",
  ): Promise<ServedPage> {
    const served = new ServedPage(serve);
    served.page = await chromium.open("about:blank", served.problems);
    served.page.on("request", (request) => {
      const url = request.url();
      if (!url.startsWith(served.url) && !/^(about|blob|data):/.test(url)) {
        served.problems.push(`a request to ${url}`);
      }
    });
    await served.page.setViewport({ width: 1280, height: 800 });
    await served.page.goto(served.url + view);
    return served;
  }

  /** Slows a stream down, event by event. */
  #paced(response: Response): Response {
    if (this.pace === 0 || response.headers.get("content-type") !== "text/event-stream") return response;
    const slow = new TransformStream<string, string>({
      transform: async (text, controller) => {
        for (const event of text.split(/(?<=\n\n)/)) {
          await new Promise((resolve) => setTimeout(resolve, this.pace));
          controller.enqueue(event);
        }
      },
    }, new CountQueuingStrategy({ highWaterMark: 1 }));
    const body = response.body!.pipeThrough(new TextDecoderStream()).pipeThrough(slow);
    return new Response(body.pipeThrough(new TextEncoderStream()), response);
  }

  /** Waits until an expression of the page is true. */
  async until(expression: string): Promise<void> {
    await this.page.waitForFunction(expression, { timeout: 30_000 });
  }

  /** @returns what an expression of the page is */
  async value<T>(expression: string): Promise<T> {
    return await this.page.evaluate(expression) as T;
  }

  /** The visible text of every element. */
  async texts(selector: string): Promise<string[]> {
    return await this.value(
      `[...document.querySelectorAll(${JSON.stringify(selector)})].map((e) => e.innerText)`,
    );
  }

  /** Clicks the last visible button with this text. */
  async press(text: string, within = "body"): Promise<void> {
    const handle = await this.page.evaluateHandle(
      `[...document.querySelectorAll(${JSON.stringify(`${within} button`)})]
        .findLast((b) => b.innerText === ${JSON.stringify(text)} && b.offsetParent)`,
    );
    await (handle.asElement() as unknown as { click(): Promise<void> }).click();
  }

  /** Fills in a field as a person does. */
  async fill(selector: string, text: string): Promise<void> {
    await this.page.click(selector, { count: 3 });
    await this.page.keyboard.press("Delete");
    await this.page.type(selector, text);
  }

  /** Keeps a picture where MICROGPT_SCREENSHOTS names a folder, for a person to look at. */
  async picture(name: string): Promise<void> {
    const folder = Deno.env.get("MICROGPT_SCREENSHOTS");
    if (!folder) return;
    await this.page.screenshot({ path: join(folder, `${name}.png`) as `${string}.png` });
  }

  async dark(): Promise<void> {
    await this.page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.page.close();
    await this.#http.shutdown();
  }
}
