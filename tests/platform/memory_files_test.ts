/** The file system of a page does what Deno's does: the same steps on both, with the same outcomes. */
import assert from "node:assert/strict";
import { type FileSystem, isFileError, SEEK_START } from "../../platform/files.ts";
import { MemoryFiles } from "../../platform/memory_files.ts";

const text = (value: string) => new TextEncoder().encode(value);

/** What a step gives, or the name of its error. */
async function outcome(step: () => Promise<unknown>): Promise<unknown> {
  try {
    return await step();
  } catch (error) {
    const { name, code } = error as Error & { code?: string };
    return name === "Error" || name === "TypeError" ? code ?? "Error" : name;
  }
}

async function look(fs: FileSystem, path: string): Promise<unknown> {
  const { isFile, isDirectory, size } = await fs.stat(path);
  return { isFile, isDirectory, size: isFile ? size : 0 };
}

async function handleSteps(fs: FileSystem, path: string): Promise<unknown> {
  using file = await fs.open(path, { read: true, write: true, create: true });
  const results: unknown[] = [await file.write(text("hello world"))];
  await file.seek(6, SEEK_START);
  const into = new Uint8Array(3);
  results.push(await file.read(into), new TextDecoder().decode(into));
  results.push(file.readSync(into), file.readSync(into));
  await file.truncate(4);
  file.seekSync(6, SEEK_START); // beyond the end: what lies between becomes zeros
  results.push(await file.write(text("!")), (await file.stat()).size);
  await file.sync();
  return results;
}

async function streamed(fs: FileSystem, path: string): Promise<number[]> {
  const chunks = await Array.fromAsync((await fs.open(path)).readable);
  return chunks.flatMap((chunk) => [...chunk]);
}

const STEPS: [string, (fs: FileSystem, root: string) => Promise<unknown>][] = [
  ["nothing is there", (fs, root) => look(fs, `${root}/a`)],
  ["a directory below none", (fs, root) => fs.mkdir(`${root}/a/b`)],
  ["directories", (fs, root) => fs.mkdir(`${root}/a/b/c`, { recursive: true })],
  ["a directory again", (fs, root) => fs.mkdir(`${root}/a`)],
  ["directories again", (fs, root) => fs.mkdir(`${root}/a/b`, { recursive: true })],
  ["a handle", (fs, root) => handleSteps(fs, `${root}/a/file`)],
  ["the text", (fs, root) => fs.readTextFile(`${root}/a/file`)],
  ["a stream", (fs, root) => streamed(fs, `${root}/a/file`)],
  ["a new file that is there", (fs, root) => fs.open(`${root}/a/file`, { write: true, createNew: true })],
  ["a file for a directory", (fs, root) => fs.stat(`${root}/a/file/x`)],
  ["appending", async (fs, root) => {
    using file = await fs.open(`${root}/a/log`, { append: true, create: true });
    await file.write(text("one\n"));
    await file.write(text("two\n"));
    return await fs.readTextFile(`${root}/a/log`);
  }],
  ["a link", (fs, root) => fs.link(`${root}/a/log`, `${root}/a/b/link`)],
  ["a link again", (fs, root) => fs.link(`${root}/a/log`, `${root}/a/b/link`)],
  ["truncated", (fs, root) => fs.writeFile(`${root}/a/log`, text("3"))],
  ["seen through the link", (fs, root) => fs.readTextFile(`${root}/a/b/link`)],
  ["a copy", (fs, root) => fs.copyFile(`${root}/a/log`, `${root}/a/copy`)],
  ["renamed over another", (fs, root) => fs.rename(`${root}/a/copy`, `${root}/a/file`)],
  ["renamed", async (fs, root) => [await fs.readTextFile(`${root}/a/file`), await fs.stat(`${root}/a/copy`)]],
  ["a full directory", (fs, root) => fs.remove(`${root}/a`)],
  ["a directory renamed", (fs, root) => fs.rename(`${root}/a/b`, `${root}/d`)],
  ["onto a full directory", (fs, root) => fs.rename(`${root}/a`, `${root}/d`)],
  ["a file onto a directory", (fs, root) => fs.rename(`${root}/a/log`, `${root}/d`)],
  ["names", async (fs, root) => (await Array.fromAsync(fs.readDir(`${root}/d`), ({ name }) => name)).sort()],
  [
    "names at once",
    (fs, root) => Promise.resolve([...fs.readDirSync(`${root}/d`)].map(({ name }) => name).sort()),
  ],
  ["names of a file", (fs, root) => Array.fromAsync(fs.readDir(`${root}/a/log`))],
  ["all removed", (fs, root) => fs.remove(`${root}/d`, { recursive: true })],
  ["removed twice", (fs, root) => fs.remove(`${root}/d`)],
  [
    "sync calls",
    (fs, root) => Promise.resolve([fs.statSync(`${root}/a/log`).size, fs.readTextFileSync(`${root}/a/log`)]),
  ],
  ["removed at once", (fs, root) => Promise.resolve(fs.removeSync(`${root}/a/log`))],
  ["and gone", (fs, root) => fs.open(`${root}/a/log`)],
];

Deno.test("the same steps give the same in memory and on disk", async () => {
  const [disk, memory] = [await Deno.makeTempDir(), "/some/where"];
  const inMemory = new MemoryFiles();
  await inMemory.mkdir(memory, { recursive: true });
  try {
    for (const [name, step] of STEPS) {
      const expected = await outcome(() => step(Deno, disk));
      assert.deepEqual(await outcome(() => step(inMemory, memory)), expected, name);
    }
  } finally {
    await Deno.remove(disk, { recursive: true });
  }
});

Deno.test("a lock in memory is held by one", async () => {
  const fs = new MemoryFiles();
  const [a, b] = [
    await fs.open("lock", { write: true, create: true }),
    await fs.open("lock", { write: true }),
  ];
  assert.deepEqual([await a.tryLock(), await b.tryLock(), await a.tryLock()], [true, false, true]);
  a.close();
  assert.equal(await b.tryLock(), true);
});

Deno.test("errors are told apart by their names", async () => {
  const error = await new MemoryFiles().stat("nowhere").catch((error) => error);
  assert(isFileError(error, "AlreadyExists", "NotFound"));
  assert(!isFileError(error, "AlreadyExists"));
  assert(isFileError(new Deno.errors.PermissionDenied("x"), "PermissionDenied"));
  assert(!isFileError("NotFound", "NotFound"));
});
