/** Whether bytes are text: by Node's implementation in Deno, in a browser by decoding them. */
import { builtin } from "./host.ts";

const node = builtin<{ isUtf8(bytes: Uint8Array): boolean }>("buffer");

/** Whether bytes are well-formed UTF-8, whole characters. */
export const isUtf8: (bytes: Uint8Array) => boolean = node ? node.isUtf8 : (bytes) => {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return true;
  } catch {
    return false;
  }
};
