/**
 * The cases of the device suite: each fills tensors with fixed random numbers, runs kernels on a device and returns what came out.
 * The test runs a case on the f64 reference and on the device under test, and compares.
 */
import type { ModelConfig } from "../../model/config.ts";
import { type LlamaConfig, ropeAngles } from "../../model/llama_config.ts";
import type { AdamState, Device, Tensor } from "../../device/device.ts";
import { networkOf } from "../../model/networks.ts";
import { flatTensor } from "../../model/parameters.ts";
import {
  control,
  decodeRows,
  type DeviceCase,
  filled,
  gaussian,
  loaded,
  randomDocuments,
} from "./case_data.ts";
import { REGULARIZATION_CASES } from "./regularization_cases.ts";
import { oddLogitsCases, sampleCases } from "./sampling_cases.ts";

/** Lengths of the documents of a batch: one token, odd numbers, longer than any block of a kernel. */
const LENGTHS: number[][] = [[1], [33], [1, 2, 33, 5], [130, 1, 67]];
/** [E, H] */
const WIDTHS: [number, number][] = [[12, 1], [12, 4], [64, 4], [96, 3]];

function embedCases(): DeviceCase[] {
  return WIDTHS.flatMap(([E]) =>
    [[1], [1, 2, 33, 5]].map((lengths): DeviceCase => ({
      name: `embed and its backward, E = ${E}, documents of ${lengths}`,
      tolerance: 2e-5,
      async run(d) {
        const V = 97, B = 40;
        const documents = randomDocuments(lengths, V, 1);
        const T = documents.tokens.length;
        const batch = loaded(d, documents);
        const [wte, wpe] = [filled(d, V, E, 2, "work"), filled(d, B, E, 3, "work")];
        const x = d.tensor("x", T, E);
        d.embed(x, batch, wte, wpe);
        const [dWte, dWpe, dx] = [filled(d, V, E, 4), filled(d, B, E, 5), filled(d, T, E, 6)];
        d.embedBackward(dWte, dWpe, dx, batch, wte, wpe);
        return { x: await d.read(x), dWte: await d.read(dWte), dWpe: await d.read(dWpe) };
      },
    }))
  );
}

function rmsNormCases(): DeviceCase[] {
  return [[1, 12], [33, 12], [7, 64], [130, 384], [5, 1]].map(([T, E]): DeviceCase => ({
    name: `rmsNorm and its backward, [${T}, ${E}]`,
    tolerance: 2e-5,
    async run(d) {
      const x = filled(d, T!, E!, 1);
      const out = d.tensor("out", T!, E!, "work");
      d.rmsNorm(out, x);
      const dx = filled(d, T!, E!, 2);
      d.rmsNormBackward(dx, filled(d, T!, E!, 3, "work"), x);
      return { out: await d.read(out), dx: await d.read(dx) };
    },
  }));
}

function lookupCases(): DeviceCase[] {
  return [[12, [1]], [12, [1, 2, 33, 5]], [64, [1, 2, 33, 5]], [5, [9]]].map(([E, lengths]): DeviceCase => ({
    name: `lookup and its backward, E = ${E}, documents of ${lengths}`,
    tolerance: 2e-5,
    async run(d) {
      const [V, cols] = [7, E as number];
      const documents = randomDocuments(lengths as number[], V, 1);
      const T = documents.tokens.length;
      const batch = loaded(d, documents);
      const table = filled(d, V, cols, 2, "work");
      const [x, few] = [d.tensor("x", T, cols), d.tensor("few", 3, cols)];
      d.lookup(x, batch, table);
      d.lookupRows(few, decodeRows(d, [6, 0, 6], [0, 1, 2], [0, 0, 0]), table);
      const dTable = filled(d, V, cols, 3);
      d.lookupBackward(dTable, filled(d, T, cols, 4), batch);
      return { x: await d.read(x), few: await d.read(few), dTable: await d.read(dTable) };
    },
  }));
}

