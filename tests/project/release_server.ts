/** A web server of this machine that stands for the one that has our sources and the one that has a release's assets. */
import { nativeManifest } from "../../scripts/native_manifest.ts";
import { libraryFileName } from "../../native/library.ts";
import project from "../../deno.json" with { type: "json" };

const ROOT = new URL("../..", import.meta.url);

/** How an asset is answered. */
export type AssetAnswer = "whole" | "tampered" | "broken" | "missing";

const TYPES: Record<string, string> = {
  ts: "application/typescript",
  json: "application/json",
  wgsl: "text/plain",
  py: "text/plain",
};

/** The server, and what a release would hold for this machine. */
export class ReleaseServer implements AsyncDisposable {
  /** answers to the next requests of the asset; whole when there are none left */
  answers: AssetAnswer[] = [];
  /** how often the asset was asked for at the manifest's address, and at another */
  readonly requests = { releases: 0, mirror: 0 };

  private constructor(
    private readonly server: Deno.HttpServer<Deno.NetAddr>,
    private readonly folder: string,
    private readonly asset: Uint8Array<ArrayBuffer>,
    private manifest: string,
  ) {}

  /** Starts on a free port, with the native library of this checkout as the release's. */
  static async start(): Promise<ReleaseServer> {
    const folder = await Deno.makeTempDir({ prefix: "microgpt-test-" });
    const library = libraryFileName();
    const file = `microgpt_native-${Deno.build.target}${library.slice(library.lastIndexOf("."))}`;
    await Deno.copyFile(new URL(`native/target/release/${library}`, ROOT), `${folder}/${file}`);
    let answer: (request: Request) => Promise<Response> = () => Promise.resolve(new Response());
    const server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen: () => {} },
      (request) => answer(request),
    );
    const releases = `http://127.0.0.1:${server.addr.port}/releases`;
    const manifest = await nativeManifest(folder, releases, project.version);
    const made = new ReleaseServer(
      server,
      folder,
      await Deno.readFile(`${folder}/${file}`),
      JSON.stringify(manifest),
    );
    answer = (request) => made.#answer(new URL(request.url).pathname);
    return made;
  }

  /** "127.0.0.1:1234" */
  get host(): string {
    return `127.0.0.1:${this.server.addr.port}`;
  }

  async #answer(path: string): Promise<Response> {
    const [, place, ...rest] = path.split("/");
    if (place === "releases" || place === "mirror") return this.#assetAnswer(place, rest.join("/"));
    if (path === "/native/manifest.json") return response(this.manifest, "json");
    try {
      return response(await Deno.readTextFile(new URL(`.${path}`, ROOT)), path.split(".").at(-1)!);
    } catch {
      return new Response("not found", { status: 404 });
    }
  }

  #assetAnswer(place: "releases" | "mirror", file: string): Response {
    this.requests[place]++;
    const answer = this.answers.shift() ?? "whole";
    const { version } = project;
    const known = file.startsWith(`v${version}/microgpt_native-${Deno.build.target}.`);
    if (answer === "missing" || !known) return new Response("not found", { status: 404 });
    if (answer === "whole") return new Response(this.asset);
    if (answer === "tampered") {
      const changed = this.asset.slice();
      changed[changed.length >> 1]! ^= 1;
      return new Response(changed);
    }
    const half = this.asset.subarray(0, this.asset.length >> 1);
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(half);
        setTimeout(() => controller.close(), 20);
      },
    });
    return new Response(body, { headers: { "content-length": String(this.asset.length) } });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.shutdown();
    await Deno.remove(this.folder, { recursive: true });
  }
}

function response(text: string, extension: string): Response {
  return new Response(text, { headers: { "content-type": TYPES[extension] ?? "text/plain" } });
}
