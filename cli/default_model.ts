/**
 * The model that `chat` uses when none is named: the one that Homebrew installs. One in f16 is copied for the user at first, who may
 * train it further; a GGUF file is only read, and is used where it lies.
 */
import { join } from "node:path";
import { copyModel, MicrogptError } from "../mod.ts";
import { programName } from "./printed_command.ts";
import { sayNotice } from "./terminal.ts";

const HOMEBREW_PREFIXES = ["/opt/homebrew", "/usr/local", "/home/linuxbrew/.linuxbrew"];
const NAME = "default-chat-model";
const GGUF = "model.gguf";

/** Where this user's default model is, as the help shows it. */
export const DEFAULT_CHAT_MODEL = `~/.config/microgpt/${NAME}`;

/**
 * Finds the default chat model; at the first use copies it from the Homebrew share directory.
 * @throws {MicrogptError} when there is none
 */
export async function defaultChatModel(): Promise<string> {
  const home = Deno.env.get("HOME") ?? Deno.env.get("USERPROFILE");
  const own = home ? join(home, ".config", "microgpt", NAME) : undefined;
  if (own !== undefined && await isThere(own)) return await modelIn(own);
  const shared = await sharedModel();
  if (shared === undefined) {
    throw new MicrogptError(`there is no default chat model (${own ?? DEFAULT_CHAT_MODEL})`, {
      hint: `name a model with --model-dir; \`${programName()} train --chat --input FILE\` makes one`,
    });
  }
  if (own === undefined || shared.endsWith(GGUF)) return shared;
  try {
    await copyModel(shared, own);
  } catch (error) {
    if (!(error instanceof MicrogptError)) throw error;
    sayNotice(`warning: ${error.message}; using ${shared}`);
    return shared;
  }
  sayNotice(`copied ${shared} to ${own}`);
  return own;
}

/** Whether a path leads somewhere; one below a file, or behind a directory that is closed to us, does not. */
async function isThere(path: string): Promise<boolean> {
  const { NotFound, NotADirectory, PermissionDenied } = Deno.errors;
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if ([NotFound, NotADirectory, PermissionDenied].some((kind) => error instanceof kind)) return false;
    throw error;
  }
}

/** The model of a directory: it, or a GGUF file in it. */
async function modelIn(directory: string): Promise<string> {
  const file = join(directory, GGUF);
  return await isThere(file) ? file : directory;
}

async function sharedModel(): Promise<string | undefined> {
  const prefix = Deno.env.get("HOMEBREW_PREFIX");
  for (const candidate of prefix ? [prefix, ...HOMEBREW_PREFIXES] : HOMEBREW_PREFIXES) {
    const path = join(candidate, "share", "microgpt", NAME);
    for (const file of ["weights.safetensors", GGUF]) {
      if (await isThere(join(path, file))) return await modelIn(path);
    }
  }
  return undefined;
}
