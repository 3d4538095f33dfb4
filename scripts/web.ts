/**
 * Makes the page as a static folder, `dist/site`, which any host can serve, and serves it at 127.0.0.1.
 *
 *     deno task web [--port 8080] [--build-only] [--output DIR]
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { bundle } from "./bundle.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

const TYPES: Record<string, string> = {
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  css: "text/css; charset=utf-8",
  txt: "text/plain; charset=utf-8",
  map: "application/json",
  json: "application/json",
};

async function copyFolder(from: string, to: string): Promise<void> {
  await Deno.mkdir(to, { recursive: true });
  for await (const { name, isDirectory } of Deno.readDir(from)) {
    if (isDirectory) await copyFolder(join(from, name), join(to, name));
    else await Deno.copyFile(join(from, name), join(to, name));
  }
}

/** Writes the page with all that it loads. @param output emptied before; default `dist/site` */
export async function buildSite(output = join(root, "dist", "site")): Promise<string> {
  await bundle(output, { types: false });
  await copyFolder(join(root, "web"), output);
  await Deno.remove(join(output, "chat"), { recursive: true }); // the server's page
  await Deno.copyFile(join(root, "data", "samples", "names.txt"), join(output, "names.txt"));
  return output;
}

/** Serves a folder's files at 127.0.0.1. @param port 0 for a free one */
export function serveFolder(folder: string, port: number): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ port, hostname: "127.0.0.1", onListen() {} }, async (request) => {
    const path = decodeURIComponent(new URL(request.url).pathname);
    const name = path.endsWith("/") ? `${path}index.html` : path;
    if (name.split("/").some((part) => part.startsWith("."))) {
      return new Response("not found", { status: 404 });
    }
    try {
      const file = await Deno.open(join(folder, name));
      const type = TYPES[name.split(".").at(-1)!] ?? "application/octet-stream";
      return new Response(file.readable, { headers: { "content-type": type, "cache-control": "no-cache" } });
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      return new Response("not found", { status: 404 });
    }
  });
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      port: { type: "string", default: "8080" },
      "build-only": { type: "boolean", default: false },
      output: { type: "string" },
    },
  });
  const folder = await buildSite(values.output);
  console.log(`the page is in ${folder}: any host can serve it`);
  if (!values["build-only"]) {
    const { addr } = serveFolder(folder, Number(values.port));
    console.log(`http://127.0.0.1:${addr.port}/ (Ctrl-C ends)`);
  }
}
