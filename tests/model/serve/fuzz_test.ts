/** Whatever a server is asked, it answers with the right status, and goes on: a part of `fuzz.ts`. */
import assert from "node:assert/strict";
import { fuzz, startFuzzed } from "./fuzz.ts";

Deno.test("requests that are wrong in every way are refused, and nobody else hears of them", async () => {
  await using server = await startFuzzed();
  const { statuses } = await fuzz(server, 1, Array.from({ length: 400 }, (_, n) => n));
  for (const status of [200, 400, 405, 415]) assert(statuses.get(status)! > 0, `no ${status} among them`);
});
