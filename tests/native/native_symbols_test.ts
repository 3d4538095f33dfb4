/** The tables of native/symbols.ts and the exports of native/src say the same, in both directions. */
import assert from "node:assert/strict";
import {
  argumentsOf,
  BASE,
  DEVICE,
  interfaceVersion,
  MPI,
  type Signatures,
  TOKENIZER,
} from "../../native/symbols.ts";

/** An export as text: "(device: u32, data: *u32, data_len: u32) -> i32". */
type Exports = Map<string, string>;

function declared(signatures: Signatures, result: string): Exports {
  const passed = (name: string, kind: string) => {
    if (kind === "tensor") return [`${name}: u32`, `${name}_at: f64`];
    if (kind.endsWith("[]")) return [`${name}: *${kind.slice(0, -2)}`, `${name}_len: u32`];
    return [`${name}: ${kind}`];
  };
  return new Map(
    Object.entries(signatures).map(([name, signature]) => {
      const list = argumentsOf(signature).flatMap(({ name, kind }) => passed(name, kind));
      return [name, `(${list.join(", ")}) -> ${result}`];
    }),
  );
}

/** The `extern "C"` functions of Rust source; `const` and `mut` pointers count as one. */
function exported(source: string): Exports {
  const code = source.replace(/\/\/.*/g, "");
  const functions = code.matchAll(/extern "C" fn (\w+)\s*\(([^)]*)\)\s*(?:->\s*([^{]+?)\s*)?\{/g);
  const exports: Exports = new Map();
  for (const [, name, list, result = "()"] of functions) {
    const types = list!.split(",").map((one) => one.trim().replace(/\s+/g, " ")).filter((one) => one !== "");
    exports.set(name!, `(${types.join(", ").replace(/\*(const|mut) /g, "*")}) -> ${result}`);
  }
  const marked = code.split("#[unsafe(no_mangle)]").length - 1;
  assert.equal(exports.size, marked, "an export that this test cannot read");
  return exports;
}

/** What a person has to mend, one line each. */
function differences(table: Exports, rust: Exports): string[] {
  const names = [...new Set([...table.keys(), ...rust.keys()])].sort();
  return names.flatMap((name) => {
    const [here, there] = [table.get(name), rust.get(name)];
    if (here === undefined) return [`${name} is exported, and not declared`];
    if (there === undefined) return [`${name} is declared, and not exported`];
    return here === there ? [] : [`${name} is declared as ${here}, exported as ${there}`];
  });
}

function rustSource(folder = new URL("../../native/src/", import.meta.url)): string {
  const entries = [...Deno.readDirSync(folder)].sort((a, b) => a.name < b.name ? -1 : 1);
  return entries.map(({ name, isDirectory }) =>
    isDirectory
      ? rustSource(new URL(`${name}/`, folder))
      : name.endsWith(".rs")
      ? Deno.readTextFileSync(new URL(name, folder))
      : ""
  ).join("\n");
}

Deno.test("every export of the native library is declared as it is, and every declaration is exported", () => {
  const tables = new Map([
    ...declared(BASE, "u32"),
    ...declared(DEVICE, "i32"),
    ...declared(TOKENIZER, "i32"),
    ...declared(MPI, "i32"),
  ]);
  assert.deepEqual(differences(tables, exported(rustSource())), []);
});

Deno.test("the interface version of the native library is that of the declarations", () => {
  const found = /pub const ABI_VERSION: u32 = (\w+);/.exec(rustSource())?.[1]?.replaceAll("_", "");
  const needed = interfaceVersion(BASE, DEVICE, TOKENIZER, MPI);
  const hex = needed.toString(16).padStart(8, "0");
  assert.equal(
    Number(found),
    needed,
    `write in native/src/lib.rs: pub const ABI_VERSION: u32 = 0x${hex.slice(0, 4)}_${hex.slice(4)};`,
  );
});

Deno.test("what differs between declarations and exports is named", () => {
  const rust = `
    #[unsafe(no_mangle)]
    pub extern "C" fn mg_one(device: u32, out: u32, out_at: f64) -> i32 { 0 }
    /// Not: extern "C" fn mg_comment() -> i32 {
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn mg_two(
        data: *const u32, // a comment
        data_len: u32,
        scale: f64,
    ) -> i32 {
    }
    #[unsafe(no_mangle)]
    pub extern "C" fn mg_three() -> u32 { 0 }`;
  const check = (signatures: Signatures) => differences(declared(signatures, "i32"), exported(rust));
  const [one, two] = ["device: u32, out: tensor", "data: u32[],\n scale: f64"];
  assert.deepEqual(check({ mg_one: one, mg_two: two }), ["mg_three is exported, and not declared"]);
  assert.deepEqual(check({ mg_one: one, mg_two: two, mg_three: "", mg_four: "" }), [
    "mg_four is declared, and not exported",
    "mg_three is declared as () -> i32, exported as () -> u32",
  ]);
  for (
    const wrong of ["out: tensor, device: u32", "device: u32, x: tensor", "device: f64, out: tensor", ""]
  ) {
    assert.match(check({ mg_one: wrong, mg_two: two })[0]!, /^mg_one is declared as .*, exported as /);
  }
  assert.equal(check({ mg_one: one, mg_two: "data: u8[], scale: f64" }).length, 2);
});

Deno.test("the interface version changes with every export, and not with the order of the table", () => {
  const version = interfaceVersion({ mg_one: "a: u32, b: f64" }, { mg_two: "" });
  assert.equal(interfaceVersion({ mg_two: "", mg_one: "a: u32,\n  b: f64" }), version);
  for (const other of ["a: u32, b: u32", "b: f64, a: u32", "a: u32", "a: u32, c: f64"]) {
    assert.notEqual(interfaceVersion({ mg_one: other, mg_two: "" }), version);
  }
});
