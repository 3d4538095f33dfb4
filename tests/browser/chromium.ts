/** A real Chromium for tests, with WebGPU on its software adapter, and a server of folders and texts for it. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import puppeteer, { type Browser, type Page } from "npm:puppeteer-core@25.16.0";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** Where Chromium usually is; undefined where it is not. */
export function chromiumPath(): string | undefined {
  const places = [
    Deno.env.get("MICROGPT_CHROMIUM"),
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
  ];
  return places.find((path) => {
    try {
      return path !== undefined && Deno.statSync(path).isFile;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return false;
      throw error;
    }
  });
}

/** A test that runs where there is Chromium, or where MICROGPT_REQUIRE_CHROMIUM=1 wants it. */
export function chromiumTest(name: string, fn: (t: Deno.TestContext) => Promise<void>): void {
  const required = Deno.env.get("MICROGPT_REQUIRE_CHROMIUM") === "1";
  const there = chromiumPath() !== undefined;
  const said = there || required ? name : `${name} (skipped: there is no Chromium)`;
  Deno.test({ name: said, ignore: !there && !required, sanitizeResources: false, sanitizeOps: false, fn });
}

const TYPES: Record<string, string> = {
  html: "text/html; charset=utf-8",
  js: "text/javascript",
  css: "text/css",
  json: "application/json",
  txt: "text/plain; charset=utf-8",
  svg: "image/svg+xml",
};

/** Serves folders at 127.0.0.1, by the first part of the path. */
export class PageServer implements AsyncDisposable {
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly url: string;

  /** @param folders paths of folders by their names in URLs; "" is the root */
  constructor(readonly folders: Record<string, string>, texts: Record<string, string> = {}) {
    this.#server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, async (request) => {
      const path = decodeURIComponent(new URL(request.url).pathname).slice(1);
      const headers = { "content-type": TYPES[path.split(".").at(-1)!] ?? TYPES.html! };
      if (texts[path] !== undefined) return new Response(texts[path], { headers });
      const [first = "", ...rest] = path.split("/");
      const file = folders[first] === undefined
        ? folders[""] === undefined ? undefined : join(folders[""], path)
        : join(folders[first], ...rest);
      if (file === undefined || path.includes("..")) return new Response("not found", { status: 404 });
      const contents = await Deno.readFile(file).catch(() => undefined);
      return contents ? new Response(contents, { headers }) : new Response("not found", { status: 404 });
    });
    this.url = `http://127.0.0.1:${this.#server.addr.port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}

/** Flags of puppeteer's that a person's Chromium does not have. */
const KEEPS_HIDDEN_QUICK = [
  "--disable-backgrounding-occluded-windows",
  "--disable-renderer-backgrounding",
  "--disable-background-timer-throttling",
];

/** Chromium, until it is disposed of. */
export class Chromium implements AsyncDisposable {
  private constructor(readonly browser: Browser, readonly profile: string) {}

  /**
   * @param options.webgpu false starts it as on a machine without a GPU
   * @param options.hardware the machine's own GPU in place of the software adapter
   * @param options.slowsHidden hidden tabs get less time, as a person's do; else they are treated as if they were seen
   */
  static async start(
    { webgpu = true, hardware = false, slowsHidden = false, profile = Deno.makeTempDirSync() } = {},
  ): Promise<Chromium> {
    const gpu = webgpu
      ? ["--enable-unsafe-webgpu", ...hardware ? [] : ["--use-webgpu-adapter=swiftshader"]]
      : ["--disable-features=WebGPU", "--disable-gpu"];
    const browser = await puppeteer.launch({
      executablePath: chromiumPath() ?? "chromium",
      headless: true,
      args: ["--no-sandbox", "--disable-dev-shm-usage", `--user-data-dir=${profile}`, ...gpu],
      ignoreDefaultArgs: slowsHidden ? KEEPS_HIDDEN_QUICK : [],
      protocolTimeout: 300_000,
    });
    return new Chromium(browser, profile);
  }

  /** Opens a page. @param problems receives errors that the page does not catch, and what it logs as one */
  async open(url: string, problems: string[] = []): Promise<Page> {
    const page = await this.browser.newPage();
    page.on("pageerror", (error) => problems.push(String((error as Error).stack ?? error)));
    page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
    await page.goto(url);
    return page;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.browser.close();
  }
}
