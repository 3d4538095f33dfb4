/** What tests compare with and a machine may lack: the programs of others. */

/**
 * A test that needs something. Where it is missing the test is skipped, and its name says so. (What a test prints is not
 * seen under `deno test --quiet`.)
 * @param missing what is not there, and where it comes from
 * @throws where MICROGPT_REQUIRE_PEERS=1 and something is missing
 */
export function peerTest(name: string, missing: string | undefined, fn: () => Promise<void>): void {
  if (missing !== undefined && Deno.env.get("MICROGPT_REQUIRE_PEERS") === "1") {
    throw new Error(`MICROGPT_REQUIRE_PEERS=1, and there is no ${missing}`);
  }
  Deno.test({
    name: missing === undefined ? name : `${name} (skipped: no ${missing})`,
    ignore: missing !== undefined,
    fn,
  });
}