function scaledRmsNormCases(): DeviceCase[] {
  return [[1, 12], [33, 12], [7, 64], [130, 384], [5, 1]].map(([T, E]): DeviceCase => ({
    name: `scaledRmsNorm and its backward, [${T}, ${E}]`,
    tolerance: 4e-5,
    async run(d) {
      const [x, weight] = [filled(d, T!, E!, 1), filled(d, 1, E!, 2, "work")];
      const out = d.tensor("out", T!, E!, "work");
      d.scaledRmsNorm(out, x, weight, 1e-3);
      const [dx, dWeight] = [filled(d, T!, E!, 3), filled(d, 1, E!, 4)];
      d.scaledRmsNormBackward(dx, dWeight, filled(d, T!, E!, 5, "work"), x, weight, 1e-3);
      return { out: await d.read(out), dx: await d.read(dx), dWeight: await d.read(dWeight) };
    },
  }));
}

function headNormCases(): DeviceCase[] {
  return [[1, 1, 1, 2], [33, 4, 2, 6], [7, 2, 1, 64], [40, 6, 3, 128], [3, 2, 2, 300]].map((
    [T, H, Hkv, D],
  ): DeviceCase => ({
    name: `headNorm and its backward, ${T} rows of ${H} and ${Hkv} heads of ${D}`,
    tolerance: 4e-5,
    async run(d) {
      const width = (H! + 2 * Hkv!) * D!;
      const [qkv, weights] = [filled(d, T!, width, 1, "work"), filled(d, 2, D!, 2, "work")];
      const out = d.tensor("out", T!, width, "work");
      d.headNorm(out, qkv, weights, H!, Hkv!, 1e-3);
      const [dQkv, dWeights] = [filled(d, T!, width, 3, "work"), filled(d, 2, D!, 4)];
      d.headNormBackward(dQkv, dWeights, filled(d, T!, width, 5, "work"), qkv, weights, H!, Hkv!, 1e-3);
      return { out: await d.read(out), dQkv: await d.read(dQkv), dWeights: await d.read(dWeights) };
    },
  }));
}

/** The products of `llama.ts` with a column of ones: a bias for each row, and its gradient. */
function biasCases(): DeviceCase[] {
  return [[1, 24], [5, 7], [130, 96]].map(([T, N]): DeviceCase => ({
    name: `a bias of ${N} for each of ${T} rows, and its gradient`,
    tolerance: 4e-5,
    async run(d) {
      const ones = d.tensor("ones", T!, 1, "work");
      d.write(ones, new Float32Array(T!).fill(1));
      const bias = filled(d, 1, N!, 1, "work");
      const out = d.tensor("out", T!, N!, "work");
      d.matmul(out, ones, bias, "NN");
      const dOut = filled(d, T!, N!, 2, "work");
      const [fresh, added] = [filled(d, 1, N!, 3), filled(d, 1, N!, 3)];
      d.matmul(fresh, ones, dOut, "TN");
      d.matmul(added, ones, dOut, "TN", { add: added });
      return { out: await d.read(out), fresh: await d.read(fresh), added: await d.read(added) };
    },
  }));
}

function ropeCases(): DeviceCase[] {
  return [[2, 6, 12], [3, 4, 17], [4, 64, 320], [2, 20, 40]].map(([heads, D, cols]): DeviceCase => ({
    name: `rope there and back, ${heads} heads of ${D} in rows of ${cols}`,
    tolerance: 2e-5,
    async run(d) {
      const documents = randomDocuments([1, 33, 5], 97, 1);
      const batch = loaded(d, documents);
      const angles = d.tensor("angles", 33, D!);
      d.write(angles, ropeAngles({ ...TINY_LLAMA, head_dim: D! }, 33));
      const [x, back, few] = [
        filled(d, 39, cols!, 2, "work"),
        filled(d, 39, cols!, 3, "work"),
        filled(d, 2, cols!, 4, "work"),
      ];
      d.rope(x, angles, batch, heads!);
      d.rope(back, angles, batch, heads!, true);
      d.ropeRows(few, angles, decodeRows(d, [0, 0], [32, 1], [0, 1]), heads!);
      return { x: await d.read(x), back: await d.read(back), few: await d.read(few) };
    },
  }));
}

