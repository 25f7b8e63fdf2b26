// One stage: its controls, the change in progress, its charts and Consumers; parameters and chain below the same head.
//
// Receives `stage` once a second, with the points of the last second. Six hours are asked for when they are shown.

import { at, call } from "./api.js";
import * as chain from "./chain.js";
import { Chart, hatch, latest } from "./chart.js";
import { consumers } from "./consumers.js";
import { act, confirm } from "./dialog.js";
import { attr, button, dot, h, keyed, text } from "./dom.js";
import { count, figure, plural, rate, seconds } from "./format.js";
import { showPause, togglePause } from "./overview.js";
import * as params from "./params.js";
import { store } from "./store.js";

const CHARTS = [
  ["Messages a second", [["in", "in", "one"], ["result", "out", "two"], ["dropped", "dropped", "three"]], figure],
  ["Time in handlers", [["p50", "p50", "one"], ["p95", "p95", "two"], ["p99", "p99", "three"]], seconds],
  ["Backlog", [["backlog", "ready", "one"], ["unfinished", "unfinished", "two"]], count],
  ["Failures a second", [["retried", "retried", "two"], ["dead", "dead letters", "bad"]], figure],
];
const RANGES = [["15 minutes", 1], ["6 hours", 15]]; // and seconds of a point
const REFRESH = 15_000; // ms, of the six hours
const TABS = [["", "Now"], ["params", "Parameters", params], ["chain", "Chain", chain]];

export function view({ parts: [name] }) {
  const why = h("p");
  const controls = commands(name);
  const progress = h("progress", { "aria-label": "Consumers set up" });
  const told = h("span");
  const change = h("p", { class: "row", hidden: true }, progress, told);
  const links = TABS.map(([tab, label]) => h("a", { href: at`#/stage/${name}` + (tab && `/${tab}`), text: label }));
  const failures = h("a", { href: at`#/failures/${name}` });
  const made = { "": present(name) }; // by tab
  const below = h("div");
  let shown;

  return {
    root: h("div", {}, hatch(), h("div", { class: "row head" }, h("h1", { text: name }), controls.root), why, change,
      h("nav", { class: "tabs", "aria-label": `Parts of stage ${name}` }, links, failures), below),
    topics: () => [`stage:${name}`],
    update(state, route) {
      const [tab, , module] = TABS.find(([each]) => each === route.parts[1]) ?? TABS[0];
      made[tab] ??= module.view(route);
      if (shown !== tab) below.replaceChildren(made[tab].root);
      shown = tab;
      links.forEach((link, index) => attr(link, "aria-current", TABS[index][0] === tab ? "page" : null));
      const summary = state.overview?.stages.find((each) => each.name === name);
      if (summary) dot(why, summary.why.level, summary.why.sentence);
      else if (state.overview) dot(why, "error", `There is no stage ${name} in this service.`);
      text(failures, summary?.dead_backlog ? `Failures (${plural(summary.dead_backlog, "dead letter")})` : "Failures");
      const detail = state.stages[name]?.detail;
      if (detail) {
        controls.update(detail);
        showChange(change, told, progress, detail.change);
      }
      made[tab].update(state, route);
    },
    close: () => Object.values(made).forEach((each) => each.close?.()),
  };
}

