/**
 * The CPU device: the kernels of the native library behind the `Device` interface. Each call is one synchronous native
 * call with numbers only; the library checks every range, this file checks shapes.
 */
import type {
  AdamHyper,
  AdamState,
  Batch,
  DecodeRows,
  Device,
  Draws,
  Dtype,
  ElementType,
  HeldWeights,
  MatmulForm,
  MatmulFusion,
  PackedDocuments,
  Tensor,
  UpdateHyper,
  UpdateTarget,
  WeightMatrix,
} from "../device/device.ts";
import type { NativeMemory } from "../device/group.ts";
import { deviceClosed, MicrogptError } from "../device/errors.ts";
import { dropAt } from "../device/regularization.ts";
import { SAMPLING_COLUMNS } from "../device/sampling.ts";
import { check, openLibrary } from "./library.ts";
import { DEVICE } from "./symbols.ts";
import {
  CpuBatch,
  CpuTensor,
  type FiveTensors,
  type FourTensors,
  metricsRow,
  qkvWidth,
  sameShape,
} from "./tensor.ts";
import { PackedTensor, PackedWeights, weightKind } from "./weights.ts";

/** What `openCpuDevice` accepts. */
export interface CpuDeviceOptions {
  /** threads that compute, this one included, in the range model/devices.ts checks; 0 or absent: one for each core */
  threads?: number;
  /** what the operands of `matmul` are rounded to: f32 or bf16. Everything else is f32, and so are sums */
  dtype?: Dtype;
}

/** The handle that means "out of memory". */
const NO_MEMORY = 0xffff_ffff;
/** As numbered in native/src/kernels/matmul.rs. */
const FORMS: Record<MatmulForm, number> = { NT: 0, NN: 1, TN: 2 };
/** No weights: every target counts once. */
const ALL_COUNT = new Float32Array();

const ADD_OUT = 1, ADD_MATRIX = 2, RELU = 4, MASK = 8;
/** Flags of `mg_cpu_dropout`. */
const DROP_ELSEWHERE = 1, DROP_ADD = 2;

/** The library's exports, bound once per process. */
let symbols: ReturnType<typeof openSymbols> | undefined;
const openSymbols = () => openLibrary(DEVICE);

/** Ends the threads and frees the memory of a device that was dropped without `destroy`. */
const forgotten = new FinalizationRegistry<number>((device) => check(symbols!.mg_cpu_close(device)));

/**
 * Opens the CPU device.
 * @throws {MicrogptError} when the native library cannot be opened, and for another dtype than f32 and bf16
 */
export function openCpuDevice(options: CpuDeviceOptions = {}): CpuDevice {
  return new CpuDevice(options);
}

/** The processor and its memory as a device; made by {@link openCpuDevice}. */
export class CpuDevice implements Device {
  readonly kind = "cpu";
  readonly dtype: Dtype;
  readonly workType = "f32";
  readonly stepsInFlight = 1;
  readonly warnings: string[] = [];
  readonly name: string;
  /** threads that compute, the caller's included */
  readonly threads: number;
  /** its number in the library */
  readonly #opened: number;
  #closed = false;
  readonly #native: ReturnType<typeof openSymbols>;
  /** where the library writes handles */
  readonly #handle = new Uint32Array(1);

