import assert from "node:assert/strict";
import { test } from "node:test";

import { ceiling, gaps, path, span } from "./chart.js";

const numbers = (d) => (d.match(/-?[\d.]+/g) ?? []).map(Number);

test("The axis ends at the next of 1, 2, 5, 10 …", () => {
  const cases = [[0, 1], [NaN, 1], [0.03, 0.05], [1, 1], [1.01, 2], [4.2, 5], [99, 100], [100, 100], [123_456, 200_000]];
  for (const [most, wanted] of cases) assert.ok(Math.abs(ceiling(most) - wanted) < 1e-9 * wanted, `${most}: ${ceiling(most)}`);
});

test("Few points are drawn each; NaN lifts the pen, and a point alone is a dot", () => {
  assert.equal(path(Float64Array.of(0, 10, NaN, 5), 30, 100, 10), "M0.0 100.0L10.0 0.0M30.0 50.0m-1.5 0h3m-1.5-1.5v3");
  assert.equal(path(new Float64Array(5).fill(NaN), 30, 100, 10), "");
});

test("Of many points each column keeps its least and its greatest: one peak in six hours is seen", () => {
  const values = new Float64Array(1440).fill(1);
  values[700] = 50;
  const d = path(values, 200, 100, 50);
  assert.ok(d.split(/[ML]/).length <= 2 * 200 + 1);
  assert.equal(Math.min(...numbers(d).filter((_, index) => index % 2)), 0); // the peak reaches the top
});

test("A gap is where nothing is known between two known points, not before the first nor after the last", () => {
  assert.deepEqual(gaps(Float64Array.of(NaN, NaN, NaN, 1, 2, NaN, NaN, 3, NaN, 4, NaN), 100), [[40, 30], [70, 20]]);
});

test("The axis begins with the first point that is known, and has at least two minutes", () => {
  const known = (from) => new Float64Array(900).fill(NaN, 0, from);
  assert.deepEqual([0, 1, 600, 850, 900].map((from) => span(known(from))), [900, 899, 300, 120, 120]);
});
