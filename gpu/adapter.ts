/** Finding a GPU: adapter, features, limits, and what to say when there is none. */
import { MicrogptError } from "../device/errors.ts";
import type { Dtype } from "../device/device.ts";
import { type Hardware, hardwareOf } from "./tiles.ts";

/** What is known about the adapter before anything runs on it. */
export interface AdapterDescription {
  /** the hardware's own name */
  name: string;
  vendor: string;
  architecture: string;
  /** computes on the CPU: correct, and slow */
  software: boolean;
  /** features that matter here; `subgroups` is among them when asking for it works, listed or not */
  features: string[];
  /** limits that matter here, in their own units */
  limits: Record<string, number>;
}

/** An opened adapter and device. */
export interface OpenedAdapter {
  gpu: GPUDevice;
  description: AdapterDescription;
  hardware: Hardware;
  /**
   * shaders that use subgroup operations must begin with `enable subgroups;`: so WGSL has it, and so browsers want it,
   * which list the feature; Deno does not list it and refuses the line
   */
  subgroupsDirective: boolean;
}

const WANTED_FEATURES: GPUFeatureName[] = ["shader-f16", "timestamp-query"];

/** Limits for which we ask the adapter's maximum; the defaults are far below what hardware has. */
const WANTED_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxStorageBuffersPerShaderStage",
] as const;

function noAdapter(cause?: unknown): MicrogptError {
  return new MicrogptError("no GPU that WebGPU can use was found", {
    hint: "install the GPU's driver (on Linux its Vulkan driver), or use `device` cpu",
    ...(cause === undefined ? {} : { cause }),
  });
}

/** WebGPU lists no adapters: it answers to what somebody prefers. The fastest first, last one that computes on the CPU. */
const PREFERENCES: GPURequestAdapterOptions[] = [
  { powerPreference: "high-performance" },
  { powerPreference: "low-power" },
  { forceFallbackAdapter: true },
];

/**
 * The adapters that WebGPU tells apart here, number 0 first. Of several GPUs of one kind it gives only the first.
 * @param most ends the search
 * @throws {MicrogptError} when there is none
 */
async function adapters(most = Infinity): Promise<GPUAdapter[]> {
  const found = new Map<string, GPUAdapter>();
  for (const preference of PREFERENCES) {
    if (found.size >= most) break;
    let adapter: GPUAdapter | null | undefined;
    try {
      adapter = await navigator.gpu?.requestAdapter(preference);
    } catch (error) {
      throw noAdapter(error);
    }
    if (!adapter) continue;
    const { vendor, device, description } = adapter.info;
    const kind = JSON.stringify([vendor, device, description]);
    if (!found.has(kind)) found.set(kind, adapter);
  }
  if (found.size === 0) throw noAdapter();
  return [...found.values()];
}

/** @throws {MicrogptError} when there is none of that number, naming those that there are */
async function requestAdapter(number: number): Promise<GPUAdapter> {
  const offered = await adapters(number + 1);
  const adapter = offered[number];
  if (adapter) return adapter;
  const names = offered.map(({ info }, i) => `${i} is ${nameOf(info)}`).join(", ");
  throw new MicrogptError(`\`adapter\` ${number} is not there: ${names}`, {
    hint:
      "WebGPU tells GPUs apart by kind only, fast before economical; which one of several alike it takes, " +
      "the Vulkan loader says: see docs/distributed.md",
    usage: true,
  });
}

/** Vendors by their PCI numbers, for drivers that name none. */
function vendorOf(info: GPUAdapterInfo): string {
  const known: Record<string, string> = {
    "4318": "nvidia",
    "4098": "amd",
    "32902": "intel",
    "4203": "apple",
    "65541": "mesa",
  };
  return known[info.vendor] ?? info.vendor;
}

function nameOf(info: GPUAdapterInfo): string {
  return info.description || info.device || info.architecture || "unnamed GPU";
}

function describe(adapter: GPUAdapter, features: string[]): AdapterDescription {
  const { info } = adapter;
  const limits = Object.fromEntries(WANTED_LIMITS.map((name) => [name, Number(adapter.limits[name])]));
  return {
    name: nameOf(info),
    vendor: vendorOf(info),
    architecture: info.architecture,
    software: info.isFallbackAdapter || /llvmpipe|swiftshader|software|basic render/i.test(nameOf(info)),
    features,
    limits: { ...limits, subgroupMinSize: info.subgroupMinSize, subgroupMaxSize: info.subgroupMaxSize },
  };
}

/**
 * Opens an adapter with all it offers. Where the hardware has subgroups, Deno offers them without listing
 * them: asking is the only way to know.
 * @param subgroups false does not ask for them
 * @param number which adapter; 0 is the fastest
 * @throws {MicrogptError} when there is no such adapter, it gives no device, or it lacks what the dtype needs
 */
export async function openAdapter(dtype: Dtype, subgroups: boolean, number = 0): Promise<OpenedAdapter> {
  const open = async (extra: string[]): Promise<OpenedAdapter> => {
    const adapter = await requestAdapter(number);
    const offered = WANTED_FEATURES.filter((name) => adapter.features.has(name));
    const features = [...offered, ...extra];
    const description = describe(adapter, features);
    const { name, software, limits } = description;
    const hardware = hardwareOf(name, software, limits.maxComputeWorkgroupStorageSize!);
    const subgroupsDirective = adapter.features.has("subgroups");
    const gpu = await adapter.requestDevice({
      requiredFeatures: features as GPUFeatureName[],
      requiredLimits: Object.fromEntries(WANTED_LIMITS.map((name) => [name, Number(adapter.limits[name])])),
    });
    return { gpu, description, hardware, subgroupsDirective };
  };
  let opened: OpenedAdapter | undefined;
  // A refusal here only means that this adapter has no subgroups: the second request, without them, decides.
  if (subgroups) opened = await open(["subgroups"]).catch(() => undefined);
  if (!opened) {
    opened = await open([]).catch((error) => {
      if (error instanceof MicrogptError) throw error;
      throw new MicrogptError(`the GPU gives no device: ${(error as Error).message}`, {
        hint: "update its driver, or use `device` cpu",
        cause: error,
      });
    });
  }
  if (dtype === "f16" && !opened.description.features.includes("shader-f16")) {
    const { name } = opened.description;
    opened.gpu.destroy();
    throw new MicrogptError(`${name} cannot compute in f16 (WebGPU feature shader-f16)`, {
      hint: "use `dtype` bf16 or f32",
      usage: true,
    });
  }
  return opened;
}
