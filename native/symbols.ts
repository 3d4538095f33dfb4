/**
 * The exports of the native library, each declared once: types, bindings and the interface version all come from these
 * tables. `tests/native/native_symbols_test.ts` compares them with the Rust source, name by name and argument by argument.
 *
 * A signature lists the arguments as Rust names them. A `tensor` x stands for two arguments, its number `x` and its first
 * element `x_at`; a buffer `x: u32[]` for its address `x` and its length `x_len`.
 */

/** What every version of the library has. Both return a number. */
export const BASE = {
  mg_abi_version: "",
  mg_error_message: "text: u8[]",
} as const;

/** The CPU device, its memory and its kernels (native/src/device.rs, native/src/kernels/). All return a status. */
export const DEVICE = {
  mg_cpu_open: "threads: u32, handle: u32[]",
  mg_cpu_close: "device: u32",
  mg_cpu_name: "text: u8[]",
  mg_cpu_allocate: "device: u32, len: f64, handle: u32[]",
  mg_cpu_free: "device: u32, tensor: u32",
  mg_cpu_write: "device: u32, tensor: tensor, data: u32[]",
  mg_cpu_read: "device: u32, tensor: tensor, data: u32[]",
  mg_cpu_zero: "device: u32, tensor: tensor, len: f64",
  mg_cpu_add: "device: u32, out: tensor, a: tensor, len: f64",
  mg_cpu_create_batch: "device: u32, handle: u32[]",
  mg_cpu_load_batch: `device: u32, batch: u32, tokens: u32[], targets: u32[], starts: u32[],
    weights: f32[]`,
  mg_cpu_embed: `device: u32, x: tensor, batch: u32, wte: tensor, wpe: tensor,
    rows: u32, cols: u32, vocabulary: u32, block: u32`,
  mg_cpu_embed_backward:
    `device: u32, d_wte: tensor, d_wpe: tensor, dx: tensor, batch: u32, wte: tensor, wpe: tensor,
    rows: u32, cols: u32, vocabulary: u32, block: u32`,
  mg_cpu_embed_rows: `device: u32, x: tensor, tokens: tensor, positions: tensor, wte: tensor, wpe: tensor,
    rows: u32, cols: u32, vocabulary: u32, block: u32`,
  mg_cpu_lookup: "device: u32, x: tensor, batch: u32, table: tensor, rows: u32, cols: u32, vocabulary: u32",
  mg_cpu_lookup_backward:
    "device: u32, d_table: tensor, dx: tensor, batch: u32, rows: u32, cols: u32, vocabulary: u32",
  mg_cpu_lookup_rows: `device: u32, x: tensor, tokens: tensor, table: tensor,
    rows: u32, cols: u32, vocabulary: u32`,
  mg_cpu_rms_norm: "device: u32, out: tensor, x: tensor, rows: u32, cols: u32",
  mg_cpu_rms_norm_backward: "device: u32, dx: tensor, dy: tensor, x: tensor, rows: u32, cols: u32",
  mg_cpu_scaled_rms_norm: `device: u32, out: tensor, x: tensor, w: tensor,
    rows: u32, cols: u32, epsilon: f64`,
  mg_cpu_scaled_rms_norm_backward: `device: u32, dx: tensor, dw: tensor, dy: tensor, x: tensor, w: tensor,
    rows: u32, cols: u32, epsilon: f64`,
  mg_cpu_head_norm: `device: u32, out: tensor, x: tensor, w: tensor,
    rows: u32, queries: u32, keys: u32, width: u32, epsilon: f64`,
  mg_cpu_head_norm_backward: `device: u32, dx: tensor, dw: tensor, dy: tensor, x: tensor, w: tensor,
    rows: u32, queries: u32, keys: u32, width: u32, epsilon: f64`,
  mg_cpu_rope: `device: u32, x: tensor, angles: tensor, batch: u32,
    rows: u32, cols: u32, heads: u32, head_dim: u32, lines: u32, back: u32`,
  mg_cpu_rope_rows: `device: u32, x: tensor, angles: tensor, positions: tensor,
    rows: u32, cols: u32, heads: u32, head_dim: u32, lines: u32`,
  mg_cpu_swiglu: "device: u32, out: tensor, gate_up: tensor, rows: u32, cols: u32",
  mg_cpu_swiglu_backward:
    "device: u32, d_gate_up: tensor, d_out: tensor, gate_up: tensor, rows: u32, cols: u32",
  mg_cpu_dropout: `device: u32, out: tensor, x: tensor, add: tensor, flags: u32, len: f64,
    key: u32, threshold: u32, scale: f64`,
  mg_cpu_matmul: `device: u32, out: tensor, a: tensor, b: tensor, add: tensor, mask: tensor,
    form: u32, flags: u32, bf16: u32, m: u32, n: u32, k: u32`,
  mg_cpu_allocate_weights: "device: u32, kind: u32, rows: u32, cols: u32, handle: u32[]",
  mg_cpu_write_weights: `device: u32, weights: u32, kind: u32, rows: u32, cols: u32, first: u32, source: u32,
    data: u8[], bad: u32[]`,
  mg_cpu_matmul_weights: `device: u32, out: tensor, a: tensor, weights: u32, kind: u32, add: tensor,
    flags: u32, m: u32, n: u32, k: u32`,
  mg_cpu_lookup_weights: `device: u32, x: tensor, tokens: tensor, table: u32, kind: u32,
    rows: u32, cols: u32, vocabulary: u32`,
  mg_cpu_embed_weights: `device: u32, x: tensor, tokens: tensor, positions: tensor, wte: u32, wte_kind: u32,
    wpe: u32, wpe_kind: u32, rows: u32, cols: u32, vocabulary: u32, block: u32`,
  mg_cpu_attention: `device: u32, out: tensor, lse: tensor, qkv: tensor, batch: u32,
    rows: u32, cols: u32, heads: u32, kv_heads: u32`,
  mg_cpu_attention_backward:
    `device: u32, d_qkv: tensor, d_out: tensor, out: tensor, lse: tensor, qkv: tensor,
    batch: u32, rows: u32, cols: u32, heads: u32, kv_heads: u32`,
  mg_cpu_cross_entropy: `device: u32, logits: tensor, losses: tensor, control: tensor, batch: u32,
    first_row: u32, rows: u32, cols: u32, scale: f64, z_loss: f64`,
  mg_cpu_sum_loss: "device: u32, metrics: tensor, losses: tensor, rows: u32, accumulate: u32",
  mg_cpu_grad_norm: "device: u32, metrics: tensor, gradients: tensor, len: f64, control: tensor",
  mg_cpu_decide_step: "device: u32, metrics: tensor, control: tensor, grad_clip: f64",
  mg_cpu_adam:
    `device: u32, params: tensor, m: tensor, v: tensor, gradients: tensor, len: f64, control: tensor,
    learning_rate: f64, beta1: f64, beta2: f64, epsilon: f64, weight_decay: f64`,
  mg_cpu_momentum:
    "device: u32, out: tensor, m: tensor, gradients: tensor, len: f64, control: tensor, beta: f64",
  mg_cpu_matrix_polynomial:
    `device: u32, out: tensor, a: tensor, square: tensor, n: u32, c0: f64, c1: f64, c2: f64, normalize: u32`,
  mg_cpu_apply_update: `device: u32, params: tensor, update: tensor, len: f64, control: tensor,
    learning_rate: f64, weight_decay: f64, cautious: u32`,
  mg_cpu_attention_cached:
    `device: u32, out: tensor, qkv: tensor, cache: tensor, positions: tensor, sequences: tensor,
    rows: u32, cols: u32, lines: u32, block_size: u32, heads: u32, kv_heads: u32`,
  mg_cpu_sample:
    `device: u32, tokens: tensor, positions: tensor, sequences: tensor, logits: tensor, output: tensor,
    seeds: tensor, settings: tensor, said: tensor, rows: u32, cols: u32, sequence_count: u32, said_cols: u32`,
} as const;