function swigluCases(): DeviceCase[] {
  return [[1, 1], [33, 12], [7, 96], [130, 600]].map(([T, F]): DeviceCase => ({
    name: `swiglu and its backward, [${T}, ${F}]`,
    tolerance: 2e-5,
    async run(d) {
      const gateUp = d.tensor("gateUp", T!, 2 * F!, "work");
      const values = gaussian(T! * 2 * F!, 1, 3);
      values[0] = -200; // σ(−200) is no f32
      d.write(gateUp, values);
      const [out, dGateUp] = [d.tensor("out", T!, F!, "work"), d.tensor("dGateUp", T!, 2 * F!, "work")];
      d.swiglu(out, gateUp);
      d.swigluBackward(dGateUp, filled(d, T!, F!, 2, "work"), gateUp);
      return { out: await d.read(out), dGateUp: await d.read(dGateUp) };
    },
  }));
}

/** [H, Hkv, D]: fewer heads of keys and values than of queries. */
const GROUPED: [number, number, number][] = [[4, 2, 3], [4, 2, 16], [6, 1, 32], [4, 2, 64]];

function groupedAttentionCases(): DeviceCase[] {
  return GROUPED.flatMap(([H, Hkv, D]) =>
    LENGTHS.map((lengths): DeviceCase => ({
      name: `grouped attention and its backward, ${H} heads on ${Hkv} of ${D}, documents of ${lengths}`,
      tolerance: 5e-5,
      async run(d) {
        const documents = randomDocuments(lengths, 97, 1);
        const T = documents.tokens.length;
        const batch = loaded(d, documents);
        const qkv = filled(d, T, (H + 2 * Hkv) * D, 2, "work");
        const [out, lse] = [d.tensor("out", T, H * D, "work"), d.tensor("lse", T, H)];
        d.attention(out, lse, qkv, batch, H, Hkv);
        const dQkv = d.tensor("dQkv", T, (H + 2 * Hkv) * D, "work");
        d.attentionBackward(dQkv, filled(d, T, H * D, 3, "work"), out, lse, qkv, batch, H, Hkv);
        return { out: await d.read(out), lse: await d.read(lse), dQkv: await d.read(dQkv) };
      },
    }))
  );
}

function groupedCachedCases(): DeviceCase[] {
  return GROUPED.map(([H, Hkv, D]): DeviceCase => ({
    name: `grouped attentionCached: three sequences, then two prompts, ${H} heads on ${Hkv} of ${D}`,
    tolerance: 3e-5,
    async run(d) {
      const [B, width] = [40, (H + 2 * Hkv) * D];
      const cache = filled(d, 3 * B, 2 * Hkv * D, 1, "work");
      const [single, many] = [d.tensor("single", 3, H * D, "work"), d.tensor("many", 5, H * D, "work")];
      const three = decodeRows(d, [1, 2, 3], [39, 0, 7], [2, 0, 1]);
      d.attentionCached(single, filled(d, 3, width, 2, "work"), cache, three, B, H, Hkv);
      const prompt = decodeRows(d, [4, 5, 6, 7, 8], [8, 9, 10, 0, 1], [1, 1, 1, 2, 2]);
      d.attentionCached(many, filled(d, 5, width, 3, "work"), cache, prompt, B, H, Hkv);
      return { single: await d.read(single), many: await d.read(many), cache: await d.read(cache) };
    },
  }));
}

