/** Opens devices and tokenizers: the one place that knows the implementations behind the interfaces. */
import { os } from "../platform/host.ts";
import { checkVocabSize, type Tokenizer, type WordCounter } from "../data/tokenizer.ts";
import type { TokenizerFile } from "../data/tokenizer_json.ts";
import { checkOptions, type Options, type OptionValues } from "../device/options.ts";
import { MicrogptError } from "../device/errors.ts";
import type { Device, Dtype, WeightType } from "../device/device.ts";
import type { Group } from "../device/group.ts";

/** More threads than this must be a mistake. */
const MAX_THREADS = 1024;

/** Where to compute, each option declared once. */
export const DEVICE_OPTIONS = {
  device: {
    type: "choice",
    choices: ["cpu", "metal", "webgpu", "auto", "reference"],
    default: "cpu",
    help: "where to compute",
  },
  dtype: {
    type: "choice",
    choices: ["f32", "bf16", "f16"],
    help: "type of working weights and activations, on cpu of what products multiply: f32 or bf16 there " +
      "(default bf16 on metal, f32 otherwise)",
  },
  threads: { type: "whole", min: 0, max: MAX_THREADS, help: "CPU threads (default, and 0: all)" },
  adapter: {
    type: "whole",
    min: 0,
    max: 9,
    help: "which GPU of those that WebGPU tells apart (default 0, the fastest), for metal and webgpu",
  },
} as const satisfies Options;

/** The same for generating, where weights are only read: the CPU then holds them in any type, and computes in f32. */
export const INFERENCE_DEVICE_OPTIONS = {
  ...DEVICE_OPTIONS,
  dtype: {
    type: "choice",
    choices: ["f32", "bf16", "f16", "q8"],
    help: "type of weights (default on cpu: as the file has them, q8 for quantized ones; bf16 on metal, " +
      "f32 otherwise)",
  },
} as const satisfies Options;

/**
 * What the option `device` takes. `metal` is `webgpu` on a Mac, `reference` the plain TypeScript device; `auto`
 * measures a moment of the work to be done and takes the faster of GPU and CPU, but continues a run on the device that
 * it was begun on.
 */
export type DeviceName = OptionValues<typeof DEVICE_OPTIONS>["device"];

/** Where to compute. */
export type DeviceOptions = Partial<OptionValues<typeof DEVICE_OPTIONS>>;

/** Where to generate, and in which type of weights. */
export type InferenceDeviceOptions = Partial<OptionValues<typeof INFERENCE_DEVICE_OPTIONS>>;

/**
 * Does a moment of the work that the device is for.
 * @returns the milliseconds it took, without compiling and allocating
 */
export type Trial = (device: Device) => Promise<number>;

/** What `auto` decides by. */
export interface AutoChoice {
  /** what it measures; without one it takes the GPU where there is one */
  trial?: Trial;
  /** name and dtype of the device that the work was begun on: taken without measuring if it is here */
  before?: { device?: string; dtype?: Dtype };
}

/** What the device is for. */
export interface DeviceUse extends AutoChoice {
  /** `dtype` is that of weights that are only read, see `Device.holdWeights` */
  inference?: boolean;
}

/**
 * Opens a device.
 * @param choice what it is for, and what `auto` decides by
 * @throws {MicrogptError} for options out of range, when it is not there, or cannot compute in `dtype`
 */
export async function openDevice(
  options: InferenceDeviceOptions = {},
  choice: DeviceUse = {},
): Promise<Device> {
  checkOptions(choice.inference ? INFERENCE_DEVICE_OPTIONS : DEVICE_OPTIONS, options);
  const { device = defaultDevice(), dtype, threads, adapter } = options;
  if (adapter !== undefined && device !== "webgpu" && device !== "metal") {
    throw new MicrogptError(`\`adapter\` chooses a GPU, \`device\` is ${device}`, {
      hint: `use \`device\` ${os === "darwin" ? "metal" : "webgpu"}`,
      usage: true,
    });
  }
  switch (device) {
    case "auto":
      return await openBefore(options, choice) ?? await openFaster(options, choice);
    case "cpu": {
      if (os === "browser") {
        throw new MicrogptError("`device` cpu is a native library, which a browser cannot load", {
          hint: "use `device` webgpu, or auto",
          usage: true,
        });
      }
      await ensureNativeLibrary();
      const { openCpuDevice } = await import("../native/device.ts");
      const computed = choice.inference ? "f32" : computedIn(device, dtype) ?? "f32";
      return openCpuDevice({ dtype: computed, ...(threads === undefined ? {} : { threads }) });
    }
    case "metal":
      if (os !== "darwin") {
        throw new MicrogptError(`\`device\` metal is for macOS, this is ${os}`, {
          hint: "use `device` webgpu",
          usage: true,
        });
      }
      return await openGpu(computedIn(device, dtype) ?? "bf16", adapter);
    case "webgpu":
      return await openGpu(computedIn(device, dtype) ?? "f32", adapter);
    case "reference": {
      if (dtype && dtype !== "f32") {
        throw new MicrogptError(`\`device\` reference computes in f32, not ${dtype}`, { usage: true });
      }
      const { ReferenceDevice } = await import("../device/reference_device.ts");
      return new ReferenceDevice("f32");
    }
  }
}

