/**
 * The reference device: every kernel as its plain formula in TypeScript, a loop for each sum, no tricks. The oracle of
 * the tests, and the last resort where neither a native library nor a GPU may be used. Computes in f32 storage for use,
 * and in f64 for checking gradients.
 */
import {
  type AdamHyper,
  type AdamState,
  type Batch,
  CONTROL,
  type DecodeRows,
  type Device,
  type Draws,
  type ElementType,
  type MatmulForm,
  type MatmulFusion,
  METRIC,
  type PackedDocuments,
  type Tensor,
  type UpdateHyper,
  type UpdateTarget,
} from "./device.ts";
import { deviceClosed } from "./errors.ts";
import { uniform } from "./random.ts";
import { dropAt } from "./regularization.ts";
import { type Floats, floats, integers, ReferenceBatch, ReferenceTensor } from "./reference_tensor.ts";
import { drawToken, penalize, readSampling } from "./sampling.ts";

type FiveFloats = [Floats, Floats, Floats, Floats, Floats];

const EPSILON = 1e-5;

/** Calls `visit` with the first element of each head of a [rows, (H + 2 Hkv)·D] matrix, and of its weights in [2, D]; of values without. */
function forEachHead(
  rows: number,
  nHead: number,
  nKvHead: number,
  D: number,
  visit: (start: number, weight: number | undefined) => void,
): void {
  const heads = nHead + 2 * nKvHead;
  for (let at = 0; at < rows * heads; at++) {
    const head = at % heads;
    visit(at * D, head < nHead ? 0 : head < nHead + nKvHead ? D : undefined);
  }
}

/** 1 / sqrt(mean(x²) + ε) of x[from … from + n). */
function reciprocalRms(x: Floats, from: number, n: number, epsilon = EPSILON): number {
  let squares = 0;
  for (let i = from; i < from + n; i++) squares += x[i]! * x[i]!;
  return 1 / Math.sqrt(squares / n + epsilon);
}

export class ReferenceDevice implements Device {
  readonly kind = "reference";
  readonly dtype = "f32";
  readonly workType = "f32";
  readonly stepsInFlight: number = 1;
  readonly warnings = ["the reference device is plain TypeScript: correct, but very slow"];
  readonly name: string;
  #closed = false;
  readonly #Floats: Float32ArrayConstructor | Float64ArrayConstructor;

  /** @param precision how numbers are stored; sums are always f64 */
  constructor(precision: "f32" | "f64" = "f32") {
    this.name = `reference (plain TypeScript, ${precision})`;
    this.#Floats = precision === "f64" ? Float64Array : Float32Array;
  }

