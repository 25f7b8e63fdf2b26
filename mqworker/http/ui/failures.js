// The failures of a stage: groups, since the service's start and in the dead-letter queue, the letters, and what is done with
// a selection of them.
//
// A selection is frozen in the service: what comes later is not in it, and it is replayed or dropped only if its number is
// the one that was confirmed. Operations go on without this page. The filter stands in the address.

import { at, call } from "./api.js";
import { Spark } from "./chart.js";
import { act, confirm, tell } from "./dialog.js";
import { attr, button, h, keyed, panel, save, table, text } from "./dom.js";
import { bytes, count, plural, time } from "./format.js";
import { head } from "./stage_head.js";

const FIELDS = { text: "Text", reason: "Reason", error_type: "Error type", place: "Place", message_id: "Message id", header: "Header (NAME=VALUE)", since: "Failed since",
  until: "Failed before", attempt: "Attempt", generation: "Generation" };
const PAGE = 100; // letters, and as many more each time
const AGAIN = 5000; // ms after a look that failed
const PART = 1_048_576; // bytes of an export that are counted at once
const ENDED = ["done", "cancelled", "failed"];
const what = ({ reason, error_type: type, place }) => [type || reason, place].filter(Boolean).join(" in ") || "no reason given";

// Returns the LetterFilter for the query of an address; the service judges the values.
export function filterOf(query) {
  const given = [...Object.keys(FIELDS), "fault"].map((name) => [name, query.get(name)?.trim()]).filter(([, value]) => value);
  const whole = (name, value) => (name === "attempt" || name === "generation") && /^\d+$/.test(value);
  return Object.fromEntries(given.map(([name, value]) => [name, whole(name, value) ? Number(value) : value]));
}

export function address(stage, filter) {
  const query = new URLSearchParams(filter);
  return at`#/failures/${stage}` + (query.size ? `?${query}` : "");
}

// Joins the groups of the queue with those since the service's start: one row a fault, the most letters first. Without
// `groups` nobody knows what is in the queue.
export function joined(groups, faults) {
  const rows = new Map(faults.map((each) => [each.key, { ...each, count: groups && 0 }]));
  for (const { first, ...each } of groups ?? []) rows.set(each.key, { first, ...rows.get(each.key), ...each });
  return [...rows.values()].sort((one, other) => other.count - one.count || (other.dead ?? 0) - (one.dead ?? 0));
}

// Returns how far an operation is, as a sentence.
export function said({ kind, state, done, wanted, gone, unsure, refused, reason }) {
  const amount = state === "done" ? count(done) : `${state}: ${count(done)} of ${count(wanted)}`;
  const more = [`${count(gone)} gone`, refused && `${count(refused)} refused`, unsure && `${count(unsure)} may exist twice`, reason];
  return [`${amount} ${kind === "drop" ? "dropped" : "replayed"}`, ...more.filter(Boolean)].join(", ");
}

// Returns how many letters an export (a Blob) has, and how many of these without their bodies.
export async function counted(file) {
  let [letters, cut, rest] = [0, 0, ""];
  for (let at = 0; at < file.size; at += PART) {
    const lines = (await file.slice(at, at + PART).text()).split("\n");
    lines[0] = rest + lines[0];
    rest = lines.pop();
    letters += lines.length;
    cut += lines.filter((line) => line.includes('"too_large":true') && JSON.parse(line).too_large).length;
  }
  return [letters, cut];
}

// Asks for the number of a frozen selection, then begins. Returns the operation; undefined: there is none.
export async function apply(stage, kind, { selection, count: number }, why = "") {
  const [verb, effect] = kind === "drop" ? ["Drop", "They are gone for good."] : ["Replay", "They go back into the stage's input."];
  const letters = plural(number, "dead letter");
  const sentence = `Exactly these ${count(number)}, as they were when selected. ${effect} ${why}`;
  if (!(await confirm(`${verb} ${letters}?`, sentence, `${verb} ${count(number)}`, { danger: kind === "drop" }))) return undefined;
  const path = at`stages/${stage}/dlq/selections/${selection}/${kind}`;
  return (await act(`${stage}: the ${kind} of ${letters} has begun`, "POST", path, { count: number })).data?.operation;
}

