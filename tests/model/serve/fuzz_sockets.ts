/** What clients write that are broken, slow, hostile or gone: bytes for a bare socket, from a seed. */
import type { Dice } from "./fuzz_bodies.ts";

/** What is written, and what may come back. */
export interface SocketCase {
  name: string;
  bytes: Uint8Array<ArrayBuffer>;
  /** the writing side is closed after it */
  half: boolean;
  /** the server must wait for more: it is left */
  waits: boolean;
  /** statuses that are right; a connection that ends without one is too */
  statuses: number[];
}

const REFUSED = [400, 403, 404, 405, 408, 411, 413, 414, 415, 417, 431];
const HOST = "Host: 127.0.0.1\r\n";
const TYPE = "Content-Type: application/json\r\n";
const POST = `POST /v1/chat/completions HTTP/1.1\r\n${HOST}${TYPE}`;
const BODY = '{"messages":[{"role":"user","content":"count"}],"temperature":0,"max_tokens":3}';
const LONG_STREAM = '{"prompt":"ab","max_tokens":200,"stream":true,"logit_bias":{"70":100}}';

const sized = (body: string) => `Content-Length: ${body.length}\r\n\r\n${body}`;
const get = (path: string, headers = "") => `GET ${path} HTTP/1.1\r\n${HOST}${headers}\r\n`;

/** Requests that are refused, or break off. */
const BROKEN: Record<string, string | ((dice: Dice) => string)> = {
  "a line that is none": "GET\r\n\r\n",
  "a version that is none": `GET / HTTP/3.0\r\n${HOST}\r\n`,
  "a method that is none": `G\0T / HTTP/1.1\r\n${HOST}\r\n`,
  "another method": `BREW / HTTP/1.1\r\n${HOST}\r\n`,
  "connect": `CONNECT 127.0.0.1:22 HTTP/1.1\r\n${HOST}\r\n`,
  "trace": `TRACE / HTTP/1.1\r\n${HOST}\r\n`,
  "no colon": get("/health", "nonsense\r\n"),
  "a zero in a header": get("/health", "a: b\0c\r\n"),
  "another host": "GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n",
  "a host that is none": "GET /health HTTP/1.1\r\nHost: [::1\r\n\r\n",
  "a port that is none": "GET /health HTTP/1.1\r\nHost: 127.0.0.1:99999999\r\n\r\n",
  "two hosts": get("/health", "Host: evil.example\r\n"),
  "a whole address": `GET http://evil.example/health HTTP/1.1\r\n${HOST}\r\n`,
  "an address that is none": `GET http://[evil/health HTTP/1.1\r\n${HOST}\r\n`,
  "a path with a host": get("//[/v1/nothing"),
  "a path that is no UTF-8": get("/v1/models/%ff%fe%"),
  "a path of bytes": get("/v1/models/\xff\xfe"),
  "a path upwards": get("/../../../../etc/passwd"),
  "a long path": (dice) => get("/" + "y".repeat(dice.pick([5000, 60_000, 1 << 20]))),
  "a large header": (dice) => get("/nothing", `x: ${"y".repeat(dice.pick([60_000, 1 << 20, 4 << 20]))}\r\n`),
  "many headers": (dice) => get("/nothing", "x: y\r\n".repeat(dice.pick([99, 1000, 100_000]))),
  "a length below zero": `${POST}Content-Length: -1\r\n\r\n`,
  "a length that is none": `${POST}Content-Length: many\r\n\r\n`,
  "a length without end": `${POST}Content-Length: ${"9".repeat(30)}\r\n\r\n`,
  "a length beyond all": `${POST}Content-Length: 99999999999\r\n\r\n`,
  "two lengths": `${POST}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd`,
  "a length and chunks": `${POST}Content-Length: 300\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
  "a chunk that is none": `${POST}Transfer-Encoding: chunked\r\n\r\nzz\r\n`,
  "a chunk too long": `${POST}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n`,
  "an encoding of elsewhere": `${POST}Transfer-Encoding: gzip\r\n\r\n`,
  "a type of bytes": `POST /v1/completions HTTP/1.1\r\n${HOST}Content-Type: \xff\r\n${sized(BODY)}`,
  "an origin that is none": `${POST}Origin: http://[\r\n${sized(BODY)}`,
  "no such expectation": `${POST}Expect: wonders\r\n${sized("[]")}`,
  "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
  "HTTP/2 and junk": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "junk".repeat(20),
  "bytes": (dice) => String.fromCharCode(...dice.bytes(1 + dice.below(500))),
  "a request with other bytes": (dice) => {
    const characters = [...`${POST}${sized(BODY)}`];
    for (let n = 1 + dice.below(5); n > 0; n--) {
      characters[dice.below(60)] = String.fromCharCode(dice.below(256));
    }
    return characters.join("");
  },
};

