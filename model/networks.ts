/** All networks, by the name of their architecture. */
import type { Architecture, ConfigNaming, ModelConfig } from "./config.ts";
import { MicrogptError } from "../device/errors.ts";
import { gpt } from "./gpt.ts";
import { llama } from "./llama.ts";
import type { Network, NetworkKind } from "./network.ts";

const NETWORKS: Record<Architecture, NetworkKind> = { gpt, llama: llama as unknown as NetworkKind };

/**
 * The architecture of that name.
 * @param name as in `ModelConfig.architecture`
 * @throws {MicrogptError} when there is none
 */
export function networkKind(name: unknown = "gpt"): NetworkKind {
  if (typeof name === "string" && Object.hasOwn(NETWORKS, name)) return NETWORKS[name as Architecture];
  const known = Object.keys(NETWORKS).join(", ");
  throw new MicrogptError(`architecture must be one of: ${known}`);
}

/** The network that a config describes. */
export function networkOf(config: ModelConfig): Network {
  return networkKind(config.architecture).create(config);
}

/** Checks the config of any network, see `NetworkKind.checkConfig`. */
export function checkConfig(config: ModelConfig, naming?: ConfigNaming): void {
  networkKind(config.architecture).checkConfig(config, naming);
}
