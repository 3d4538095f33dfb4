/** What a server may do to a download: each ends soon, in one clear line, with no more memory than the file needs. */
import assert from "node:assert/strict";
import { transfer } from "../../native/transfer.ts";

const LIMITS = { tries: 2, pause: 1, stall: 80, total: 5000, redirects: 3 };
const FILE = Uint8Array.from({ length: 1000 }, (_, i) => i % 251);

/** Fetches from a server that answers so. @returns what came of it, and how often it was asked */
async function fetchFrom(
  answer: (path: string, request: number) => Response,
  limits: Partial<typeof LIMITS> = {},
): Promise<{ result: Awaited<ReturnType<typeof transfer>>; requests: number; why: string }> {
  let requests = 0;
  const abort = new AbortController();
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {}, signal: abort.signal },
    (request) => answer(new URL(request.url).pathname, ++requests),
  );
  const url = new URL(`http://127.0.0.1:${server.addr.port}/file`);
  const result = await transfer(url, FILE.length, { ...LIMITS, ...limits });
  abort.abort();
  await server.finished;
  const why = "why" in result ? result.why.replaceAll(url.origin, "") : "";
  return { result, requests, why };
}

/** A body that sends `chunk` every `interval` ms, without end. */
function endless(chunk: Uint8Array<ArrayBuffer>, interval: number): ReadableStream<Uint8Array<ArrayBuffer>> {
  let timer: ReturnType<typeof setInterval>;
  return new ReadableStream({
    start(controller) {
      timer = setInterval(() => controller.enqueue(chunk), interval);
    },
    cancel: () => clearInterval(timer),
  });
}

Deno.test("a whole file arrives, behind redirects too, and after a failure", async () => {
  const { result } = await fetchFrom((path, request) => {
    if (request === 1) return new Response("busy", { status: 503 });
    if (path !== "/c") {
      return new Response(null, { status: 302, headers: { location: path === "/file" ? "b" : "/c" } });
    }
    return new Response(FILE);
  });
  assert.deepEqual(result, { bytes: FILE });
});

Deno.test("a redirect loop ends, and is not tried again", async () => {
  const { why, requests } = await fetchFrom((path) =>
    new Response(null, { status: 301, headers: { location: path } })
  );
  assert.deepEqual([why, requests], ["/file redirects more than 3 times", 4]);
});

Deno.test("a redirect to what is no web address is refused", async () => {
  for (const location of ["file:///etc/passwd", "http://", "data:,x"]) {
    const { why, requests } = await fetchFrom(() =>
      new Response(null, { status: 302, headers: { location } })
    );
    assert.deepEqual([why, requests], [`/file redirects to what is no web address: "${location}"`, 1]);
  }
});

Deno.test("a body that stalls is tried again, then given up", async () => {
  const stalled = await fetchFrom(() => new Response(endless(FILE.subarray(0, 100), 1e6)));
  assert.deepEqual([stalled.why, stalled.requests], ["/file: no data for 0.08 seconds", 2]);
});

Deno.test("a body that trickles is given up when the time is over", async () => {
  const { why, requests } = await fetchFrom(() => new Response(endless(FILE.subarray(0, 1), 20)), {
    total: 200,
    stall: 10_000, // a busy machine may be late with a byte
  });
  assert.deepEqual([why, requests], ["/file: not finished after 0.2 seconds", 1]);
});

Deno.test("a body larger than the file is cut off", async () => {
  let sent = 0;
  const { result } = await fetchFrom(() =>
    new Response(
      new ReadableStream({
        pull(controller) {
          sent += 1 << 16;
          controller.enqueue(new Uint8Array(1 << 16));
        },
      }),
    )
  );
  assert.deepEqual(result, { larger: true });
  assert(sent < 1 << 24, `${sent} bytes were sent`);
});

Deno.test("a body that ends early is tried again", async () => {
  const { why, requests } = await fetchFrom(() => new Response(FILE.subarray(0, 400)));
  assert.deepEqual([why, requests], ["/file ended after 400 of 1000 bytes", 2]);
});

Deno.test("what the server refuses is said, and not tried again", async () => {
  const { why, requests } = await fetchFrom(() => new Response("no", { status: 404 }));
  assert.deepEqual([why, requests], ["/file: the server answers 404 Not Found", 1]);
});
