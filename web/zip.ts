/** A directory as one file, for the page's worker; the one thing of npm that `web/` itself uses. */
export { unzipSync, zipSync } from "npm:fflate@0.8.3";
