/** How the weights that a model generates with get to a device. */
import type { Device, Tensor, WeightType } from "../../device/device.ts";
import { f32Sink, numberAt, type WeightSink, type WeightSource } from "../files/weight_source.ts";
import { Q8_BLOCK, weightMatrices } from "../files/weight_types.ts";
import { flatTensor, type ParameterLayout } from "../parameters.ts";

/**
 * Reads a model's weights to a device, a few rows at a time.
 * @param dtype the type of matrices; default: as the file has them, q8 for types of fewer than 8 bits
 * @returns [1, layout.length], whose views the network computes with
 * @throws {MicrogptError} when memory is short, the file changed, or a number is not finite or too large for the type
 */
export async function loadWeights(
  device: Device,
  layout: ParameterLayout,
  source: WeightSource,
  dtype?: WeightType,
): Promise<Tensor> {
  if (!device.holdWeights) {
    const flat = flatTensor(device, "weights", layout, "work");
    await source.readWeights(
      layout,
      f32Sink(({ offset, cols }, first, values) => device.write(flat, values, offset + first * cols)),
    );
    return flat;
  }
  const matrices = weightMatrices(layout, source.types, dtype);
  const whole = matrices.filter(({ cols }) => cols % Q8_BLOCK === 0).length;
  if (dtype === "q8" && whole < matrices.length) {
    const others = matrices.length - whole;
    device.warnings.push(
      `${others} of ${matrices.length} matrices are held in 16 bits, not in q8: ` +
        `their rows are no multiple of ${Q8_BLOCK}`,
    );
  }
  const held = device.holdWeights("weights", layout.length, matrices);
  const sink: WeightSink = ({ offset, cols }, first, type, bytes) => {
    const index = held.write(offset + first * cols, type, bytes);
    return index < 0 ? undefined : { index, value: numberAt(type, bytes, index) };
  };
  await source.readWeights(layout, sink);
  return held.flat;
}
