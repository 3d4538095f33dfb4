/** What the native library holds for us ends when it should, once: devices, tensors, tokenizers, encodings. */
import assert from "node:assert/strict";
import { LanguageModel } from "../../model/generate/language_model.ts";
import type { Tensor } from "../../device/device.ts";
import { CpuDevice, openCpuDevice } from "../../native/device.ts";
import { NativeTokenizer } from "../../native/tokenizer.ts";
import { tinyModel } from "../model/export/onnx_fixture.ts";

/** A CPU device that counts the tensors that were allocated and not freed. */
class CountingDevice extends CpuDevice {
  readonly alive = new Set<Tensor>();
  override tensor(...shape: Parameters<CpuDevice["tensor"]>): Tensor {
    const tensor = super.tensor(...shape);
    this.alive.add(tensor);
    return tensor;
  }
  override free(tensor: Tensor): void {
    super.free(tensor);
    this.alive.delete(tensor);
  }
}

const megabytes = () => Deno.memoryUsage().rss / 1e6;

Deno.test("10,000 calls of generate leave memory and the tensors of the device as they were", async () => {
  const source = tinyModel(false);
  const device = new CountingDevice({ threads: 1 });
  const tokenizer = NativeTokenizer.fromJson(source.tokenizerJson);
  using model = new LanguageModel({ ...source, chat: false }, source.params, tokenizer, device);
  const before = device.alive.size;
  const generate = async (calls: number) => {
    for (let seed = 0; seed < calls; seed++) {
      await model.samples({ prompt: "an", numSamples: 1, maxTokens: 2, seed });
    }
    return megabytes();
  };
  const warm = await generate(2000);
  const grown = await generate(10_000) - warm;
  assert.equal(device.alive.size, before);
  assert(grown < 40, `${grown.toFixed(1)} MB more after 10,000 calls`);
  tokenizer.close();
});

Deno.test("a tensor that was freed leaves nothing behind", () => {
  const device = openCpuDevice({ threads: 1 });
  const churn = (times: number) => {
    for (let i = 0; i < times; i++) device.free(device.tensor("a", 1, 16));
    return megabytes();
  };
  const warm = churn(100_000);
  const grown = churn(600_000) - warm;
  // A slot of 72 bytes for each would be 43 MB.
  assert(grown < 15, `${grown.toFixed(1)} MB more after 600,000 tensors`);
  device.destroy();
});

Deno.test("a device, its tensors and its views end in any order, and twice", async () => {
  const device = openCpuDevice({ threads: 2 });
  const [a, b] = [device.tensor("a", 4, 4), device.tensor("b", 4, 4)];
  const part = device.view(a, 4, 1, 4);
  device.free(a);
  device.free(a);
  assert.throws(() => device.zero(part), /there is no tensor "a": it was freed/);
  assert.throws(() => device.write(part, new Float32Array(4)), /it was freed/);
  // What is allocated now is another tensor, whatever became of the memory.
  const c = device.tensor("c", 4, 4);
  assert.throws(() => device.rmsNorm(c, a), /there is no tensor/);
  device.destroy();
  device.destroy();
  device.free(b);
  device.free(c);
  for (
    const use of [
      () => device.tensor("d", 1, 1),
      () => device.createBatch(1, 1),
      () => device.zero(b),
      () => device.rmsNorm(c, b),
    ]
  ) assert.throws(use, { name: "MicrogptError", message: "the device is closed" });
  await assert.rejects(async () => await device.read(b), /the device is closed/);
});

Deno.test("a tensor of another device is refused", () => {
  const [one, other] = [openCpuDevice({ threads: 1 }), openCpuDevice({ threads: 1 })];
  const [a] = [one.tensor("a", 2, 2), other.tensor("b", 2, 2)];
  assert.throws(() => other.zero(a), /there is no tensor/);
  one.destroy();
  other.destroy();
});

Deno.test("opening and closing devices and tokenizers again and again leaves nothing", () => {
  const json = tinyModel(false).tokenizerJson;
  const round = (times: number) => {
    for (let i = 0; i < times; i++) {
      const device = openCpuDevice({ threads: 2 });
      device.tensor("a", 256, 1024);
      device.createBatch(1, 1);
      device.destroy();
      using tokenizer = NativeTokenizer.fromJson(json);
      tokenizer.encodeOne("and then");
    }
    return megabytes();
  };
  const warm = round(100);
  const grown = round(500) - warm;
  assert(grown < 100, `${grown.toFixed(1)} MB more after 500 rounds`);
});

Deno.test({
  name: "what was forgotten without being closed is freed when it is collected",
  ignore: Deno.build.os !== "linux", // elsewhere there is no /proc to count threads in
  fn: forgottenOnesAreFreed,
});

async function forgottenOnesAreFreed(): Promise<void> {
  const module = (name: string) => JSON.stringify(import.meta.resolve(`../../native/${name}.ts`));
  const program = `
    import { openCpuDevice } from ${module("device")};
    import { NativeTokenizer } from ${module("tokenizer")};
    const threads = () => [...Deno.readDirSync("/proc/self/task")].length;
    const json = ${JSON.stringify(tinyModel(false).tokenizerJson)};
    const forget = () => {
      for (let i = 0; i < 20; i++) openCpuDevice({ threads: 3 }).tensor("a", 10, 10), NativeTokenizer.fromJson(json);
    };
    const kept = openCpuDevice({ threads: 3 });
    const before = threads();
    forget();
    const most = threads();
    for (let i = 0; i < 50 && threads() > before; i++) {
      gc();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    console.log(most - before >= 40, threads() <= before, kept.threads);`;
  const path = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(path, program);
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", "--v8-flags=--expose-gc", path],
    }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
    assert.equal(text(stdout), "true true 3", text(stderr));
  } finally {
    await Deno.remove(path);
  }
}
