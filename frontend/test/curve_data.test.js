// node --test: what is drawn, worked out of what was sent.
import assert from "node:assert/strict";
import test from "node:test";
import { bounds } from "../src/ui/bounds.js";
import { append, groupMetrics, shortName, smooth } from "../src/pages/runs/curve_data.js";

test("smoothing equals the weighted mean written out, from the first point on", () => {
  const [values, weight] = [[3, 1, 4, 1, 5, 9, 2, 6], 0.7];
  smooth(values, weight).forEach((found, i) => {
    const weights = values.slice(0, i + 1).map((_, j) => weight ** (i - j));
    const mean = weights.reduce((sum, w, j) => sum + w * values[j], 0) / weights.reduce((sum, w) => sum + w, 0);
    assert.ok(Math.abs(found - mean) < 1e-12, `${i}: ${found} is not ${mean}`);
  });
});

test("no weight leaves the values, and a gap stays a gap", () => {
  const values = [1, null, 3];
  assert.equal(smooth(values, 0), values);
  assert.deepEqual(smooth([2, null, 2], 0.5), [2, null, 2]);
});

test("points that come again replace the last ones", () => {
  const curve = { x: [1, 2, 3], y: [10, 20, 30], points: 3, means: { x: [1.5], y: [15] } };
  const grown = append(curve, { x: [3, 4], y: [31, 40] });
  assert.deepEqual([grown.x, grown.y], [[1, 2, 3, 4], [10, 20, 31, 40]]);
  assert.deepEqual(grown.means, { x: [1.5, 3, 4], y: [15, 31, 40] });
  assert.deepEqual(append(undefined, { x: [1], y: [2] }), { x: [1], y: [2], points: 1 });
});

test("known metrics share charts in our order, every other one has its own", () => {
  const groups = groupMetrics(["b/custom", "train/mfu", "validation/loss", "train/loss", "validation/loss/web"]);
  assert.deepEqual(groups.map((group) => [group.id, group.isMore]), [["loss", false], ["validation_sources", false], ["mfu", false], ["b/custom", true]]);
  assert.deepEqual(groups[0].metrics, ["train/loss", "validation/loss"]);
  assert.equal(shortName("validation/loss/web"), "validation, web");
});

test("axes have a width also where all values are as good as equal, or none", () => {
  const memory = { x: [1, 2, 3], y: [1596510000, 1596510000.0000002, 1596510000] };
  for (const logY of [false, true]) {
    const { y } = bounds([memory], { logX: false, logY, range: null });
    assert.ok(y[1] - y[0] > 1e6 && y[0] < 1596510000 && y[1] > 1596510000);
  }
  assert.deepEqual(bounds([], { logX: true, logY: false, range: null }), { x: [1, 10], y: [0, 1] });
  const { x } = bounds([{ x: [5, 50], y: [1, 2] }], { logX: false, logY: false, range: [7, 7] });
  assert.ok(x[0] < 7 && x[1] > 7);
  const log = bounds([{ x: [0, 5, 50], y: [-1, 2, 4] }], { logX: true, logY: true, range: null });
  assert.ok(log.x[0] > 0 && log.y[0] > 0);
});
