/** What training does to a batch that measuring does not. */
import { hash32 } from "./random.ts";

/** Against overfitting, and for loss of even size; a batch that is only measured has none. */
export interface Regularization {
  /** share of the numbers that `Device.dropout` sets to 0, from 0, below 1 */
  dropout: number;
  /** 32 mixed bits: what is dropped depends on them, the place in the network and the element alone */
  key: number;
  /** c: beside the loss, c · log²Z of each target that counts, with Z the sum of the exponentials of its logits; 0 = off */
  zLoss: number;
}

/** How a kernel drops: element i of a tensor is kept where the 24 bits of draw i reach `threshold`, and multiplied. */
export interface Drop {
  /** for `uniform` of device/random.ts */
  key: number;
  threshold: number;
  /** 1 / (1 − rate) */
  scale: number;
}

/**
 * What is dropped at a place of the network.
 * @throws {RangeError} for a batch that drops nothing
 */
export function dropAt(of: Regularization | undefined, place: number): Drop {
  if (!of || !(of.dropout > 0 && of.dropout < 1)) throw new RangeError("a batch without dropout");
  return {
    key: hash32(of.key ^ hash32(place ^ 0x64726f70)),
    threshold: Math.ceil(of.dropout * 0x100_0000),
    scale: 1 / (1 - of.dropout),
  };
}