/** The tokenizer (native/src/tokenizer/exports.rs, native/src/threads.rs). All return a status. */
export const TOKENIZER = {
  mg_set_threads: "count: u32",
  mg_words_open: "handle: u32[]",
  mg_words_count: "handle: u32, text: u8[], offsets: u32[], job: u32[]",
  mg_words_train: "handle: u32, vocab_size: u32, chat: u32, job: u32[]",
  mg_tokenizer_json: "handle: u32, json: u8[]",
  mg_tokenizer_load: `names: u8[], offsets: u32[], ids: u32[], merges: u32[], split: u32, ignore_merges: u32,
    handle: u32[]`,
  mg_tokenizer_load_whole: "json: u8[], handle: u32[]",
  mg_tokenizer_free: "handle: u32",
  mg_tokenizer_encode: "handle: u32, text: u8[], offsets: u32[], job: u32[]",
  mg_tokenizer_encoding: "handle: u32, ids: u32[], offsets: u32[]",
  mg_job_wait: "job: u32",
  mg_job_end: "job: u32, result: u32[]",
} as const;

/** Other processes of a launch, through an MPI library (native/src/mpi/). All return a status. */
export const MPI = {
  mg_mpi_load: "paths: u8[]",
  mg_mpi_describe: "description: u8[]",
  mg_mpi_start: "place: u32[]",
  mg_mpi_sum: "values: f32[], bf16: u32",
  mg_mpi_sum_tensor: "device: u32, values: tensor, len: f64, bf16: u32",
  mg_mpi_begin_sum: "device: u32, values: tensor, len: f64, bf16: u32",
  mg_mpi_finish: "",
  mg_mpi_all_reduce: "values: f32[]",
  mg_mpi_combine: "values: f64[], largest: u32",
  mg_mpi_broadcast: "bytes: u8[]",
  mg_mpi_barrier: "",
  mg_mpi_abort: "code: u32",
  mg_mpi_close: "",
} as const;

