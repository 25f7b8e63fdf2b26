// The log of all processes: filters that the service applies, a pause, gaps shown as gaps. Receives `logs`.

import { at } from "./api.js";
import { attr, h, keyed, text } from "./dom.js";
import { count, plural, time } from "./format.js";
import { store } from "./store.js";

const LEVELS = ["debug", "info", "warning", "error"];
const NAMED = new Set(["time", "level", "event", "msg", "service", "stage", "process", "pid", "message_id", "traceback"]);

export function view({ query }) {
  const level = h("select", { id: "log-level" }, LEVELS.map((each) => h("option", { value: each, text: each })));
  const stage = h("select", { id: "log-stage" }, h("option", { value: "", text: "all stages" }));
  const field = (id, label) => h("input", { id, type: "search", placeholder: label, "aria-label": label, autocomplete: "off" });
  const [words, message] = [field("log-text", "Text"), field("log-message", "Message id")];
  const filters = { level, stage, text: words, message };
  level.value = "info";
  for (const name in filters) filters[name].value = query.get(name) ?? filters[name].value;
  if (query.get("stage")) stage.append(h("option", { value: query.get("stage"), text: query.get("stage"), selected: true }));
  const pause = h("button", { type: "button", text: "Pause", "aria-pressed": "false", on: { click: () => hold(held === null) } });
  const told = h("span", { class: "muted" });
  const list = h("ol", { class: "lines" });
  const box = h("div", { class: "log", tabindex: 0, role: "log", "aria-live": "off", "aria-label": "Log lines" }, list);
  let held = null; // the logs as they were when the list was held
  let drawn = null;

  function filter() {
    const chosen = Object.entries(filters).map(([name, each]) => [name, each.value]).filter(([, value]) => value);
    history.replaceState(null, "", `#/logs?${new URLSearchParams(chosen)}`);
    store.dispatch({ type: "logs cleared" });
    hold(false);
    dispatchEvent(new Event("listen"));
  }
  function hold(on) {
    held = on ? store.state.logs : null;
    text(pause, on ? "Go on" : "Pause");
    attr(pause, "aria-pressed", String(on));
    draw(store.state.logs);
  }
  function draw(logs) {
    const { lines, seen } = held ?? logs;
    text(told, held ? `paused: ${plural(logs.seen - seen, "more line")}` : plural(lines.length, "line"));
    if (drawn === lines) return;
    drawn = lines;
    const follows = box.scrollHeight - box.scrollTop - box.clientHeight < 30;
    keyed(list, lines, ({ key }) => key, line);
    if (follows) box.scrollTop = box.scrollHeight;
  }
  level.addEventListener("change", filter);
  stage.addEventListener("change", filter);
  words.addEventListener("change", filter);
  message.addEventListener("change", filter);

  return {
    root: h("div", {}, h("div", { class: "row head" }, h("h1", { text: "Logs" }),
      h("div", { class: "row", role: "search" }, h("label", { for: "log-level", class: "muted", text: "From" }), level, stage, words, message,
        pause, told)), box),
    topics: ["logs"],
    query: () => Object.fromEntries(Object.entries(filters).map(([name, each]) => [name, each.value])),
    update({ logs, overview }) {
      for (const { name } of overview?.stages ?? []) {
        if (![...stage.options].some((each) => each.value === name)) stage.append(h("option", { value: name, text: name }));
      }
      draw(logs);
    },
  };
}

function line({ gap, event }) {
  if (gap) return h("li", { class: "gap", text: typeof gap === "number" ? `${count(gap)} lines are missing here` : gap });
  const more = Object.entries(event).filter(([name]) => !NAMED.has(name)).map(([name, value]) => `${name}=${value}`).join("  ");
  const id = event.message_id;
  return h("li", { class: event.level },
    h("time", { text: time(event.time).slice(-8) }), h("span", { class: "level", text: event.level }),
    h("span", { class: "muted from", text: event.process || event.stage }),
    h("span", { class: "wrap" }, event.msg, " ", id && h("a", { class: "id", href: at`#/message/${id}`, text: id }), " ",
      h("span", { class: "muted", text: more }), event.traceback && h("pre", { text: event.traceback })));
}
