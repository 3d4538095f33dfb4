/**
 * Makes the page as a static folder, `dist/site`, which any host can serve, and serves it at 127.0.0.1.
 *
 *     deno task web [--port 8080] [--build-only] [--output DIR]
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { bundle, bundleModule } from "./bundle.ts";
import { packageVersions } from "./compile.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Texts that the page offers. */
const SAMPLES = ["names.txt", "verses.txt"];

const TYPES: Record<string, string> = {
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  css: "text/css; charset=utf-8",
  txt: "text/plain; charset=utf-8",
  wasm: "application/wasm",
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

/** The part of onnxruntime-web that checks ONNX exports; 28 MB, loaded when one is made. */
const ONNX_RUNTIME = "ort-wasm-simd-threaded.jsep.wasm";

async function copyOnnxRuntime(output: string): Promise<void> {
  const source = await Deno.readTextFile(join(root, "model", "export", "onnx_session.ts"));
  const [, version] = /onnxruntime-web@([\d.]+)/.exec(source)!;
  const folder = (await packageVersions("onnxruntime-web")).find((path) => path.endsWith(`/${version}`));
  if (!folder) throw new Error(`onnxruntime-web ${version} is not in Deno's cache`);
  await Deno.copyFile(join(folder, "dist", ONNX_RUNTIME), join(output, ONNX_RUNTIME));
}

/** Writes the page with all that it loads. @param output emptied before; default `dist/site` */
export async function buildSite(output = join(root, "dist", "site")): Promise<string> {
  await bundle(output, { types: false });
  await copyFolder(join(root, "web"), output);
  await Deno.remove(join(output, "chat"), { recursive: true }); // the server's page
  await Deno.remove(join(output, "zip.ts"));
  await Deno.writeTextFile(join(output, "zip.js"), await bundleModule(join(root, "web", "zip.ts")));
  await copyOnnxRuntime(output);
  for (const name of SAMPLES) await Deno.copyFile(join(root, "data", "samples", name), join(output, name));
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
