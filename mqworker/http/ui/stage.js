// One stage: its controls, the change in progress, its charts and Consumers; parameters and chain below the same head.
//
// Receives `stage` once a second, with the points of the last second. Six hours are asked for when they are shown.

import { at, call } from "./api.js";
import * as chain from "./chain.js";
import { Chart, hatch, latest } from "./chart.js";
import { consumers } from "./consumers.js";
import { act, confirm } from "./dialog.js";
import { attr, button, dot, h, keyed, text } from "./dom.js";
import { count, figure, percent, plural, rate, seconds } from "./format.js";
import { label, togglePause } from "./overview.js";
import * as params from "./params.js";
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
  const why = h("p");
  const controls = commands(name);
  const [progress, told] = [h("progress", { "aria-label": "Consumers set up" }), h("span")];
  const change = h("p", { class: "row" }, progress, told);
  const link = (tab, label) => h("a", { href: at`#/stage/${name}` + (tab && `/${tab}`), "data-tab": tab, text: label });
  const links = [link("", "Now"), link("params", "Parameters"), link("chain", "Chain")];
  const failures = h("a", { href: at`#/failures/${name}` });
  const made = { "": present(name) }; // by tab
  const below = h("div");

  return {
    root: h("div", {}, hatch(), h("div", { class: "row head" }, h("h1", { text: name }), controls.root), why, change,
      h("nav", { class: "tabs", "aria-label": `Parts of stage ${name}` }, links, failures), below),
    topics: [`stage:${name}`],
    update(state, route) {
      const tab = ["params", "chain"].find((each) => each === route.parts[1]) ?? "";
      made[tab] ??= (tab === "chain" ? chain : params).view(route);
      if (below.firstChild !== made[tab].root) below.replaceChildren(made[tab].root);
      for (const each of links) attr(each, "aria-current", each.dataset.tab === tab && "page");
      const summary = state.overview?.stages.find((each) => each.name === name);
      dot(why, summary?.why.level, summary?.why.sentence ?? (state.overview && "There is no such stage in this service."));
      text(failures, summary?.dead_backlog ? `Failures (${plural(summary.dead_backlog, "dead letter")})` : "Failures");
      const detail = state.stages[name]?.detail;
      const { state: step, wanted, ready } = detail?.change ?? {};
      change.hidden = !step;
      if (step) text(told, sentenceOf(detail.change));
      attr(told, "class", step === "undone" ? "error" : null);
      Object.assign(progress, { hidden: step !== "preparing", max: wanted || 1, value: ready ?? 0 });
      controls.root.hidden = !detail;
      if (detail) controls.update(detail);
      made[tab].update(state, route);
    },
    close: () => Object.values(made).forEach((each) => each.close?.()),
  };
}

// Pause, - and +, restart, stop or start.
function commands(name) {
  let desired = {};
  let wanted = 0; // a second press goes on from the first one
  let sending = false;
  let newest = 0; // the revision of the last that was sent: what is told of an older one is no longer wanted
  const send = (what, method, verb, body) => act(what, method, at`stages/${name}/` + verb, body, { stage: name });
  const scale = (step) => async () => {
    show(wanted + step);
    if (sending) return; // what is under way sends it afterwards
    sending = true;
    for (let sent; sent !== wanted; ) {
      sent = wanted;
      const { ok, data } = await send(`${plural(sent, "Consumer")} of ${name}`, "PUT", "consumers", { count: sent });
      if (ok) newest = data.revision;
      else show((sent = desired.consumers));
    }
    sending = false;
  };
  function show(consumers) {
    wanted = consumers;
    text(number, wanted);
    less.disabled = desired.auto || wanted === 0;
    more.disabled = desired.auto;
  }
  const command = (sign, click, says = null) => button(sign, click, says && `${says} ${name}`, "command");
  const pause = command("", () => togglePause(name));
  const less = command("−", scale(-1), "One Consumer less for");
  const more = command("+", scale(1), "One Consumer more for");
  const number = h("b");
  const auto = h("span", { class: "muted", title: "service.processes are shared among the stages", text: "auto" });
  const restart = command("Restart", async () => {
    const sentence = "New Consumers with the code that is in the folder take the place of the present ones, once they are set up.";
    if (await confirm(`Restart the Consumers of ${name}?`, sentence, "Restart")) send(`New Consumers of ${name}`, "POST", "restart", {});
  }, "Restart the Consumers of");
  const stop = command("", async () => {
    if (!desired.running) return send(`${name} is started`, "POST", "start");
    const sentence = "It finishes what it has in hand, then its processes end. Messages wait in its queue until it is started.";
    const sure = await confirm(`Drain and stop ${name}?`, sentence, "Drain and stop", { danger: true });
    return sure && send(`${name} is to stop`, "POST", "stop");
  });
  return {
    root: h("div", { class: "row" }, pause, h("span", { class: "row scale", role: "group", "aria-label": "Consumers" },
      h("span", { class: "muted", text: "Consumers" }), less, number, more, auto), restart, stop),
    update(detail) {
      ({ desired } = detail);
      show(sending || detail.revision < newest ? wanted : desired.consumers);
      auto.hidden = !desired.auto;
      label(pause, desired.listening ? "Pause" : "Resume", `stage ${name}`);
      label(stop, desired.running ? "Drain …" : "Start", `stage ${name}`);
    },
  };
}

// stored → prepared n/N → committed, or undone and why.
export function sentenceOf({ state, generation, ready, wanted, on_trial: trial, left, reason, seconds: ago }) {
  if (state === "preparing") return `Generation ${generation} is stored; prepared: ${ready} of ${wanted || "…"} Consumers`;
  if (state === "undone") return `Generation ${generation} was undone ${seconds(ago)} ago: ${reason}`;
  const more = [`Generation ${generation} is committed`, trial && "it has not finished a message yet", left && `${left} old ones left`, reason];
  return more.filter(Boolean).join("; ");
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
        "In hand": count(actual && actual.held + actual.dispatched), Generation: desired.generation,
      });
      const make = ([label]) => h("div", {}, h("dt", { text: label }), h("dd"));
      keyed(figures, facts, ([label]) => label, make, (node, [, value]) => text(node.lastChild, value));
      rows.update(known.detail);
    },
    close: () => clearInterval(timer),
  };
}