  /** @throws {MicrogptError} after `destroy` */
  checkOpen(): void {
    if (this.#closed) throw deviceClosed();
  }

  tensor(label: string, rows: number, cols: number, type: ElementType = "f32"): Tensor {
    this.checkOpen();
    const data = type === "u32" ? new Uint32Array(rows * cols) : new this.#Floats(rows * cols);
    return new ReferenceTensor(this, { label, freed: false }, type, rows, cols, data);
  }

  createBatch(maxTokens: number, maxDocuments: number): Batch {
    this.checkOpen();
    return new ReferenceBatch(maxTokens, maxDocuments);
  }

  view(tensor: Tensor, offset: number, rows: number, cols: number): Tensor {
    const { data, type, memory } = tensor as ReferenceTensor;
    if (offset + rows * cols > data.length) throw new RangeError("view reaches beyond its tensor");
    return new ReferenceTensor(this, memory, type, rows, cols, data.subarray(offset, offset + rows * cols));
  }

  free(tensor: Tensor): void {
    (tensor as ReferenceTensor).memory.freed = true;
  }

  write(tensor: Tensor, data: Float32Array | Uint32Array, offset = 0): void {
    (tensor as ReferenceTensor).data.set(data, offset);
  }

  read(tensor: Tensor): Promise<Float32Array | Uint32Array> {
    const used = (tensor as ReferenceTensor).data.subarray(0, tensor.rows * tensor.cols);
    return Promise.resolve(tensor.type === "u32" ? Uint32Array.from(used) : Float32Array.from(used));
  }

  zero(tensor: Tensor): void {
    (tensor as ReferenceTensor).data.fill(0, 0, tensor.rows * tensor.cols);
  }

  copy(out: Tensor, from: Tensor): void {
    const used = (from as ReferenceTensor).data.subarray(0, from.rows * from.cols);
    (out as ReferenceTensor).data.set(used);
  }

  add(out: Tensor, a: Tensor): void {
    const [sum, values] = [floats(out), floats(a)];
    for (let i = 0; i < a.rows * a.cols; i++) sum[i]! += values[i]!;
  }

  loadBatch(batch: Batch, documents: PackedDocuments): void {
    this.checkOpen();
    if (documents.tokens.length > batch.maxTokens) {
      throw new RangeError("more tokens than the batch has room for");
    }
    (batch as ReferenceBatch).documents = {
      tokens: documents.tokens.slice(),
      targets: documents.targets.slice(),
      starts: documents.starts.slice(),
      ...(documents.weights ? { weights: documents.weights.slice() } : {}),
    };
    batch.tokenCount = documents.tokens.length;
    batch.regularization = documents.regularization;
  }

  submit(): void {
    this.checkOpen();
  }

  destroy(): void {
    this.#closed = true;
  }

  embed(x: Tensor, batch: Batch, wte: Tensor, wpe: Tensor): void {
    const { tokens } = (batch as ReferenceBatch).documents;
    (batch as ReferenceBatch).forEachToken((t, position) =>
      this.#embedRow(x, t, tokens[t]!, position, wte, wpe)
    );
  }

  embedRows(x: Tensor, rows: DecodeRows, wte: Tensor, wpe: Tensor): void {
    for (let r = 0; r < rows.tokens.rows; r++) {
      this.#embedRow(x, r, integers(rows.tokens)[r]!, integers(rows.positions)[r]!, wte, wpe);
    }
  }

  #embedRow(x: Tensor, row: number, token: number, position: number, wte: Tensor, wpe: Tensor): void {
    const E = x.cols;
    const [out, te, pe] = [floats(x), floats(wte), floats(wpe)];
    for (let i = 0; i < E; i++) out[row * E + i] = te[token * E + i]! + pe[position * E + i]!;
    const scale = reciprocalRms(out, row * E, E);
    for (let i = row * E; i < (row + 1) * E; i++) out[i]! *= scale;
  }

  embedBackward(dWte: Tensor, dWpe: Tensor, dx: Tensor, batch: Batch, wte: Tensor, wpe: Tensor): void {
    const E = dx.cols;
    const { tokens } = (batch as ReferenceBatch).documents;
    const sum = this.tensor("embedding sum", 1, E);
    const dSum = this.tensor("embedding sum gradient", 1, E);
    const [dte, dpe, te, pe, e, de] = [dWte, dWpe, wte, wpe, sum, dSum].map(floats) as [
      Floats,
      Floats,
      Floats,
      Floats,
      Floats,
      Floats,
    ];
    (batch as ReferenceBatch).forEachToken((t, position) => {
      const token = tokens[t]!;
      for (let i = 0; i < E; i++) e[i] = te[token * E + i]! + pe[position * E + i]!;
      de.fill(0);
      this.rmsNormBackward(dSum, this.view(dx, t * E, 1, E), sum);
      for (let i = 0; i < E; i++) {
        dte[token * E + i]! += de[i]!;
        dpe[position * E + i]! += de[i]!;
      }
    });
  }

  lookup(x: Tensor, batch: Batch, table: Tensor): void {
    this.#lookUp(x, (batch as ReferenceBatch).documents.tokens, table);
  }

  lookupRows(x: Tensor, rows: DecodeRows, table: Tensor): void {
    this.#lookUp(x, integers(rows.tokens).subarray(0, rows.tokens.rows), table);
  }

