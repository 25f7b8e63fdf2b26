// One stage: its controls, the change in progress, its charts and Consumers; parameters and chain below the same head.
//
// Receives `stage` once a second, with the points of the last second. Six hours are asked for when they are shown.

import { at, call } from "./api.js";
import * as chain from "./chain.js";
import { Chart, hatch, latest } from "./chart.js";
import { consumers } from "./consumers.js";
import { act, confirm } from "./dialog.js";
import { attr, h, keyed, text } from "./dom.js";
import { count, figure, plural, rate, seconds } from "./format.js";
import { dot, togglePause } from "./overview.js";
import * as params from "./params.js";
import { store } from "./store.js";

const CHARTS = [
  ["Messages a second", [["in", "in", "one"], ["result", "out", "two"], ["dropped", "dropped", "three"]], figure],
  ["Time in handlers", [["p50", "p50", "one"], ["p95", "p95", "two"], ["p99", "p99", "three"]], seconds],
  ["Backlog", [["backlog", "ready", "one"], ["unfinished", "unfinished", "two"]], count],
  ["Failures a second", [["retried", "retried", "two"], ["dead", "dead letters", "bad"]], figure],
];
const RANGES = { 1: "15 minutes", 15: "6 hours" };
const REFRESH = 15_000; // ms, of the six hours

export function view({ parts: [name] }) {
  const why = h("p", { class: "why" });
  const controls = commands(name);
  const change = h("p", { class: "row change", hidden: true });
  const [told, progress] = [h("span"), h("progress")];
  change.append(progress, told);
  const tabs = [["", "Now"], ["params", "Parameters"], ["chain", "Chain"]].map(([tab, label]) =>
    h("a", { href: at`#/stage/${name}` + (tab && `/${tab}`), "data-tab": tab, text: label }));
  const failures = h("a", { href: at`#/failures/${name}`, text: "Failures" });
  const now = present(name);
  const below = h("div", {}, now.root);
  const embedded = { params: null, chain: null };
  let shown = "";

  return {
    root: h("div", {}, hatch(),
      h("div", { class: "row head" }, h("h1", { text: name }), controls.root), why, change,
      h("nav", { class: "tabs", "aria-label": `Parts of stage ${name}` }, tabs, failures), below),
    topics: () => [`stage:${name}`, ...(shown in embedded ? embedded[shown].topics : [])],
    update(state, route) {
      const tab = route.parts[1] in embedded ? route.parts[1] : "";
      if (tab) embedded[tab] ??= (tab === "params" ? params : chain).view(route);
      if (tab !== shown) below.replaceChildren((embedded[tab] ?? now).root);
      shown = tab;
      for (const each of tabs) attr(each, "aria-current", each.dataset.tab === tab ? "page" : null);
      const summary = state.overview?.stages.find((each) => each.name === name);
      const known = state.stages[name];
      if (state.overview && !summary) return dot(why, "error", `There is no stage ${name} in this service.`);
      if (summary) dot(why, summary.why.level, summary.why.sentence);
      const letters = summary?.dead_backlog;
      text(failures, letters ? `Failures (${plural(letters, "dead letter")})` : "Failures");
      if (known?.detail) {
        controls.update(known.detail);
        showChange(change, told, progress, known.detail.change);
      }
      if (tab) embedded[tab].update(state, route);
      else if (known) now.update(known, state.overview);
    },
    close() {
      now.close();
      for (const each of Object.values(embedded)) each?.close?.();
    },
  };
}

// Pause, - and +, restart, stop or start.
function commands(name) {
  let detail = null;
  const button = (label, click, kind = "") => h("button", { type: "button", class: `command ${kind}`, text: label, on: { click } });
  const pause = button("Pause", () => togglePause(name));
  const scale = (step) => () => {
    const wanted = Number(number.dataset.wanted) + step;
    number.dataset.wanted = wanted; // a second press goes on from here
    act(`${plural(wanted, "Consumer")} of ${name}`, "PUT", at`stages/${name}/consumers`, { count: wanted }, { stage: name });
  };
  const [less, more] = [button("−", scale(-1)), button("+", scale(1))];
  const number = h("b", { class: "count", "data-wanted": 0 });
  const restart = button("Restart", async () => {
    const sentence = "New Consumers with the code that is in the folder take the place of the present ones, once they are set up.";
    if (await confirm(`Restart the Consumers of ${name}?`, sentence, "Restart")) {
      act(`New Consumers of ${name}`, "POST", at`stages/${name}/restart`, {});
    }
  });
  const stop = button("Stop …", async () => {
    if (!detail.desired.running) return act(`Stage ${name} is started`, "POST", at`stages/${name}/start`, undefined, { stage: name });
    const sentence = "It finishes what it has in hand, then its processes end. Messages wait in its queue until it is started.";
    if (!(await confirm(`Drain and stop ${name}?`, sentence, "Drain and stop", { danger: true }))) return undefined;
    return act(`Stage ${name} is to stop`, "POST", at`stages/${name}/stop`, undefined, { stage: name });
  });
  const auto = h("span", { class: "muted", hidden: true, text: "auto" });
  attr(less, "aria-label", `One Consumer less for ${name}`);
  attr(more, "aria-label", `One Consumer more for ${name}`);
  attr(restart, "aria-label", `Restart the Consumers of ${name}`);
  const root = h("div", { class: "row" }, pause, h("span", { class: "scale", role: "group", "aria-label": "Consumers" },
    h("span", { class: "muted", text: "Consumers" }), less, number, more, auto), restart, stop);
  return {
    root,
    update(fresh) {
      const { desired } = fresh;
      if (detail === null || detail.desired.consumers !== desired.consumers) number.dataset.wanted = desired.consumers;
      detail = fresh;
      text(number, number.dataset.wanted);
      text(pause, desired.listening ? "Pause" : "Resume");
      attr(pause, "aria-label", `${desired.listening ? "Pause" : "Resume"} stage ${name}`);
      less.disabled = desired.auto || Number(number.dataset.wanted) === 0;
      more.disabled = desired.auto;
      auto.hidden = !desired.auto;
      attr(auto, "title", "mqworker shares service.processes among the stages");
      text(stop, desired.running ? "Stop …" : "Start");
      attr(stop, "aria-label", `${desired.running ? "Stop" : "Start"} stage ${name}`);
    },
  };
}

