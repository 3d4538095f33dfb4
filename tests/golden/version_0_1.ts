/**
 * Checkpoints and losses as version 0.1.0 of this program made them, so that no later one changes them unnoticed:
 * `version_0_1/text` and `version_0_1/chat` are runs stopped after 8 of 16 steps, `version_0_1/losses.json` has the losses
 * of all 16. Everything was computed by the reference device, which gives the same bits wherever it runs.
 */

import type { Message, TrainOptions } from "../../mod.ts";

/** [documents] what the text model learned. */
export const DOCUMENTS = [
  "anna",
  "bob",
  "carla",
  "dora",
  "emil",
  "frieda",
  "gustav",
  "hanna",
  "ida",
  "jakob",
  "karla",
  "ludwig",
  "a line that is longer than the block",
  "Zoë",
  "日本",
  "two words",
  "  spaces  ",
  "<bos>",
  "x",
];

/** What the chat model learned. */
export const CONVERSATIONS: Message[][] = [
  [{ role: "user", content: "hi" }, { role: "assistant", content: "hello" }],
  [{ role: "user", content: "one?" }, { role: "assistant", content: "two" }, {
    role: "user",
    content: "three",
  }],
  [{ role: "assistant", content: "I begin" }],
  [
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
    { role: "user", content: "c" },
    { role: "assistant", content: "d" },
  ],
];

const SMALL: TrainOptions = {
  device: "reference",
  seed: 7,
  nEmbd: 8,
  nHead: 2,
  nLayer: 1,
  blockSize: 16,
  vocabSize: 280,
  batchSize: 3,
  gradAccum: 2,
  weightDecay: 0.01,
  // off: the factor of clipping is rounded to f32 since, as the other devices always did
  gradClip: 0,
  warmupSteps: 4,
  learningRate: 0.01,
  valFraction: 0,
};

/** How each run was made, 16 steps long. */
export const RUNS: Record<"text" | "chat", TrainOptions> = {
  text: { ...SMALL, documents: DOCUMENTS },
  chat: { ...SMALL, conversations: CONVERSATIONS },
};

export const STEPS = 16;
export const STOPPED_AT = 8;

/** `losses.json`. */
export interface Recorded {
  /** of steps 1 … 16 */
  losses: number[];
  /** SHA-256 of weights.safetensors and of both moments after step 16 */
  weights: string;
  m: string;
  v: string;
  /** four greedy and drawn samples of the checkpoint after step 8, on the reference device */
  samples: string[];
}