  constructor({ threads = 0, dtype = "f32" }: CpuDeviceOptions) {
    if (dtype === "f16") {
      throw new MicrogptError("`device` cpu computes in f32 or bf16, not in f16", {
        hint: "use `dtype` bf16, or `device` webgpu",
        usage: true,
      });
    }
    this.dtype = dtype;
    this.threads = threads || navigator.hardwareConcurrency;
    this.#native = symbols ??= openSymbols();
    check(this.#native.mg_cpu_open(this.threads, this.#handle, 1));
    this.#opened = this.#handle[0]!;
    forgotten.register(this, this.#opened);
    this.name = `${this.#processor()}, ${this.threads} ${this.threads === 1 ? "thread" : "threads"}`;
  }

  /** The device's number in the library. @throws {MicrogptError} after `destroy` */
  get #device(): number {
    if (this.#closed) throw deviceClosed();
    return this.#opened;
  }

  #processor(): string {
    const bytes = new Uint8Array(256);
    const length = this.#native.mg_cpu_name(bytes, bytes.length);
    check(length);
    return new TextDecoder().decode(bytes.subarray(0, length));
  }

  tensor(label: string, rows: number, cols: number, type: ElementType = "f32"): Tensor {
    check(this.#native.mg_cpu_allocate(this.#device, rows * cols, this.#handle, 1));
    return new CpuTensor(type, rows, cols, this.#allocated(label, rows * cols), 0);
  }

  /** What the library has just allocated. @throws {MicrogptError} when it could not */
  #allocated(label: string, elements: number) {
    const handle = this.#handle[0]!;
    if (handle !== NO_MEMORY) return { label, handle, freed: false };
    const megabytes = Math.ceil(elements * 4 / 1e6).toLocaleString("en-US");
    throw new MicrogptError(`not enough memory for ${label}: ${megabytes} MB`, {
      hint: "make the model or the batch smaller: `nEmbd`, `blockSize` or `batchSize`",
    });
  }

  holdWeights(label: string, length: number, matrices: readonly WeightMatrix[]): HeldWeights {
    const bad = new Uint32Array(2);
    return new PackedWeights(
      {
        pack: (label, { rows, cols, type }) => {
          const kind = weightKind(type);
          check(this.#native.mg_cpu_allocate_weights(this.#device, kind, rows, cols, this.#handle, 1));
          return new PackedTensor(rows, cols, this.#allocated(label, rows * cols), kind);
        },
        plain: (label, length) => this.tensor(label, 1, length) as CpuTensor,
        writeRows: ({ packed, kind, capacity, cols }, first, source, bytes) => {
          // deno-fmt-ignore
          check(this.#native.mg_cpu_write_weights(
            this.#device, packed, kind, capacity, cols, first, source, bytes, bytes.length, bad, 2,
          ));
          return bad[0] ? bad[1]! : -1;
        },
        writePlain: (tensor, values, offset) => this.write(tensor, values, offset),
      },
      label,
      length,
      matrices,
    );
  }

  createBatch(maxTokens: number, maxDocuments: number): Batch {
    check(this.#native.mg_cpu_create_batch(this.#device, this.#handle, 1));
    return new CpuBatch(maxTokens, maxDocuments, this.#handle[0]!);
  }

  view(tensor: Tensor, offset: number, rows: number, cols: number): Tensor {
    if (this.#closed) throw deviceClosed();
    if (tensor instanceof PackedWeights) return tensor.view(offset, rows, cols);
    const parent = tensor as CpuTensor;
    if (offset < 0 || offset + rows * cols > parent.capacity * parent.cols) {
      throw new RangeError("view reaches beyond its tensor");
    }
    return new CpuTensor(parent.type, rows, cols, parent.memory, parent.offset + offset);
  }

  free(tensor: Tensor): void {
    if (tensor instanceof PackedWeights) return tensor.tensors.forEach((part) => this.free(part));
    const { memory } = tensor as CpuTensor;
    if (this.#closed || memory.freed) return;
    memory.freed = true;
    check(this.#native.mg_cpu_free(this.#opened, memory.handle));
  }

  write(tensor: Tensor, data: Float32Array | Uint32Array, offset = 0): void {
    const t = tensor as CpuTensor;
    if ((t.type === "u32") !== (data instanceof Uint32Array)) {
      throw new TypeError(`a ${t.type} tensor cannot be written from a ${data.constructor.name}`);
    }
    if (offset < 0 || offset + data.length > t.capacity * t.cols) {
      throw new RangeError("write reaches beyond its tensor");
    }
    check(this.#native.mg_cpu_write(this.#device, t.handle, t.offset + offset, data, data.length));
  }

  read(tensor: Tensor): Promise<Float32Array | Uint32Array> {
    const t = tensor as CpuTensor;
    const length = t.rows * t.cols;
    const data = t.type === "u32" ? new Uint32Array(length) : new Float32Array(length);
    check(this.#native.mg_cpu_read(this.#device, t.handle, t.offset, data, length));
    return Promise.resolve(data);
  }

  zero(tensor: Tensor): void {
    const t = tensor as CpuTensor;
    check(this.#native.mg_cpu_zero(this.#device, t.handle, t.offset, t.rows * t.cols));
  }

  copy(out: Tensor, from: Tensor): void {
    sameShape(out, from.rows, from.cols);
    const [o, f] = [out as CpuTensor, from as CpuTensor];
    const data = new Uint32Array(f.rows * f.cols);
    check(this.#native.mg_cpu_read(this.#device, f.handle, f.offset, data, data.length));
    check(this.#native.mg_cpu_write(this.#device, o.handle, o.offset, data, data.length));
  }

  add(out: Tensor, a: Tensor): void {
    sameShape(out, a.rows, a.cols);
    const [o, x] = [out as CpuTensor, a as CpuTensor];
    const length = x.rows * x.cols;
    check(this.#native.mg_cpu_add(this.#device, o.handle, o.offset, x.handle, x.offset, length));
  }

  /** The rows in use, for who works on them in the native library. */
  nativeMemory(tensor: Tensor): NativeMemory {
    const { handle, offset, rows, cols } = tensor as CpuTensor;
    return { device: this.#device, tensor: handle, offset, length: rows * cols };
  }

  loadBatch(batch: Batch, documents: PackedDocuments): void {
    const { tokens, targets, starts, weights = ALL_COUNT, regularization } = documents;
    if (tokens.length > batch.maxTokens || starts.length - 1 > batch.maxDocuments) {
      throw new RangeError("more tokens or documents than the batch has room for");
    }
    const { handle } = batch as CpuBatch;
    // deno-fmt-ignore
    check(this.#native.mg_cpu_load_batch(
      this.#device, handle, tokens, tokens.length, targets, targets.length, starts, starts.length,
      weights, weights.length,
    ));
    batch.tokenCount = tokens.length;
    batch.regularization = regularization;
  }

  /** Nothing is queued: every call has done its work when it returns. */
  submit(): void {
    if (this.#closed) throw deviceClosed();
  }

  /** A second call does nothing. Afterwards, any use of the device but `free` is an error. */
  destroy(): void {
    if (this.#closed) return;
    this.#closed = true;
    check(this.#native.mg_cpu_close(this.#opened));
  }

  embed(x: Tensor, batch: Batch, wte: Tensor, wpe: Tensor): void {
    sameShape(x, batch.tokenCount, wte.cols);
    sameShape(wpe, wpe.rows, wte.cols);
    const [o, t, p] = [x, wte, wpe] as [CpuTensor, CpuTensor, CpuTensor];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_embed(
      this.#device, o.handle, o.offset, (batch as CpuBatch).handle, t.handle, t.offset, p.handle, p.offset,
      o.rows, o.cols, t.rows, p.rows,
    ));
  }

  embedBackward(dWte: Tensor, dWpe: Tensor, dx: Tensor, batch: Batch, wte: Tensor, wpe: Tensor): void {
    sameShape(dx, batch.tokenCount, wte.cols);
    sameShape(wpe, wpe.rows, wte.cols);
    sameShape(dWte, wte.rows, wte.cols);
    sameShape(dWpe, wpe.rows, wpe.cols);
    const [dt, dp, y, t, p] = [dWte, dWpe, dx, wte, wpe] as CpuTensor[] as FiveTensors;
    // deno-fmt-ignore
    check(this.#native.mg_cpu_embed_backward(
      this.#device, dt.handle, dt.offset, dp.handle, dp.offset, y.handle, y.offset,
      (batch as CpuBatch).handle, t.handle, t.offset, p.handle, p.offset, y.rows, y.cols, t.rows, p.rows,
    ));
  }

  lookup(x: Tensor, batch: Batch, table: Tensor): void {
    sameShape(x, batch.tokenCount, table.cols);
    const [o, t, { handle }] = [x as CpuTensor, table as CpuTensor, batch as CpuBatch];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_lookup(
      this.#device, o.handle, o.offset, handle, t.handle, t.offset, o.rows, o.cols, t.rows,
    ));
  }

  lookupBackward(dTable: Tensor, dx: Tensor, batch: Batch): void {
    sameShape(dx, batch.tokenCount, dTable.cols);
    const [t, y, { handle }] = [dTable as CpuTensor, dx as CpuTensor, batch as CpuBatch];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_lookup_backward(
      this.#device, t.handle, t.offset, y.handle, y.offset, handle, y.rows, y.cols, t.rows,
    ));
  }

  lookupRows(x: Tensor, rows: DecodeRows, table: Tensor): void {
    sameShape(x, rows.tokens.rows, table.cols);
    const [o, i, t] = [x as CpuTensor, rows.tokens as CpuTensor, table as CpuTensor];
    if (t instanceof PackedTensor) {
      // deno-fmt-ignore
      return check(this.#native.mg_cpu_lookup_weights(
        this.#device, o.handle, o.offset, i.handle, i.offset, t.packed, t.kind, o.rows, o.cols, t.rows,
      ));
    }
    // deno-fmt-ignore
    check(this.#native.mg_cpu_lookup_rows(
      this.#device, o.handle, o.offset, i.handle, i.offset, t.handle, t.offset, o.rows, o.cols, t.rows,
    ));
  }

  rmsNorm(out: Tensor, x: Tensor): void {
    sameShape(out, x.rows, x.cols);
    const [o, i] = [out as CpuTensor, x as CpuTensor];
    check(this.#native.mg_cpu_rms_norm(this.#device, o.handle, o.offset, i.handle, i.offset, i.rows, i.cols));
  }

  rmsNormBackward(dx: Tensor, dy: Tensor, x: Tensor): void {
    sameShape(dx, x.rows, x.cols);
    sameShape(dy, x.rows, x.cols);
    const [o, y, i] = [dx as CpuTensor, dy as CpuTensor, x as CpuTensor];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_rms_norm_backward(
      this.#device, o.handle, o.offset, y.handle, y.offset, i.handle, i.offset, i.rows, i.cols,
    ));
  }

  scaledRmsNorm(out: Tensor, x: Tensor, weight: Tensor, epsilon: number): void {
    sameShape(out, x.rows, x.cols);
    sameShape(weight, 1, x.cols);
    const [o, i, w] = [out as CpuTensor, x as CpuTensor, weight as CpuTensor];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_scaled_rms_norm(
      this.#device, o.handle, o.offset, i.handle, i.offset, w.handle, w.offset, i.rows, i.cols, epsilon,
    ));
  }

  scaledRmsNormBackward(
    dx: Tensor,
    dWeight: Tensor,
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    epsilon: number,
  ): void {
    for (const tensor of [dx, dy]) sameShape(tensor, x.rows, x.cols);
    for (const tensor of [dWeight, weight]) sameShape(tensor, 1, x.cols);
    const [o, dw, y, i, w] = [dx, dWeight, dy, x, weight] as CpuTensor[] as FiveTensors;
    // deno-fmt-ignore
    check(this.#native.mg_cpu_scaled_rms_norm_backward(
      this.#device, o.handle, o.offset, dw.handle, dw.offset, y.handle, y.offset, i.handle, i.offset,
      w.handle, w.offset, i.rows, i.cols, epsilon,
    ));
  }

  headNorm(
    out: Tensor,
    qkv: Tensor,
    weights: Tensor,
    nHead: number,
    nKvHead: number,
    epsilon: number,
  ): void {
    sameShape(weights, 2, weights.cols);
    for (const tensor of [out, qkv]) sameShape(tensor, qkv.rows, (nHead + 2 * nKvHead) * weights.cols);
    const [o, x, w] = [out as CpuTensor, qkv as CpuTensor, weights as CpuTensor];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_head_norm(
      this.#device, o.handle, o.offset, x.handle, x.offset, w.handle, w.offset,
      x.rows, nHead, nKvHead, w.cols, epsilon,
    ));
  }

  headNormBackward(
    dQkv: Tensor,
    dWeights: Tensor,
    dOut: Tensor,
    qkv: Tensor,
    weights: Tensor,
    nHead: number,
    nKvHead: number,
    epsilon: number,
  ): void {
    for (const tensor of [dWeights, weights]) sameShape(tensor, 2, weights.cols);
    const width = (nHead + 2 * nKvHead) * weights.cols;
    for (const tensor of [dQkv, dOut, qkv]) sameShape(tensor, qkv.rows, width);
    const [o, dw, y, x, w] = [dQkv, dWeights, dOut, qkv, weights] as CpuTensor[] as FiveTensors;
    // deno-fmt-ignore
    check(this.#native.mg_cpu_head_norm_backward(
      this.#device, o.handle, o.offset, dw.handle, dw.offset, y.handle, y.offset, x.handle, x.offset,
      w.handle, w.offset, x.rows, nHead, nKvHead, w.cols, epsilon,
    ));
  }

  rope(x: Tensor, angles: Tensor, batch: Batch, heads: number, back = false): void {
    sameShape(x, batch.tokenCount, x.cols);
    const [o, a, { handle }] = [x as CpuTensor, angles as CpuTensor, batch as CpuBatch];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_rope(
      this.#device, o.handle, o.offset, a.handle, a.offset, handle, o.rows, o.cols, heads, a.cols, a.rows,
      back ? 1 : 0,
    ));
  }

  ropeRows(x: Tensor, angles: Tensor, rows: DecodeRows, heads: number): void {
    sameShape(rows.positions, x.rows, 1);
    const [o, a, p] = [x as CpuTensor, angles as CpuTensor, rows.positions as CpuTensor];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_rope_rows(
      this.#device, o.handle, o.offset, a.handle, a.offset, p.handle, p.offset, o.rows, o.cols, heads,
      a.cols, a.rows,
    ));
  }

  swiglu(out: Tensor, gateUp: Tensor): void {
    sameShape(gateUp, out.rows, 2 * out.cols);
    const [o, x] = [out as CpuTensor, gateUp as CpuTensor];
    check(this.#native.mg_cpu_swiglu(this.#device, o.handle, o.offset, x.handle, x.offset, o.rows, o.cols));
  }

  swigluBackward(dGateUp: Tensor, dOut: Tensor, gateUp: Tensor): void {
    for (const tensor of [dGateUp, gateUp]) sameShape(tensor, dOut.rows, 2 * dOut.cols);
    const [dx, dy, x] = [dGateUp as CpuTensor, dOut as CpuTensor, gateUp as CpuTensor];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_swiglu_backward(
      this.#device, dx.handle, dx.offset, dy.handle, dy.offset, x.handle, x.offset, dy.rows, dy.cols,
    ));
  }

  dropout(out: Tensor, x: Tensor, { regularization }: Batch, place: number, add?: Tensor): void {
    for (const tensor of [x, ...(add ? [add] : [])]) sameShape(tensor, out.rows, out.cols);
    const { key, threshold, scale } = dropAt(regularization, place);
    const [o, i, a] = [out as CpuTensor, x as CpuTensor, (add ?? out) as CpuTensor];
    const flags = (x === out ? 0 : DROP_ELSEWHERE) | (add ? DROP_ADD : 0);
    // deno-fmt-ignore
    check(this.#native.mg_cpu_dropout(
      this.#device, o.handle, o.offset, i.handle, i.offset, a.handle, a.offset, flags, o.rows * o.cols,
      key, threshold, scale,
    ));
  }

  matmul(out: Tensor, a: Tensor, b: Tensor, form: MatmulForm, fusion: MatmulFusion = {}): void {
    const { add = out, relu = false, reluMask = out } = fusion;
    const K = form === "TN" ? a.rows : a.cols;
    sameShape(out, form === "TN" ? a.cols : a.rows, form === "NT" ? b.rows : b.cols);
    sameShape(b, form === "NT" ? b.rows : K, form === "NT" ? K : b.cols);
    sameShape(add, out.rows, out.cols);
    sameShape(reluMask, out.rows, out.cols);
    const [o, l, r, s, m] = [out, a, b, add, reluMask] as CpuTensor[] as FiveTensors;
    const adds = fusion.add === undefined
      ? 0
      : s.handle === o.handle && s.offset === o.offset
      ? ADD_OUT
      : ADD_MATRIX;
    const bf16 = this.dtype === "bf16" && !fusion.exact;
    const flags = adds | (relu ? RELU : 0) | (fusion.reluMask === undefined ? 0 : MASK);
    if (r instanceof PackedTensor && form === "NT" && !(flags & MASK)) {
      // deno-fmt-ignore
      return check(this.#native.mg_cpu_matmul_weights(
        this.#device, o.handle, o.offset, l.handle, l.offset, r.packed, r.kind, s.handle, s.offset,
        flags, o.rows, o.cols, K,
      ));
    }
    // deno-fmt-ignore
    check(this.#native.mg_cpu_matmul(
      this.#device, o.handle, o.offset, l.handle, l.offset, r.handle, r.offset, s.handle, s.offset,
      m.handle, m.offset, FORMS[form], flags, bf16 ? 1 : 0, o.rows, o.cols, K,
    ));
  }

  rmsNormMatmul(out: Tensor, x: Tensor, w: Tensor, norm: Tensor, relu = false): void {
    this.rmsNorm(norm, x);
    this.matmul(out, norm, w, "NT", { relu });
  }

  attention(out: Tensor, lse: Tensor, qkv: Tensor, batch: Batch, nHead: number, nKvHead = nHead): void {
    sameShape(out, batch.tokenCount, out.cols);
    sameShape(lse, out.rows, nHead);
    sameShape(qkv, out.rows, qkvWidth(out, nHead, nKvHead));
    const [o, l, x] = [out as CpuTensor, lse as CpuTensor, qkv as CpuTensor];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_attention(
      this.#device, o.handle, o.offset, l.handle, l.offset, x.handle, x.offset, (batch as CpuBatch).handle,
      o.rows, o.cols, nHead, nKvHead,
    ));
  }

  attentionBackward(
    dQkv: Tensor,
    dOut: Tensor,
    out: Tensor,
    lse: Tensor,
    qkv: Tensor,
    batch: Batch,
    nHead: number,
    nKvHead = nHead,
  ): void {
    sameShape(out, batch.tokenCount, out.cols);
    sameShape(dOut, out.rows, out.cols);
    sameShape(lse, out.rows, nHead);
    for (const tensor of [qkv, dQkv]) sameShape(tensor, out.rows, qkvWidth(out, nHead, nKvHead));
    const [dx, dy, y, l, x] = [dQkv, dOut, out, lse, qkv] as CpuTensor[] as FiveTensors;
    // deno-fmt-ignore
    check(this.#native.mg_cpu_attention_backward(
      this.#device, dx.handle, dx.offset, dy.handle, dy.offset, y.handle, y.offset, l.handle, l.offset,
      x.handle, x.offset, (batch as CpuBatch).handle, y.rows, y.cols, nHead, nKvHead,
    ));
  }