/** A browser has no `cpu`: it takes what there is. */
function defaultDevice(): DeviceName {
  return os === "browser" ? "auto" : DEVICE_OPTIONS.device.default;
}

/** The type of activations, where they have that of the weights. @throws {MicrogptError} when nothing is computed in it */
function computedIn(device: DeviceName, dtype: WeightType | undefined): Dtype | undefined {
  if (dtype !== "q8") return dtype;
  throw new MicrogptError(`\`device\` ${device} holds no weights in q8`, {
    hint: "use `dtype` bf16 or f16, or `device` cpu",
    usage: true,
  });
}

/**
 * The devices that `auto` chooses from: the GPU where there is a real one, or where only it can compute in the dtype,
 * and the CPU. In a browser the GPU, and the reference device where there is none.
 */
async function candidates(dtype: WeightType | undefined, inference = false): Promise<DeviceName[]> {
  const gpuName = os === "darwin" ? "metal" : "webgpu";
  if (dtype === "q8") return ["cpu"];
  if (dtype === "f16" && !inference) return [gpuName];
  const adapter = await navigator.gpu?.requestAdapter();
  if (os === "browser") return [adapter ? gpuName : "reference"];
  return adapter && !adapter.info.isFallbackAdapter ? [gpuName, "cpu"] : ["cpu"];
}

/** A device's name without the number of its threads. */
function hardware(name: string): string {
  return name.replace(/, \d+ threads?$/, "");
}

/** The device that the work was begun on, if it is one of those that `auto` chooses from. */
async function openBefore(options: InferenceDeviceOptions, use: DeviceUse): Promise<Device | undefined> {
  const { before = {}, inference } = use;
  if (before.device === undefined) return undefined;
  const dtype = options.dtype ?? before.dtype;
  for (const device of await candidates(dtype, inference)) {
    let opened: Device;
    try {
      opened = await openDevice({ ...options, device, ...(dtype ? { dtype } : {}) }, use);
    } catch (error) {
      if (error instanceof MicrogptError) continue; // the measuring that follows says what is wrong with it
      throw error;
    }
    if (hardware(opened.name) === hardware(before.device)) return opened;
    opened.destroy();
  }
}

/**
 * The GPU where there is a real one and it is faster than the CPU at `trial`, else the CPU; where one fails, the other.
 */
async function openFaster(options: InferenceDeviceOptions, use: DeviceUse): Promise<Device> {
  const { trial, inference } = use;
  const names = await candidates(options.dtype, inference);
  if (names.length === 1 || !trial) return await openDevice({ ...options, device: names[0]! }, use);
  const times: { device: DeviceName; milliseconds: number }[] = [];
  const problems: MicrogptError[] = [];
  for (const device of names) {
    try {
      const opened = await openDevice({ ...options, device }, use);
      times.push({ device, milliseconds: await timed(opened, trial) });
    } catch (error) {
      if (!(error instanceof MicrogptError)) throw error;
      problems.push(error);
    }
  }
  const fastest = times.sort((a, b) => a.milliseconds - b.milliseconds)[0];
  if (!fastest) throw problems.at(-1);
  const opened = await openDevice({ ...options, device: fastest.device }, use);
  opened.warnings.push(...problems.map(({ message }) => `\`device\` auto had no choice: ${message}`));
  return opened;
}

async function timed(device: Device, trial: Trial): Promise<number> {
  try {
    return await trial(device);
  } finally {
    device.destroy();
  }
}

async function openGpu(dtype: Dtype, adapter = 0): Promise<Device> {
  const { openGpuDevice } = await import("../gpu/device.ts");
  return await openGpuDevice({ dtype, adapter });
}

