/** Names of models on HuggingFace's hub, as a person gives them where a directory could stand. */
import { MicrogptError } from "../../../device/errors.ts";
import { printable } from "../directory.ts";

const PREFIX = "hf:";

/** The hub's default branch. */
const DEFAULT_REVISION = "main";

/** `hf:OWNER/NAME[@REVISION][:FILE.gguf]`, taken apart. */
export interface HubName {
  /** as it was given */
  text: string;
  owner: string;
  name: string;
  /** a branch, a tag or a commit */
  revision: string;
  /** the one GGUF file that is meant */
  file?: string;
}

const FORM = /^([^/@:]+)\/([^/@:]+)(?:@([^:]+))?(?::(.+))?$/;

/** A part of a name is a part of a path, too: no separators, nothing that leads upwards. */
const WORD = /^[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_-])?$/;

/** A branch may have slashes. */
const REVISION = /^[A-Za-z0-9_](?:[A-Za-z0-9_.+-]|\/(?=[A-Za-z0-9_]))*$/;

const GGUF_FILE = /^[A-Za-z0-9_][A-Za-z0-9_.+-]*\.gguf$/i;

/** Whether a path is a name on the hub. */
export function isHubName(path: string): boolean {
  return path.startsWith(PREFIX);
}

/** Whether a name of a file is that of a GGUF file that is taken from the hub. */
export function isGgufName(name: string): boolean {
  return GGUF_FILE.test(name) && !name.includes("..");
}

/** Whether a revision is a commit, which never changes. */
export function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision);
}

/**
 * Takes a name apart.
 * @throws {MicrogptError} for one that is malformed
 */
export function parseHubName(text: string): HubName {
  const [, owner, name, revision = DEFAULT_REVISION, file] = FORM.exec(text.slice(PREFIX.length)) ?? [];
  const good = owner !== undefined && name !== undefined && isWord(owner) && isWord(name) &&
    REVISION.test(revision) && !/\.\.|\.lock$/.test(revision) && (file === undefined || isGgufName(file));
  if (good && isHubName(text)) {
    return { text, owner, name, revision, ...(file === undefined ? {} : { file }) };
  }
  throw new MicrogptError(`${printable(text)} names no model of the hub`, {
    hint: "write hf:OWNER/NAME, then @REVISION or :FILE.gguf where one is meant",
    usage: true,
  });
}

/** The hub itself has no name with two dots or dashes in a row. */
function isWord(part: string): boolean {
  return WORD.test(part) && part.length <= 96 && !/\.\.|--/.test(part);
}