function matmulCases(): DeviceCase[] {
  const shapes = [[1, 1, 1], [1, 97, 12], [33, 12, 97], [24, 64, 64], [8, 192, 64], [130, 65, 129], [
    2,
    256,
    100,
  ], [65, 36, 300]];
  return (["NT", "NN", "TN"] as const).flatMap((form) =>
    shapes.flatMap(([M, N, K]) => {
      const operands = (d: Device) => ({
        a: form === "TN" ? filled(d, K!, M!, 1) : filled(d, M!, K!, 1, "work"),
        b: form === "NT" || form === "NN"
          ? form === "NT" ? filled(d, N!, K!, 2, "work") : filled(d, K!, N!, 2, "work")
          : filled(d, K!, N!, 2, "work"),
      });
      return [
        {
          name: `matmul ${form} [${M}, ${N}] over ${K}, plain, added and accumulated`,
          tolerance: 3e-5,
          async run(d: Device) {
            const { a, b } = operands(d);
            const [plain, added, accumulated] = [
              d.tensor("plain", M!, N!),
              d.tensor("added", M!, N!),
              filled(d, M!, N!, 3),
            ];
            d.matmul(plain, a, b, form);
            d.matmul(added, a, b, form, { add: filled(d, M!, N!, 4) });
            d.matmul(accumulated, a, b, form, { add: accumulated });
            return {
              plain: await d.read(plain),
              added: await d.read(added),
              accumulated: await d.read(accumulated),
            };
          },
        },
        {
          name: `matmul ${form} [${M}, ${N}] over ${K}, relu and its mask`,
          tolerance: 3e-5,
          async run(d: Device) {
            const { a, b } = operands(d);
            const [relu, masked] = [d.tensor("relu", M!, N!, "work"), d.tensor("masked", M!, N!, "work")];
            d.matmul(relu, a, b, form, { relu: true });
            d.matmul(masked, a, b, form, { reluMask: filled(d, M!, N!, 5, "work") });
            return { relu: await d.read(relu), masked: await d.read(masked) };
          },
        },
      ];
    })
  );
}

function attentionCases(): DeviceCase[] {
  // Short documents, several of which fit in a block of 64 tokens, and long ones that begin in the middle of a block.
  const mixed = [5, 60, 1, 100, 30, 64, 7, 3, 140, 2];
  return WIDTHS.flatMap(([E, H]) =>
    [...LENGTHS, mixed].map((lengths): DeviceCase => ({
      name: `attention and its backward, E = ${E}, ${H} heads, documents of ${lengths}`,
      tolerance: 5e-5,
      async run(d) {
        const documents = randomDocuments(lengths, 97, 1);
        const T = documents.tokens.length;
        const batch = loaded(d, documents);
        const qkv = filled(d, T, 3 * E, 2, "work");
        const [out, lse] = [d.tensor("out", T, E, "work"), d.tensor("lse", T, H)];
        d.attention(out, lse, qkv, batch, H);
        const dQkv = d.tensor("dQkv", T, 3 * E, "work");
        d.attentionBackward(dQkv, filled(d, T, E, 3, "work"), out, lse, qkv, batch, H);
        return { out: await d.read(out), lse: await d.read(lse), dQkv: await d.read(dQkv) };
      },
    }))
  );
}

function crossEntropyCases(): DeviceCase[] {
  return [[1, 97], [33, 97], [9, 256], [5, 4096]].map(([T, V]): DeviceCase => ({
    name: `crossEntropy in two chunks and sumLoss, [${T}, ${V}]`,
    tolerance: 2e-5,
    async run(d) {
      const documents = randomDocuments([T!], V!, 1);
      const batch = loaded(d, documents);
      const losses = d.tensor("losses", T!, 1);
      const first = Math.ceil(T! / 2);
      const results: Record<string, ArrayLike<number>> = {};
      for (const [row, rows] of [[0, first], [first, T! - first]] as const) {
        if (rows === 0) continue;
        const logits = filled(d, rows, V!, 2 + row, "f32", 3);
        d.crossEntropy(logits, losses, batch, row, 1 / T!, control(d));
        results[`dLogits from row ${row}`] = (await d.read(logits)).map((x) => x * T!);
      }
      const metrics = d.tensor("metrics", 3, 4);
      d.sumLoss(metrics, 1, losses, false);
      d.sumLoss(metrics, 2, losses, false);
      d.sumLoss(metrics, 2, losses, true);
      return { ...results, losses: await d.read(losses), metrics: await d.read(metrics) };
    },
  }));
}

