/** Cases of the device suite for what training alone does: dropout and the z-loss. */
import { control, type DeviceCase, filled, loaded, randomDocuments } from "./case_data.ts";

/** Elsewhere into working memory as backward does it, in place, and in place with a sum as forward does it. */
function dropoutCases(): DeviceCase[] {
  return [[1, 1], [33, 12], [7, 97], [130, 384]].map(([T, E]): DeviceCase => ({
    name: `dropout, [${T}, ${E}]`,
    tolerance: 1e-6,
    async run(d) {
      const documents = randomDocuments([T!], 97, 1);
      const batch = loaded(d, { ...documents, regularization: { dropout: 0.3, key: 0xfedc_ba98, zLoss: 0 } });
      const [x, add] = [filled(d, T!, E!, 2), filled(d, T!, E!, 3)];
      const out = d.tensor("out", T!, E!, "work");
      d.dropout(out, x, batch, 7);
      const there = filled(d, T!, E!, 2);
      d.dropout(there, there, batch, 8, add);
      d.dropout(x, x, batch, 7);
      return { out: await d.read(out), x: await d.read(x), there: await d.read(there) };
    },
  }));
}

function zLossCases(): DeviceCase[] {
  return [[1, 97], [33, 97], [5, 4096]].map(([T, V]): DeviceCase => ({
    name: `crossEntropy with z-loss, [${T}, ${V}]`,
    tolerance: 2e-5,
    async run(d) {
      const documents = randomDocuments([T!], V!, 1);
      const batch = loaded(d, { ...documents, regularization: { dropout: 0, key: 0, zLoss: 0.05 } });
      const losses = d.tensor("losses", T!, 1);
      const logits = filled(d, T!, V!, 2, "f32", 3);
      d.crossEntropy(logits, losses, batch, 0, 1 / T!, control(d));
      const dLogits = (await d.read(logits)).map((x) => x * T!);
      // a batch without it after one with it
      d.loadBatch(batch, documents);
      const again = filled(d, T!, V!, 2, "f32", 3);
      d.crossEntropy(again, losses, batch, 0, 1 / T!, control(d));
      return { dLogits, without: (await d.read(again)).map((x) => x * T!), losses: await d.read(losses) };
    },
  }));
}

export const REGULARIZATION_CASES: DeviceCase[] = [...dropoutCases(), ...zLossCases()];