/** Requests that are right, in unusual ways. */
const UNUSUAL: Record<string, string> = {
  "three at once": get("/health").repeat(3),
  "a key of bytes": get("/health", "authorization: Bearer \xff\xfe\r\n"),
  "a whole address of here": `GET http://127.0.0.1/health HTTP/1.1\r\n${HOST}\r\n`,
  "many slashes": get("////health"),
  "an upgrade": get("/health", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
  "in chunks": `${POST}Transfer-Encoding: chunked\r\n\r\n${BODY.length.toString(16)}\r\n${BODY}\r\n0\r\n\r\n`,
  "an expectation": `${POST}Expect: 100-continue\r\n${sized(BODY)}`,
};

const bytesOf = (text: string) => Uint8Array.from(text, (character) => character.charCodeAt(0));

/** Something for a socket. */
export function socketCase(dice: Dice): SocketCase {
  const rest = { half: dice.chance(0.2), waits: false };
  const kind = dice.below(10);
  if (kind < 5) {
    const name = dice.pick(Object.keys(BROKEN));
    const broken = BROKEN[name]!;
    const text = typeof broken === "string" ? broken : broken(dice);
    // bytes may happen to be a request that is right, or the start of one
    const statuses = / other bytes/.test(name) ? [...REFUSED, 200] : REFUSED;
    return { name, bytes: bytesOf(text), ...rest, waits: true, statuses };
  }
  if (kind < 7) {
    const name = dice.pick(Object.keys(UNUSUAL));
    return { name, bytes: bytesOf(UNUSUAL[name]!), ...rest, statuses: [200, 101] };
  }
  if (kind < 9) {
    const text = `${POST}${sized(BODY)}`;
    const bytes = bytesOf(text.slice(0, dice.below(text.length)));
    return { name: "breaks off", bytes, ...rest, waits: true, statuses: REFUSED };
  }
  const head = `POST /v1/completions HTTP/1.1\r\n${HOST}${TYPE}`;
  return {
    name: "leaves",
    bytes: bytesOf(head + sized(LONG_STREAM)),
    half: false,
    waits: true,
    statuses: [200],
  };
}

/** What came back on a socket. */
export interface Heard {
  statuses: number[];
  /** the server closed it */
  closed: boolean;
}

/** How long a server may think about what is whole. */
const PATIENCE_MS = 10_000;
/** How long a client stays that does not say all. */
const STAY_MS = 30;

/** Writes a case to the server, in some pieces, and listens until there is an answer, or the client leaves. */
export async function speak(port: number, { bytes, half, waits }: SocketCase, dice: Dice): Promise<Heard> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  let text = "";
  let closed = false;
  const listening = (async () => {
    const buffer = new Uint8Array(16 << 10);
    try {
      for (let n; (n = await connection.read(buffer)) !== null;) {
        text += new TextDecoder("latin1").decode(buffer.subarray(0, n));
        if (!waits && /^HTTP\/1\.1 (?!100)[^]*\r\n\r\n/m.test(text)) return;
      }
    } catch (error) {
      if (!isGone(error)) throw error;
    }
    closed = true;
  })();
  try {
    const cut = dice.chance(0.3) ? dice.below(bytes.length) : bytes.length;
    await write(connection, bytes.subarray(0, cut));
    await write(connection, bytes.subarray(cut));
    if (half) await connection.closeWrite();
  } catch (error) {
    if (!isGone(error)) throw error; // the server had enough
  }
  const wait = waits ? STAY_MS : PATIENCE_MS;
  let timer: ReturnType<typeof setTimeout> | undefined;
  await Promise.race([listening, new Promise((resolve) => timer = setTimeout(resolve, wait))]);
  clearTimeout(timer);
  const statuses = [...text.matchAll(/^HTTP\/1\.[01] (\d+)/gm)].map(([, status]) => Number(status));
  return { statuses: statuses.filter((status) => status !== 100), closed };
}

async function write(connection: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await connection.write(bytes.subarray(at));
}

/** Whether the other side, or we, closed a connection. */
function isGone(error: unknown): boolean {
  return error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted ||
    error instanceof Deno.errors.ConnectionAborted || error instanceof Deno.errors.NotConnected;
}
