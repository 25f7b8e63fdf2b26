// A message by its id: where it is, its way with times through each stage, its dead letters and its log lines.
//
// Asks again while it is on its way, while nobody knows it, and whenever one comes here. The sentences are the service's.

import { at, call } from "./api.js";
import { button, h, panel, table, text } from "./dom.js";
import { address } from "./failures.js";
import { seconds, time } from "./format.js";

const EVERY = { in_hand: 2000, retry: 2000, unknown: 5000 }; // ms between questions, by its state
const STEPS = { received: "received", begun: "begun", finished: "finished", settled: "settled", due: "next attempt" };
const WORDS = { held: "waits for a Consumer", out: "in hand", placing: "being published", delayed: "waits for its next attempt", kept: "outcome kept",
  result: "done, with a result", dropped: "done, without a result", retried: "failed", renewed: "put back into the queue" }; // others are words themselves

export function view({ parts: [id = ""] }) {
  const sentence = h("p", { role: "status", text: "Looking …" });
  const body = h("div");
  const lines = table([["time", "Time", "when", (each) => time(each.time)], ["level", "Level", "", (each) => each.level], ["line", "Line", "wrap wide", (each) => each.msg]], JSON.stringify);
  const root = h("div", {}, h("p", { class: "row head" }, h("h1", { class: "wrap", text: `Message ${id}` })),
    h("section", { class: "panel" }, sentence, button("Look through the dead letters", () => look({ look: 1 }))), body);
  let state = "unknown";
  let [asked, answered] = [0, -Infinity]; // number of the last question, and when that was answered
  let shown, here;

  async function look(query) {
    const mine = (asked += 1);
    answered = Infinity;
    const { ok, data, problem } = await call("GET", `messages?${new URLSearchParams({ id, ...query })}`); // in a path, proxies would follow the ".." of an id
    if (mine !== asked) return;
    answered = performance.now();
    text(sentence, ok ? data.sentence : problem);
    if (!ok) return;
    ({ state } = data);
    const now = JSON.stringify([data.stages.map(({ traces }) => traces), data.letters, data.lines, data.unanswered]);
    if (now === shown) return;
    shown = now;
    lines.update(data.lines);
    const letters = data.letters.map((each) => h("li", {}, h("a", { href: at`#/letter/${each.stage}/${each.id}`, text: each.id }), ` of ${each.stage}`));
    body.replaceChildren(...data.stages.map(part), ...(letters.length ? [panel("Dead letters", h("ul", { class: "bare" }, letters))] : []),
      ...(data.lines.length ? [panel("Log lines", lines.root)] : []),
      ...data.unanswered.map(({ stage, why }) => h("p", { class: "warning", text: `No answer from ${stage}: ${why}` })));
  }

  function part({ stage, sentence: said, traces }) {
    return panel(`Stage ${stage}`, traces.length ? h("ol", { class: "bare" }, traces.map(way)) : h("p", { text: said }),
      traces.at(-1)?.state === "dead" && h("a", { href: address(stage, { text: id }), text: `Its dead letters in ${stage}` }));
  }

  function way({ state, attempt, at: times, duration_s: took, consumer, generation, reason, error_type: type, error, place }, index, traces) {
    const steps = Object.keys(STEPS).filter((name) => times[name]).map((name) => `${STEPS[name]} ${time(times[name])}${times[name].slice(19, 23)}`);
    const facts = [took && `${seconds(took)} in handlers`, consumer !== null && `Consumer ${consumer}`, `generation ${generation}`];
    const fault = [reason, type, place, error].filter(Boolean).join(" · ");
    const crashes = reason === "crash" && traces.slice(0, index + 1).filter((each) => each.reason === reason).length;
    const title = `Attempt ${attempt}${crashes ? `, crash ${crashes}` : ""}: ${WORDS[state] ?? state}`; // a crash is not counted as an attempt
    return h("li", {}, h("strong", { text: title }), h("span", { class: "muted", text: ` ${facts.filter(Boolean).join(" · ")}` }),
      h("div", { text: steps.join(" → ") }), h("div", { class: "error wrap", text: fault }));
  }

  return {
    root,
    topics: [],
    update(_state, route) {
      if (id && (route !== here || performance.now() - answered > EVERY[state])) look();
      here = route;
    },
  };
}