export function view({ parts: [stage] }) {
  const path = at`stages/${stage}/dlq`;
  const ticked = new Set();
  const running = new Set(); // operations
  const faults = new Map();
  let [groups, filter, matched, limit] = [null, {}, null, PAGE];
  let [failed, retry] = [false, Infinity]; // the last look, and when it is repeated
  let [looks, asked] = [0, 0]; // numbers of the last look, and of the last question for letters
  let state, shown, dead, listed; // how many letters the queue has, and had when they were listed: [looked at, told by then]

  const top = head(stage);
  const backlog = h("span", { class: "muted" });
  const groupTable = table([["fault", "Fault", "wide clip"], ["count", "In the queue", "number", (each) => count(each.count)],
    ["dead", "Dead", "number", (each) => count(each.dead)], ["retried", "Retried", "number", (each) => count(each.retried)], ["first", "First", "when", (each) => time(each.first)],
    ["last", "Last", "when", (each) => time(each.last)], ["trend", "Last hour", "number"]], (each) => each.key, makeGroup, updateGroup);
  const others = h("p", { class: "muted", hidden: true });
  const groupPanel = panel("Groups", groupTable.root, others);
  const only = h("p", { class: "row" });
  const inputs = Object.entries(FIELDS).map(([name, label]) => h("label", {}, label, h("input", { name, type: "search", spellcheck: "false" })));
  const search = h("form", { class: "filter", role: "search", "aria-label": "Filter of the dead letters", on: { submit: filtered } },
    inputs.slice(0, 4), h("button", { text: "Filter" }), h("details", {}, h("summary", { text: "More" }), h("div", { class: "filter" }, inputs.slice(4))));
  const summary = h("span", { role: "status" });
  const again = button("Look again", () => look({ fresh: 0 }));
  const freeze = button("", select, null, "command");
  const compare = button("Compare the two", () => (location.hash = at`#/letter/${stage}/${[...ticked][0]}?with=${[...ticked][1]}`));
  const more = button("Show more", () => list({ limit: (limit += PAGE) }));
  const chosen = h("div", { role: "status" });
  const letterTable = table([["name", "Message", "wide clip"], ["failed", "Failed", "when", (each) => time(each.failed_at)],
    ["attempt", "Attempt", "number", (each) => each.attempt], ["error", "Error", "wide clip"], ["size", "Size", "number", (each) => bytes(each.size)]],
    (each) => each.id, makeLetter, (row, each) => (row.box.checked = ticked.has(each.id)));
  const operations = h("ul", { class: "bare" });
  const root = h("div", {}, top.root, h("p", {}, backlog), groupPanel,
    panel("Dead letters", operations, only, search, h("p", { class: "row" }, summary, again, freeze, compare),
      chosen, letterTable.root, more));

  // Reads letters and groups; `fresh` 0 asks for a new look at the queue itself.
  async function look(extra) {
    const mine = (looks += 1);
    const [live] = await Promise.all([call("GET", at`stages/${stage}/faults`), list(extra)]);
    const found = await call("GET", `${path}/groups`);
    if (mine !== looks) return; // one has looked again
    groups = found.ok ? found.data.groups : null;
    others.hidden = !found.data?.other;
    text(others, `and ${plural(found.data?.other, "letter")} of other faults`);
    if (live.ok) faults.clear(); // of another life of the service
    for (const each of live.data?.faults ?? []) faults.set(each.key, each);
    showGroups();
  }

  // Reads the letters, all that are shown: those of two looks never stand together.
  async function list(extra) {
    const mine = (asked += 1);
    if (!failed) text(summary, "Looking …");
    const answer = await call("GET", `${path}?${new URLSearchParams({ ...filter, limit, ...extra })}`);
    if (mine !== asked) return;
    failed = !answer.ok;
    retry = failed && (answer.status === 0 || answer.status >= 500) ? performance.now() + AGAIN : Infinity;
    matched = answer.data?.matched ?? null;
    text(summary, answer.problem);
    if (failed) return ticks();
    const { dead_letters: letters, total, complete, as_of: when, next } = answer.data;
    listed = complete && [total, dead];
    const there = new Set(letters.map((each) => each.id));
    for (const id of ticked) if (!there.has(id)) ticked.delete(id);
    text(summary, `${count(matched)} of ${complete ? "" : "the first "}${count(total)} match, as of ${time(when)}`);
    more.hidden = next === null;
    letterTable.update(letters);
    ticks();
  }

  function makeLetter(row, each) {
    const name = each.message_id ?? each.id;
    const change = () => ticks(ticked[row.box.checked ? "add" : "delete"](each.id));
    row.box = h("input", { type: "checkbox", "aria-label": `Dead letter ${name}`, on: { change } });
    row.name.append(row.box, " ", h("a", { href: at`#/letter/${stage}/${each.id}`, text: name }));
    row.error.append(what(each), h("span", { class: "muted", text: ` ${each.text}` }));
  }

  function ticks() {
    text(freeze, ticked.size ? `Select the ${count(ticked.size)} ticked` : matched === null ? "Select" : `Select ${count(matched)} matching`);
    freeze.disabled = !matched && !ticked.size;
    freeze.classList.toggle("primary", !chosen.firstChild);
    compare.hidden = ticked.size !== 2;
  }

  function filtered(event) {
    event.preventDefault();
    const query = new URLSearchParams(new FormData(search));
    if (filter.fault) query.set("fault", filter.fault);
    const wanted = address(stage, filterOf(query));
    if (wanted === location.hash) look();
    else location.hash = wanted;
  }

  async function select() {
    const ids = [...ticked];
    const answer = await call("POST", `${path}/selections`, ids.length ? { ids } : filter);
    if (!answer.ok) return tell(`Not selected: ${answer.problem}`, "error");
    const { selection, count: number, oldest, newest, expires, complete } = answer.data;
    const now = state.overview?.stages.find((each) => each.name === stage)?.why.sentence;
    const run = async (kind) => {
      const operation = await apply(stage, kind, answer.data, now && `The stage now: ${now}`);
      if (!operation) return;
      running.add(operation);
      chosen.replaceChildren();
      ticks();
      showOperations();
    };
    const exported = async () => {
      tell("Reading the letters …", "info");
      const file = await call("GET", `${path}/selections/${selection}/export`, undefined, { file: true });
      if (!file.ok) return tell(`Not exported: ${file.problem}`, "error");
      save(file.data, `${stage}-${selection}.jsonl`);
      const [letters, cut] = await counted(file.data);
      const less = [letters < number && `${count(number - letters)} no longer there`, cut && `${count(cut)} without body: too large`].filter(Boolean);
      tell([`${plural(letters, "letter")} exported`, ...less].join(", ") + ".", less.length ? "error" : "ok");
    };
    const about = `${complete || ids.length ? "" : ", perhaps not all,"} and frozen, from ${time(oldest)} to ${time(newest)}; kept until ${time(expires)}.`;
    chosen.replaceChildren(h("p", {}, h("strong", { text: `${plural(number, "letter")} selected` }), about),
      h("p", { class: "row" }, button(`Replay ${count(number)} …`, () => run("replay"), null, "primary command"), button(`Drop ${count(number)} …`, () => run("drop"), null, "danger command"),
        button(`Export ${count(number)}`, exported)));
    ticks();
    chosen.querySelector("button").focus();
  }

  function showGroups() {
    const rows = joined(groups, [...faults.values()]);
    groupPanel.hidden = !rows.length;
    groupTable.update(rows);
    const { fault, ...rest } = filter;
    const one = rows.find((each) => each.key === fault);
    only.replaceChildren(...(fault ? [`Only ${one ? what(one) : fault}`, h("a", { href: address(stage, rest), text: "Show all" })] : []));
  }

  function makeGroup(row, each) {
    row.spark = new Spark(`Failures in the last hour: ${what(each)}`);
    row.text = h("div", { class: "muted clip" });
    row.fault.append(h("a", { href: address(stage, { fault: each.key }), text: what(each) }), ` ${each.reason}`, row.text);
    row.trend.append(row.spark.root);
  }

  function updateGroup(row, each) {
    attr(row.root, "aria-current", filter.fault === each.key ? "true" : null);
    text(row.text, each.text);
    row.spark.update(each.trend && Float64Array.from(each.trend));
  }

  function showOperations() {
    const own = [...state.operations.values()].filter((each) => each.stage === stage);
    const newest = own.sort((one, other) => (one.at < other.at ? 1 : -1)).slice(0, 5);
    keyed(operations, newest, (each) => each.operation, makeOperation, (row, each) => {
      const ended = ENDED.includes(each.state);
      text(row.line, `${said(each)} (by ${each.by})`);
      [row.bar.max, row.bar.value] = [each.wanted || 1, each.done];
      row.bar.hidden = row.cancel.hidden = ended;
      if (!ended) running.add(each.operation);
      else if (running.delete(each.operation)) look({ fresh: 0 });
    });
  }

  function makeOperation({ operation, kind }) {
    const cancel = button("Cancel", () => act(`${stage}: the ${kind} is being cancelled`, "DELETE", at`operations/${operation}`), `Cancel the ${kind}`, "small command");
    const [bar, line] = [h("progress", { "aria-label": `Progress of the ${kind}` }), h("span")];
    return { root: h("li", { class: "row" }, bar, line, cancel), bar, line, cancel };
  }

  ticks();
  return {
    root,
    topics: [`stage:${stage}`, "operations"],
    update(now, route) {
      const before = state;
      state = now;
      const back = now.link.state === "live" && before?.link.state !== "live";
      const other = route !== shown;
      if (other) {
        limit = PAGE;
        shown = route;
        filter = filterOf(route.query);
        for (const { name } of search.elements) if (name) search.elements[name].value = filter[name] ?? "";
      }
      if (other || (failed && back) || performance.now() > retry) {
        retry = Infinity;
        look();
      }
      const live = now.stages[stage]?.faults;
      if (live && live !== before?.stages[stage]?.faults) {
        for (const [key, each] of live) faults.set(key, each);
        showGroups();
      }
      if (now.operations !== before?.operations) showOperations();
      top.update(now, "failures");
      dead = now.overview?.stages.find((each) => each.name === stage)?.dead_backlog;
      text(backlog, Number.isInteger(dead) ? `${count(dead)} in the dead-letter queue` : "");
      text(again, Number.isInteger(dead) && listed && !listed.includes(dead) ? `Look again: ${count(dead)} by now` : "Look again");
    },
  };
}
