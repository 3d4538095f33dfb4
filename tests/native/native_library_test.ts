import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { libraryFileName } from "../../native/library.ts";

const LIBRARY = fileURLToPath(new URL(`../../native/target/release/${libraryFileName()}`, import.meta.url));
const BINDING = JSON.stringify(import.meta.resolve("../../native/tokenizer.ts"));

/** Opens the library in a process of its own, so that a crash would show. */
async function openWith(library: string, permissions = ["--allow-all"]): Promise<string> {
  const directory = await Deno.makeTempDir();
  try {
    const script = `${directory}/open.ts`;
    await Deno.writeTextFile(
      script,
      `import { NativeTokenizer } from ${BINDING};
       try {
         console.log("opened", NativeTokenizer.train(["a"], { vocabSize: 257 }).vocabSize);
       } catch (error) {
         console.log(error.name, error.message, "|", error.hint);
       }`,
    );
    const { code, signal, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", ...permissions, script],
      env: { MICROGPT_NATIVE: library },
    }).output();
    assert.equal(signal, null, `killed by ${signal}`);
    assert.equal(code, 0);
    return new TextDecoder().decode(stdout).trim();
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/** Runs the test with a file of the given content in place of the library. */
async function withFile(content: Uint8Array | string, test: (path: string) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempFile({ suffix: libraryFileName() });
  try {
    await Deno.writeFile(path, typeof content === "string" ? new TextEncoder().encode(content) : content);
    await test(path);
  } finally {
    await Deno.remove(path);
  }
}

/** A library of one's own with the given exports. */
async function compiled(source: string): Promise<Uint8Array> {
  const directory = await Deno.makeTempDir();
  try {
    const output = `${directory}/${libraryFileName()}`;
    await Deno.writeTextFile(`${directory}/lib.rs`, source);
    const { success, stderr } = await new Deno.Command("rustc", {
      args: [
        "--edition=2024",
        "--crate-type=cdylib",
        "--crate-name=other",
        "-o",
        output,
        `${directory}/lib.rs`,
      ],
    }).output();
    assert.ok(success, new TextDecoder().decode(stderr));
    return await Deno.readFile(output);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

Deno.test("MICROGPT_NATIVE names the library to open", async () => {
  assert.equal(await openWith(LIBRARY), "opened 257");
});

Deno.test("a missing library is an error that says how to get it", async () => {
  const message = await openWith("/nowhere/library.so");
  assert.match(
    message,
    /^MicrogptError MICROGPT_NATIVE names \/nowhere\/library\.so, which is not a file \| /,
  );
  assert.match(message, /deno task build/);
});

Deno.test("a damaged library is an error, not a crash", async () => {
  const whole = await Deno.readFile(LIBRARY);
  const lengths = [
    0,
    10,
    64,
    1000,
    5000,
    whole.length >> 2,
    whole.length >> 1,
    Math.floor(whole.length * 0.9),
  ];
  const changed = (at: number, ...bytes: number[]) => {
    const copy = whole.slice();
    copy.set(bytes, at);
    return copy;
  };
  const contents = [
    changed(32, ...Array(8).fill(0xff)), // the table of segments 2⁶⁴ − 1 bytes from the start
    changed(54, 0xff, 0xff, 0xff, 0xff), // 65,535 segments of 65,535 bytes
    ...lengths.map((length) => whole.subarray(0, length)),
    "This is not a library.\n".repeat(100),
  ];
  for (const content of contents) {
    await withFile(content, async (path) => {
      const message = await openWith(path);
      assert.match(message, /^MicrogptError .*(damaged|cannot open).* \| build it with `deno task build`/);
    });
  }
});

Deno.test("a library of another version, or another library, is refused", async () => {
  const message =
    `#[unsafe(no_mangle)] pub extern "C" fn mg_error_message(_: *mut u8, _: usize) -> usize { 0 }`;
  const version = `#[unsafe(no_mangle)] pub extern "C" fn mg_abi_version() -> u32 { 4_000_000 }`;
  await withFile(await compiled(message + version), async (path) => {
    assert.match(
      await openWith(path),
      /interface version 4000000, this program needs \d+ \| .*deno task build/,
    );
  });
  await withFile(await compiled(message), async (path) => {
    assert.match(
      await openWith(path),
      /^MicrogptError cannot open the native library .* \| .*deno task build/,
    );
  });
});

Deno.test("without the permission the error names the flag", async () => {
  const read = ["--allow-read", "--allow-env"];
  assert.match(await openWith(LIBRARY, read), /not allowed to open .* \| run Deno with --allow-ffi/);
  assert.match(
    await openWith(LIBRARY, ["--allow-env", "--allow-ffi"]),
    /not allowed .*\| run Deno with .*--allow-read/,
  );
});
