// One stage: its figures, charts and Consumers, or its parameters or chain, below the same head.
//
// Receives `stage` once a second, with the points of the last second. Six hours are asked for when they are shown.

import { at, call } from "./api.js";
import * as chain from "./chain.js";
import { Chart, hatch, latest } from "./chart.js";
import { consumers } from "./consumers.js";
import { attr, button, h, keyed, text } from "./dom.js";
import { count, figure, percent, plural, rate, seconds } from "./format.js";
import * as params from "./params.js";
import { head } from "./stage_head.js";
import { store } from "./store.js";

const CHARTS = [
  ["Messages a second", [["in", "in", "one"], ["result", "out", "two"], ["dropped", "dropped", "three"]], figure],
  ["Time in handlers", [["p50", "p50", "one"], ["p95", "p95", "two"], ["p99", "p99", "three"]], seconds],
  ["Backlog", [["backlog", "ready", "one"], ["unfinished", "unfinished", "two"]], figure],
  ["Failures a second", [["retried", "retried", "two"], ["dead", "dead letters", "bad"]], figure],
];
const RANGES = [["15 minutes", 1], ["6 hours", 15]]; // and seconds of a point
const REFRESH = 15_000; // ms, of the six hours

export function view({ parts: [name] }) {
  const top = head(name);
  const made = { "": present(name) }; // by tab
  const below = h("div");

  return {
    root: h("div", {}, hatch(), top.root, below),
    topics: [`stage:${name}`],
    update(state, route) {
      const tab = ["params", "chain"].find((each) => each === route.parts[1]) ?? "";
      made[tab] ??= (tab === "chain" ? chain : params).view(route);
      if (below.firstChild !== made[tab].root) below.replaceChildren(made[tab].root);
      top.update(state, tab);
      made[tab].update(state, route);
    },
    close: () => Object.values(made).forEach((each) => each.close?.()),
  };
}

// Figures, charts and Consumers.
function present(name) {
  const figures = h("dl", { class: "figures" });
  const charts = CHARTS.map((each) => new Chart(...each));
  const rows = consumers(name);
  const ranges = RANGES.map(([label, each]) => button(label, () => choose(each), null, "small"));
  const timer = setInterval(() => every === 15 && !document.hidden && choose(15), REFRESH);
  let every = 1;
  let rings;

  async function choose(seconds) {
    every = seconds;
    draw();
    if (seconds === 1) return;
    const { ok, data } = await call("GET", at`stages/${name}/history` + "?seconds=21600");
    if (ok && data.boot === store.state.boot) store.dispatch({ type: "history", data: { stage: name, ...data } });
  }
  function draw() {
    ranges.forEach((each, index) => attr(each, "aria-pressed", String(RANGES[index][1] === every)));
    for (const each of charts) each.update(rings?.[every]);
  }

  return {
    root: h("div", {}, h("div", { class: "row head" }, figures, h("div", { class: "row", role: "group", "aria-label": "Time" }, ranges)),
      h("div", { class: "grid" }, charts.map((each) => each.root)), rows.root),
    update({ stages: { [name]: known } }) {
      if (rings !== known?.rings) {
        ({ rings } = known);
        draw();
      }
      if (!known?.detail) return;
      const { actual, unfinished, seconds_left: left, growing, desired } = known.detail;
      const facts = Object.entries({
        Out: rate(actual?.rate), Backlog: count(actual?.backlog), Unfinished: count(unfinished),
        "Done in": growing ? "never: growing" : seconds(left), p95: seconds(actual?.p95), Busy: percent(latest(rings[1].series.busy)),
        "In hand": count(actual && actual.held + actual.dispatched), Generation: generation(desired, actual),
      });
      const make = ([label]) => h("div", {}, h("dt", { text: label }), h("dd"));
      keyed(figures, facts, ([label]) => label, make, (node, [, value]) => text(node.lastChild, value));
      rows.update(known.detail);
    },
    close: () => clearInterval(timer),
  };
}

// The wanted generation, and which Consumers work with an older one.
function generation({ generation: wanted }, actual) {
  const behind = actual?.consumers.filter((each) => each.pid && each.generation < wanted) ?? [];
  const one = behind.length === 1 && `Consumer ${behind[0].slot} (${behind[0].generation})`;
  return wanted + (behind.length ? `, not yet in ${one || plural(behind.length, "Consumer")}` : "");
}
