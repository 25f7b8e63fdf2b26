// The Consumers of a stage: what each has in hand and uses, how the last one ended; its stack, its
// replacement. Receives the stage's detail each second.

import { at, call } from "./api.js";
import { act, ask, tell } from "./dialog.js";
import { attr, button, dot, h, panel, table, text } from "./dom.js";
import { bytes, clock, count, percent, plural, seconds } from "./format.js";

const COLUMNS = [
  ["slot", "Slot", "number slot", ({ slot }) => slot],
  ["state", "State", "state"],
  ["message", "Message in hand", "id wide"],
  ["clock", "For", "number clock", ({ message_seconds: since }) => (since === null ? "" : clock(since))],
  ["done", "Done", "number done", ({ done }) => count(done)],
  ["memory", "Memory", "number done", ({ rss }) => bytes(rss)],
  ["cpu", "CPU", "number clock"],
  ["exit", "Last exit", "wide", ({ exit }) => exit],
  ["acts", "", "acts"],
];
const LEVELS = { busy: "ok", idle: "ok", spare: "" };

export function consumers(stage) {
  let [second, wanted] = [0, 0]; // wanted: the generation
  const rows = table(COLUMNS, ({ slot, pid }) => `${slot} ${pid}`, (row, { slot }) => make(row, stage, slot),
    (row, each) => update(row, each, second, wanted, (row.holds = holds(each))), "consumers");
  const root = panel("Consumers", rows.root);
  return {
    root,
    update({ actual, desired, n }) {
      [second, wanted] = [n, desired.generation];
      const all = actual?.consumers ?? [];
      rows.update(all);
      const staying = all.filter((each) => !each.leaving).length;
      const more = staying < all.length ? `, ${all.length - staying} leaving` : "";
      text(root.firstChild, actual ? `${plural(staying, "Consumer")}, ${desired.consumers} wanted${more}` : "No Consumers");
    },
  };
}

function make(row, stage, slot) {
  row.id = h("a");
  row.message.append(row.id);
  row.stack = button("Stack", () => showStack(stage, slot, row), `Stack of Consumer ${slot}`, "command small");
  row.acts.append(row.stack, " ", button("Replace …", () => replace(stage, slot, row.holds), `Replace Consumer ${slot}`, "command small"));
}

function update(row, { state, pid, message_id: id, messages, held_by: holder, cpu, exit, leaving, generation }, second, wanted) {
  const old = leaving ? state !== "leaving" && "leaving" : pid && generation < wanted && `generation ${generation}`;
  dot(row.state, LEVELS[state] ?? "warning", [state, old].filter(Boolean).join(", "));
  const more = messages.length > 1 ? ` and ${messages.length - 1} more` : "";
  text(row.id, id ? id + more : holder && `all wait for ${holder}`);
  attr(row.id, "href", id && at`#/message/${id}`);
  attr(row.exit, "title", exit || null);
  const { before } = row; // the CPU share since the tick before
  if (before && second > before.second) row.share = (cpu - before.cpu) / (second - before.second);
  row.before = second === before?.second ? before : { cpu, second };
  text(row.cpu, percent(row.share));
}

async function showStack(stage, slot, { stack, holds: { pid } }) {
  stack.disabled = true;
  const { ok, data, problem } = await call("POST", at`stages/${stage}/consumers/${slot}/stack`, { pid });
  stack.disabled = false;
  if (!ok) return tell(`No stack of Consumer ${slot}: ${problem}`, "error");
  const doing = data.message_id ? `on message ${data.message_id} for ${seconds(data.seconds)}` : "without a message";
  return ask(`Stack of Consumer ${slot}`, [h("p", { text: `Process ${data.pid}, ${doing}` }), h("pre", { tabindex: 0, text: data.stack })], []);
}

// Pure. What must be the same: its process; its message, alone for 2 s.
export const holds = ({ pid, seq, message_id: id, message_seconds: s, messages: { length: n } }) =>
  ({ pid: pid || null, ...(n < 2 && s >= 2 && { seq, id }) });

async function replace(stage, slot, { pid, seq, id }) {
  const later = "After its message: it finishes what it has, then another takes its place.";
  const now = `Now: it is killed. ${id ? `Message ${id}` : "Its message, of several the one at fault,"} counts as a crash and is tried again; after crash.max crashes it is a dead letter.`;
  const chosen = await ask(`Replace Consumer ${slot} of ${stage}?`, [h("p", { text: later }), h("p", { text: now })],
    [["later", "Replace after its message", "primary"], ["now", "Kill and replace now", "danger"]]);
  const body = chosen === "now" ? { now: true, pid, seq } : { pid };
  if (chosen) act(`Consumer ${slot} is to be replaced`, "POST", at`stages/${stage}/consumers/${slot}/replace`, body);
}