/** Targets that count once, not at all and three times. */
function weightedCrossEntropyCases(): DeviceCase[] {
  return [[1, 97], [33, 97], [9, 256], [5, 4096]].map(([T, V]): DeviceCase => ({
    name: `crossEntropy with weights, [${T}, ${V}]`,
    tolerance: 2e-5,
    async run(d) {
      const weights = Float32Array.from({ length: T! }, (_, t) => [3, 0, 1, 0.5][t % 4]!);
      const documents = randomDocuments([T!], V!, 1);
      const batch = d.createBatch(T!, 1);
      d.loadBatch(batch, { ...documents, weights });
      const losses = d.tensor("losses", T!, 1);
      const logits = filled(d, T!, V!, 2, "f32", 3);
      // what does not count is not looked at
      if (T! > 1) d.write(logits, new Float32Array([NaN, Infinity]), V!);
      d.crossEntropy(logits, losses, batch, 0, 1 / T!, control(d));
      const weighted = { losses: await d.read(losses), dLogits: (await d.read(logits)).map((x) => x * T!) };
      // a batch without weights after one with them
      d.loadBatch(batch, documents);
      const again = filled(d, T!, V!, 2, "f32", 3);
      d.crossEntropy(again, losses, batch, 0, 1 / T!, control(d));
      return { ...weighted, unweighted: await d.read(losses) };
    },
  }));
}

/** What Muon does element by element: shapes of [rows, cols], and of n × n matrices. */
function muonCases(): DeviceCase[] {
  const stepped = (d: Device, counts: boolean) => {
    const tensor = d.tensor("control", 1, 4);
    d.write(tensor, new Float32Array([3, 1, 0, counts ? 0.5 : -1]));
    return tensor;
  };
  const shapes = [[1, 1], [3, 5], [48, 16], [130, 96]] as const;
  const rows = shapes.flatMap(([rows, cols]) => [true, false].map((counts) => ({ rows, cols, counts })));
  return [
    ...rows.map(({ rows, cols, counts }): DeviceCase => ({
      name: `momentum and applyUpdate, [${rows}, ${cols}]${counts ? "" : ", of a step that does not count"}`,
      tolerance: 2e-5,
      async run(d) {
        const [out, m, gradients] = [
          filled(d, rows, cols, 1),
          filled(d, rows, cols, 2),
          filled(d, rows, cols, 3),
        ];
        const control = stepped(d, counts);
        d.momentum(out, m, gradients, control, 0.9);
        const results: Record<string, Float32Array | Uint32Array> = {
          out: await d.read(out),
          m: await d.read(m),
        };
        for (const cautious of [false, true]) {
          const params = filled(d, rows, cols, 4);
          const work = d.workType === "f32" ? params : d.tensor("work", rows, cols, "work");
          const hyper = { learningRate: 0.1, weightDecay: 0.3, cautious };
          d.applyUpdate({ params, work, control }, out, hyper);
          results[`params ${cautious}`] = await d.read(params);
          results[`work ${cautious}`] = await d.read(work);
        }
        return results;
      },
    })),
    ...[1, 3, 16, 50, 96].flatMap((n) =>
      [true, false].map((normalize): DeviceCase => ({
        name: `matrixPolynomial, ${n} × ${n}${normalize ? ", normalized" : ""}`,
        tolerance: 2e-5,
        async run(d) {
          const x = filled(d, n, 2 * n, 5, "f32", 1 / (2 * n));
          const [a, square, out] = [d.tensor("a", n, n), d.tensor("square", n, n), d.tensor("out", n, n)];
          d.matmul(a, x, x, "NT");
          d.matmul(square, a, a, "NN");
          d.matrixPolynomial(out, a, square, [3.4445, -4.775, 2.0315], normalize);
          return { out: await d.read(out) };
        },
      }))
    ),
  ];
}

