/**
 * Muon (Jordan et al. 2024): the update of a matrix is its momentum with all singular values made about 1, so that no
 * direction of a layer learns much faster than another. Embeddings, head and norms stay with Adam, at its own rate.
 *
 * Orthogonalizing is a Newton–Schulz iteration, X ← (a + b·XXᵀ + c·(XXᵀ)²)·X, five times from X = U/‖U‖: products only.
 * A matrix [m, n] costs 4m²n + 2m³ flops an iteration with m the shorter side. Where n ≥ 2m the iteration is done on
 * G = XXᵀ alone: with P its polynomial, G ← P·G·P and Q ← P·Q, and at the end X = Q·U: 8m³ flops an iteration, and two
 * products with U in all.
 *
 * Keeps m as Adam does, and v for the parameters that Adam has; v of matrices stays 0.
 */
import type { Allocator, Device, MatmulForm, Tensor } from "../../device/device.ts";
import { isFrozen } from "../freeze.ts";
import type { ParameterEntry, ParameterLayout } from "../parameters.ts";
import { adamOf } from "./adam.ts";
import type { Optimizer, UpdateSize } from "./optimizer.ts";

const BETA = 0.95;

/** Coefficients of X, X³ and X⁵: singular values from 0.01 on come to lie between 0.7 and 1.2 in five iterations. */
const COEFFICIENTS = [3.4445, -4.775, 2.0315] as const;
const ITERATIONS = 5;

/** Names of the scratch matrices. */
type Scratch = Record<"update" | "product" | "gram" | "square" | "polynomial" | "total" | "other", Tensor>;

const isMatrix = ({ role }: ParameterEntry) => role === "matrix";

function allocateScratch(allocator: Allocator, { entries }: ParameterLayout): Scratch {
  const matrices = entries.filter(isMatrix);
  const most = (size: (entry: ParameterEntry) => number) => Math.max(1, ...matrices.map(size));
  const elements = most(({ rows, cols }) => rows * cols);
  const square = most(({ rows, cols }) => Math.min(rows, cols) ** 2);
  const tensor = (label: string, length: number) => allocator.tensor(`Muon's ${label}`, 1, length);
  return {
    update: tensor("update", elements),
    product: tensor("product", elements),
    gram: tensor("Gram matrix", square),
    square: tensor("square", square),
    polynomial: tensor("polynomial", square),
    total: tensor("total", square),
    other: tensor("second total", square),
  };
}

/**
 * Queues the orthogonalization of update [rows, cols].
 * @returns where the result is: one of `scratch`'s, of the same shape
 */
function orthogonalize(device: Device, scratch: Scratch, rows: number, cols: number): Tensor {
  // In bf16 the iteration, which takes its own results again and again, runs away.
  const multiply = (out: Tensor, a: Tensor, b: Tensor, form: MatmulForm) =>
    device.matmul(out, a, b, form, { exact: true });
  const n = Math.min(rows, cols);
  const wide = rows <= cols;
  const view = (tensor: Tensor, r: number, c: number) => device.view(tensor, 0, r, c);
  const square = (name: keyof Scratch) => view(scratch[name], n, n);
  const [gram, squared, polynomial] = [square("gram"), square("square"), square("polynomial")];
  const gramForm: MatmulForm = wide ? "NT" : "TN";
  /** X ← P·X of a wide matrix, X·P of a tall one */
  const apply = (out: Tensor, p: Tensor, x: Tensor) =>
    wide ? multiply(out, p, x, "NN") : multiply(out, x, p, "NN");
  const setPolynomial = (out: Tensor, isFirst: boolean) => {
    multiply(squared, gram, gram, "NN");
    device.matrixPolynomial(out, gram, squared, COEFFICIENTS, isFirst);
  };
  let x = view(scratch.update, rows, cols);
  let next = view(scratch.product, rows, cols);
  if (Math.max(rows, cols) < 2 * n) {
    for (let i = 0; i < ITERATIONS; i++) {
      multiply(gram, x, x, gramForm);
      setPolynomial(polynomial, i === 0);
      apply(next, polynomial, x);
      [x, next] = [next, x];
    }
    return x;
  }
  let [total, other] = [square("total"), square("other")];
  multiply(gram, x, x, gramForm);
  setPolynomial(total, true);
  let last = total;
  for (let i = 1; i < ITERATIONS; i++) {
    multiply(squared, last, gram, "NN");
    multiply(gram, squared, last, "NN");
    setPolynomial(polynomial, false);
    last = polynomial;
    multiply(other, polynomial, total, "NN");
    [total, other] = [other, total];
  }
  apply(next, total, x);
  return next;
}

/** See `Optimizer`. */
export const muon: Optimizer = {
  name: "muon",
  bind(device, layout, memory, frozen) {
    const moves = (entry: ParameterEntry) => !isFrozen(entry, frozen);
    const updateRest = adamOf(device, layout, memory, (entry) => !isMatrix(entry) && moves(entry));
    const scratch = memory.scratch as Scratch;
    const { params, work, gradients, state, control } = memory;
    const matrices = layout.entries.filter((entry) => isMatrix(entry) && moves(entry)).map(
      ({ offset, rows, cols }) => {
        const part = (flat: Tensor) => device.view(flat, offset, rows, cols);
        const masters = part(params);
        return {
          target: { params: masters, work: work === params ? masters : part(work), control },
          gradients: part(gradients),
          m: part(state.m),
          update: device.view(scratch.update, 0, rows, cols),
          // updates of all shapes have entries of about one size
          scale: Math.sqrt(Math.max(1, rows / cols)),
        };
      },
    );
    return (size: UpdateSize) => {
      updateRest({ ...size, weightDecay: 0 });
      const { muonLearningRate, weightDecay, cautious } = size;
      for (const { target, gradients, m, update, scale } of matrices) {
        device.momentum(update, m, gradients, control, BETA);
        const { rows, cols } = update;
        const orthogonal = orthogonalize(device, scratch, rows, cols);
        // decay does not grow with the scale of the update
        const hyper = { learningRate: scale * muonLearningRate, weightDecay: weightDecay / scale, cautious };
        device.applyUpdate(target, orthogonal, hyper);
      }
    };
  },
  allocateScratch,
};
