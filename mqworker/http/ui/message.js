// A message by its id: where it is, its way with times through each stage, its dead letters and its log lines.
//
// Asks again while it is on its way. The sentences are the service's.

import { at, call } from "./api.js";
import { button, h, table, text } from "./dom.js";
import { seconds, time } from "./format.js";

const EVERY = 2000; // ms between questions while it is on its way
const STEPS = { received: "received", begun: "begun", finished: "finished", settled: "settled", due: "next attempt" };

const panel = (...nodes) => h("section", { class: "panel" }, ...nodes);

export function view({ parts: [id = ""] }) {
  const sentence = h("p", { role: "status", text: "Looking …" });
  const looked = h("span", { class: "muted" });
  const body = h("div");
  const lines = table([["time", "Time", "when"], ["level", "Level"], ["line", "Line", "wrap wide"]], (each) => JSON.stringify(each), (row, each) => {
    text(row.time, time(each.time));
    row.level.append(h("span", { class: each.level, text: each.level }));
    text(row.line, each.msg ?? each.event);
  });
  const root = h("div", {}, h("p", { class: "row head" }, h("h1", {}, "Message ", h("span", { class: "id", text: id }))),
    panel(sentence, h("p", { class: "row" }, button("Look through the dead letters", () => look("?look=1")), looked)), body);
  let asked = -Infinity;
  let moving = true;
  let shown;

  async function look(query = "") {
    asked = Infinity;
    const { ok, data, problem } = await call("GET", at`messages/${id}` + query);
    asked = performance.now();
    if (!ok) return void text(sentence, problem);
    const { letters_as_of: ago, ...rest } = data;
    moving = data.state === "in_hand" || data.state === "retry";
    text(sentence, data.sentence);
    text(looked, ago === null ? "they have not been looked through" : `as of ${seconds(ago)} ago`);
    if (JSON.stringify(rest) === shown) return;
    shown = JSON.stringify(rest);
    const letters = data.letters.map((each) => h("li", {}, h("a", { class: "id", href: at`#/letter/${each.stage}/${each.id}`, text: each.id }), ` of ${each.stage}`));
    lines.update(data.lines);
    body.replaceChildren(...data.stages.map(part), ...(letters.length ? [panel(h("h2", { text: "Dead letters" }), h("ul", { class: "bare" }, letters))] : []),
      ...(data.lines.length ? [panel(h("h2", { text: "Log lines" }), lines.root)] : []),
      ...data.unanswered.map(({ stage, why }) => h("p", { class: "warning", text: `No answer from ${stage}: ${why}` })));
  }

  function part({ stage, state, sentence: said, traces }) {
    return panel(h("h2", {}, h("a", { href: at`#/stage/${stage}`, text: stage }), " ", h("span", { class: "chip", text: state })),
      said === sentence.textContent.slice(-said.length) ? null : h("p", { text: said }), h("ol", { class: "bare" }, traces.map(way)));
  }

  function way({ state, attempt, at: times, duration_s: took, consumer, generation, reason, error_type: type, error, place }) {
    const steps = Object.keys(STEPS).filter((name) => times[name]).map((name) => `${STEPS[name]} ${time(times[name])}${times[name].slice(19, 23)}`);
    const facts = [took && `${seconds(took)} in handlers`, consumer !== null && `Consumer ${consumer}`, generation && `generation ${generation}`];
    const fault = [[reason, type, place].filter(Boolean).join(" · "), error].filter(Boolean).join(": ");
    return h("li", {}, h("strong", { text: `Attempt ${attempt}: ${state}` }), " ", h("span", { class: "muted", text: facts.filter(Boolean).join(" · ") }),
      h("div", { text: steps.join(" → ") }), fault && h("div", { class: "error wrap", text: fault }));
  }

  return {
    root,
    topics: [],
    update() {
      if (moving && id && performance.now() - asked > EVERY) look();
    },
  };
}
