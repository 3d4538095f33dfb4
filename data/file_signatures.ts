/** Files that are not UTF-8 text, recognized by their first bytes. */

import { MicrogptError } from "../device/errors.ts";

/** First bytes that no UTF-8 text begins with, or hardly any. */
const SIGNATURES: { bytes: number[]; what: string; hint: string }[] = [
  { bytes: [0xff, 0xfe, 0, 0], what: "UTF-32 text", hint: "convert it: iconv -f UTF-32 -t UTF-8" },
  { bytes: [0xff, 0xfe], what: "UTF-16 text", hint: "convert it: iconv -f UTF-16 -t UTF-8" },
  { bytes: [0xfe, 0xff], what: "UTF-16 text", hint: "convert it: iconv -f UTF-16 -t UTF-8" },
  { bytes: [0x1f, 0x8b], what: "compressed (gzip)", hint: "unpack it first: gunzip" },
  { bytes: [0x28, 0xb5, 0x2f, 0xfd], what: "compressed (zstd)", hint: "unpack it first: unzstd" },
  { bytes: [0xfd, 0x37, 0x7a, 0x58, 0x5a], what: "compressed (xz)", hint: "unpack it first: unxz" },
  {
    bytes: [0x42, 0x5a, 0x68, 0x39, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59],
    what: "compressed (bzip2)",
    hint: "unpack it first: bunzip2",
  },
  {
    bytes: [0x50, 0x4b, 0x03, 0x04],
    what: "a zip archive, or a document that is one",
    hint: "unpack it, or save it as plain text",
  },
  { bytes: [0x25, 0x50, 0x44, 0x46, 0x2d], what: "a PDF", hint: "extract its text first: pdftotext" },
  { bytes: [0x50, 0x41, 0x52, 0x31], what: "a Parquet file", hint: "write its texts to a file, one a line" },
];

/**
 * Looks at the start of a file.
 * @throws {MicrogptError} when it is that of a well-known format that is not UTF-8 text
 */
export function refuseSignatures(name: string, start: Uint8Array): void {
  const found = SIGNATURES.find(({ bytes }) => bytes.every((byte, i) => start[i] === byte));
  if (found) throw new MicrogptError(`${name} is ${found.what}, not UTF-8 text`, { hint: found.hint });
}
