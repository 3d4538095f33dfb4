/** Weights that are in memory already, put on a device to generate with. */
import type { Device, Tensor } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import { weightMatrices } from "../files/weight_types.ts";
import { flatTensor, type ParameterLayout } from "../parameters.ts";

/**
 * @param params [layout.length], in f32
 * @throws {MicrogptError} for one that is not finite, where the device looks at them
 */
export function placeWeights(device: Device, layout: ParameterLayout, params: Float32Array): Tensor {
  if (!device.holdWeights) {
    const flat = flatTensor(device, "weights", layout, "work");
    device.write(flat, params);
    return flat;
  }
  const held = device.holdWeights("weights", layout.length, weightMatrices(layout, new Map()));
  for (const { offset, rows, cols } of layout.entries) {
    const values = params.slice(offset, offset + rows * cols);
    const bad = held.write(offset, "F32", new Uint8Array(values.buffer));
    if (bad >= 0) throw new MicrogptError(`weight ${offset + bad} is ${values[bad]}: it must be finite`);
  }
  return held.flat;
}
