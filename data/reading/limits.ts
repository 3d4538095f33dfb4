/** How long a line may be, and why something cannot be read. */

import { MicrogptError } from "../../device/errors.ts";
import { isFileError } from "../../platform/files.ts";

/**
 * Longest line that is read, in bytes. A document of this size is thousands of times any context; the bound keeps a
 * hostile line from taking the memory (4 MiB of nested JSON already parse to some 250 MB).
 */
export const MAX_LINE_BYTES = 4 * 1024 * 1024;

/** A failed read, in words for a person. */
export function cannotRead(name: string, error: unknown): MicrogptError {
  let why = error instanceof Error ? error.message.split("\n")[0]! : String(error);
  if (isFileError(error, "NotFound")) why = "no such file";
  else if (isFileError(error, "PermissionDenied")) why = "permission denied";
  else if (isFileError(error, "FilesystemLoop")) why = "symbolic links in a loop";
  return new MicrogptError(`cannot read ${name}: ${why}`, { cause: error });
}
