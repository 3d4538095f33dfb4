/**
 * The network as an ONNX graph, for other runtimes. It is the forward function of `model/gpt.ts` in standard operators
 * (opset 17), with the key-value cache passed in and out the way transformers.js and optimum name it.
 *
 * Letters in shapes: b sequences of a batch · s tokens fed · p tokens in the cache · t = p + s.
 */
import type { GptConfig } from "../gpt.ts";
import { MicrogptError } from "../../device/errors.ts";
import { PRODUCER } from "./onnx_config.ts";
import { type Dimension, OnnxGraph } from "./onnx_graph.ts";
import { encodeModel, ONNX_TYPE } from "./onnx_proto.ts";
import type { ParameterLayout } from "../parameters.ts";

/** Split with equal parts, ReduceMean with axes as an attribute: every runtime since 2022 knows this set. */
const OPSET = 17;
const IR_VERSION = 8;

/** A protobuf message, and so an ONNX file without external data, ends here. The graph itself takes the last MB. */
const MAX_WEIGHT_BYTES = 2 ** 31 - 1 - (1 << 20);

/** Stands for −∞ in masked scores: a row without any visible key then stays finite. */
const MASKED = -3.4028234663852886e38;

export interface OnnxOptions {
  /** store weights as f16; inputs, outputs and arithmetic stay f32, so that every runtime can run the file */
  half?: boolean;
}

/**
 * Builds the bytes of `model.onnx`.
 *
 * Inputs: `input_ids` i64 [b, s], `attention_mask` i64 [b, t] (0 hides a token), `position_ids` i64 [b, s],
 * `past_key_values.N.key` and `.value` f32 [b, H, p, D]. Outputs: `logits` f32 [b, s, V], `present.N.key` and `.value`
 * f32 [b, H, t, D].
 * @param params [layout.length] f32 weights
 * @throws {MicrogptError} when the file would exceed protobuf's 2 GB, or a weight does not fit f16
 */
export function buildOnnx(
  config: GptConfig,
  layout: ParameterLayout,
  params: Float32Array,
  { half = false }: OnnxOptions = {},
): Uint8Array {
  if (layout.count * (half ? 2 : 4) > MAX_WEIGHT_BYTES) {
    throw new MicrogptError(`an ONNX file holds at most 2 GB, this model has ${layout.count} parameters`, {
      hint: half ? "export it as safetensors" : "try `half`, or export it as safetensors",
    });
  }
  const g = new OnnxGraph();
  const weights = new WeightConstants(g, layout, params, half);
  gptGraph(g, config, weights);
  return encodeModel({
    irVersion: IR_VERSION,
    producerName: PRODUCER,
    opsetImport: [{ domain: "", version: OPSET }],
    graph: {
      name: "microgpt",
      docString: half ? "Weights are f16, everything else f32." : "",
      node: g.nodes,
      initializer: g.initializers,
      input: g.inputs,
      output: g.outputs,
    },
  });
}

/** Puts parameters into the graph, in f32 or f16. */
class WeightConstants {
  constructor(
    private readonly graph: OnnxGraph,
    private readonly layout: ParameterLayout,
    private readonly params: Float32Array,
    private readonly half: boolean,
  ) {}

  /** A parameter as it is stored, [rows, cols]. */
  table(name: string): string {
    const { rows, cols, offset } = this.layout.byName.get(name)!;
    return this.#add(name, [rows, cols], this.params.slice(offset, offset + rows * cols));
  }

  /** Matrices of equal width one below the other, transposed for x · W: [cols, all rows]. */
  transposed(name: string, parameters: string[]): string {
    const entries = parameters.map((parameter) => this.layout.byName.get(parameter)!);
    const cols = entries[0]!.cols;
    const rows = entries.reduce((sum, entry) => sum + entry.rows, 0);
    const data = new Float32Array(rows * cols);
    let first = 0;
    for (const { rows: height, offset } of entries) {
      for (let r = 0; r < height; r++) {
        for (let c = 0; c < cols; c++) data[c * rows + first + r] = this.params[offset + r * cols + c]!;
      }
      first += height;
    }
    return this.#add(name, [cols, rows], data);
  }

