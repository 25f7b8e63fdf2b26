// The overview: a line for each stage with why it does what it does, how stages follow each other, sources, shared objects,
// and other services (read only). Receives `overview`, `history` (the last minute) and `peers`.

import { at } from "./api.js";
import { Spark } from "./chart.js";
import { act, confirm } from "./dialog.js";
import { attr, button, dot, h, keyed, panel, table, text } from "./dom.js";
import { bytes, count, plural, rate, seconds, time } from "./format.js";
import { store } from "./store.js";

const NAME = ["name", "Name", "wide strong"];
const STATE = ["state", "State", "wide"];
const ACTS = ["acts", "", "number"];
const number = (name, label) => [name, label, "number"];

export function view() {
  const sentence = h("p", { class: "muted" });
  const stages = table([NAME, STATE, ["spark", "Last minute"], number("rate", "Out"), number("backlog", "Backlog"),
    number("dead", "Dead letters"), ACTS], ({ name }) => name, makeStage, updateStage);
  const line = h("ol", { class: "places" });
  const lines = panel("Line", line);
  const sources = part("Sources", [NAME, STATE, ["into", "Into"], number("rate", "Rate"), number("items", "Items"),
    ["position", "Position", "wide id"], ACTS], makeSource, updateSource);
  const shared = part("Shared objects", [NAME, STATE, number("calls", "Calls"), number("mean", "Mean"), number("journal", "Journal"),
    ["told", "Tells", "wide id"], ACTS], makeShared, updateShared);
  const peers = part("Other services", [NAME, STATE, ["stage", "Stage"], ["why", "Why", "wide"], number("rate", "Out"),
    number("backlog", "Backlog")], () => {}, updatePeer);

  return {
    root: h("div", {}, h("div", { class: "row head" }, h("div", {}, h("h1", { text: "Overview" }), sentence),
      button("Drain the service …", drain, null, "command")),
    panel("Stages", stages.root), lines, sources.root, shared.root, peers.root),
    topics: ["peers"],
    update({ service, overview, stages: known, peers: others }) {
      if (overview === null) return text(sentence, "Connecting …");
      text(sentence, `${told(overview)} · mqworker ${service?.version}`);
      stages.update(overview.stages.map((each) => ({ ...each, past: known[each.name]?.rings[1].series.in })));
      lines.hidden = overview.line.length < 2;
      keyed(line, overview.line, ({ name }) => name, makePlace, (node, each) => updatePlace(node, each, overview));
      sources.update(overview.sources);
      shared.update(overview.shared);
      peers.update(others.flatMap((peer) => (peer.stages?.length ? peer.stages : [undefined]).map((stage) => ({ ...peer, stage }))));
    },
  };
}

function told({ stages, service: { state, paused, uptime, revision, applied } }) {
  const ahead = applied < revision ? `, ${applied} is applied` : "";
  const what = paused ? "Paused by a signal" : state[0].toUpperCase() + state.slice(1);
  return `${what} · ${plural(stages.length, "stage")} · up for ${seconds(uptime)} · revision ${revision}${ahead}`;
}

// A panel with a table that is there only if it has rows.
function part(title, columns, make, change) {
  const rows = table(columns, ({ name, address, stage }) => `${name ?? address} ${stage?.name}`, make, change);
  const root = panel(title, rows.root);
  const update = (items) => {
    root.hidden = !items.length;
    rows.update(items);
  };
  return { root, update };
}

function makeStage(row, { name }) {
  row.name.append(h("a", { href: at`#/stage/${name}`, text: name }));
  row.line = new Spark(`Messages a second of ${name} in the last minute`);
  row.spark.append(row.line.root);
  row.letters = h("a", { href: at`#/failures/${name}` });
  row.dead.append(row.letters);
  row.toggle = button("", () => togglePause(name), null, "command small");
  row.acts.append(row.toggle);
}

