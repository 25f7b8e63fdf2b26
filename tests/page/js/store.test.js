import assert from "node:assert/strict";
import { test } from "node:test";

import { Store, begin, put, reduce, ring } from "./store.js";

const hello = (boot, n, now) => ({ type: "hello", data: { boot, n, now, role: "control" } });
const history = (from, values) => ({ type: "history", data: { stage: "work", every: 1, from, series: { in: values } } });
const end = (state, size) => Array.from(state.stages.work.rings[1].series.in.slice(-size));
const all = (events) => events.reduce(reduce, begin());

test("Points stand at their time, whatever the order; what nobody saw is NaN, and what is known stays", () => {
  const known = ring(1);
  put(known, 100, { in: 1 });
  put(known, 103, { in: 4 });
  put(known, 101, { in: 2 });
  put(known, 101, { in: null });
  assert.deepEqual(Array.from(known.series.in.slice(-5)), [NaN, 1, 2, NaN, 4]);
  put(known, 103 + 2000, { in: 9 });
  assert.deepEqual(Array.from(known.series.in.slice(-2)), [NaN, 9]);
  put(known, 50, { in: 7 }); // older than the ring
  assert.equal(known.series.in.filter((each) => !Number.isNaN(each)).length, 1);
});

test("After a restart of the service the old points stay, and the seconds without it are a gap", () => {
  const state = all([hello("a", 50, 1000), history(48, [7, 8, 9]), hello("b", 2, 1005), history(1, [5, 6])]);
  assert.deepEqual(end(state, 8), [7, 8, 9, NaN, NaN, NaN, 5, 6]);
});

test("Points that come twice are the same points", () => {
  const stage = (n, from, values) => ({ type: "stage", data: { name: "work", n, points: { from, series: { in: values } }, faults: [] } });
  const state = all([hello("a", 10, 1000), stage(10, 8, [1, 2, 3]), stage(11, 9, [2, 3, 4])]);
  assert.deepEqual(end(state, 5), [NaN, 1, 2, 3, 4]);
  assert.equal(state.stages.work.detail.n, 11);
});

test("Six hours that are asked for stand beside what the Feed tells", () => {
  const past = { type: "history", data: { stage: "work", boot: "a", every: 15, from: 30, until: 995, series: { in: [1, 2, 3] } } };
  const state = all([hello("a", 500, 1000), past]);
  assert.deepEqual(Array.from(state.stages.work.rings[15].series.in.slice(-4)), [NaN, 1, 2, 3]);
  assert.equal(state.stages.work.rings[15].end, Math.round((500 + 32 * 15) / 15));
});

test("2,000 log lines are kept, gaps are lines, a restart is one; clearing forgets none that is counted", () => {
  const lines = (from, size) => ({ type: "logs", data: { lines: Array.from({ length: size }, (_, n) => [from + n, { msg: `${from + n}` }]), gap: 0 } });
  let state = all([hello("a", 1, 1), lines(1, 1500), { type: "logs", data: { lines: [], gap: 37 } }, lines(2000, 600), hello("b", 1, 9)]);
  assert.equal(state.logs.lines.length, 2000);
  assert.equal(state.logs.seen, 2102);
  assert.deepEqual(state.logs.lines.filter((each) => each.gap).map((each) => each.gap), [37, "the service was started again"]);
  assert.equal(new Set(state.logs.lines.map((each) => each.key)).size, 2000);
  state = reduce(state, { type: "logs cleared" });
  assert.deepEqual([state.logs.lines.length, state.logs.seen], [0, 2102]);
});

test("Records of the audit are sorted and each is there once; operations and faults keep their newest state", () => {
  const state = all([
    { type: "audit", data: { records: [{ n: 2 }, { n: 1 }] } }, { type: "audit", data: { records: [{ n: 3 }, { n: 2 }] } },
    { type: "operations", data: { operations: [{ operation: "x", done: 1 }] } },
    { type: "operations", data: { operations: [{ operation: "x", done: 2 }] } },
  ]);
  assert.deepEqual(state.audit.map((each) => each.n), [3, 2, 1]);
  assert.deepEqual([...state.operations.values()], [{ operation: "x", done: 2 }]);
});

test("Events that are not known, and names of Object.prototype, change nothing", () => {
  const state = begin();
  for (const type of ["tick", "constructor", "__proto__", "toString"]) assert.equal(reduce(state, { type, data: {} }), state);
  const odd = reduce(state, { type: "stage", data: { name: "__proto__", n: 1, points: { from: 1, series: {} }, faults: [] } });
  assert.equal({}.detail, undefined);
  assert.ok(odd);
});

test("Subscribers hear once a frame, and only of parts that have changed", () => {
  const frames = [];
  const store = new Store((callback) => frames.push(callback));
  const heard = [];
  const stop = store.subscribe(["peers"], (state) => heard.push(state.peers.length));
  store.dispatch({ type: "peers", data: { peers: [1] } });
  store.dispatch({ type: "peers", data: { peers: [1, 2] } });
  store.dispatch({ type: "session", data: { role: "read" } });
  assert.equal(frames.length, 1);
  frames.pop()();
  store.dispatch({ type: "session", data: { role: "control" } });
  frames.pop()();
  assert.deepEqual(heard, [0, 2]);
  stop();
});