/** Largest norm of the gradients. */
const GRAD_CLIP = 1;

/** n parameters with gradients and moments, as after some steps. */
function adamState(d: Device, n: number, adamStep: number): AdamState {
  const params = filled(d, 1, n, 1);
  const v = d.tensor("v", 1, n);
  d.write(v, gaussian(n, 4).map((x) => x * x));
  const work = d.workType === "f32" ? params : d.tensor("work", 1, n, "work");
  return {
    params,
    work,
    gradients: filled(d, 1, n, 2),
    m: filled(d, 1, n, 3),
    v,
    control: control(d, adamStep),
  };
}

function adamCases(): DeviceCase[] {
  const hyper = {
    learningRate: 0.01,
    beta1: 0.85,
    beta2: 0.99,
    epsilon: 1e-8,
    weightDecay: 0.1,
  };
  return [[128, 0], [1280, 7], [100_096, 500], [128, 2 ** 24]].flatMap(([n, step]): DeviceCase[] => [
    {
      name: `gradNorm and adam with clipping and weight decay, ${n} parameters after ${step} steps`,
      tolerance: 2e-5,
      async run(d) {
        const state = adamState(d, n!, step!);
        const metrics = d.tensor("metrics", 2, 4);
        d.gradNorm(metrics, 1, state.gradients, state.control);
        d.decideStep(metrics, 1, state.control, GRAD_CLIP);
        d.adam(state, hyper);
        const { params, m, v } = state;
        const [p, mNew, vNew] = [await d.read(params), await d.read(m), await d.read(v)];
        return { metrics: await d.read(metrics), p, m: mNew, v: vNew, control: await d.read(state.control) };
      },
    },
    {
      name: `adam of the second half of ${n} parameters`,
      tolerance: 2e-5,
      async run(d) {
        const state = adamState(d, n!, step!);
        const metrics = d.tensor("metrics", 1, 4);
        d.gradNorm(metrics, 0, state.gradients, state.control);
        d.decideStep(metrics, 0, state.control, GRAD_CLIP);
        const half = (tensor: Tensor) => d.view(tensor, n! / 2, 1, n! / 2);
        const params = half(state.params);
        d.adam({
          params,
          work: state.work === state.params ? params : half(state.work),
          gradients: half(state.gradients),
          m: half(state.m),
          v: half(state.v),
          control: state.control,
        }, hyper);
        const [p, m, v] = [await d.read(state.params), await d.read(state.m), await d.read(state.v)];
        return { p, m, v, work: await d.read(state.work) };
      },
    },
    ...[NaN, Infinity, -Infinity].map((bad): DeviceCase => ({
      name: `adam leaves ${n} parameters alone when a gradient is ${bad}`,
      tolerance: 0,
      async run(d) {
        const state = adamState(d, n!, step!);
        d.write(state.gradients, new Float32Array([bad]), n! - 3);
        const metrics = d.tensor("metrics", 1, 4);
        d.gradNorm(metrics, 0, state.gradients, state.control);
        d.decideStep(metrics, 0, state.control, GRAD_CLIP);
        d.adam(state, hyper);
        const { params, m, v } = state;
        const [p, mNew, vNew] = [await d.read(params), await d.read(m), await d.read(v)];
        const applied = (await d.read(metrics))[2]!;
        const adamStep = (await d.read(state.control))[0]!;
        return { p, m: mNew, v: vNew, applied: [applied], adamStep: [adamStep] };
      },
    })),
  ]);
}

