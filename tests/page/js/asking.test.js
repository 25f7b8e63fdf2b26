import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import * as chain from "./chain.js";
import * as failures from "./failures.js";
import * as letter from "./letter.js";
import * as params from "./params.js";

// Nodes that take everything and only remember the texts that they are given; a clock and answers that the tests set.
const anything = (extra = {}) =>
  new Proxy(Object.assign(function () {}, extra), {
    get(node, key) {
      if (key === Symbol.toPrimitive) return () => "";
      if (key === Symbol.iterator) return function* () {};
      if (key === "contains") return () => false;
      if (key === "addEventListener") return (event, hear) => hears.push({ node, event, hear });
      if (key === "append") return (...children) => told.push(...children);
      if (!(key in node)) node[key] = anything();
      return node[key];
    },
    set(node, key, value) {
      if (key === "told") told.push(value);
      node[key] = value;
      return true;
    },
    apply: () => anything(),
  });
globalThis.document = anything();
globalThis.Node = class {};
globalThis.dispatchEvent = () => {};
globalThis.fetch = (path) => new Promise((answer) => open.push({ path: path.replace(/^.*stages/, ""), answer }));
let [now, open, told, hears] = [0, [], [], []];
performance.now = () => now;
beforeEach(() => ([now, open, told, hears] = [0, [], [], []]));

const state = { link: { state: "live" }, stages: {}, role: "control", operations: new Map() };
const route = (query = "") => ({ parts: ["s", "0011223344556677"], query: new URLSearchParams(query) });

async function answer(status, data = { detail: "why" }) {
  const headers = new Headers({ "Content-Type": "application/json" });
  open.shift().answer({ ok: status < 300, status, headers, text: async () => JSON.stringify(data) });
  await new Promise(setImmediate);
}

function pass(view, seconds, query) {
  for (const end = now + seconds * 1000; now < end; ) {
    now += 1000;
    view.update(state, route(query));
  }
}

const LETTER = { header_rows: [], preview: { kind: "json", text: "{}", complete: true }, equal: "1", size: "2" };
const PARAMS = { params: { a: 1 }, generation: 1, history: [], back: null };

test("However late answers come, a letter, the parameters and the chain have one question under way", async () => {
  for (const [{ view }, asked] of [[letter, 1], [params, 2], [chain, 2]]) {
    const shown = view(route());
    pass(shown, 30);
    assert.equal(open.length, asked);
    while (open.length) await answer(503);
    pass(shown, 30);
    assert.equal(open.length, asked);
    open = [];
  }
});

test("A letter that is there is drawn once, one that is gone is never asked for again", async () => {
  for (const [status, data] of [[200, LETTER], [404, undefined], [422, undefined]]) {
    const shown = letter.view(route());
    pass(shown, 1);
    await answer(status, data);
    pass(shown, 3600);
    assert.deepEqual(open, []);
    assert.equal(told.at(-1) === "It is no longer there.", status === 404);
  }
});

test("A letter that the service cannot show by now is asked for with pauses that grow to a minute", async () => {
  const shown = letter.view(route());
  const pauses = [];
  for (let before = (pass(shown, 1), now); pauses.length < 7; before = now) {
    await answer(503);
    while (!open.length) pass(shown, 1);
    pauses.push((now - before) / 1000);
  }
  assert.deepEqual(pauses, [4, 7, 13, 25, 49, 61, 61]);
  await answer(200, LETTER);
  pass(shown, 3600);
  assert.deepEqual(open, []);
});

test("The difference shown is the one to the letter that was asked for last, whichever answer comes first", async () => {
  const shown = letter.view(route());
  pass(shown, 1);
  await answer(200, LETTER);
  pass(shown, 1, "with=one");
  pass(shown, 1, "with=two");
  assert.deepEqual(open.map(({ path }) => path.slice(-3)), ["one", "two"]);
  open.reverse();
  await answer(200, LETTER);
  await answer(200, LETTER);
  assert.deepEqual(told.filter((each) => ["one", "two"].includes(each)), ["two"]);
});

test("A form that cannot be had by now is not taken for none: it is asked for again, and then drawn", async () => {
  const shown = params.view(route());
  pass(shown, 1);
  await answer(200, PARAMS);
  await answer(503);
  assert.ok(told.includes("Generation 1; no form from the handler yet: why"));
  pass(shown, 4);
  await answer(200, PARAMS);
  await answer(200, { schema: { type: "object", properties: { a: { type: "integer", description: "Its meaning" } } }, defaults: {} });
  assert.ok(told.includes("Generation 1"));
  assert.ok(told.some((each) => String(each).includes("Its meaning")));
  pass(shown, 60);
  assert.deepEqual(open, []);
});

test("A selection says when it may not be all that fits, but for letters that were ticked one by one", async () => {
  const dead_letters = [{ id: "a", attempt: 1, size: 2, text: "" }];
  for (const [complete, label, said] of [[true, "Select 1 matching", false], [false, "Select 1 matching", true], [false, "Select the 1 ticked", false]]) {
    [told, hears, open] = [[], [], []];
    pass(failures.view(route()), 1);
    open = open.filter(({ path }) => path.includes("/dlq?"));
    await answer(200, { dead_letters, matched: 1, total: 1, complete: true, as_of: 0, next: null });
    const box = hears.find(({ event }) => event === "change");
    box.node.checked = label.includes("ticked");
    box.hear();
    hears.find(({ node }) => node.told === label).hear();
    assert.ok(open[0].path.endsWith("/selections"));
    await answer(201, { selection: "x", count: 1, oldest: 0, newest: 0, expires: 0, complete });
    const sentence = told.find((each) => String(each).includes("and frozen"));
    assert.equal(sentence.includes("perhaps not all"), said);
  }
});
