// The overview: one line a stage with why it does what it does, how stages follow each other, sources, shared objects, and
// other services (read only). Receives `overview`, `history` (the last minute) and `peers`.

import { at } from "./api.js";
import { Spark } from "./chart.js";
import { act, confirm } from "./dialog.js";
import { attr, h, keyed, text } from "./dom.js";
import { bytes, count, plural, rate, seconds, time } from "./format.js";
import { store } from "./store.js";

export function view() {
  const sentence = h("p", { class: "muted" });
  const drain = h("button", { type: "button", class: "command", text: "Drain the service …", on: { click: drainService } });
  const stages = h("tbody");
  const line = h("ol", { class: "line-of-stages", "aria-label": "How stages follow each other" });
  const lines = h("section", { class: "panel", "aria-label": "Line" }, h("h2", { text: "Line" }), line);
  const sources = part("Sources", ["Source", "State", "Into", "Rate", "Items", "Position or next run", ""], source, updateSource);
  const shared = part("Shared objects", ["Object", "State", "Calls", "Mean", "Journal", "What it says", ""], object, updateObject);
  const peers = part("Other services", ["Service", "State", "Stage", "Why", "Rate", "Backlog"], peer, updatePeer);
  const heads = ["Stage", "State", "Last minute", "Out", "Backlog", "Dead letters", ""];
  const root = h("div", {},
    h("div", { class: "row head" }, h("div", {}, h("h1", { text: "Overview" }), sentence), drain),
    h("section", { class: "panel" }, h("h2", { text: "Stages" }), table(heads, stages, "stages")),
    lines, sources.root, shared.root, peers.root);

  return {
    root,
    topics: ["peers"],
    update(state) {
      const { overview } = state;
      if (overview === null) return text(sentence, "Connecting …");
      text(sentence, service(state));
      keyed(stages, overview.stages, ({ name }) => name, stage, (row, item) => updateStage(row, item, state));
      const order = overview.line ?? [];
      lines.hidden = order.length < 2;
      keyed(line, order, ({ name }) => name, place, (node, each) => updatePlace(node, each, overview));
      sources.update(overview.sources ?? []);
      shared.update(overview.shared ?? []);
      peers.update(state.peers.flatMap((each) => (each.stages?.length ? each.stages : [null]).map((stage) => ({ ...each, stage }))));
    },
  };
}

function service({ service: hello, overview }) {
  const { state, paused, revision, applied, uptime } = overview.service;
  const parts = [paused ? "Paused by a signal" : state[0].toUpperCase() + state.slice(1), plural(overview.stages.length, "stage"),
    `up for ${seconds(uptime)}`, `revision ${revision}${applied < revision ? `, ${applied} is applied` : ""}`];
  if (hello?.version) parts.push(`mqworker ${hello.version}`);
  return parts.join(" · ");
}

function table(heads, body, kind = "") {
  const head = heads.map((name) => name
    ? h("th", { scope: "col", class: FIGURES.has(name) ? "number" : "", text: name })
    : h("td"));
  return h("div", { class: "table" }, h("table", { class: `cards ${kind}` }, h("thead", {}, h("tr", {}, head)), body));
}
const FIGURES = new Set(["Out", "Backlog", "Dead letters", "Rate", "Items", "Calls", "Mean", "Journal"]);

// A panel with a table that is there only if it has rows.
function part(title, heads, make, update) {
  const body = h("tbody");
  const root = h("section", { class: "panel", hidden: true }, h("h2", { text: title }), table(heads, body));
  return {
    root,
    update(items) {
      root.hidden = !items.length;
      keyed(body, items, (each) => `${each.name} ${each.stage?.name ?? ""}`, make, update);
    },
  };
}

// A row of cells: [key, label, class, ...nodes]; returns {root, and each cell by its key}.
function cells(...columns) {
  const made = { root: h("tr") };
  for (const [key, label, kind = "", ...nodes] of columns) {
    made[key] = h("td", { class: kind, "data-label": label || null }, ...nodes);
    made.root.append(made[key]);
  }
  return made;
}

export function dot(node, level, sentence) {
  const mark = node.firstChild ?? node.appendChild(h("span"));
  attr(mark, "class", `dot ${level}`);
  const words = mark.nextSibling ?? node.appendChild(h("span"));
  text(words, sentence);
}

function stage({ name }) {
  const spark = new Spark(`Messages a second of ${name} in the last minute`);
  const toggle = h("button", { type: "button", class: "command small", on: { click: () => togglePause(name) } });
  const row = cells(["name", "", "wide", h("a", { href: at`#/stage/${name}`, class: "strong wrap", text: name })], ["why", "", "wide why"],
    ["spark", "Last minute", "", spark.root], ["rate", "Out", "number"], ["backlog", "Backlog", "number"],
    ["dead", "Dead letters", "number", h("a", { href: at`#/failures/${name}` })], ["act", "", "number", toggle]);
  return { ...row, spark, toggle };
}