  #add(name: string, dims: number[], data: Float32Array): string {
    if (!this.half) return this.graph.constant(name, ONNX_TYPE.float, dims, data);
    const stored = this.graph.constant(`${name}.f16`, ONNX_TYPE.float16, dims, toHalf(data, name));
    return this.graph.op(name, "Cast", [stored], { to: ONNX_TYPE.float });
  }
}

function toHalf(data: Float32Array, name: string): Float16Array {
  const half = Float16Array.from(data);
  const bad = half.findIndex((value, i) => !Number.isFinite(value) && Number.isFinite(data[i]));
  if (bad >= 0) {
    throw new MicrogptError(`a weight of ${name} is ${data[bad]}, f16 ends at 65504`, {
      hint: "export without `half`",
    });
  }
  return half;
}

/**
 * The weights as a file with `half` holds them, back in f32: its logits are compared with theirs.
 * @param params [any length] f32
 */
export function roundToHalf(params: Float32Array): Float32Array {
  return Float32Array.from(Float16Array.from(params));
}

/** Nodes of the whole network. */
function gptGraph(g: OnnxGraph, config: GptConfig, weights: WeightConstants): void {
  const { vocab_size: V, n_embd: E, n_head: H, n_layer: L } = config;
  const D = E / H;
  // transformers.js finds the size of an empty cache by the name `batch_size`; other names count as 0.
  const [b, s, p, t] = ["batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"];
  const cacheShape = (length: Dimension): Dimension[] => [b!, H, length, D];

  const inputIds = g.input("input_ids", ONNX_TYPE.int64, [b!, s!]);
  const attentionMask = g.input("attention_mask", ONNX_TYPE.int64, [b!, t!]);
  const positionIds = g.input("position_ids", ONNX_TYPE.int64, [b!, s!]);
  const visible = visibilityMask(g, inputIds, attentionMask);
  g.scalar("masked", MASKED);
  g.scalar("epsilon", 1e-5);
  g.scalar("score_scale", 1 / Math.sqrt(D));
  g.integers("heads_shape", [0, 0, 3, H, D]);
  g.integers("merged_shape", [0, 0, E]);

  const token = g.op("token_embedding", "Gather", [weights.table("wte"), inputIds]);
  const position = g.op("position_embedding", "Gather", [weights.table("wpe"), positionIds]);
  let x = rmsNorm(g, "embedding_norm", g.op("embedding", "Add", [token, position])); // [b, s, E]
  for (let i = 0; i < L; i++) {
    const cache = {
      pastKey: g.input(`past_key_values.${i}.key`, ONNX_TYPE.float, cacheShape(p!)),
      pastValue: g.input(`past_key_values.${i}.value`, ONNX_TYPE.float, cacheShape(p!)),
      presentKey: `present.${i}.key`,
      presentValue: `present.${i}.value`,
    };
    x = attention(g, `layer${i}`, x, weights, visible, cache);
    x = mlp(g, `layer${i}`, x, weights);
    if (i === 0) g.output("logits", ONNX_TYPE.float, [b!, s!, V]);
    g.output(cache.presentKey, ONNX_TYPE.float, cacheShape(t!));
    g.output(cache.presentValue, ONNX_TYPE.float, cacheShape(t!));
  }
  g.op("logits", "MatMul", [x, weights.transposed("lm_head", ["lm_head"])]); // [b, s, V]
}

/** bool [b, 1, s, t]: whether query i of the tokens fed sees key j: j ≤ p + i, and the key is not padding. */
function visibilityMask(g: OnnxGraph, inputIds: string, attentionMask: string): string {
  g.integers("zero", 0);
  g.integers("one", 1);
  const axis = (values: number[]) => g.integers(`axes_${values.join("_")}`, values);
  const length = (name: string, of: string) =>
    g.op(name, "Gather", [g.op(`${name}.shape`, "Shape", [of]), "one"]); // a scalar
  const total = length("total_length", attentionMask);
  const past = g.op("past_length", "Sub", [total, length("fed_length", inputIds)]);
  const queries = g.op("query_index", "Range", [past, total, "one"]); // [s]
  const keys = g.op("key_index", "Range", ["zero", total, "one"]); // [t]
  const column = g.op("query_column", "Unsqueeze", [queries, axis([1])]); // [s, 1]
  const causal = g.op("causal", "LessOrEqual", [keys, column]); // [s, t]
  const notPadding = g.op("not_padding", "Greater", [attentionMask, "zero"]); // [b, t]
  g.integers("axis_0", [0]);
  const keyMask = g.op("key_mask", "Unsqueeze", [notPadding, axis([1, 2])]); // [b, 1, 1, t]
  return g.op("visible", "And", [keyMask, causal]);
}

