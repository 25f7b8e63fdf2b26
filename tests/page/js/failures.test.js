import assert from "node:assert/strict";
import { test } from "node:test";

import { read, written } from "./chain.js";
import { address, counted, filterOf, joined, said } from "./failures.js";
import { lineDifference } from "./letter.js";
import { sentenceOf } from "./stage_head.js";

test("A filter comes back from its address as it was, whatever its texts are", () => {
  for (const filter of [{}, { text: "a&b=c #?/%\u202e<img>" }, { reason: "error", attempt: 3, generation: 0, fault: "0f1e2d3c4b5a" }, { header: "k=v=w", attempt: "many" }]) {
    const hash = address("a/b ?", filter);
    assert.ok(hash.startsWith("#/failures/a%2Fb%20%3F"));
    assert.deepEqual(filterOf(new URLSearchParams(hash.split("?")[1])), filter);
  }
  assert.deepEqual(filterOf(new URLSearchParams("text=+&other=1&reason=")), {});
});

test("A fault is one row, with what is in the queue and what was counted; those with the most letters come first", () => {
  const queue = [{ key: "a", count: 1, first: 5 }, { key: "b", count: 9, first: 7, text: "new" }];
  const live = [{ key: "b", dead: 20, retried: 30, trend: [1], first: 2, text: "old" }, { key: "c", dead: 3 }, { key: "d", dead: 4 }];
  const rows = joined(queue, live);
  assert.deepEqual(rows.map((each) => [each.key, each.count, each.dead]), [["b", 9, 20], ["a", 1, undefined], ["d", 0, 4], ["c", 0, 3]]);
  assert.deepEqual(joined(null, live).map((each) => [each.key, each.count]), [["b", null], ["d", null], ["c", null]]);
  assert.deepEqual(rows[0], { key: "b", count: 9, dead: 20, retried: 30, trend: [1], first: 2, text: "new" });
});

test("An operation says how many it has moved, and what became of the others", () => {
  const of = { kind: "replay", state: "moving", done: 1200, wanted: 3000, gone: 0, unsure: 0, refused: 0, reason: "" };
  assert.equal(said(of), "moving: 1,200 of 3,000 replayed, 0 gone");
  assert.equal(said({ ...of, state: "done", done: 37, gone: 2 }), "37 replayed, 2 gone");
  assert.equal(said({ ...of, kind: "drop", state: "failed", unsure: 100, reason: "the broker is gone" }),
    "failed: 1,200 of 3,000 dropped, 0 gone, 100 may exist twice, the broker is gone");
});

test("An export is counted by what has come: its letters, and those without their bodies, wherever it is cut", async () => {
  const [full, cut] = ['{"headers":{"too_large":true},"properties_base64":"","body_text":"\\n"}\n', '{"properties_base64":"é","too_large":true,"body_base64":""}\n'];
  assert.deepEqual(await counted(new Blob([])), [0, 0]);
  assert.deepEqual(await counted(new Blob([full, cut, full])), [3, 1]);
  for (let before = 0; before < cut.length + 2; before++) {
    const filled = "é".repeat((1_048_574 - before) >> 1) + " ".repeat(before & 1) + "\n";
    assert.deepEqual(await counted(new Blob([filled, cut, full])), [3, 1]);
  }
});

test("The difference of two texts has all lines of both, and the longest common part once", () => {
  const draw = (one, other) => lineDifference(one, other).map(([sign, line]) => sign + line).join("|");
  assert.equal(draw("a\nb\nc", "a\nx\nc\nd"), " a|-b|+x| c|+d");
  assert.equal(draw("", "a"), "-|+a");
  assert.equal(draw("same\ntwice", "same\ntwice"), " same| twice");
  const [one, other] = [Array.from({ length: 1500 }, (_, n) => `${n * 7 % 11}`), Array.from({ length: 1500 }, (_, n) => `${n * 5 % 13}`)];
  const lines = lineDifference(one.join("\n"), other.join("\n"));
  assert.deepEqual(lines.filter(([sign]) => sign !== "+").map(([, line]) => line), one);
  assert.deepEqual(lines.filter(([sign]) => sign !== "-").map(([, line]) => line), other);
});

test("A change is stored, prepared, committed, or undone and why", () => {
  const change = { generation: 7, state: "preparing", ready: 2, wanted: 4, reason: null, left: 0 };
  assert.equal(sentenceOf(change), "Generation 7 is stored; prepared: 2 of 4 Consumers");
  assert.equal(sentenceOf({ ...change, state: "committed", left: 3 }), "Generation 7 is committed; 3 old ones left");
  assert.equal(sentenceOf({ generation: 7, state: "undone", seconds: 3.4, reason: "ImportError" }), "Generation 7 was undone 3.4 s ago: ImportError");
});

test("A chain comes back from its lines as it was; names, spaces and empty lines are as one likes", () => {
  const chain = [{ name: "read", job: "a.b:load", enabled: true }, { name: "run", job: 'exec:["x", "y=1"]', enabled: false }];
  assert.equal(written(chain), 'read = a.b:load\n# run = exec:["x", "y=1"]');
  assert.deepEqual(read(written(chain)), chain);
  assert.deepEqual(read("\n  a:b \n#c=d:e\n\n"), [{ name: undefined, job: "a:b", enabled: true }, { name: "c", job: "d:e", enabled: false }]);
});
