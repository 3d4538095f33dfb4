/**
 * Turns a kernel file into WGSL. A kernel file holds the algorithm; TypeScript puts the declarations in front:
 * constants, the parameter block, and for each storage binding functions that load and store it as f32 whatever its
 * element type.
 *
 * Three line directives keep register tiles in named variables (a compiler keeps an array that is indexed in a loop in
 * memory) and leave out what a variant does not need:
 *
 *     #if NAME … #else … #end       NAME is a constant; false, 0 and absent leave the block out. `#if !NAME` is the reverse
 *     #for i in 0..N … #end         repeats with $i replaced; N a number or a constant, i one letter
 *     #for c in x y z w … #end      the same over words
 */

/** How elements lie in a buffer. */
export type StorageFormat = "f32" | "bf16" | "f16" | "u32";

/** A storage buffer of a kernel. */
export interface BindingSpec {
  format: StorageFormat;
  /** a `write` buffer may be read too */
  access: "read" | "write";
  /** every quad that the kernel touches starts at a multiple of four elements: one vector load each */
  aligned: boolean;
}

/** Bindings that are read or written one element at a time. */
export const U32: BindingSpec = { format: "u32", access: "read", aligned: false };
export const U32_WRITE: BindingSpec = { format: "u32", access: "write", aligned: false };
export const F32: BindingSpec = { format: "f32", access: "read", aligned: false };
export const F32_WRITE: BindingSpec = { format: "f32", access: "write", aligned: false };

/** A tensor's binding, in the format that it has. */
export function bindingOf(
  { format }: { format: StorageFormat },
  access: BindingSpec["access"],
  aligned: boolean,
): BindingSpec {
  return { format, access, aligned };
}

/** All that distinguishes one compiled kernel from another. */
export interface KernelSpec {
  /** text of the kernel file, with its directives */
  source: string;
  constants: Record<string, number | boolean>;
  /** scalars of a call, in the order of the values given to it */
  params: Record<string, "u32" | "f32">;
  bindings: Record<string, BindingSpec>;
}

type Constants = KernelSpec["constants"];

interface Block {
  /** lines of the block and the number of the line after its #end */
  body: string[];
  otherwise: string[];
  next: number;
}

/** The block opened at line `at`, with nested ones left as they are. */
function takeBlock(lines: string[], at: number): Block {
  const body: string[] = [];
  const otherwise: string[] = [];
  let target = body;
  let depth = 1;
  for (let i = at + 1; i < lines.length; i++) {
    const word = lines[i]!.trim();
    if (word.startsWith("#if ") || word.startsWith("#for ")) depth++;
    if (word === "#end" && --depth === 0) return { body, otherwise, next: i + 1 };
    if (word === "#else" && depth === 1) target = otherwise;
    else target.push(lines[i]!);
  }
  throw new Error(`shader: no #end for "${lines[at]!.trim()}"`);
}

function loopValues(range: string, constants: Constants): string[] {
  const [first, last] = range.split("..");
  if (last === undefined) return range.trim().split(/\s+/);
  const number = (text: string) => {
    const value = Number(constants[text.trim()] ?? text);
    if (!Number.isInteger(value)) throw new Error(`shader: "${text}" in "#for … ${range}" is no number`);
    return value;
  };
  const start = number(first!);
  return Array.from({ length: Math.max(0, number(last) - start) }, (_, i) => String(start + i));
}

