import assert from "node:assert/strict";
import { parseMetrics, trainingPicture } from "../../scripts/training_picture.ts";

const METRICS = Array.from({ length: 1000 }, (_, i) => JSON.stringify({ step: i + 1, loss: 8 - i / 200 }))
  .concat([JSON.stringify({ step: 500, val_loss: 5.5 }), JSON.stringify({ step: 1000, val_loss: 3.25 })])
  .join("\n") + "\n";

Deno.test("the picture shows the losses of the run", () => {
  const svg = trainingPicture(parseMetrics(METRICS), 'a "run" of 1 < 2 & 3');
  const points = (kind: string) =>
    [...new RegExp(`<polyline class="${kind}" points="([^"]*)"`).exec(svg)![1]!.matchAll(
      /([\d.]+),([\d.]+)/g,
    )]
      .map(([, x, y]) => [Number(x), Number(y)] as const);
  const training = points("training");
  assert.equal(training.length, 240);
  for (let i = 1; i < training.length; i++) {
    assert.ok(training[i]![0] > training[i - 1]![0], "steps go to the right");
    assert.ok(training[i]![1] > training[i - 1]![1], "a falling loss goes down");
  }
  assert.equal(points("held").length, 2);
  assert.match(svg, />a &quot;run&quot; of 1 &lt; 2 &amp; 3</);
  assert.match(svg, /held out, 3\.250 at the end/);
  assert.doesNotMatch(svg, /NaN|undefined|Infinity/);
});

Deno.test("a run whose losses are all the same, or that held nothing out, has a picture", () => {
  const same = [1, 2, 3].map((step) => JSON.stringify({ step, loss: 2 })).join("\n");
  assert.doesNotMatch(trainingPicture(parseMetrics(same), "same"), /NaN|undefined|Infinity|class="dot"/);
});

Deno.test("a run of very many evaluations has a picture", () => {
  const training = [{ step: 1, loss: 3 }, { step: 200_000, loss: 1 }];
  const validation = Array.from({ length: 200_000 }, (_, i) => ({ step: i + 1, loss: 2 }));
  assert.match(trainingPicture({ training, validation }, "long"), /held out, 2\.000 at the end/);
});

Deno.test("metrics that are none are refused", () => {
  assert.throws(() => parseMetrics("{}"), /line 1: no step/);
  assert.throws(() => parseMetrics('{"step":1,"loss":1}\nhello'), /line 2: not JSON/);
  assert.throws(() => parseMetrics('{"step":1,"loss":1}\n'), /fewer than two steps/);
});
