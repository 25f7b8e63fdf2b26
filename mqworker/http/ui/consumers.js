// The Consumers of a stage: what each has in hand and since when, its memory and processor, how the one before it ended;
// a stack on demand, and another in its place. Receives the stage's detail once a second.

import { at, call } from "./api.js";
import { act, ask, tell } from "./dialog.js";
import { attr, h, keyed, text } from "./dom.js";
import { bytes, clock, count, plural, seconds } from "./format.js";

const COLUMNS = [
  ["slot", "Slot", "number slot"], ["state", "State", "state"], ["message", "Message in hand", "id message"], ["clock", "For", "number clock"],
  ["done", "Done", "number"], ["memory", "Memory", "number"], ["cpu", "CPU", "number"], ["exit", "Last exit", "exit"], ["acts", "", "acts"],
];
const LEVELS = { busy: "info", idle: "ok", starting: "warning", leaving: "warning", spare: "" };

export function consumers(stage) {
  const head = COLUMNS.map(([, label, kind]) =>
    label ? h("th", { scope: "col", class: kind.includes("number") ? "number" : "", text: label }) : h("td"));
  const groups = h("colgroup", {}, COLUMNS.map(([key]) => h("col", { class: `column-${key}` })));
  const body = h("tbody");
  const title = h("h2");
  const root = h("section", { class: "panel", "aria-label": "Consumers" }, title,
    h("div", { class: "table" }, h("table", { class: "cards consumers" }, groups, h("thead", {}, h("tr", {}, head)), body)));

  return {
    root,
    update({ actual, desired }, second) {
      const list = actual?.consumers ?? [];
      text(title, actual ? `${plural(list.length, "Consumer")}, ${desired.consumers} wanted` : "No Consumers: the stage has no process");
      keyed(body, list, ({ slot, pid }) => `${slot} ${pid}`, ({ slot }) => make(stage, slot), (row, each) => update(row, each, second));
    },
  };
}

function make(stage, slot) {
  const row = { root: h("tr"), before: null };
  for (const [key, label, kind] of COLUMNS) {
    row[key] = h("td", { class: key === "message" || key === "exit" ? `${kind} wide` : kind, "data-label": label || null });
    row.root.append(row[key]);
  }
  row.id = h("a", { href: "#/" });
  row.message.append(row.id);
  row.stack = h("button", { type: "button", class: "command small", text: "Stack", "aria-label": `Stack of Consumer ${slot}`,
    on: { click: () => showStack(stage, slot, row.stack) } });
  row.replace = h("button", { type: "button", class: "command small", text: "Replace …", "aria-label": `Replace Consumer ${slot}`,
    on: { click: () => replace(stage, slot) } });
  row.acts.append(row.stack, " ", row.replace);
  row.mark = h("span", { class: "dot" });
  row.word = h("span");
  row.state.append(row.mark, row.word);
  return row;
}

function update(row, each, second) {
  text(row.slot, each.slot);
  attr(row.mark, "class", `dot ${LEVELS[each.state] ?? "warning"}`);
  text(row.word, each.state);
  const many = each.messages?.length > 1 ? ` and ${each.messages.length - 1} more` : "";
  const id = each.message_id ?? "";
  text(row.id, id ? id + many : each.held_by ? `all wait for ${each.held_by}` : "");
  attr(row.id, "href", id ? at`#/message/${id}` : null);
  text(row.clock, each.message_seconds === null ? "" : clock(each.message_seconds));
  text(row.done, count(each.done));
  text(row.memory, bytes(each.rss));
  text(row.cpu, share(row, each.cpu, second));
  text(row.exit, each.exit ?? "");
  attr(row.exit, "title", each.exit || null);
}

// The share of a processor since the tick before.
function share(row, cpu, second) {
  const { before } = row;
  if (before === null || second > before.second) row.before = { cpu, second };
  if (before === null || cpu === undefined) return "–";
  if (second > before.second) row.shown = `${Math.max(0, Math.round((100 * (cpu - before.cpu)) / (second - before.second)))} %`;
  return row.shown ?? "–";
}

async function showStack(stage, slot, button) {
  button.disabled = true;
  const answer = await call("POST", at`stages/${stage}/consumers/${slot}/stack`);
  button.disabled = false;
  if (!answer.ok) return tell(`No stack of Consumer ${slot}: ${answer.problem}`, "error");
  const { pid, message_id: id, seconds: since, stack } = answer.data;
  const about = id ? `Process ${pid}, on message ${id} for ${seconds(since)}` : `Process ${pid}, no message in hand`;
  await ask(`Stack of Consumer ${slot}`, [h("p", { class: "wrap", text: about }), h("pre", { tabindex: 0, text: stack })], []);
}

async function replace(stage, slot) {
  const later = "After its message: it finishes what it has in hand, then another takes its place.";
  const now = "Now: it is killed. Its message counts as a crash and comes again alone; with too many crashes it becomes a dead letter.";
  const chosen = await ask(`Replace Consumer ${slot} of ${stage}?`, [h("p", { text: later }), h("p", { text: now })], [
    ["later", "Replace after its message", "primary"], ["now", "Kill and replace now", "danger"],
  ]);
  if (chosen) act(`Consumer ${slot} is to be replaced`, "POST", at`stages/${stage}/consumers/${slot}/replace`, { now: chosen === "now" });
}
