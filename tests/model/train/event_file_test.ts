/** `log` tensorboard: records that are whole, and say what metrics.jsonl says. */
import assert from "node:assert/strict";
import { join } from "node:path";
import protobuf from "npm:protobufjs@8.8.1/light.js";
import { train } from "../../../mod.ts";
import { crc32c, maskedCrc } from "../../../model/train/event_file.ts";
import { withDirectory } from "../files/checkpoint_fixture.ts";

/** `event.proto` and `summary.proto` of TensorFlow, as far as they are used. */
const EVENT = protobuf.Root.fromJSON({
  nested: {
    Event: {
      fields: {
        wallTime: { type: "double", id: 1 },
        step: { type: "int64", id: 2 },
        fileVersion: { type: "string", id: 3 },
        summary: { type: "Summary", id: 5 },
      },
    },
    Summary: { fields: { value: { rule: "repeated", type: "Value", id: 1 } } },
    Value: { fields: { tag: { type: "string", id: 1 }, simpleValue: { type: "float", id: 2 } } },
  },
}).lookupType("Event");

interface Event {
  wallTime: number;
  step: number;
  fileVersion?: string;
  summary?: { value: { tag: string; simpleValue: number }[] };
}

/** The events of a file, whose checksums are compared. */
function eventsOf(bytes: Uint8Array): Event[] {
  const events: Event[] = [];
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  for (let at = 0; at < bytes.length;) {
    const length = Number(view.getBigUint64(at, true));
    assert.equal(view.getUint32(at + 8, true), maskedCrc(bytes.subarray(at, at + 8)));
    const data = bytes.subarray(at + 12, at + 12 + length);
    assert.equal(view.getUint32(at + 12 + length, true), maskedCrc(data));
    events.push(EVENT.toObject(EVENT.decode(data), { longs: Number }) as Event);
    at += length + 16;
  }
  return events;
}

Deno.test("CRC-32C: the check value of RFC 3720, and the mask of records", () => {
  assert.equal(crc32c(new TextEncoder().encode("123456789")), 0xe3069283);
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
  // TensorFlow's own files begin with a record of 24 bytes: 18 00 00 00 00 00 00 00 a3 7f 4b 22
  assert.equal(maskedCrc(Uint8Array.of(24, 0, 0, 0, 0, 0, 0, 0)), 0x224b7fa3);
});

Deno.test("event files: a file a run, with every step and evaluation that metrics.jsonl has", async () => {
  await withDirectory(async (dir) => {
    const output = join(dir, "model");
    const documents = Array.from({ length: 40 }, (_, i) => `name ${i * 7919 % 100}`);
    const options = { documents, output, log: "tensorboard", device: "reference" } as const;
    const small = { nEmbd: 8, nHead: 2, nLayer: 1, blockSize: 16, vocabSize: 270, evalEvery: 2, steps: 4 };
    const before = Date.now() / 1000;
    for await (const _ of train({ ...options, ...small }));
    for await (const _ of train({ ...options, resume: output, steps: 2 }));

    const folder = join(output, "tensorboard");
    const names = Array.from(Deno.readDirSync(folder), ({ name }) => name).sort();
    assert.equal(names.length, 2);
    const told: Record<string, unknown>[] = [];
    for (const name of names) {
      assert.match(name, /^events\.out\.tfevents\.\d+\.microgpt$/);
      const [first, ...events] = eventsOf(Deno.readFileSync(join(folder, name)));
      assert.equal(first!.fileVersion, "brain.Event:2");
      for (const { step, wallTime, summary } of events) {
        assert(wallTime >= before - 1 && wallTime <= Date.now() / 1000);
        told.push({
          step,
          ...Object.fromEntries(summary!.value.map(({ tag, simpleValue }) => [tag, simpleValue])),
        });
      }
    }
    const logged = Deno.readTextFileSync(join(output, "metrics.jsonl")).trimEnd().split("\n").map((line) => {
      const { step, loss, lr, grad_norm, val_loss, val_bits_per_byte } = JSON.parse(line);
      const f = Math.fround;
      return val_loss !== undefined
        ? { step, "loss/held out": f(val_loss), "bits per byte/held out": f(val_bits_per_byte) }
        : { step, "loss/training": f(loss), "learning rate": f(lr), "gradient norm": f(grad_norm) };
    });
    assert.deepEqual(told.map(({ "tokens per second": _, ...rest }) => rest), logged);
    assert(told.every(({ "tokens per second": speed = 1 }) => speed as number > 0));
  });
});