/** Signatures by the names of the exports. */
export type Signatures = Readonly<Record<string, string>>;

/** How an argument of each kind is passed. */
const PASSED = {
  u32: ["u32"],
  f64: ["f64"],
  tensor: ["u32", "f64"],
  "u8[]": ["buffer", "u32"],
  "u32[]": ["buffer", "u32"],
  "f32[]": ["buffer", "u32"],
  "f64[]": ["buffer", "u32"],
} as const;
type Passed = typeof PASSED;

type ArgumentTypes<S extends string> = S extends "" ? []
  : S extends `${infer First},${infer Rest}` ? [...ArgumentTypes<First>, ...ArgumentTypes<Rest>]
  : S extends `${string}: ${infer Kind}` ? Kind extends keyof Passed ? Passed[Kind] : never
  : never;

/** Signatures as `Deno.dlopen` takes them. */
export type Bindings<S extends Signatures, Result extends Deno.NativeResultType> = {
  [Name in keyof S]: { parameters: ArgumentTypes<S[Name]>; result: Result };
};

/** Turns signatures into what `Deno.dlopen` takes. */
export function bindings<const S extends Signatures, const Result extends Deno.NativeResultType>(
  signatures: S,
  result: Result,
): Bindings<S, Result> {
  const bound = Object.entries(signatures).map(([name, signature]) => {
    const parameters = argumentsOf(signature).flatMap(({ kind }) => PASSED[kind]);
    return [name, { parameters, result }];
  });
  return Object.fromEntries(bound);
}

/** The arguments of a signature. */
export function argumentsOf(signature: string): { name: string; kind: keyof Passed }[] {
  const matches = signature.matchAll(/(\w+): ([^\s,]+)/g);
  return Array.from(matches, ([, name, kind]) => ({ name: name!, kind: kind as keyof Passed }));
}

/**
 * The version of an interface: a number that changes whenever an export does (FNV-1a of its signatures).
 * `ABI_VERSION` in native/src/lib.rs must be that of all tables.
 */
export function interfaceVersion(...tables: Signatures[]): number {
  let hash = 0x811c9dc5;
  for (const [name, signature] of tables.flatMap((table) => Object.entries(table)).sort()) {
    const text = [name, ...argumentsOf(signature).map(({ name, kind }) => `${name}: ${kind}`)].join(" ") +
      "\n";
    for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  }
  return hash;
}