// Pause, - and +, restart, stop or start.
function commands(name) {
  let detail = null;
  let wanted = 0; // a second press goes on from the first one
  const pause = button("", () => togglePause(name), null, "command");
  const scale = (step) => () => {
    wanted += step;
    text(number, wanted);
    act(`${plural(wanted, "Consumer")} of ${name}`, "PUT", at`stages/${name}/consumers`, { count: wanted }, { stage: name });
  };
  const less = button("−", scale(-1), `One Consumer less for ${name}`, "command");
  const more = button("+", scale(1), `One Consumer more for ${name}`, "command");
  const number = h("b");
  const auto = h("span", { class: "muted", title: "service.processes are shared among the stages", text: "auto" });
  const restart = button("Restart", async () => {
    const sentence = "New Consumers with the code that is in the folder take the place of the present ones, once they are set up.";
    if (await confirm(`Restart the Consumers of ${name}?`, sentence, "Restart")) {
      act(`New Consumers of ${name}`, "POST", at`stages/${name}/restart`, {});
    }
  }, `Restart the Consumers of ${name}`, "command");
  const stop = button("", async () => {
    if (!detail.desired.running) return act(`${name} is started`, "POST", at`stages/${name}/start`, undefined, { stage: name });
    const sentence = "It finishes what it has in hand, then its processes end. Messages wait in its queue until it is started.";
    const sure = await confirm(`Drain and stop ${name}?`, sentence, "Drain and stop", { danger: true });
    return sure && act(`${name} is to stop`, "POST", at`stages/${name}/stop`, undefined, { stage: name });
  }, null, "command");
  return {
    root: h("div", { class: "row" }, pause, h("span", { class: "row scale", role: "group", "aria-label": "Consumers" },
      h("span", { class: "muted", text: "Consumers" }), less, number, more, auto), restart, stop),
    update(fresh) {
      const { desired } = fresh;
      if (detail?.desired.consumers !== desired.consumers) wanted = desired.consumers;
      detail = fresh;
      text(number, wanted);
      less.disabled = desired.auto || wanted === 0;
      more.disabled = desired.auto;
      auto.hidden = !desired.auto;
      showPause(pause, name, desired.listening);
      text(stop, desired.running ? "Drain …" : "Start");
      attr(stop, "aria-label", `${desired.running ? "Drain and stop" : "Start"} stage ${name}`);
    },
  };
}

// stored → prepared n/N → committed, or undone and why.
export function sentenceOf({ state, generation, ready, wanted, on_trial: trial, left, reason, seconds: ago }) {
  if (state === "preparing") return `Generation ${generation} is stored; prepared: ${ready} of ${wanted || "…"} Consumers`;
  if (state === "undone") return `Generation ${generation} was undone ${seconds(ago)} ago: ${reason}`;
  const more = [trial && "it has not finished a message yet", left && `${left} old ones left`, reason];
  return [`Generation ${generation} is committed`, more.filter(Boolean).join(", ")].filter(Boolean).join(": ");
}

function showChange(root, told, progress, change) {
  root.hidden = !change;
  if (!change) return;
  text(told, sentenceOf(change));
  attr(told, "class", change.state === "undone" ? "error" : null);
  progress.hidden = change.state !== "preparing";
  progress.max = change.wanted || 1;
  progress.value = change.ready ?? 0;
}

// Figures, charts and Consumers.
function present(name) {
  const figures = h("dl", { class: "figures" });
  const charts = CHARTS.map((each) => new Chart(...each));
  const rows = consumers(name);
  let every = 1;
  let rings = null;
  const ranges = RANGES.map(([label, key]) => button(label, () => choose(key), null, "small"));
  const timer = setInterval(() => every === 15 && !document.hidden && past(), REFRESH);

  async function past() {
    const { ok, data } = await call("GET", at`stages/${name}/history` + "?seconds=21600");
    if (ok) store.dispatch({ type: "past", data: { stage: name, ...data } });
  }
  function choose(key) {
    every = key;
    if (key === 15) past();
    draw();
  }
  function draw() {
    ranges.forEach((each, index) => attr(each, "aria-pressed", String(RANGES[index][1] === every)));
    if (rings) for (const each of charts) each.update(rings[every]);
  }

  return {
    root: h("div", {}, h("div", { class: "row head" }, figures, h("div", { class: "row", role: "group", "aria-label": "Time" }, ranges)),
      h("div", { class: "grid" }, charts.map((each) => each.root)), rows.root),
    update({ stages: { [name]: known } }) {
      if (!known) return;
      if (rings !== known.rings) {
        ({ rings } = known);
        draw();
      }
      const { detail } = known;
      if (!detail) return;
      const { actual, unfinished, seconds_left: left, growing, desired } = detail;
      const busy = latest(rings[1].series.busy);
      const facts = [
        ["Out", rate(actual?.rate)], ["Backlog", count(actual?.backlog)], ["Unfinished", count(unfinished)],
        ["Done in", growing ? "never: growing" : seconds(left)], ["p95", seconds(actual?.p95)],
        ["Busy", Number.isNaN(busy) ? "–" : `${Math.round(100 * busy)} %`],
        ["In hand", count(actual && actual.held + actual.dispatched)], ["Generation", desired.generation],
      ];
      const make = ([label]) => h("div", {}, h("dt", { text: label }), h("dd"));
      keyed(figures, facts, ([label]) => label, make, (node, [, value]) => text(node.lastChild, value));
      rows.update(detail);
    },
    close: () => clearInterval(timer),
  };
}
