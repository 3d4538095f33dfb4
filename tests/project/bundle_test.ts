/** The library as one module for browsers: free of Deno and Node, small, typed; and the site that is made of it. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { bundle, minifiedWgsl } from "../../scripts/bundle.ts";
import { buildSite, serveFolder } from "../../scripts/web.ts";

Deno.test("a kernel keeps its directives, and loses comments", () => {
  assert.equal(
    minifiedWgsl("// what it does\n#if A\n  let x = 1.0; // one\n\n#end\n"),
    "#if A\nlet x = 1.0;\n#end\n",
  );
});

Deno.test("the bundle is free of Deno and Node, small, and has source maps and types", async () => {
  const output = await Deno.makeTempDir();
  const sizes = await bundle(output);
  // compressed; bounds that notice growth, a little above what it is: 51, 121 and 178 KB (docs/browser.md)
  assert(sizes.eager < 52_000, `microgpt.js with what it imports: ${sizes.eager} bytes`);
  assert(sizes.generating < 125_000, `to generate: ${sizes.generating} bytes`);
  assert(sizes.training < 183_000, `to train: ${sizes.training} bytes`);
  const own: string[] = [];
  for await (const { name } of Deno.readDir(output)) {
    if (!name.endsWith(".js")) continue;
    const text = await Deno.readTextFile(join(output, name));
    if (!text.includes("//# sourceMappingURL=")) { // a file that a package of npm has minified already
      assert(!text.includes("MicrogptError"), name);
      continue;
    }
    const map = JSON.parse(await Deno.readTextFile(join(output, `${name}.map`))) as { sources: string[] };
    if (map.sources.every((source) => source.startsWith("npm/"))) continue;
    own.push(name);
    const code = text.replace(/import\("\.\.\/(?:\.\.\/)?native\/[^"]+"\)/g, "");
    // Safari has no `using`
    for (
      const wrong of [
        /\busing [\w$]+=/,
        /\bDeno\.\w/,
        /(?:from|import)\s*\(?["']node:/,
        /(?:from|import)\s*\(?["']npm:/,
      ]
    ) {
      assert.doesNotMatch(code, wrong, name);
    }
  }
  assert(own.includes("microgpt.js") && own.length > 10, own.join());
  const program = join(output, "program.ts");
  await Deno.writeTextFile(
    program,
    `// @ts-types="./microgpt.d.ts"
import { loadModel, train } from "./microgpt.js";
for await (const event of train({ documents: ["a"], output: "x" })) {
  if (event.type === "step") console.log(event.loss.toFixed(2));
}
using model = await loadModel("x");
const samples: string[] = await model.samples({ numSamples: 2 });
// @ts-expect-error there is no such option
await model.samples({ number: samples.length });
`,
  );
  const check = await new Deno.Command(Deno.execPath(), { args: ["check", "--quiet", program] }).output();
  assert(check.success, new TextDecoder().decode(check.stderr));
  await Deno.remove(output, { recursive: true });
});

Deno.test("the site is a folder of files, served at 127.0.0.1", async () => {
  const folder = await buildSite(await Deno.makeTempDir());
  const server = serveFolder(folder, 0);
  assert.equal(server.addr.hostname, "127.0.0.1");
  const url = `http://127.0.0.1:${server.addr.port}`;
  const page = await (await fetch(`${url}/`)).text();
  const linked = [...page.matchAll(/(?:src|href)="([\w/.]+\.(?:js|css))"/g)].map(([, name]) => name!);
  assert.deepEqual(linked.sort(), ["main.js", "shared/style.css", "style.css"]);
  for (const name of [...linked, "worker.js", "microgpt.js", "zip.js", "names.txt", "verses.txt"]) {
    const response = await fetch(`${url}/${name}`);
    assert.equal(response.status, 200, name);
    await response.body?.cancel();
  }
  for (const name of ["nothing.js", "..%2f..%2fdeno.json"]) {
    const response = await fetch(`${url}/${name}`);
    assert.equal(response.status, 404, name);
    await response.body?.cancel();
  }
  await server.shutdown();
  await Deno.remove(folder, { recursive: true });
});
