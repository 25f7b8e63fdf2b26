// The overview: a line for each stage with why it does what it does, how stages follow each other, sources, shared objects,
// and other services (read only). Receives `overview`, `history` (the last minute) and `peers`.

import { at } from "./api.js";
import { Spark } from "./chart.js";
import { act, confirm } from "./dialog.js";
import { attr, button, dot, h, keyed, panel, table, text } from "./dom.js";
import { bytes, count, plural, rate, seconds, time } from "./format.js";
import { away, store } from "./store.js";

const LINK = ["name", "Name", "wide strong"];
const NAME = [...LINK, ({ name }) => name];
const STATE = ["state", "State", "wide"];
const ACTS = ["acts", "", "number"];
const WELL = ["running", "waiting", "finished", "standby", "serving"]; // states of sources, objects and services
const number = (label, show) => [label, label, "number", show];
const command = (label, click, name) => button(label, click, name, "command small");

export function view() {
  const sentence = h("p", { class: "muted" });
  const stages = table([LINK, STATE, ["spark", "Last minute", "wide"], number("Out", (each) => rate(each.rate)), number("Backlog", (each) => count(each.backlog)),
    ["dead", "Dead letters", "number"], ACTS], ({ name }) => name, makeStage, updateStage);
  const line = h("ol", { class: "places" });
  const lines = panel("Line", line);
  const sources = part("Sources", [NAME, STATE, ["into", "Into", "", ({ into }) => into], number("Rate", ({ actual }) => rate(actual?.rate)),
    number("Items", ({ items }) => count(items)), ["position", "Position", "wide id", position], ACTS], makeSource, updateSource);
  const shared = part("Shared objects", [NAME, STATE, number("Calls", ({ status }) => count(status?.counts.made)),
    number("Mean", ({ status }) => seconds(status?.mean_seconds)), number("Journal", ({ status }) => bytes(status?.journal_bytes)),
    ["told", "Description", "wide id", described], ACTS], makeShared, showState);
  const peers = part("Other services", [NAME, STATE, ["asked", "As of", "when", ({ as_of: when }) => time(when)], ["stage", "Stage", "", ({ stage }) => stage?.name],
    ["why", "Why", "wide", ({ stage }) => stage?.why?.sentence], number("Out", ({ stage }) => rate(stage?.rate)),
    number("Backlog", ({ stage }) => count(stage?.backlog))], () => {}, (row, each) => showState(row, { ...each, state: stateOf(each) }));

  return {
    root: h("div", {}, h("div", { class: "row head" }, h("div", {}, h("h1", { text: "Overview" }), sentence),
      button("Drain the service …", drain, null, "command")), panel("Stages", stages.root), lines, sources.root, shared.root, peers.root),
    topics: ["peers"],
    update({ service, overview, stages: known, peers: others, link }) {
      if (!overview) return;
      text(sentence, `${told(overview, link)} · mqworker ${service.version}`);
      stages.update(overview.stages.map((each) => ({ ...each, past: known[each.name]?.rings[1].series.in })));
      lines.hidden = overview.line.length < 2;
      keyed(line, overview.line, ({ name }) => name, makePlace, (node, each) => updatePlace(node, each, overview));
      sources.update(overview.sources);
      shared.update(overview.shared);
      const rows = ({ service: name, stages: of, more, ...peer }) =>
        [...(of.length ? of : [undefined]), ...(more ? [{ name: `${more} more` }] : [])].map((stage) => ({ ...peer, name: name || peer.url, stage }));
      peers.update(others.flatMap(rows));
    },
  };
}

function told({ stages, service: { state, paused, uptime, revision, applied, stale } }, link) {
  if (away(link)) return `As it was at ${time(link.since / 1000)}`;
  if (stale) return `The service hangs: what stands below is as it was ${seconds(stale)} ago`;
  const ahead = applied < revision ? `, ${applied} is applied` : "";
  return `${paused ? "Paused by a signal" : `Service ${state}`} · ${plural(stages.length, "stage")} · up for ${seconds(uptime)} · revision ${revision}${ahead}`;
}

// A panel with a table that is there only if it has rows.
function part(title, columns, make, change) {
  const rows = table(columns, ({ url, name, stage }) => `${url} ${name} ${stage?.name}`, make, change);
  const root = panel(title, rows.root);
  const update = (items) => {
    root.hidden = !items.length;
    rows.update(items);
  };
  return { root, update };
}

function stateOf({ reached, paused, state }) {
  return reached === null ? "not asked yet" : reached ? (paused ? "paused" : state) : "not reached";
}

function showState(row, { state, problem }) {
  dot(row.state, problem ? "error" : WELL.includes(state) ? "ok" : "warning", [state, problem].filter(Boolean).join(": "));
}

function makeStage(row, { name }) {
  row.name.append(h("a", { href: at`#/stage/${name}`, text: name }));
  row.line = new Spark(`Messages a second of ${name} in the last minute`);
  row.spark.append(row.line.root);
  row.letters = h("a", { href: at`#/failures/${name}` });
  row.dead.append(row.letters);
  row.toggle = command("", () => togglePause(name));
  row.acts.append(row.toggle);
}

function updateStage(row, { name, why, past, dead_backlog: dead, listening }) {
  dot(row.state, why.level, why.sentence);
  row.line.update(past);
  text(row.letters, count(dead));
  attr(row.letters, "class", dead ? "error" : "muted");
  attr(row.letters, "aria-label", `${plural(dead ?? 0, "dead letter")} of ${name}`);
  label(row.toggle, listening ? "Pause" : "Resume", `stage ${name}`);
}

// Writes a button whose verb changes.
export function label(toggle, verb, of) {
  text(toggle, verb);
  attr(toggle, "aria-label", `${verb.replace(" …", "")} ${of}`);
}

export function togglePause(name) {
  const { listening, consumers } = store.state.overview.stages.find((each) => each.name === name);
  const what = `Stage ${name} ${listening ? "is paused" : consumers[1] ? "takes messages again" : "is resumed; it has no Consumers"}`;
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

function position({ actual }) {
  return actual?.due ? `next at ${time(actual.due)}` : actual?.position;
}

function makeSource(row, { name, kind }) {
  const send = (verb, what) => act(`Source ${name} ${what}`, "POST", at`sources/${name}/${verb}`);
  row.toggle = command("", () => (row.running ? send("stop", "is to stop") : send("start", "is to start")));
  if (kind === "schedule") row.acts.append(command("Run now", () => send("run", "has run"), `Run source ${name} now`), " ");
  row.acts.append(row.toggle);
}

function updateSource(row, each) {
  row.running = each.running;
  showState(row, each);
  label(row.toggle, each.running ? "Stop" : "Start", `source ${each.name}`);
}

function described({ status }) {
  const value = status?.describe_problem || status?.described;
  return value && JSON.stringify(value).slice(0, 200);
}

function makeShared(row, { name }) {
  const sentence = "A new one that knows nothing takes its place. What is remembered of its calls stays.";
  const reset = async () => {
    if (await confirm(`Reset ${name}?`, sentence, "Reset", { danger: true })) act(`${name} is reset`, "POST", at`shared/${name}/reset`);
  };
  row.acts.append(button("Reset …", reset, `Reset shared object ${name}`, "command small danger"));
}

async function drain() {
  const sentence = "Every stage finishes what it has in hand, then the service ends. What supervises it may start it again.";
  if (await confirm("Drain the service?", sentence, "Drain", { danger: true })) act("The service drains", "POST", "drain");
}