function rmsNormMatmulCases(): DeviceCase[] {
  return [[1, 64, 256], [2, 12, 36], [3, 64, 64], [7, 48, 144], [33, 64, 40]].map((
    [N, E, M],
  ): DeviceCase => ({
    name: `rmsNormMatmul [${N}, ${E}] to ${M}`,
    tolerance: 3e-5,
    async run(d) {
      const [x, w] = [filled(d, N!, E!, 1), filled(d, M!, E!, 2, "work")];
      const [out, norm] = [d.tensor("out", N!, M!, "work"), d.tensor("norm", N!, E!, "work")];
      d.rmsNormMatmul(out, x, w, norm);
      const plain = await d.read(out);
      d.rmsNormMatmul(out, x, w, norm, true);
      return { plain, relu: await d.read(out) };
    },
  }));
}

function attentionCachedCases(): DeviceCase[] {
  return WIDTHS.map(([E, H]): DeviceCase => ({
    name: `attentionCached: three sequences, then two prompts, E = ${E}, ${H} heads`,
    tolerance: 3e-5,
    async run(d) {
      const B = 40;
      const cache = filled(d, 3 * B, 2 * E, 1, "work");
      const single = d.tensor("single", 3, E, "work");
      const three = decodeRows(d, [1, 2, 3], [39, 0, 7], [2, 0, 1]);
      d.attentionCached(single, filled(d, 3, 3 * E, 2, "work"), cache, three, B, H);
      const prompt = decodeRows(d, [4, 5, 6, 7, 8], [8, 9, 10, 0, 1], [1, 1, 1, 2, 2]);
      const many = d.tensor("many", 5, E, "work");
      d.attentionCached(many, filled(d, 5, 3 * E, 3, "work"), cache, prompt, B, H);
      return { single: await d.read(single), many: await d.read(many), cache: await d.read(cache) };
    },
  }));
}

function copyCases(): DeviceCase[] {
  return (["f32", "work"] as const).map((type): DeviceCase => ({
    name: `copy within a tensor and to another, ${type}`,
    tolerance: 0,
    async run(d) {
      const lines = filled(d, 30, 6, 1, type);
      const line = (row: number, rows: number) => d.view(lines, 6 * row, rows, 6);
      d.copy(line(13, 7), line(2, 7));
      d.copy(line(20, 7), line(13, 7));
      const other = d.tensor("other", 4, 6, type);
      d.copy(other, line(19, 4));
      return { lines: await d.read(lines), other: await d.read(other) };
    },
  }));
}

function addCases(): DeviceCase[] {
  return [[1, 1], [1, 33], [7, 64], [1, 300_003]].map(([rows, cols]): DeviceCase => ({
    name: `add, [${rows}, ${cols}], and to a part`,
    tolerance: 0,
    async run(d) {
      // sums of whole numbers are exact in f32 and f64
      const whole = (rows: number, cols: number, seed: number) => {
        const tensor = d.tensor(`case ${seed}`, rows, cols);
        d.write(tensor, gaussian(rows * cols, seed, 1000).map(Math.round));
        return tensor;
      };
      const [out, parts] = [whole(rows!, cols!, 1), whole(1, 300, 2)];
      d.add(out, whole(rows!, cols!, 3));
      d.add(d.view(parts, 128, 1, 37), whole(1, 37, 4));
      return { out: await d.read(out), parts: await d.read(parts) };
    },
  }));
}

function emptyCases(): DeviceCase[] {
  return [{
    name: "matrices without rows change nothing",
    tolerance: 0,
    async run(d) {
      const [x, w, out] = [filled(d, 4, 8, 1), filled(d, 16, 8, 2, "work"), filled(d, 4, 16, 3)];
      x.rows = out.rows = 0;
      d.rmsNorm(filled(d, 0, 8, 4), x);
      d.matmul(out, x, w, "NT");
      d.copy(d.tensor("none", 0, 8), x);
      d.zero(x);
      const none = await d.read(x);
      x.rows = out.rows = 4;
      return { none, x: await d.read(x), out: await d.read(out) };
    },
  }];
}

const TINY: ModelConfig = { vocab_size: 97, n_embd: 12, n_head: 3, n_layer: 2, block_size: 40 };

