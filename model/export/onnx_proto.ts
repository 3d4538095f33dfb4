/**
 * The messages of an ONNX file that a graph with its weights needs, out of `onnx.proto` (version 1.12, IR 8), and their
 * encoding. https://github.com/onnx/onnx/blob/v1.12.0/onnx/onnx.proto
 */
const { default: protobuf } = await import("npm:protobufjs@8.8.1/light.js");

/** `TensorProto.DataType` */
export const ONNX_TYPE = { float: 1, int64: 7, float16: 10 } as const;
export type OnnxType = (typeof ONNX_TYPE)[keyof typeof ONNX_TYPE];

/** A constant of the graph, row-major, little-endian. */
export interface TensorProto {
  dims: number[];
  dataType: OnnxType;
  name: string;
  rawData: Uint8Array;
}

/** `AttributeProto`, of the kinds used here; `type` says which field counts. */
export interface AttributeProto {
  name: string;
  type: number;
  f?: number;
  i?: number;
  ints?: number[];
}

/** `AttributeProto.AttributeType` */
export const ATTRIBUTE_TYPE = { float: 1, int: 2, ints: 7 } as const;

export interface NodeProto {
  input: string[];
  output: string[];
  name: string;
  opType: string;
  attribute: AttributeProto[];
}

/** An input or output of the graph; a dimension is a number, or a name for any number. */
export interface ValueInfoProto {
  name: string;
  type: {
    tensorType: { elemType: OnnxType; shape: { dim: ({ dimValue: number } | { dimParam: string })[] } };
  };
}

export interface ModelProto {
  irVersion: number;
  producerName: string;
  graph: {
    name: string;
    docString: string;
    node: NodeProto[];
    initializer: TensorProto[];
    input: ValueInfoProto[];
    output: ValueInfoProto[];
  };
  opsetImport: { domain: string; version: number }[];
}

/** A field as protobuf.js describes it; repeated numbers are not packed in ONNX files. */
const field = (id: number, type: string) => ({ id, type });
const repeated = (id: number, type: string) => ({ id, type, rule: "repeated", options: { packed: false } });

const MESSAGES = {
  ModelProto: {
    irVersion: field(1, "int64"),
    producerName: field(2, "string"),
    graph: field(7, "GraphProto"),
    opsetImport: repeated(8, "OperatorSetIdProto"),
  },
  OperatorSetIdProto: { domain: field(1, "string"), version: field(2, "int64") },
  GraphProto: {
    node: repeated(1, "NodeProto"),
    name: field(2, "string"),
    initializer: repeated(5, "TensorProto"),
    docString: field(10, "string"),
    input: repeated(11, "ValueInfoProto"),
    output: repeated(12, "ValueInfoProto"),
  },
  NodeProto: {
    input: repeated(1, "string"),
    output: repeated(2, "string"),
    name: field(3, "string"),
    opType: field(4, "string"),
    attribute: repeated(5, "AttributeProto"),
  },
  AttributeProto: {
    name: field(1, "string"),
    f: field(2, "float"),
    i: field(3, "int64"),
    ints: repeated(8, "int64"),
    type: field(20, "int32"),
  },
  TensorProto: {
    dims: repeated(1, "int64"),
    dataType: field(2, "int32"),
    name: field(8, "string"),
    rawData: field(9, "bytes"),
  },
  ValueInfoProto: { name: field(1, "string"), type: field(2, "TypeProto") },
  TypeProto: { tensorType: field(1, "TypeProtoTensor") },
  TypeProtoTensor: { elemType: field(1, "int32"), shape: field(2, "TensorShapeProto") },
  TensorShapeProto: { dim: repeated(1, "Dimension") },
  Dimension: { dimValue: field(1, "int64"), dimParam: field(2, "string") },
};

const root = protobuf.Root.fromJSON({
  nested: Object.fromEntries(Object.entries(MESSAGES).map(([name, fields]) => [name, { fields }])),
});

/** The bytes of an ONNX file. */
export function encodeModel(model: ModelProto): Uint8Array {
  return root.lookupType("ModelProto").encode(model).finish();
}