function updateStage(row, each, state) {
  dot(row.why, each.why.level, each.why.sentence);
  row.spark.update(state.stages[each.name]?.rings[1].series.in);
  text(row.rate, rate(each.rate));
  text(row.backlog, count(each.backlog));
  text(row.dead.firstChild, count(each.dead_backlog));
  attr(row.dead.firstChild, "class", each.dead_backlog ? "error" : "muted");
  attr(row.dead.firstChild, "aria-label", `${plural(each.dead_backlog ?? 0, "dead letter")} of ${each.name}`);
  text(row.toggle, each.listening ? "Pause" : "Resume");
  attr(row.toggle, "aria-label", `${each.listening ? "Pause" : "Resume"} stage ${each.name}`);
}

export function togglePause(name) {
  const { listening } = store.state.overview.stages.find((each) => each.name === name);
  const what = `Stage ${name} ${listening ? "is paused" : "takes messages again"}`;
  return act(what, "PUT", at`stages/${name}/listening`, { enabled: !listening }, { stage: name });
}

function place({ name }) {
  return h("li", {}, h("a", { href: at`#/stage/${name}`, text: name }), h("span", { class: "muted" }));
}

function updatePlace(node, { name, level, feeds, here }, { bottlenecks, stages }) {
  const found = stages.find((each) => each.name === name);
  attr(node, "class", bottlenecks?.includes(name) ? "narrow" : here === false ? "muted" : null);
  attr(node, "data-level", level);
  const words = [found && rate(found.rate), bottlenecks?.includes(name) && "holds the others back", here === false && "elsewhere",
    feeds.length && `→ ${feeds.join(", ")}`];
  text(node.lastChild, words.filter(Boolean).join(" · "));
}

function source({ name }) {
  const toggle = h("button", { type: "button", class: "command small" });
  const run = h("button", { type: "button", class: "command small", text: "Run now", "aria-label": `Run source ${name} now`,
    on: { click: () => act(`Source ${name} has run`, "POST", at`sources/${name}/run`) } });
  const row = cells(["name", "", "wide strong wrap"], ["state", "", "wide"], ["into", "Into"], ["rate", "Rate", "number"],
    ["items", "Items", "number"], ["position", "Position", "id"], ["act", "", "number", run, " ", toggle]);
  toggle.addEventListener("click", () => {
    const verb = row.running ? "stop" : "start";
    act(`Source ${name} is to ${verb}`, "POST", at`sources/${name}/${verb}`);
  });
  return Object.assign(row, { toggle, run });
}

function updateSource(row, { name, state, problem, running, into, kind, items, actual }) {
  row.running = running;
  text(row.name, name);
  const level = problem ? "error" : ["running", "waiting", "finished", "standby"].includes(state) ? "ok" : "warning";
  dot(row.state, level, problem ? `${state}: ${problem}` : state);
  text(row.into, into);
  text(row.rate, rate(actual?.rate));
  text(row.items, count(items));
  text(row.position, actual?.due ? `next ${time(actual.due)}` : (actual?.position ?? ""));
  text(row.toggle, running ? "Stop" : "Start");
  attr(row.toggle, "aria-label", `${running ? "Stop" : "Start"} source ${name}`);
  row.run.hidden = kind !== "schedule";
}

function object({ name }) {
  const reset = h("button", { type: "button", class: "command small danger", text: "Reset …", "aria-label": `Reset shared object ${name}`,
    on: { click: () => resetShared(name) } });
  return cells(["name", "", "wide strong wrap"], ["state", "", "wide"], ["calls", "Calls", "number"], ["mean", "Mean", "number"],
    ["journal", "Journal", "number"], ["described", "", "wide id"], ["act", "", "number", reset]);
}

function updateObject(row, { name, state, problem, status }) {
  text(row.name, name);
  dot(row.state, state === "serving" ? "ok" : state === "down" ? "error" : "warning", problem ? `${state}: ${problem}` : state);
  text(row.calls, count(status?.counts?.made));
  text(row.mean, seconds(status?.mean_seconds));
  text(row.journal, status ? bytes(status.journal_bytes) : "–");
  const said = status?.described;
  text(row.described, said === null || said === undefined ? (status?.describe_problem ?? "") : JSON.stringify(said).slice(0, 200));
}

async function resetShared(name) {
  const sentence = `${name} is replaced by a new one that knows nothing of what this one holds. What is remembered of its calls stays.`;
  if (await confirm(`Reset ${name}?`, sentence, "Reset", { danger: true })) act(`${name} is reset`, "POST", at`shared/${name}/reset`);
}

async function drainService() {
  const sentence = "Every stage finishes what it has in hand, then the service ends. What supervises it may start it again.";
  if (await confirm("Drain the service?", sentence, "Drain", { danger: true })) act("The service drains", "POST", "drain");
}

function peer() {
  return cells(["name", "", "wide strong wrap"], ["state", "", "wide"], ["stage", "Stage"], ["why", "", "wide"], ["rate", "Rate", "number"],
    ["backlog", "Backlog", "number"]);
}

function updatePeer(row, { name, address, state, problem, stage: of }) {
  text(row.name, name || address);
  dot(row.state, problem ? "error" : "ok", problem || state);
  text(row.stage, of?.name ?? "–");
  if (of?.why) dot(row.why, of.why.level, of.why.sentence);
  text(row.rate, rate(of?.rate));
  text(row.backlog, count(of?.backlog));
}