/** The whole model with fixed weights: parameters on the device and their views. */
function tinyModel(d: Device, config: ModelConfig) {
  const network = networkOf(config);
  const { layout } = network;
  const params = flatTensor(d, "weights", layout, "work");
  const initial = network.initialParameters(7, 0.3);
  for (const { role, offset, cols } of layout.entries) {
    if (role === "bias") initial.set(gaussian(cols, offset, 0.3), offset); // a new model's are 0
  }
  d.write(params, initial);
  return { network, layout, weights: network.views(d, params) };
}

const TINY_LLAMA: LlamaConfig = {
  architecture: "llama",
  vocab_size: 97,
  n_embd: 12,
  n_head: 4,
  n_kv_head: 2,
  head_dim: 8,
  n_layer: 2,
  ffn: 20,
  block_size: 40,
  rope_theta: 100,
  norm_eps: 1e-5,
  tie: false,
};

function modelCases(): DeviceCase[] {
  const llamas = {
    llama: {},
    "tied llama": { tie: true },
    Qwen2: { qkv_bias: true },
    Qwen3: { qk_norm: true },
  };
  return [
    ...casesOfModel(TINY, ""),
    ...Object.entries(llamas).flatMap(([name, change]) =>
      casesOfModel({ ...TINY_LLAMA, ...change } as LlamaConfig, ` of a ${name}`)
    ),
  ];
}

function casesOfModel(config: ModelConfig, model: string): DeviceCase[] {
  return [
    {
      name: `forwardBackward${model} of two micro-batches that accumulate`,
      tolerance: 1e-4,
      async run(d) {
        const { network, layout, weights } = tinyModel(d, config);
        const gradients = flatTensor(d, "gradients", layout, "f32");
        const g = network.views(d, gradients);
        const activations = network.allocateActivations(d, 80);
        const scale = control(d);
        const first = loaded(d, randomDocuments([33, 1, 12], 97, 1));
        network.forwardBackward(d, weights, g, activations, first, 1 / 60, scale, false);
        const losses = await d.read(activations.losses);
        network.forwardBackward(
          d,
          weights,
          g,
          activations,
          loaded(d, randomDocuments([14], 97, 2)),
          1 / 60,
          scale,
          true,
        );
        return { losses, gradients: (await d.read(gradients)).map((x) => 20 * x) };
      },
    },
    {
      name: `decoding${model}: a prompt and then one token at a time`,
      tolerance: 1e-4,
      async run(d) {
        const { network, weights } = tinyModel(d, config);
        const memory = network.allocateDecodeMemory(d, 5, 2, config.block_size);
        network.decodeStep(
          d,
          weights,
          memory,
          decodeRows(d, [0, 5, 9, 3, 2], [0, 1, 2, 3, 4], [1, 1, 1, 1, 1]),
          40,
          1,
        );
        const prompt = await d.read(memory.logits);
        network.decodeStep(d, weights, memory, decodeRows(d, [0, 7], [0, 5], [0, 1]), 40, 2);
        return { prompt, both: await d.read(memory.logits) };
      },
    },
  ];
}

export const DEVICE_CASES: DeviceCase[] = [
  ...embedCases(),
  ...lookupCases(),
  ...rmsNormCases(),
  ...scaledRmsNormCases(),
  ...headNormCases(),
  ...biasCases(),
  ...ropeCases(),
  ...swigluCases(),
  ...matmulCases(),
  ...attentionCases(),
  ...groupedAttentionCases(),
  ...crossEntropyCases(),
  ...weightedCrossEntropyCases(),
  ...REGULARIZATION_CASES,
  ...adamCases(),
  ...muonCases(),
  ...rmsNormMatmulCases(),
  ...attentionCachedCases(),
  ...groupedCachedCases(),
  ...copyCases(),
  ...addCases(),
  ...sampleCases(),
  ...oddLogitsCases(),
  ...emptyCases(),
  ...modelCases(),
];