/** Executes the directives in `lines`. */
function expand(lines: string[], constants: Constants): string[] {
  const out: string[] = [];
  for (let i = 0; i < lines.length;) {
    const condition = /^\s*#if (!?)(\w+)\s*$/.exec(lines[i]!);
    const loop = /^\s*#for (\w) in (.+)$/.exec(lines[i]!);
    if (condition) {
      const { body, otherwise, next } = takeBlock(lines, i);
      const holds = Boolean(constants[condition[2]!]) !== (condition[1] === "!");
      out.push(...expand(holds ? body : otherwise, constants));
      i = next;
    } else if (loop) {
      const { body, next } = takeBlock(lines, i);
      for (const value of loopValues(loop[2]!, constants)) {
        out.push(...expand(body.map((line) => line.replaceAll(`$${loop[1]}`, value)), constants));
      }
      i = next;
    } else {
      if (/^\s*#/.test(lines[i]!)) throw new Error(`shader: unknown directive "${lines[i]!.trim()}"`);
      out.push(lines[i++]!);
    }
  }
  return out;
}

/** WGSL to convert between bf16 halves of a u32 and f32; rounds to nearest even and keeps NaN a NaN. */
const BF16_FUNCTIONS = `
fn bf16_low(word: u32) -> f32 { return bitcast<f32>(word << 16u); }
fn bf16_high(word: u32) -> f32 { return bitcast<f32>(word & 0xffff0000u); }
fn bf16_bits(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
  return select(rounded, 0x7fc0u, (bits & 0x7fffffffu) > 0x7f800000u);
}
fn bf16_pack(low: f32, high: f32) -> u32 { return bf16_bits(low) | (bf16_bits(high) << 16u); }
`;

/** What a buffer is an array of, and how a quad of aligned elements is read from it and written to it. */
function alignedAccess(
  name: string,
  format: StorageFormat,
): { element: string; load: string; store: string } {
  const at = `${name}[(p.${name}_base + i) >> 2u]`;
  switch (format) {
    case "f32":
      return { element: "vec4<f32>", load: `return ${at};`, store: `${at} = quad;` };
    case "f16":
      return { element: "vec4<f16>", load: `return vec4<f32>(${at});`, store: `${at} = vec4<f16>(quad);` };
    case "bf16":
      return {
        element: "vec2<u32>",
        load: `let w = ${at}; return vec4(bf16_low(w.x), bf16_high(w.x), bf16_low(w.y), bf16_high(w.y));`,
        store: `${at} = vec2(bf16_pack(quad.x, quad.y), bf16_pack(quad.z, quad.w));`,
      };
    case "u32":
      return { element: "u32", load: "", store: "" };
  }
}

/** The functions of a binding whose quads may start anywhere (for bf16: at any even element). */
function scalarAccess(name: string, format: StorageFormat): { element: string; functions: string } {
  const scalar = `fn ${name}_load(i: u32) -> f32 {`;
  const quad = `fn ${name}_inside(i: u32) -> vec4<f32> {
  return vec4(${[0, 1, 2, 3].map((c) => `${name}_load(i + ${c}u)`).join(", ")});\n}
fn ${name}_quad(i: u32, end: u32) -> vec4<f32> {
  return vec4(${[0, 1, 2, 3].map((c) => `${name}_or_zero(i + ${c}u, end)`).join(", ")});\n}
fn ${name}_or_zero(i: u32, end: u32) -> f32 { if (i < end) { return ${name}_load(i); } return 0.0; }`;
  const at = `${name}[p.${name}_base + i`;
  const storeEach = (value: string) =>
    ["x", "y", "z", "w"].map((c, n) =>
      `  if (i + ${n}u < end) { ${at} + ${n}u] = ${value.replace("$", `quad.${c}`)}; }`
    );
  const store = (lines: string[]) =>
    `fn ${name}_store_quad(i: u32, end: u32, quad: vec4<f32>) {\n${lines.join("\n")}\n}`;
  switch (format) {
    case "f32":
      return { element: "f32", functions: `${scalar} return ${at}]; }\n${quad}\n${store(storeEach("$"))}` };
    case "f16":
      return {
        element: "f16",
        functions: `${scalar} return f32(${at}]); }\n${quad}\n${store(storeEach("f16($)"))}`,
      };
    case "bf16": {
      const word = `${name}[((p.${name}_base + i) >> 1u)`;
      // A row has an even number of elements, so a pair never straddles `end` unless it is the buffer's padding.
      const pairs = [
        "  if (i < end) { WORD] = bf16_pack(quad.x, quad.y); }",
        "  if (i + 2u < end) { WORD + 1u] = bf16_pack(quad.z, quad.w); }",
      ];
      return {
        element: "u32",
        functions:
          `${scalar} let w = ${word}]; return select(bf16_low(w), bf16_high(w), ((p.${name}_base + i) & 1u) == 1u); }
${quad}\n${store(pairs.map((line) => line.replace("WORD", word)))}`,
      };
    }
    case "u32":
      return { element: "u32", functions: `fn ${name}_load(i: u32) -> u32 { return ${at}]; }` };
  }
}

/**
 * Declares one storage buffer `name` and its functions; element numbers count from the tensor's first: `name_quad(i,
 * end)` elements i … i+3 as f32, zero from `end` on · `name_inside(i)` the same where none is beyond ·
 * `name_store_quad(i, end, quad)` · `name_load(i)` one element (not of aligned bindings).
 */
function declareBinding(name: string, spec: BindingSpec, index: number): string {
  const mode = spec.access === "write" ? "read_write" : "read";
  const declare = (element: string) =>
    `@group(0) @binding(${index + 1}) var<storage, ${mode}> ${name}: array<${element}>;`;
  const writable = spec.access === "write";
  if (!spec.aligned || spec.format === "u32") {
    const { element, functions } = scalarAccess(name, spec.format);
    const readOnly = functions.replace(/fn \w+_store_quad[\s\S]*$/, "");
    const u32Store = spec.format === "u32" && writable
      ? `\nfn ${name}_store(i: u32, v: u32) { ${name}[p.${name}_base + i] = v; }`
      : "";
    return `${declare(element)}\n${writable ? functions : readOnly}${u32Store}`;
  }
  const { element, load, store } = alignedAccess(name, spec.format);
  return `${declare(element)}
fn ${name}_inside(i: u32) -> vec4<f32> { ${load} }
fn ${name}_quad(i: u32, end: u32) -> vec4<f32> { if (i >= end) { return vec4<f32>(); } return ${name}_inside(i); }
${writable ? `fn ${name}_store_quad(i: u32, end: u32, quad: vec4<f32>) { if (i < end) { ${store} } }` : ""}`;
}

function declareConstant(name: string, value: number | boolean): string {
  if (typeof value === "boolean") return `const ${name} = ${value};`;
  return `const ${name} = ${Number.isInteger(value) ? `${value}u` : value};`;
}

/**
 * The WGSL of a kernel.
 * @param subgroupsDirective whether a kernel with the constant SUBGROUPS must ask for the language's extension
 * @throws {Error} when a directive of the kernel file is wrong
 */
export function shaderSource(spec: KernelSpec, subgroupsDirective = false): string {
  const names = Object.keys(spec.bindings);
  const formats = Object.values(spec.bindings).map((binding) => binding.format);
  const fields = [
    ...Object.entries(spec.params).map(([name, type]) => `${name}: ${type}`),
    ...names.map((name) => `${name}_base: u32`),
  ];
  return [
    formats.includes("f16") ? "enable f16;" : "",
    subgroupsDirective && spec.constants.SUBGROUPS ? "enable subgroups;" : "",
    ...Object.entries(spec.constants).map(([name, value]) => declareConstant(name, value)),
    `struct Params { ${fields.join(", ")} }`,
    "@group(0) @binding(0) var<uniform> p: Params;",
    formats.includes("bf16") ? BF16_FUNCTIONS : "",
    ...names.map((name, i) => declareBinding(name, spec.bindings[name]!, i)),
    ...expand(spec.source.split("\n"), spec.constants),
  ].join("\n");
}
