/** Builds an ONNX graph node by node; every value is known by its name. */
import {
  ATTRIBUTE_TYPE,
  type AttributeProto,
  type NodeProto,
  ONNX_TYPE,
  type OnnxType,
  type TensorProto,
  type ValueInfoProto,
} from "./onnx_proto.ts";

/** Attributes by name; whole numbers become ints. Floating-point attributes are not needed by the operators used here. */
type Attributes = Record<string, number | number[]>;

/** A dimension: a size, or a name that stands for any size. */
export type Dimension = number | string;

export class OnnxGraph {
  readonly nodes: NodeProto[] = [];
  readonly initializers: TensorProto[] = [];
  readonly inputs: ValueInfoProto[] = [];
  readonly outputs: ValueInfoProto[] = [];

  /** Adds a node with one output, called `name`. @returns that name */
  op(name: string, opType: string, inputs: string[], attributes: Attributes = {}): string {
    return this.#node(name, opType, inputs, [name], attributes)[0]!;
  }

  /** Adds a node that cuts `input` into equal slices of length 1 along axis 0. @returns the names of the slices */
  slices(name: string, input: string, parts: string[]): string[] {
    const outputs = parts.map((part) => `${name}.${part}`);
    return this.#node(name, "Split", [input], outputs, { axis: 0 });
  }

  /** Adds a constant. @returns its name */
  constant(name: string, dataType: OnnxType, dims: number[], data: ArrayBufferView): string {
    const rawData = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.initializers.push({ name, dataType, dims, rawData });
    return name;
  }

  /** Adds an int64 constant: a vector, or a scalar when a number is given. @returns its name */
  integers(name: string, values: number | number[]): string {
    const list = typeof values === "number" ? [values] : values;
    const dims = typeof values === "number" ? [] : [values.length];
    return this.constant(name, ONNX_TYPE.int64, dims, BigInt64Array.from(list, BigInt));
  }

  /** Adds an f32 scalar. @returns its name */
  scalar(name: string, value: number): string {
    return this.constant(name, ONNX_TYPE.float, [], Float32Array.of(value));
  }

  /** Declares an input of the graph. @returns its name */
  input(name: string, elemType: OnnxType, shape: Dimension[]): string {
    this.inputs.push(valueInfo(name, elemType, shape));
    return name;
  }

  /** Declares the value `name` an output of the graph. */
  output(name: string, elemType: OnnxType, shape: Dimension[]): void {
    this.outputs.push(valueInfo(name, elemType, shape));
  }

  #node(name: string, opType: string, input: string[], output: string[], attributes: Attributes): string[] {
    const attribute = Object.entries(attributes).map(([key, value]): AttributeProto =>
      typeof value === "number"
        ? { name: key, type: ATTRIBUTE_TYPE.int, i: value }
        : { name: key, type: ATTRIBUTE_TYPE.ints, ints: value }
    );
    this.nodes.push({ name, opType, input, output, attribute });
    return output;
  }
}

function valueInfo(name: string, elemType: OnnxType, shape: Dimension[]): ValueInfoProto {
  const dim = shape.map((size) => typeof size === "number" ? { dimValue: size } : { dimParam: size });
  return { name, type: { tensorType: { elemType, shape: { dim } } } };
}
