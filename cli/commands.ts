/** The subcommands. Each one's module loads when it is called. */
import type { Command } from "./command.ts";

export const COMMANDS: Record<string, { summary: string; load: () => Promise<{ command: Command }> }> = {
  train: { summary: "train a model on your text or conversations", load: () => import("./train.ts") },
  sweep: {
    summary: "train each combination of some settings, and compare",
    load: () => import("./sweep.ts"),
  },
  generate: { summary: "print samples of a model", load: () => import("./generate.ts") },
  chat: { summary: "talk with a model that was trained on conversations", load: () => import("./chat.ts") },
  serve: { summary: "serve a model over HTTP: OpenAI's API", load: () => import("./serve.ts") },
  eval: { summary: "measure how well a model predicts a text", load: () => import("./eval.ts") },
  info: { summary: "describe a model, or measure a data file", load: () => import("./info.ts") },
  export: {
    summary: "write an inference-only model: safetensors or ONNX",
    load: () => import("./export.ts"),
  },
  doctor: { summary: "check and measure this machine's devices", load: () => import("./doctor.ts") },
  completions: {
    summary: "print completions for bash, zsh or fish",
    load: () => import("./completions.ts"),
  },
};
