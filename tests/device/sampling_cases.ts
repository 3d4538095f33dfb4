/** Cases of the device suite that draw tokens: every device draws the same ids. */
import { type Device, type Draws, IN_PROMPT, type Sampling } from "../../device/device.ts";
import { mixSeed } from "../../device/random.ts";
import { PLAIN_SAMPLING, SAMPLING_COLUMNS, samplingRow } from "../../device/sampling.ts";
import { decodeRows, type DeviceCase, filled } from "./case_data.ts";

/** Sequences that are drawn so, `samplings[i % samplings.length]` sequence i. */
function drawsOf(d: Device, count: number, samplings: Partial<Sampling>[], said?: Uint32Array): Draws {
  const draws = {
    seeds: d.tensor("seeds", count, 1, "u32"),
    settings: d.tensor("settings", count, SAMPLING_COLUMNS),
    said: d.tensor("said", count, said ? said.length : 1, "u32"),
  };
  for (let i = 0; i < count; i++) {
    d.write(draws.seeds, Uint32Array.of(mixSeed(42 + i)), i);
    const row = samplingRow({ ...PLAIN_SAMPLING, ...samplings[i % samplings.length] });
    d.write(draws.settings, row, i * SAMPLING_COLUMNS);
    if (said) d.write(draws.said, said, i * said.length);
  }
  return draws;
}

/** Draws in every way, rows of several ways together, twice in a row. */
export function sampleCases(): DeviceCase[] {
  const plain: Partial<Sampling>[] = [
    { temperature: 0 },
    {},
    { temperature: 0.5, topK: 5, suppressed: [0, 3] },
    { temperature: 1.3, topP: 0.7, suppressed: [1] },
    { suppressed: [12, 3, 11, 10, 50, 51, 52, 53, 54, 55, 96] },
    { temperature: 0.8, topK: 20, topP: 0.9 },
    { topK: 1 },
    { minP: 0.2 },
    { temperature: 2, topK: 40, topP: 0.95, minP: 0.1 },
    { minP: 1, suppressed: [7] },
  ];
  const penalized: Partial<Sampling>[] = [
    { temperature: 0, repetitionPenalty: 1.3 },
    { repetitionPenalty: 0.7, topP: 0.9 },
    { temperature: 0.7, frequencyPenalty: 0.5, presencePenalty: 1, topK: 30 },
    { frequencyPenalty: -2, presencePenalty: -1, minP: 0.05 },
    {},
  ];
  const cases = [...plain.map((sampling) => [sampling]), plain, penalized];
  return [97, 300, 4096].flatMap((V) =>
    cases.map((samplings): DeviceCase => {
      const name = samplings.length === 1 ? JSON.stringify(samplings[0]) : `${samplings.length} ways`;
      return {
        name: `sample from ${V} ids, ${samplings === penalized ? "with penalties, " : ""}${name}`,
        tolerance: 0,
        async run(d) {
          const N = 16;
          const range = Array.from({ length: N }, (_, i) => i);
          const rows = decodeRows(d, range, range.map((i) => 3 * i), range.toReversed());
          const said = samplings === penalized
            ? Uint32Array.from({ length: V }, (_, id) => [0, IN_PROMPT, 2, IN_PROMPT + 1, 0][id % 5]!)
            : undefined;
          const draws = drawsOf(d, N, samplings, said);
          const output = d.tensor("output", 2, N, "u32");
          d.sample(rows, filled(d, N, V, 1, "f32", 2), output, 0, draws);
          d.sample(rows, filled(d, N, V, 2, "f32", 2), output, 1, draws);
          return {
            output: await d.read(output),
            tokens: await d.read(rows.tokens),
            positions: await d.read(rows.positions),
            said: await d.read(draws.said),
          };
        },
      };
    })
  );
}

/** Logits that a working model does not have, or hardly ever: every device draws the same id from them. */
export function oddLogitsCases(): DeviceCase[] {
  const V = 300;
  const everywhere = (value: number) => new Float32Array(V).fill(value);
  const with_ = (logits: Float32Array, values: Record<number, number>) => {
    for (const [id, value] of Object.entries(values)) logits[Number(id)] = value;
    return logits;
  };
  const rows: Float32Array[] = [
    everywhere(0),
    everywhere(NaN),
    everywhere(-Infinity),
    with_(everywhere(1), { 0: NaN, 7: NaN, 299: NaN }),
    with_(everywhere(NaN), { 130: -5, 131: -5 }),
    with_(everywhere(0), { 100: Infinity, 200: Infinity }),
    with_(everywhere(-Infinity), { 3: 0, 299: -1 }),
    with_(everywhere(-100), { 5: 2, 6: 2, 290: 2 }), // equals at the edge of top-k and top-p
    with_(everywhere(-0), { 20: 0 }),
  ];
  const settings: Partial<Sampling>[] = [
    { temperature: 0 },
    { suppressed: [2] },
    { topK: 1 },
    { topK: 2, topP: 0.5 },
    { topP: 0 },
    { temperature: 1e-40 },
    { topK: 300, topP: 0.999, suppressed: [0, 1, 2, 3, 4, 5, 6, 7] },
    { minP: 1 },
    { repetitionPenalty: 1.1, presencePenalty: 1 },
  ];
  return settings.map((sampling): DeviceCase => ({
    name: `sample from NaN, infinite and equal logits, ${JSON.stringify(sampling)}`,
    tolerance: 0,
    async run(d) {
      const range = rows.map((_, i) => i);
      const drawn = decodeRows(d, range, range.map((i) => 5 * i), range);
      const said = sampling.presencePenalty ? new Uint32Array(V).fill(1, 100, 250) : undefined;
      const draws = drawsOf(d, rows.length, [sampling], said);
      const output = d.tensor("output", 1, rows.length, "u32");
      const logits = d.tensor("logits", rows.length, V);
      rows.forEach((row, i) => d.write(logits, row, i * V));
      d.sample(drawn, logits, output, 0, draws);
      return { output: await d.read(output) };
    },
  }));
}
