import type { Flag } from "./command.ts";

/** The flags that say how tokens are drawn; ranges stand in model/generation.ts. */
export const SAMPLING_FLAGS: Flag[] = [
  {
    name: "--temperature",
    value: "x",
    type: "number",
    help: "0 takes the most probable token always",
    default: 0.5,
  },
  {
    name: "--top-k",
    value: "n",
    type: "number",
    help: "draw from the n most probable tokens; 0 = all",
    default: 0,
  },
  {
    name: "--top-p",
    value: "x",
    type: "number",
    help: "draw from the tokens that together reach this mass; 1 = all",
    default: 1,
  },
];
