// Who changed what, from what to what, and how it was answered. Receives `audit`; what was before is asked for once.

import { at, call } from "./api.js";
import { dot, h, table, text } from "./dom.js";
import { time } from "./format.js";
import { store } from "./store.js";

const COLUMNS = [["time", "Time", "nowrap"], ["by", "By"], ["what", "What", "wide"], ["changes", "From → to", "wide mono"],
  ["answer", "Answer", "wide"]];

export function view() {
  const none = h("p", { class: "muted", text: "Nothing has been changed yet." });
  const records = table(COLUMNS, ({ n, time: when }) => `${n} ${when}`, make, () => {});
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

function make(row, { time: when, by, from, what, asked, stage, changes, status, answer }) {
  text(row.time, time(when));
  text(row.by, from ? `${by}, ${from}` : by);
  if (stage) row.what.append(h("a", { href: at`#/stage/${stage}`, text: stage }), " ");
  row.what.append(what);
  if (asked) row.what.append(" ", h("span", { class: "muted mono", text: asked }));
  for (const { field, old, new: now } of changes) row.changes.append(h("div", {}, `${field}: ${shown(old)} → ${shown(now)}`));
  dot(row.answer, status < 400 ? "ok" : "error", `${status} ${answer}`);
}

function shown(value) {
  return typeof value === "string" ? value : JSON.stringify(value ?? null);
}