  #lookUp(x: Tensor, tokens: Uint32Array, table: Tensor): void {
    const E = x.cols;
    tokens.forEach((token, t) => floats(x).set(floats(table).subarray(token * E, (token + 1) * E), t * E));
  }

  lookupBackward(dTable: Tensor, dx: Tensor, batch: Batch): void {
    const E = dx.cols;
    const [table, gradient] = [floats(dTable), floats(dx)];
    (batch as ReferenceBatch).documents.tokens.forEach((token, t) => {
      for (let i = 0; i < E; i++) table[token * E + i]! += gradient[t * E + i]!;
    });
  }

  rmsNorm(out: Tensor, x: Tensor): void {
    const E = x.cols;
    const [y, input] = [floats(out), floats(x)];
    for (let row = 0; row < x.rows; row++) {
      const scale = reciprocalRms(input, row * E, E);
      for (let i = row * E; i < (row + 1) * E; i++) y[i] = input[i]! * scale;
    }
  }

  /** dx += r · (dy − x̂ · mean(dy · x̂)) with r = 1/rms and x̂ = x · r. */
  rmsNormBackward(dx: Tensor, dy: Tensor, x: Tensor): void {
    const E = x.cols;
    const [dIn, dOut, input] = [floats(dx), floats(dy), floats(x)];
    for (let row = 0; row < x.rows; row++) {
      const r = reciprocalRms(input, row * E, E);
      let dot = 0;
      for (let i = row * E; i < (row + 1) * E; i++) dot += dOut[i]! * input[i]! * r;
      for (let i = row * E; i < (row + 1) * E; i++) dIn[i]! += r * (dOut[i]! - input[i]! * r * dot / E);
    }
  }

  scaledRmsNorm(out: Tensor, x: Tensor, weight: Tensor, epsilon: number): void {
    const E = x.cols;
    const [y, input, w] = [floats(out), floats(x), floats(weight)];
    for (let row = 0; row < x.rows; row++) {
      const r = reciprocalRms(input, row * E, E, epsilon);
      for (let i = 0; i < E; i++) y[row * E + i] = w[i]! * input[row * E + i]! * r;
    }
  }

  /** dx += r · (g − x̂ · mean(g · x̂)) with g = w · dy, and dw += dy · x̂. */
  scaledRmsNormBackward(
    dx: Tensor,
    dWeight: Tensor,
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    epsilon: number,
  ): void {
    const E = x.cols;
    const [dIn, dw, dOut, input, w] = [dx, dWeight, dy, x, weight].map(floats) as FiveFloats;
    for (let row = 0; row < x.rows; row++) {
      const r = reciprocalRms(input, row * E, E, epsilon);
      let dot = 0;
      for (let i = 0; i < E; i++) dot += w[i]! * dOut[row * E + i]! * input[row * E + i]! * r;
      for (let i = 0; i < E; i++) {
        const normed = input[row * E + i]! * r;
        dw[i]! += dOut[row * E + i]! * normed;
        dIn[row * E + i]! += r * (w[i]! * dOut[row * E + i]! - normed * dot / E);
      }
    }
  }

  headNorm(
    out: Tensor,
    qkv: Tensor,
    weights: Tensor,
    nHead: number,
    nKvHead: number,
    epsilon: number,
  ): void {
    const D = weights.cols;
    const [y, x, w] = [floats(out), floats(qkv), floats(weights)];
    forEachHead(qkv.rows, nHead, nKvHead, D, (start, line) => {
      const r = line === undefined ? 1 : reciprocalRms(x, start, D, epsilon);
      for (let i = 0; i < D; i++) y[start + i] = x[start + i]! * r * (line === undefined ? 1 : w[line + i]!);
    });
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
    const D = weights.cols;
    const [dx, dw, dy, x, w] = [dQkv, dWeights, dOut, qkv, weights].map(floats) as FiveFloats;
    forEachHead(qkv.rows, nHead, nKvHead, D, (start, line) => {
      if (line === undefined) {
        for (let i = start; i < start + D; i++) dx[i] = dy[i]!;
        return;
      }
      const r = reciprocalRms(x, start, D, epsilon);
      let dot = 0;
      for (let i = 0; i < D; i++) dot += w[line + i]! * dy[start + i]! * x[start + i]! * r;
      for (let i = 0; i < D; i++) {
        const normed = x[start + i]! * r;
        dw[line + i]! += dy[start + i]! * normed;
        dx[start + i] = r * (w[line + i]! * dy[start + i]! - normed * dot / D);
      }
    });
  }

  rope(x: Tensor, angles: Tensor, batch: Batch, heads: number, back = false): void {
    (batch as ReferenceBatch).forEachToken((t, position) => turnRow(x, t, angles, position, heads, back));
  }

  ropeRows(x: Tensor, angles: Tensor, rows: DecodeRows, heads: number): void {
    for (let r = 0; r < x.rows; r++) turnRow(x, r, angles, integers(rows.positions)[r]!, heads, false);
  }

  swiglu(out: Tensor, gateUp: Tensor): void {
    const F = out.cols;
    const [y, x] = [floats(out), floats(gateUp)];
    for (let row = 0; row < out.rows; row++) {
      for (let i = 0; i < F; i++) {
        const [gate, up] = [x[2 * row * F + i]!, x[(2 * row + 1) * F + i]!];
        y[row * F + i] = gate * sigmoid(gate) * up;
      }
    }
  }

  /** dGate = dOut · up · σ · (1 + gate · (1 − σ)), dUp = dOut · silu(gate). */
  swigluBackward(dGateUp: Tensor, dOut: Tensor, gateUp: Tensor): void {
    const F = dOut.cols;
    const [dx, dy, x] = [floats(dGateUp), floats(dOut), floats(gateUp)];
    for (let row = 0; row < dOut.rows; row++) {
      for (let i = 0; i < F; i++) {
        const [g, u] = [2 * row * F + i, (2 * row + 1) * F + i];
        const [gate, s] = [x[g]!, sigmoid(x[g]!)];
        dx[g] = dy[row * F + i]! * x[u]! * s * (1 + gate * (1 - s));
        dx[u] = dy[row * F + i]! * gate * s;
      }
    }
  }

  dropout(out: Tensor, x: Tensor, { regularization }: Batch, place: number, add?: Tensor): void {
    const { key, threshold, scale } = dropAt(regularization, place);
    const [y, from] = [floats(out), floats(x)];
    for (let i = 0; i < out.rows * out.cols; i++) {
      const kept = uniform(key, i) * 0x100_0000 >= threshold ? from[i]! * scale : 0;
      y[i] = kept + (add ? floats(add)[i]! : 0);
    }
  }

  matmul(
    out: Tensor,
    a: Tensor,
    b: Tensor,
    form: MatmulForm,
    { add, relu, reluMask }: MatmulFusion = {},
  ): void {
    const [M, K] = form === "TN" ? [a.cols, a.rows] : [a.rows, a.cols];
    const [N, bK] = form === "NT" ? [b.rows, b.cols] : [b.cols, b.rows];
    if (K !== bK || out.rows !== M || out.cols !== N) {
      throw new RangeError(
        `${form} product of [${a.rows}, ${a.cols}] and [${b.rows}, ${b.cols}] is not [${out.rows}, ${out.cols}]`,
      );
    }
    const [y, left, right] = [floats(out), floats(a), floats(b)];
    for (let m = 0; m < M; m++) {
      for (let n = 0; n < N; n++) {
        let sum = 0;
        for (let k = 0; k < K; k++) {
          const l = form === "TN" ? left[k * M + m]! : left[m * K + k]!;
          const r = form === "NT" ? right[n * K + k]! : right[k * N + n]!;
          sum += l * r;
        }
        const i = m * N + n;
        if (add) sum += floats(add)[i]!;
        if (relu && sum < 0) sum = 0;
        if (reluMask && !(floats(reluMask)[i]! > 0)) sum = 0;
        y[i] = sum;
      }
    }
  }

  rmsNormMatmul(out: Tensor, x: Tensor, w: Tensor, norm: Tensor, relu = false): void {
    this.rmsNorm(norm, x);
    this.matmul(out, norm, w, "NT", { relu });
  }

  attention(out: Tensor, lse: Tensor, qkv: Tensor, batch: Batch, nHead: number, nKvHead = nHead): void {
    const [y, x, logSums] = [floats(out), floats(qkv), floats(lse)];
    const heads = headsOf(out, nHead, nKvHead);
    const { D, stride } = heads;
    (batch as ReferenceBatch).forEachToken((t, position) => {
      for (let h = 0; h < nHead; h++) {
        const [, , v] = headColumns(heads, h);
        const scores = attentionScores(x, t, t - position, heads, h);
        const logSum = logSumExp(scores);
        logSums[t * nHead + h] = logSum;
        for (let i = 0; i < D; i++) {
          let sum = 0;
          for (let s = 0; s <= position; s++) {
            sum += Math.exp(scores[s]! - logSum) * x[(t - position + s) * stride + v + i]!;
          }
          y[t * out.cols + h * D + i] = sum;
        }
      }
    });
  }

  /** With p = softmax(scores): dV += p · dO, dScore = p · (dO·V − dO·O), dQ and dK through score = q·k / √D. */
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
    const [dx, dy, y, x, logSums] = [dQkv, dOut, out, qkv, lse].map(floats) as FiveFloats;
    const heads = headsOf(out, nHead, nKvHead);
    const { D, stride } = heads;
    dx.fill(0, 0, dQkv.rows * stride);
    (batch as ReferenceBatch).forEachToken((t, position) => {
      for (let h = 0; h < nHead; h++) {
        const [q, k, v] = headColumns(heads, h);
        const scores = attentionScores(x, t, t - position, heads, h);
        const at = t * out.cols + h * D;
        let delta = 0;
        for (let i = 0; i < D; i++) delta += dy[at + i]! * y[at + i]!;
        for (let s = 0; s <= position; s++) {
          const row = (t - position + s) * stride;
          const p = Math.exp(scores[s]! - logSums[t * nHead + h]!);
          let dp = 0;
          for (let i = 0; i < D; i++) dp += dy[at + i]! * x[row + v + i]!;
          const dScore = p * (dp - delta) / Math.sqrt(D);
          for (let i = 0; i < D; i++) {
            dx[t * stride + q + i]! += dScore * x[row + k + i]!;
            dx[row + k + i]! += dScore * x[t * stride + q + i]!;
            dx[row + v + i]! += p * dy[at + i]!;
          }
        }
      }
    });
  }

  crossEntropy(
    logits: Tensor,
    losses: Tensor,
    batch: Batch,
    firstRow: number,
    scale: number,
    control: Tensor,
  ): void {
    const V = logits.cols;
    const x = floats(logits);
    const { targets, weights } = (batch as ReferenceBatch).documents;
    const zLoss = batch.regularization?.zLoss ?? 0;
    const lossScale = floats(control)[CONTROL.lossScale]!;
    for (let row = 0; row < logits.rows; row++) {
      const target = targets[firstRow + row]!;
      const weight = scale * (weights?.[firstRow + row] ?? 1);
      if (weight === 0) {
        floats(losses)[firstRow + row] = 0;
        x.fill(0, row * V, (row + 1) * V);
        continue;
      }
      const gradientScale = weight * lossScale;
      const logSum = logSumExp(x.subarray(row * V, (row + 1) * V));
      floats(losses)[firstRow + row] = weight * (logSum - x[row * V + target]!);
      const softmaxScale = 1 + 2 * zLoss * logSum; // of −log p and zLoss · logSum²
      for (let v = 0; v < V; v++) {
        const p = Math.exp(x[row * V + v]! - logSum);
        x[row * V + v] = gradientScale * (softmaxScale * p - (v === target ? 1 : 0));
      }
    }
  }

  sumLoss(metrics: Tensor, slot: number, losses: Tensor, accumulate: boolean): void {
    let sum = accumulate ? floats(metrics)[slot * metrics.cols + METRIC.loss]! : 0;
    for (let t = 0; t < losses.rows; t++) sum += floats(losses)[t]!;
    floats(metrics)[slot * metrics.cols + METRIC.loss] = sum;
  }

  gradNorm(metrics: Tensor, slot: number, gradients: Tensor, control: Tensor): void {
    let squares = 0;
    for (const g of floats(gradients)) squares += g * g;
    const norm = Math.sqrt(squares) / floats(control)[CONTROL.lossScale]!;
    floats(metrics)[slot * metrics.cols + METRIC.gradNorm] = norm;
  }

  decideStep(metrics: Tensor, slot: number, control: Tensor, gradClip: number): void {
    const row = slot * metrics.cols;
    const [loss, norm] = [floats(metrics)[row + METRIC.loss]!, floats(metrics)[row + METRIC.gradNorm]!];
    const applied = Number.isFinite(loss) && Number.isFinite(norm);
    floats(metrics)[row + METRIC.applied] = applied ? 1 : 0;
    const values = floats(control);
    const clip = gradClip > 0 && norm > gradClip ? gradClip / norm : 1;
    values[CONTROL.gradientFactor] = applied ? clip / values[CONTROL.lossScale]! : -1;
    if (applied) values[CONTROL.adamStep]! += 1;
  }

  adam(state: AdamState, hyper: AdamHyper): void {
    const { learningRate, beta1, beta2, epsilon, weightDecay } = hyper;
    const control = floats(state.control);
    const [step, factor] = [control[CONTROL.adamStep]!, control[CONTROL.gradientFactor]!];
    if (factor < 0) return;
    const [p, g, m, v] = [state.params, state.gradients, state.m, state.v].map(floats) as [
      Floats,
      Floats,
      Floats,
      Floats,
    ];
    for (let i = 0; i < p.length; i++) {
      const gradient = g[i]! * factor;
      m[i] = beta1 * m[i]! + (1 - beta1) * gradient;
      v[i] = beta2 * v[i]! + (1 - beta2) * gradient * gradient;
      const mHat = m[i]! / (1 - beta1 ** step);
      const vHat = v[i]! / (1 - beta2 ** step);
      p[i]! -= learningRate * (mHat / (Math.sqrt(vHat) + epsilon) + weightDecay * p[i]!);
    }
    if (state.work !== state.params) floats(state.work).set(p);
  }

  momentum(out: Tensor, m: Tensor, gradients: Tensor, control: Tensor, beta: number): void {
    const factor = floats(control)[CONTROL.gradientFactor]!;
    const [o, kept, g] = [floats(out), floats(m), floats(gradients)];
    for (let i = 0; i < o.length; i++) {
      if (factor < 0) o[i] = 0;
      else {
        const gradient = (1 - beta) * factor * g[i]!;
        kept[i] = beta * kept[i]! + gradient;
        o[i] = beta * kept[i]! + gradient;
      }
    }
  }

  matrixPolynomial(
    out: Tensor,
    a: Tensor,
    square: Tensor,
    [c0, c1, c2]: readonly [number, number, number],
    normalize: boolean,
  ): void {
    const [o, x, x2] = [floats(out), floats(a), floats(square)];
    const n = a.cols;
    let trace = 0;
    for (let i = 0; i < n; i++) trace += x[i * n + i]!;
    const s = normalize ? 1 / (Math.sqrt(trace) + 1e-7) : 1;
    for (let i = 0; i < n * n; i++) {
      const identity = i % (n + 1) === 0 ? c0 : 0;
      o[i] = s * (identity + s * s * (c1 * x[i]! + s * s * (c2 * x2[i]!)));
    }
  }

  applyUpdate({ params, work, control }: UpdateTarget, update: Tensor, hyper: UpdateHyper): void {
    const { learningRate, weightDecay, cautious } = hyper;
    if (floats(control)[CONTROL.gradientFactor]! < 0) return;
    const [p, u] = [floats(params), floats(update)];
    for (let i = 0; i < p.length; i++) {
      const decay = cautious && p[i]! * u[i]! <= 0 ? 0 : weightDecay;
      p[i]! -= learningRate * (u[i]! + decay * p[i]!);
    }
    if (work !== params) floats(work).set(p);
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
    const heads = headsOf(out, nHead, nKvHead);
    const { D, width, stride } = heads;
    const [y, x, kv] = [floats(out), floats(qkv), floats(cache)];
    const [positions, sequences] = [integers(rows.positions), integers(rows.sequences)];
    const line = (r: number, position: number) => (sequences[r]! * blockSize + position) * (stride - width);
    for (let r = 0; r < qkv.rows; r++) {
      kv.set(x.subarray(r * stride + width, (r + 1) * stride), line(r, positions[r]!));
    }
    for (let r = 0; r < qkv.rows; r++) {
      for (let h = 0; h < nHead; h++) {
        // of a cache line, which is a row without its queries
        const [q, k, v] = headColumns(heads, h).map((column, part) =>
          part === 0 ? column : column - width
        ) as [
          number,
          number,
          number,
        ];
        const scores = new Float64Array(positions[r]! + 1);
        for (let s = 0; s <= positions[r]!; s++) {
          for (let i = 0; i < D; i++) {
            scores[s]! += x[r * stride + q + i]! * kv[line(r, s) + k + i]! / Math.sqrt(D);
          }
        }
        const logSum = logSumExp(scores);
        for (let i = 0; i < D; i++) {
          let sum = 0;
          for (let s = 0; s <= positions[r]!; s++) {
            sum += Math.exp(scores[s]! - logSum) * kv[line(r, s) + v + i]!;
          }
          y[r * width + h * D + i] = sum;
        }
      }
    }
  }

  sample(
    rows: DecodeRows,
    logits: Tensor,
    output: Tensor,
    step: number,
    draws: Draws,
  ): void {
    const V = logits.cols;
    const [tokens, positions, sequences] = [
      integers(rows.tokens),
      integers(rows.positions),
      integers(rows.sequences),
    ];
    const [seeds, settings] = [integers(draws.seeds), floats(draws.settings)];
    for (let r = 0; r < logits.rows; r++) {
      const sequence = sequences[r]!;
      const row = Float64Array.from(floats(logits).subarray(r * V, (r + 1) * V));
      const sampling = readSampling(settings, sequence);
      const said = draws.said.cols === V
        ? integers(draws.said).subarray(sequence * V, (sequence + 1) * V)
        : undefined;
      if (said) penalize(row, said, sampling);
      const next = drawToken(row, uniform(seeds[sequence]!, positions[r]!), sampling);
      if (said) said[next]!++;
      integers(output)[step * output.cols + r] = next;
      tokens[r] = next;
      positions[r]! += 1;
    }
  }
}

