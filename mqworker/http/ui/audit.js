// Who changed what, from what to what, and how it was answered. Receives `audit`; what was before is asked for once.

import { at, call } from "./api.js";
import { dot, h, table, text } from "./dom.js";
import { time } from "./format.js";
import { store } from "./store.js";

const COLUMNS = [["time", "Time", "when wide", ({ time: when }) => time(when)], ["by", "By", "when wide", ({ by, from }) => [WHO[by] ?? by, from].filter(Boolean).join(", ")],
  ["what", "What", "wide"], ["changes", "From → to", "wide mono"], ["answer", "Answer", "wide"]];
const WHO = { anybody: "over HTTP", socket: "command line" }; // who has no name
const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value ?? null));

export function view() {
  const none = h("p", { class: "muted", text: "Nothing has been changed yet." });
  const records = table(COLUMNS, ({ n, time: when }) => `${n} ${when}`, make);
  call("GET", "audit?limit=1000").then(({ ok, data, problem }) => {
    if (ok) store.dispatch({ type: "audit", data });
    else text(none, problem);
  });
  return {
    root: h("div", {}, h("h1", { class: "head", text: "Audit" }), h("section", { class: "panel" }, none, records.root)),
    topics: ["audit"],
    update({ audit }) {
      none.hidden = audit.length > 0;
      records.update(audit);
    },
  };
}

function make(row, { what, path, asked, stage, changes, status, answer }) {
  if (stage) row.what.append(h("a", { href: at`#/stage/${stage}`, text: stage }), " ");
  row.what.append(h("span", { text: what }), " ", h("span", { class: "muted mono", text: `${path.replace(/^\/api\/v1\/(stages\/[^/]+\/)?/, "")} ${asked}` }));
  row.changes.append(...changes.map(({ field, old, new: now }) => h("div", { text: `${field}: ${shown(old)} → ${shown(now)}` })));
  dot(row.answer, status < 400 ? "ok" : "error", `${status} ${answer}`);
}
