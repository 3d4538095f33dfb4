/** Imports point one way: docs/architecture.md says what each room may import, and here is looked whether it is true. */

import assert from "node:assert/strict";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** Rooms by their folder (or file), with the rooms that each may import, from the table under "Rooms". */
async function rooms(): Promise<Map<string, string[]>> {
  const text = await Deno.readTextFile(join(ROOT, "docs/architecture.md"));
  const section = /## Rooms\n([^]*?)\n## /.exec(text)![1]!;
  const rows = [...section.matchAll(/^\| `([^`]+)` *\|[^|]*\|([^|]*)\|$/gm)];
  const names = (cell: string) => [...cell.matchAll(/`([^`]+)`/g)].map(([, name]) => trimmed(name!));
  return new Map(rows.map(([, room, imports]) => [trimmed(room!), names(imports!)]));
}

function trimmed(room: string): string {
  return room.replace(/\/$/, "");
}

/** The room that a file is in: the longest name that its path begins with. */
function roomOf(path: string, all: Iterable<string>): string | undefined {
  const holds = (room: string) => path === room || path.startsWith(`${room}/`);
  return [...all].filter(holds).sort((a, b) => b.length - a.length)[0];
}

async function* sources(dir: string): AsyncGenerator<string> {
  for await (const entry of Deno.readDir(join(ROOT, dir))) {
    const path = join(dir, entry.name);
    if (entry.name.startsWith(".")) continue;
    if (entry.isDirectory) yield* sources(path);
    else if (path.endsWith(".ts")) yield path;
  }
}

/** The project's own modules that a file imports: statically, dynamically, as types. */
function importsOf(path: string, source: string): string[] {
  const code = source.replace(/\/\*[^]*?\*\//g, "");
  return [...code.matchAll(/(?:from|import\(|import)\s*"(\.{1,2}\/[^"]+)"/g)]
    .map(([, target]) => relative(ROOT, join(ROOT, dirname(path), target!)));
}

Deno.test("every import goes to a room that docs/architecture.md allows", async () => {
  const allowed = await rooms();
  assert.ok(allowed.size > 8, "no table of rooms was found");
  const wrong: string[] = [];
  let seen = 0;
  for (const room of allowed.keys()) {
    const files = room.endsWith(".ts") ? [room] : await Array.fromAsync(sources(room));
    for (const path of files) {
      if (roomOf(path, allowed.keys()) !== room) continue;
      for (const target of importsOf(path, await Deno.readTextFile(join(ROOT, path)))) {
        const to = roomOf(target, allowed.keys());
        seen++;
        if (to === room || (to !== undefined && allowed.get(room)!.includes(to))) continue;
        if (!target.endsWith(".ts")) continue; // data of the project: a kernel's text, a version
        wrong.push(`${path} imports ${target}`);
      }
    }
  }
  assert.ok(seen > 200, `only ${seen} imports were found`);
  assert.deepEqual(wrong, []);
});

/** Of the server, what is loaded before it is called. */
const LOADED_WITH_MOD = ["model/serve/serve.ts", "model/serve/options.ts"];

Deno.test("what browsers load imports nothing of Node or npm, and asks for Deno in one place", async () => {
  const browser = ["device", "platform", "data", "gpu", "model", "mod.ts"];
  const wrong: string[] = [];
  for (const room of browser) {
    const files = room.endsWith(".ts") ? [room] : await Array.fromAsync(sources(room));
    for (const path of files) {
      if (path.startsWith("model/serve/") && !LOADED_WITH_MOD.includes(path)) continue;
      const code = (await Deno.readTextFile(join(ROOT, path))).replace(/\/\*[^]*?\*\/|\/\/.*$/gm, "");
      const imports = [...code.matchAll(/^(?:import|export)(?! type)[^;()]*?"((?:node|npm):[^"]+)"/gm)];
      wrong.push(
        ...imports.map(([, name]) => `${path} imports ${name}: see platform/, or import it when it is used`),
      );
      const native = /^(?:import|export)(?! type)[^;()]*?"[^"]*\/native\/[^"]+"/m.exec(code);
      if (native) wrong.push(`${path}: ${native[0]}`);
      if (path !== "platform/host.ts" && /\bDeno\b\s*[.\[]/.test(code)) {
        wrong.push(`${path} uses Deno: see platform/`);
      }
    }
  }
  assert.deepEqual(wrong, []);
});

Deno.test("every program file is in a room of the table", async () => {
  const all = [...(await rooms()).keys()];
  const beside = ["tests", "scripts", "bench", "web", "native/target", "dist", "node_modules"];
  const outside = (await Array.fromAsync(sources("."))).filter((path) => {
    return roomOf(path, all) === undefined && roomOf(path, beside) === undefined;
  });
  assert.deepEqual(outside, []);
});

Deno.test("the rooms stand in an order in which each imports only those above it", async () => {
  const before: string[] = [];
  for (const [room, imports] of await rooms()) {
    for (const other of imports) {
      assert.ok(before.includes(other), `${room} may import ${other}, which is not above it`);
    }
    before.push(room);
  }
});