/**
 * Begins to make a tokenizer: natively, or in JavaScript where the native library may not be loaded or is missing; that
 * one keeps all texts until it trains.
 * @param options.vocabSize most tokens it may have
 * @param options.chat with the special tokens of a chat
 * @param options.threads as in `DeviceOptions`
 * @throws {MicrogptError} when the vocabulary is smaller than the alphabet
 */
export async function openWordCounter(
  options: { vocabSize: number; chat: boolean; threads?: number | undefined },
): Promise<WordCounter> {
  checkVocabSize(options.vocabSize, options.chat);
  checkOptions(DEVICE_OPTIONS, { threads: options.threads });
  if (await ensureNativeLibrary()) {
    const { NativeWordCounter, setTokenizerThreads } = await import("../native/tokenizer.ts");
    if (options.threads !== undefined) setTokenizerThreads(options.threads);
    return new NativeWordCounter(options);
  }
  const { trainTokenizerJson } = await import("../data/bpe_trainer.ts");
  const { unpacked } = await import("../data/packed_texts.ts");
  const texts: string[] = [];
  return {
    add(documents) {
      for (const document of unpacked(documents)) texts.push(document);
      return Promise.resolve();
    },
    train: async () => await openTokenizer(trainTokenizerJson(texts, options)),
    close: () => texts.length = 0,
  };
}

/** Trains a tokenizer on documents, see {@link openWordCounter}. */
export async function trainTokenizer(
  documents: readonly string[],
  options: { vocabSize: number; chat: boolean; threads?: number | undefined },
): Promise<Tokenizer> {
  const counter = await openWordCounter(options);
  try {
    await counter.add(documents);
    return await counter.train();
  } finally {
    counter.close();
  }
}

/**
 * Opens a saved tokenizer: natively, or in JavaScript where the native library may not be loaded or is missing.
 * @param saved the text of tokenizer.json, or what it was read as
 * @param threads as in `DeviceOptions`
 * @throws {MicrogptError} when it is not a tokenizer of this program
 */
export async function openTokenizer(saved: string | TokenizerFile, threads?: number): Promise<Tokenizer> {
  checkOptions(DEVICE_OPTIONS, { threads });
  const { parseTokenizerJson } = await import("../data/tokenizer_json.ts");
  const file = typeof saved === "string" ? parseTokenizerJson(saved) : saved;
  if (await ensureNativeLibrary()) {
    const { NativeTokenizer, setTokenizerThreads } = await import("../native/tokenizer.ts");
    if (threads !== undefined) setTokenizerThreads(threads);
    return NativeTokenizer.fromFile(file);
  }
  const { HfTokenizer } = await import("../data/hf_tokenizer.ts");
  return await HfTokenizer.fromFile(file);
}

/** Ranks that train: a program that ends in the middle ends the others too. */
let training = false;
let leavesWithProgram = false;

/** Says that training of this launch has ended well, or with an error that all ranks have: nobody waits for this one. */
export function endTraining(): void {
  training = false;
}

/**
 * Joins the processes of this launch, until the program ends: in good order once `endTraining` was called, else by
 * ending all of them.
 * @param distributed over what; "none" and undefined are one process
 * @param reduceDtype how gradients travel
 * @returns undefined for one process
 * @throws {MicrogptError} when MPI does not work, or when several processes would each train alone
 */
export async function openGroup(
  distributed: "none" | "mpi" = "none",
  reduceDtype: "f32" | "bf16" = "f32",
): Promise<Group | undefined> {
  if (distributed === "none") {
    if (os === "browser") return undefined;
    const { checkAlone, launchOf } = await import("../native/launcher.ts");
    const { environment } = await import("../platform/permissions.ts");
    checkAlone(launchOf(environment));
    return undefined;
  }
  await ensureNativeLibrary();
  const { openMpiGroup } = await import("../native/mpi.ts");
  const group = openMpiGroup(reduceDtype);
  training = true;
  if (!leavesWithProgram) {
    leavesWithProgram = true;
    globalThis.addEventListener("unload", () => training ? group.abort(1) : group.close());
  }
  return group;
}

/** Looks for the native library, and downloads it for a module imported by URL. @returns whether there is one */
async function ensureNativeLibrary(): Promise<boolean> {
  if (os === "browser") return false;
  const { ensureLibrary } = await import("../native/library.ts");
  return await ensureLibrary();
}
