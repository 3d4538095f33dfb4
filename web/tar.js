/** A directory as one file to download: tar, as every system unpacks it. */

/** @param {string} path @param {number} size */
function header(path, size) {
  const bytes = new Uint8Array(512);
  const put = (/** @type {number} */ at, /** @type {string} */ text) =>
    bytes.set(new TextEncoder().encode(text), at);
  const octal = (/** @type {number} */ value, /** @type {number} */ digits) =>
    value.toString(8).padStart(digits, "0") + "\0";
  put(0, path);
  put(100, octal(0o644, 7));
  put(108, octal(0, 7));
  put(116, octal(0, 7));
  put(124, octal(size, 11));
  put(136, octal(Math.floor(Date.now() / 1000), 11));
  put(148, "        ");
  put(156, "0");
  put(257, "ustar\x0000");
  const sum = bytes.reduce((total, byte) => total + byte, 0);
  put(148, octal(sum, 6) + " ");
  return bytes;
}

/** @param {string} folder @param {Record<string, Blob>} files paths below it, of at most 100 bytes with it */
export function tar(folder, files) {
  const parts = [];
  for (const [name, contents] of Object.entries(files)) {
    const padding = new Uint8Array((512 - contents.size % 512) % 512);
    parts.push(header(`${folder}/${name}`, contents.size), contents, padding);
  }
  return new Blob([...parts, new Uint8Array(1024)], { type: "application/x-tar" });
}