/** x / sqrt(mean(x²) + 1e-5) over the last axis. */
function rmsNorm(g: OnnxGraph, name: string, x: string): string {
  const square = g.op(`${name}.square`, "Mul", [x, x]);
  const mean = g.op(`${name}.mean`, "ReduceMean", [square], { axes: [-1], keepdims: 1 });
  const shifted = g.op(`${name}.shifted`, "Add", [mean, "epsilon"]);
  return g.op(name, "Div", [x, g.op(`${name}.rms`, "Sqrt", [shifted])]);
}

/** x + attention(rmsnorm(x) · Wqkvᵀ) · Woᵀ, with the keys and values of the cache in front of the new ones. */
function attention(
  g: OnnxGraph,
  layer: string,
  x: string,
  weights: WeightConstants,
  visible: string,
  cache: { pastKey: string; pastValue: string; presentKey: string; presentValue: string },
): string {
  const name = `${layer}.attention`;
  const wqkv = weights.transposed(
    `${layer}.attn_wqkv`,
    ["q", "k", "v"].map((part) => `${layer}.attn_w${part}`),
  );
  const qkv = g.op(`${name}.qkv`, "MatMul", [rmsNorm(g, `${name}.norm`, x), wqkv]); // [b, s, 3E]
  const split = g.op(`${name}.split`, "Reshape", [qkv, "heads_shape"]); // [b, s, 3, H, D]
  const stacked = g.op(`${name}.stacked`, "Transpose", [split], { perm: [2, 0, 3, 1, 4] }); // [3, b, H, s, D]
  const [query, key, value] = g.slices(`${name}.heads`, stacked, ["query", "key", "value"]) // each [1, b, H, s, D]
    .map((slice) => g.op(`${slice}.squeezed`, "Squeeze", [slice, "axis_0"]));
  const keys = g.op(cache.presentKey, "Concat", [cache.pastKey, key!], { axis: 2 }); // [b, H, t, D]
  const values = g.op(cache.presentValue, "Concat", [cache.pastValue, value!], { axis: 2 });
  const scaled = g.op(`${name}.scaled_query`, "Mul", [query!, "score_scale"]);
  const keysTransposed = g.op(`${name}.keys_transposed`, "Transpose", [keys], { perm: [0, 1, 3, 2] });
  const scores = g.op(`${name}.scores`, "MatMul", [scaled, keysTransposed]); // [b, H, s, t]
  const masked = g.op(`${name}.masked_scores`, "Where", [visible, scores, "masked"]);
  const weightsOfKeys = g.op(`${name}.softmax`, "Softmax", [masked], { axis: -1 });
  const context = g.op(`${name}.context`, "MatMul", [weightsOfKeys, values]); // [b, H, s, D]
  const byToken = g.op(`${name}.by_token`, "Transpose", [context], { perm: [0, 2, 1, 3] }); // [b, s, H, D]
  const merged = g.op(`${name}.merged`, "Reshape", [byToken, "merged_shape"]); // [b, s, E]
  const wo = weights.transposed(`${layer}.attn_wo`, [`${layer}.attn_wo`]);
  return g.op(`${name}.residual`, "Add", [x, g.op(`${name}.projection`, "MatMul", [merged, wo])]);
}

/** x + relu(rmsnorm(x) · W1ᵀ) · W2ᵀ */
function mlp(g: OnnxGraph, layer: string, x: string, weights: WeightConstants): string {
  const name = `${layer}.mlp`;
  const w1 = weights.transposed(`${layer}.mlp_fc1`, [`${layer}.mlp_fc1`]);
  const w2 = weights.transposed(`${layer}.mlp_fc2`, [`${layer}.mlp_fc2`]);
  const hidden = g.op(`${name}.hidden`, "MatMul", [rmsNorm(g, `${name}.norm`, x), w1]); // [b, s, 4E]
  const relu = g.op(`${name}.relu`, "Relu", [hidden]);
  return g.op(`${name}.residual`, "Add", [x, g.op(`${name}.projection`, "MatMul", [relu, w2])]);
}
