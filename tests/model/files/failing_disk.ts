/**
 * A disk on which the process "dies": each operation of `Deno` that changes files is counted, and from a chosen one on
 * nothing reaches the disk any more. What is there then is what a kill at that instant leaves.
 */
import { join } from "node:path";

/** Where the process dies: before operation `at` (counted from 0), or in the middle of it where it has one (a write). */
export interface Death {
  at: number;
  midway?: boolean;
}

/** An operation as it was done, for tests of their order. */
export interface Operation {
  name: "open" | "mkdir" | "remove" | "rename" | "link" | "write" | "sync";
  path: string;
  /** of a rename or link */
  to?: string;
}

/** What operations throw after death; nothing in the program knows it. */
export class Dead extends Error {}

/**
 * Runs `use` on the failing disk, which dies as `death` says, or never.
 * @returns the operations done, and whether death came
 */
export async function onFailingDisk(
  use: () => Promise<void>,
  death: Death = { at: Infinity },
): Promise<{ operations: Operation[]; died: boolean }> {
  const real = {
    open: Deno.open,
    mkdir: Deno.mkdir,
    remove: Deno.remove,
    rename: Deno.rename,
    link: Deno.link,
  };
  const prototype = Deno.FsFile.prototype;
  const { write, sync } = prototype;
  const paths = new WeakMap<Deno.FsFile, string>();
  const operations: Operation[] = [];
  let died = false;

  /** Counts an operation; `half` is what a death midway still does. */
  const count = async (operation: Operation, half?: () => Promise<unknown>) => {
    if (!died && operations.length === death.at) {
      died = true;
      if (death.midway) await half?.();
    }
    if (died) throw new Dead();
    operations.push(operation);
  };

  /** Entry by entry, as the system does it. */
  const remove = async (path: string, options?: Deno.RemoveOptions): Promise<void> => {
    const info = await Deno.lstat(path);
    if (info.isDirectory && options?.recursive) {
      for await (const { name } of Deno.readDir(path)) await remove(join(path, name), options);
    }
    await count({ name: "remove", path });
    await real.remove(path);
  };

  const patched = {
    open: async (path: string, options?: Deno.OpenOptions) => {
      if (options?.write) await count({ name: "open", path });
      const file = await real.open(path, options);
      paths.set(file, path);
      return file;
    },
    mkdir: async (path: string, options?: Deno.MkdirOptions) => {
      await count({ name: "mkdir", path });
      await real.mkdir(path, options);
    },
    remove,
    rename: async (path: string, to: string) => {
      await count({ name: "rename", path, to });
      await real.rename(path, to);
    },
    link: async (path: string, to: string) => {
      await count({ name: "link", path, to });
      await real.link(path, to);
    },
  };
  try {
    Object.assign(Deno, patched);
    prototype.write = async function (bytes) {
      const half = () => write.call(this, bytes.subarray(0, bytes.length >> 1));
      await count({ name: "write", path: paths.get(this)! }, half);
      return await write.call(this, bytes);
    };
    prototype.sync = async function () {
      await count({ name: "sync", path: paths.get(this)! });
      await sync.call(this);
    };
    await use();
  } catch (error) {
    if (!died) throw error;
  } finally {
    Object.assign(Deno, real);
    prototype.write = write;
    prototype.sync = sync;
  }
  return { operations, died };
}