// stored → prepared n/N → committed, or undone and why.
export function sentenceOf(change) {
  const { state, generation, ready, wanted, on_trial: trial, left, reason, update } = change;
  if (state === "preparing") return `Generation ${generation} is stored${wanted ? ` and prepared: ${ready} of ${wanted} Consumers are set up` : ""}`;
  if (state === "undone") return `Generation ${generation} was undone ${seconds(change.seconds)} ago: ${reason}`;
  const what = [trial && `${plural(trial, "Consumer")} still to prove it`, left && `${left} of the old ones left`, update, reason];
  return `Generation ${generation} is committed${what.some(Boolean) ? `: ${what.filter(Boolean).join(", ")}` : ""}`;
}

function showChange(root, told, progress, change) {
  root.hidden = !change;
  if (!change) return;
  text(told, sentenceOf(change));
  attr(root, "class", `row change ${change.state === "undone" ? "error" : ""}`);
  progress.hidden = change.state !== "preparing";
  attr(progress, "aria-label", "Consumers set up");
  progress.max = change.wanted || 1;
  progress.value = change.ready ?? 0;
}

// Figures, charts and Consumers.
function present(name) {
  const figures = h("dl", { class: "figures" });
  const charts = CHARTS.map((each) => new Chart(...each));
  const table = consumers(name);
  let every = 1;
  const ranges = Object.entries(RANGES).map(([key, label]) => h("button", {
    type: "button", class: "small", "data-every": key, text: label, on: { click: () => choose(Number(key)) },
  }));
  const timer = setInterval(() => every === 15 && !document.hidden && ask(), REFRESH);
  let seen = null;

  async function ask() {
    const answer = await call("GET", at`stages/${name}/history` + "?seconds=21600");
    if (answer.ok) store.dispatch({ type: "past", data: { stage: name, ...answer.data } });
  }
  function choose(key) {
    every = key;
    if (key === 15) ask();
    if (seen) draw();
  }
  function draw() {
    for (const each of ranges) attr(each, "aria-pressed", String(Number(each.dataset.every) === every));
    for (const each of charts) each.update(seen.rings[every]);
  }

  return {
    root: h("div", {}, h("div", { class: "row head" }, figures, h("div", { class: "row push", role: "group", "aria-label": "Time" }, ranges)),
      h("div", { class: "grid" }, charts.map((each) => each.root)), table.root),
    update(known) {
      if (seen?.rings !== known.rings) {
        seen = known;
        draw();
      }
      const { detail } = known;
      if (!detail) return;
      const { actual, unfinished, seconds_left: left, growing } = detail;
      const point = (series) => latest(known.rings[1].series[series]);
      const facts = [
        ["Out", rate(actual?.rate)], ["Backlog", count(actual?.backlog)], ["Unfinished", count(unfinished)],
        ["Done in", growing ? "never: growing" : seconds(left)], ["p95", seconds(actual?.p95)], ["Busy", percent(point("busy"))],
        ["In hand", count(actual && actual.held + actual.dispatched)], ["Generation", detail.desired.generation],
      ];
      const make = ([label]) => h("div", {}, h("dt", { text: label }), h("dd"));
      keyed(figures, facts, ([label]) => label, make, (node, [, value]) => text(node.lastChild, value));
      table.update(detail, detail.second ?? known.rings[1].end);
    },
    close: () => clearInterval(timer),
  };
}

function percent(share) {
  return Number.isNaN(share) ? "–" : `${Math.round(100 * share)} %`;
}