/** How a row of qkv is cut into heads. */
interface Heads {
  D: number;
  /** H · D: columns of all queries */
  width: number;
  /** (H + 2 Hkv) · D: columns of a row */
  stride: number;
  /** heads of queries that share a head of keys and values */
  group: number;
}

function headsOf(out: Tensor, nHead: number, nKvHead: number): Heads {
  const D = out.cols / nHead;
  return { D, width: out.cols, stride: out.cols + 2 * nKvHead * D, group: nHead / nKvHead };
}

/** First columns of the queries of head h, and of the keys and values that it sees. */
function headColumns(
  { D, width, stride, group }: Heads,
  h: number,
): [query: number, key: number, value: number] {
  const kv = Math.floor(h / group) * D;
  return [h * D, width + kv, (width + stride) / 2 + kv];
}

/** q·k / √D of query row t and the keys of rows first … t, of head h. */
function attentionScores(qkv: Floats, t: number, first: number, heads: Heads, h: number): Float64Array {
  const { D, stride } = heads;
  const [q, k] = headColumns(heads, h);
  const scores = new Float64Array(t - first + 1);
  for (let s = first; s <= t; s++) {
    let dot = 0;
    for (let i = 0; i < D; i++) dot += qkv[t * stride + q + i]! * qkv[s * stride + k + i]!;
    scores[s - first] = dot / Math.sqrt(D);
  }
  return scores;
}

/** See `Device.rope`, for one row. */
function turnRow(x: Tensor, row: number, angles: Tensor, position: number, heads: number, back: boolean) {
  const D = angles.cols;
  const [values, table] = [floats(x), floats(angles)];
  for (let h = 0; h < heads; h++) {
    for (let j = 0; j < D / 2; j++) {
      const [cos, sin] = [table[position * D + j]!, table[position * D + D / 2 + j]! * (back ? -1 : 1)];
      const [i, k] = [row * x.cols + h * D + j, row * x.cols + h * D + D / 2 + j];
      const [a, b] = [values[i]!, values[k]!];
      values[i] = a * cos - b * sin;
      values[k] = b * cos + a * sin;
    }
  }
}

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}

/** log Σ exp(x), without overflow. */
function logSumExp(x: Floats): number {
  let max = -Infinity;
  for (const value of x) max = Math.max(max, value);
  let sum = 0;
  for (const value of x) sum += Math.exp(value - max);
  return max + Math.log(sum);
}