  crossEntropy(
    logits: Tensor,
    losses: Tensor,
    batch: Batch,
    firstRow: number,
    scale: number,
    control: Tensor,
  ): void {
    if (firstRow + logits.rows > losses.rows * losses.cols) throw new RangeError("more logits than losses");
    sameShape(control, 1, 4);
    const [x, l, c] = [logits as CpuTensor, losses as CpuTensor, control as CpuTensor];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_cross_entropy(
      this.#device, x.handle, x.offset, l.handle, l.offset, c.handle, c.offset, (batch as CpuBatch).handle,
      firstRow, x.rows, x.cols, scale, batch.regularization?.zLoss ?? 0,
    ));
  }

  sumLoss(metrics: Tensor, slot: number, losses: Tensor, accumulate: boolean): void {
    const [m, l] = [metrics as CpuTensor, losses as CpuTensor];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_sum_loss(
      this.#device, m.handle, metricsRow(m, slot), l.handle, l.offset, l.rows * l.cols, accumulate ? 1 : 0,
    ));
  }

  gradNorm(metrics: Tensor, slot: number, gradients: Tensor, control: Tensor): void {
    sameShape(control, 1, 4);
    const [m, g, c] = [metrics as CpuTensor, gradients as CpuTensor, control as CpuTensor];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_grad_norm(
      this.#device, m.handle, metricsRow(m, slot), g.handle, g.offset, g.rows * g.cols, c.handle, c.offset,
    ));
  }

  decideStep(metrics: Tensor, slot: number, control: Tensor, gradClip: number): void {
    sameShape(control, 1, 4);
    const [m, c] = [metrics as CpuTensor, control as CpuTensor];
    const row = metricsRow(m, slot);
    check(this.#native.mg_cpu_decide_step(this.#device, m.handle, row, c.handle, c.offset, gradClip));
  }

  adam(state: AdamState, hyper: AdamHyper): void {
    const { params, gradients } = state;
    for (const tensor of [gradients, state.m, state.v]) sameShape(tensor, params.rows, params.cols);
    sameShape(state.control, 1, 4);
    const [p, g, m, v, c] = [
      params,
      gradients,
      state.m,
      state.v,
      state.control,
    ] as CpuTensor[] as FiveTensors;
    // deno-fmt-ignore
    check(this.#native.mg_cpu_adam(
      this.#device, p.handle, p.offset, m.handle, m.offset, v.handle, v.offset, g.handle, g.offset,
      p.rows * p.cols, c.handle, c.offset, hyper.learningRate, hyper.beta1, hyper.beta2, hyper.epsilon,
      hyper.weightDecay,
    ));
  }

  momentum(out: Tensor, m: Tensor, gradients: Tensor, control: Tensor, beta: number): void {
    for (const tensor of [m, gradients]) sameShape(tensor, out.rows, out.cols);
    sameShape(control, 1, 4);
    const [o, k, g, c] = [out, m, gradients, control] as CpuTensor[] as FourTensors;
    // deno-fmt-ignore
    check(this.#native.mg_cpu_momentum(
      this.#device, o.handle, o.offset, k.handle, k.offset, g.handle, g.offset, o.rows * o.cols,
      c.handle, c.offset, beta,
    ));
  }

  matrixPolynomial(
    out: Tensor,
    a: Tensor,
    square: Tensor,
    [c0, c1, c2]: readonly [number, number, number],
    normalize: boolean,
  ): void {
    for (const tensor of [out, a, square]) sameShape(tensor, a.cols, a.cols);
    const [o, x, s] = [out, a, square] as [CpuTensor, CpuTensor, CpuTensor];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_matrix_polynomial(
      this.#device, o.handle, o.offset, x.handle, x.offset, s.handle, s.offset, x.cols, c0, c1, c2,
      normalize ? 1 : 0,
    ));
  }

  applyUpdate({ params, control }: UpdateTarget, update: Tensor, hyper: UpdateHyper): void {
    sameShape(update, params.rows, params.cols);
    sameShape(control, 1, 4);
    const [p, u, c] = [params, update, control] as [CpuTensor, CpuTensor, CpuTensor];
    // deno-fmt-ignore
    check(this.#native.mg_cpu_apply_update(
      this.#device, p.handle, p.offset, u.handle, u.offset, p.rows * p.cols, c.handle, c.offset,
      hyper.learningRate, hyper.weightDecay, hyper.cautious ? 1 : 0,
    ));
  }

  embedRows(x: Tensor, rows: DecodeRows, wte: Tensor, wpe: Tensor): void {
    sameShape(x, rows.tokens.rows, wte.cols);
    sameShape(rows.positions, x.rows, 1);
    sameShape(wpe, wpe.rows, wte.cols);
    const [o, i, s, t, p] = [x, rows.tokens, rows.positions, wte, wpe] as CpuTensor[] as FiveTensors;
    if (t instanceof PackedTensor && p instanceof PackedTensor) {
      // deno-fmt-ignore
      return check(this.#native.mg_cpu_embed_weights(
        this.#device, o.handle, o.offset, i.handle, i.offset, s.handle, s.offset, t.packed, t.kind,
        p.packed, p.kind, o.rows, o.cols, t.rows, p.rows,
      ));
    }
    // deno-fmt-ignore
    check(this.#native.mg_cpu_embed_rows(
      this.#device, o.handle, o.offset, i.handle, i.offset, s.handle, s.offset, t.handle, t.offset,
      p.handle, p.offset, o.rows, o.cols, t.rows, p.rows,
    ));
  }

  attentionCached(
    out: Tensor,
    qkv: Tensor,
    cache: Tensor,
    rows: DecodeRows,
    blockSize: number,
    nHead: number,
    nKvHead = nHead,
  ): void {
    const width = qkvWidth(out, nHead, nKvHead);
    sameShape(qkv, out.rows, width);
    sameShape(cache, cache.rows, width - out.cols);
    sameShape(rows.positions, out.rows, 1);
    sameShape(rows.sequences, out.rows, 1);
    const [o, x, c, p, s] = [out, qkv, cache, rows.positions, rows.sequences] as CpuTensor[] as FiveTensors;
    // deno-fmt-ignore
    check(this.#native.mg_cpu_attention_cached(
      this.#device, o.handle, o.offset, x.handle, x.offset, c.handle, c.offset, p.handle, p.offset,
      s.handle, s.offset, o.rows, o.cols, c.rows, blockSize, nHead, nKvHead,
    ));
  }

  sample(
    rows: DecodeRows,
    logits: Tensor,
    output: Tensor,
    step: number,
    draws: Draws,
  ): void {
    sameShape(rows.tokens, logits.rows, 1);
    sameShape(rows.positions, logits.rows, 1);
    sameShape(rows.sequences, logits.rows, 1);
    if (step < 0 || step >= output.rows || logits.rows > output.cols) {
      throw new RangeError(`output has no step ${step} of ${logits.rows} rows`);
    }
    const [t, p, s, x] = [rows.tokens, rows.positions, rows.sequences, logits] as CpuTensor[] as FiveTensors;
    const [o, u, g, n] = [output, draws.seeds, draws.settings, draws.said] as CpuTensor[] as FourTensors;
    sameShape(g, u.rows, SAMPLING_COLUMNS);
    sameShape(n, u.rows, n.cols === x.cols ? x.cols : 1);
    // deno-fmt-ignore
    check(this.#native.mg_cpu_sample(
      this.#device, t.handle, t.offset, p.handle, p.offset, s.handle, s.offset, x.handle, x.offset,
      o.handle, o.offset + step * o.cols, u.handle, u.offset, g.handle, g.offset, n.handle, n.offset,
      x.rows, x.cols, u.rows, n.cols,
    ));
  }
}
