// Who changed what, from what to what, and how it was answered. Receives `audit`; what was before is asked for once.

import { at, call } from "./api.js";
import { dot } from "./overview.js";
import { h, keyed, text } from "./dom.js";
import { time } from "./format.js";
import { store } from "./store.js";

const COLUMNS = [["time", "Time"], ["by", "By"], ["what", "What"], ["changes", "From → to"], ["answer", "Answer"]];

export function view() {
  const body = h("tbody");
  const none = h("p", { class: "empty", text: "Nothing has been changed yet." });
  call("GET", "audit?limit=1000").then(({ ok, data, problem }) => {
    if (ok) store.dispatch({ type: "audit", data });
    else text(none, problem);
  });
  return {
    root: h("div", {}, h("div", { class: "row head" }, h("h1", { text: "Audit" })), h("section", { class: "panel" }, none,
      h("div", { class: "table" }, h("table", { class: "cards" },
        h("thead", {}, h("tr", {}, COLUMNS.map(([, label]) => h("th", { scope: "col", text: label })))), body)))),
    topics: ["audit"],
    update({ audit }) {
      none.hidden = audit.length > 0;
      keyed(body, audit, ({ n, time: when }) => `${n} ${when}`, record);
    },
  };
}

function record({ time: when, by, from, what, method, path, stage, changes, status, answer }) {
  const change = ([field, old, now]) => h("li", {}, h("span", { class: "muted", text: `${field}: ` }), `${shown(old)} → ${shown(now)}`);
  const result = h("td", { class: "wide" });
  dot(result, status < 400 ? "ok" : "error", `${status} ${answer ?? ""}`);
  return h("tr", {}, h("td", { class: "nowrap", "data-label": "Time", text: time(when) }),
    h("td", { "data-label": "By", title: from || null, text: by }),
    h("td", { class: "wide" }, stage && h("a", { href: at`#/stage/${stage}`, text: stage }), stage && " ", what || `${method} ${path}`),
    h("td", { class: "wide" }, h("ul", { class: "plain-list mono" }, (changes ?? []).map(change))), result);
}

function shown(value) {
  return value === null || value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value);
}
