// The log of all processes: filters that the service applies, a pause, gaps shown as gaps. Receives `logs`.

import { at } from "./api.js";
import { attr, button, h, keyed, text } from "./dom.js";
import { count, plural, time } from "./format.js";
import { store } from "./store.js";

const LEVELS = ["debug", "info", "warning", "error"];
const SHOWN = new Set(["time", "level", "event", "msg", "service", "stage", "process", "pid", "message_id", "traceback"]);

export function view({ query }) {
  const field = (label) => h("input", { type: "search", placeholder: label, "aria-label": label, autocomplete: "off" });
  const option = (value, label = value) => h("option", { value, text: label });
  const wanted = query.get("stage");
  const filters = {
    level: h("select", { "aria-label": "From this level" }, LEVELS.map((each) => option(each))),
    stage: h("select", { "aria-label": "Stage" }, option("", "all stages"), wanted && option(wanted)),
    text: field("Text"),
    message: field("Message id"),
  };
  const values = () => Object.fromEntries(Object.entries(filters).map(([name, { value }]) => [name, value]).filter(([, value]) => value));
  filters.level.value = "info";
  for (const name in filters) {
    filters[name].value = query.get(name) ?? filters[name].value;
    filters[name].addEventListener("change", filter);
  }
  const pause = button("Pause", () => hold(held === null));
  const told = h("span", { class: "muted" });
  const list = h("ol", { class: "lines" });
  const box = h("div", { class: "log", tabindex: 0, role: "region", "aria-label": "Log lines" }, list);
  let held = null; // the logs as they were when the list was held
  let drawn = null;

  function filter() {
    history.replaceState(null, "", `#/logs?${new URLSearchParams(values())}`);
    store.dispatch({ type: "logs cleared" });
    hold(false);
    dispatchEvent(new CustomEvent("listen", { detail: "lines" }));
  }
  function hold(on) {
    held = on ? store.state.logs : null;
    text(pause, on ? "Go on" : "Pause");
    draw(store.state.logs);
  }
  function draw(logs) {
    const { lines, seen } = held ?? logs;
    text(told, held ? `paused, ${plural(logs.seen - seen, "more line")}` : plural(lines.length, "line"));
    if (drawn === lines) return;
    drawn = lines;
    const follows = box.scrollHeight - box.scrollTop - box.clientHeight < 30;
    keyed(list, lines, ({ key }) => key, line);
    if (follows) box.scrollTop = box.scrollHeight;
  }

  return {
    root: h("div", {}, h("div", { class: "row head" }, h("h1", { text: "Logs" }),
      h("div", { class: "row", role: "search" }, Object.values(filters), pause, told)), box),
    topics: ["logs"],
    query: values,
    update({ logs, overview }) {
      const known = new Set([...filters.stage.options].map((each) => each.value));
      for (const { name } of overview?.stages ?? []) if (!known.has(name)) filters.stage.append(option(name));
      draw(logs);
    },
  };
}

function line({ gap, event }) {
  if (gap) return h("li", { class: "gap", text: typeof gap === "number" ? `${count(gap)} lines are missing here` : gap });
  const { level, msg, message_id: id, traceback } = event;
  const more = Object.entries(event).filter(([name]) => !SHOWN.has(name)).map(([name, value]) => `${name}=${value}`).join("  ");
  return h("li", {}, h("time", { text: time(event.time).slice(-8) }), h("span", { class: level, text: level }),
    h("span", { class: "muted", text: event.process || event.stage }),
    h("span", {}, msg, " ", id && h("a", { href: at`#/message/${id}`, text: id }), " ", h("span", { class: "muted", text: more }),
      traceback && h("pre", { text: traceback })));
}