function updateStage(row, { name, why, past, rate: out, backlog, dead_backlog: dead, listening }) {
  dot(row.state, why.level, why.sentence);
  row.line.update(past);
  text(row.rate, rate(out));
  text(row.backlog, count(backlog));
  text(row.letters, count(dead));
  attr(row.letters, "class", dead ? "error" : "muted");
  attr(row.letters, "aria-label", `${plural(dead ?? 0, "dead letter")} of ${name}`);
  showPause(row.toggle, name, listening);
}

export function showPause(toggle, name, listening) {
  const verb = listening ? "Pause" : "Resume";
  text(toggle, verb);
  attr(toggle, "aria-label", `${verb} stage ${name}`);
}

export function togglePause(name) {
  const { listening } = store.state.overview.stages.find((each) => each.name === name);
  const what = `Stage ${name} ${listening ? "is paused" : "takes messages again"}`;
  return act(what, "PUT", at`stages/${name}/listening`, { enabled: !listening }, { stage: name });
}

function makePlace({ name }) {
  return h("li", {}, h("a", { href: at`#/stage/${name}`, text: name }), h("span", { class: "muted" }));
}

function updatePlace(node, { name, feeds, here }, { bottlenecks, stages }) {
  const narrow = bottlenecks.includes(name);
  attr(node, "class", narrow ? "narrow" : null);
  const words = [here ? rate(stages.find((each) => each.name === name)?.rate) : "elsewhere", narrow && "holds the others back",
    feeds.length && `→ ${feeds.join(", ")}`];
  text(node.lastChild, ` ${words.filter(Boolean).join(" · ")}`);
}

function makeSource(row, { name }) {
  const send = (verb, what) => act(`Source ${name} ${what}`, "POST", at`sources/${name}/${verb}`);
  row.run = button("Run now", () => send("run", "has run"), `Run source ${name} now`, "command small");
  row.toggle = button("", () => (row.running ? send("stop", "is to stop") : send("start", "is to start")), null, "command small");
  row.acts.append(row.run, " ", row.toggle);
}

function updateSource(row, { name, state, problem, running, into, kind, items, actual }) {
  row.running = running;
  text(row.name, name);
  const well = ["running", "waiting", "finished", "standby"].includes(state);
  dot(row.state, problem ? "error" : well ? "ok" : "warning", problem ? `${state}: ${problem}` : state);
  text(row.into, into);
  text(row.rate, rate(actual?.rate));
  text(row.items, count(items));
  text(row.position, actual?.due ? `next at ${time(actual.due)}` : actual?.position);
  text(row.toggle, running ? "Stop" : "Start");
  attr(row.toggle, "aria-label", `${running ? "Stop" : "Start"} source ${name}`);
  row.run.hidden = kind !== "schedule";
}

function makeShared(row, { name }) {
  const reset = async () => {
    const sentence = "A new one that knows nothing takes its place. What is remembered of its calls stays.";
    if (await confirm(`Reset ${name}?`, sentence, "Reset", { danger: true })) act(`${name} is reset`, "POST", at`shared/${name}/reset`);
  };
  row.acts.append(button("Reset …", reset, `Reset shared object ${name}`, "command small danger"));
}

function updateShared(row, { name, state, problem, status }) {
  text(row.name, name);
  dot(row.state, state === "serving" ? "ok" : state === "down" ? "error" : "warning", problem ? `${state}: ${problem}` : state);
  text(row.calls, count(status?.counts.made));
  text(row.mean, seconds(status?.mean_seconds));
  text(row.journal, bytes(status?.journal_bytes));
  text(row.told, status?.describe_problem || JSON.stringify(status?.described ?? null).slice(0, 200).replace(/^null$/, ""));
}

function updatePeer(row, { name, address, state, problem, stage }) {
  text(row.name, name || address);
  dot(row.state, problem ? "error" : "ok", problem || state);
  text(row.stage, stage?.name);
  if (stage?.why) dot(row.why, stage.why.level, stage.why.sentence);
  text(row.rate, rate(stage?.rate));
  text(row.backlog, count(stage?.backlog));
}

async function drain() {
  const sentence = "Every stage finishes what it has in hand, then the service ends. What supervises it may start it again.";
  if (await confirm("Drain the service?", sentence, "Drain", { danger: true })) act("The service drains", "POST", "drain");
}
