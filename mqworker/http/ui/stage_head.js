// The head of a stage, the same above each of its tabs: why it does what it does, its controls, the change in progress. `head(name)` returns
// {root, update(state, tab)}; it needs the topic `stage:NAME`. The tabs: "" (now), "params", "chain", "failures".

import { at } from "./api.js";
import { act, confirm } from "./dialog.js";
import { attr, button, dot, h, text } from "./dom.js";
import { count, plural, seconds } from "./format.js";
import { label, togglePause } from "./overview.js";

export function head(name) {
  const why = h("p");
  const refused = h("p", { class: "error said" }); // why new code was not taken, until it is tried again
  const controls = commands(name, refused);
  const [progress, told] = [h("progress", { "aria-label": "Consumers set up" }), h("span")];
  const change = h("p", { class: "row" }, progress, told);
  const link = (tab, label) => h("a", { href: at`#/stage/${name}` + (tab && `/${tab}`), "data-tab": tab, text: label });
  const failures = h("a", { href: at`#/failures/${name}`, "data-tab": "failures" });
  const links = [link("", "Now"), link("params", "Parameters"), link("chain", "Chain"), failures];

  return {
    root: h("div", {}, h("div", { class: "row head" }, h("h1", { text: name }), controls.root), why, change, refused,
      h("nav", { class: "tabs", "aria-label": `Parts of stage ${name}` }, links)),
    update({ overview, stages: { [name]: known } }, tab) {
      for (const each of links) attr(each, "aria-current", each.dataset.tab === tab && "page");
      const summary = overview?.stages.find((each) => each.name === name);
      dot(why, summary?.why.level, summary?.why.sentence ?? (overview && "There is no such stage in this service."));
      const dead = summary?.dead_backlog;
      text(failures, dead ? `Failures (${count(dead)})` : "Failures");
      attr(failures, "title", dead ? plural(dead, "dead letter") : null);
      const { detail } = known ?? {};
      const { state: step, wanted, ready } = detail?.change ?? {};
      change.hidden = !step;
      if (step) text(told, sentenceOf(detail.change));
      attr(told, "class", step === "undone" ? "error said" : null);
      Object.assign(progress, { hidden: step !== "preparing", max: wanted || 1, value: ready ?? 0 });
      controls.root.hidden = !detail;
      if (detail) controls.update(detail);
    },
  };
}

// Pause, - and +, restart, stop or start.
function commands(name, refused) {
  let desired = {};
  let wanted = 0; // a second press goes on from the first one
  let sending = false;
  let newest = 0; // the revision of the last that was sent: reports on older ones are ignored
  const send = (what, method, verb, body) => act(what, method, at`stages/${name}/` + verb, body, { stage: name });
  const scale = (step) => async () => {
    show(wanted + step);
    if (sending) return; // what is under way sends it afterwards
    sending = true;
    for (let sent; sent !== wanted; ) {
      sent = wanted;
      const { ok, data } = await send(`${plural(sent, "Consumer")} of ${name}`, "PUT", "consumers", { count: sent });
      if (ok) newest = data.revision;
      else show((sent = desired.consumers));
    }
    sending = false;
  };
  function show(consumers) {
    wanted = consumers;
    text(number, wanted);
    less.disabled = desired.auto || wanted === 0;
    more.disabled = desired.auto;
  }
  const command = (sign, click, says = null) => button(sign, click, says && `${says} ${name}`, "command");
  const pause = command("", () => togglePause(name));
  const less = command("−", scale(-1), "One Consumer less for");
  const more = command("+", scale(1), "One Consumer more for");
  const number = h("b");
  const auto = h("span", { class: "muted", title: "service.processes are shared among the stages", text: "auto" });
  const restart = command("Restart …", async () => {
    const sentence = "New Consumers with the code that is in the folder take the place of the present ones, once they are set up.";
    if (!(await confirm(`Restart the Consumers of ${name}?`, sentence, "Restart"))) return;
    text(refused, "");
    text(refused, (await send(`New Consumers of ${name}`, "POST", "restart", {})).problem);
  }, "Restart the Consumers of");
  const stop = command("", async () => {
    if (!desired.running) return send(`${name} is started`, "POST", "start");
    const sentence = "It finishes what it has in hand, then its processes end. Messages wait in its queue until it is started.";
    const sure = await confirm(`Drain and stop ${name}?`, sentence, "Drain and stop", { danger: true });
    return sure && send(`${name} is to stop`, "POST", "stop");
  });
  return {
    root: h("div", { class: "row" }, pause, h("span", { class: "row scale", role: "group", "aria-label": "Consumers" },
      h("span", { class: "muted", text: "Consumers" }), less, number, more, auto), restart, stop),
    update(detail) {
      ({ desired } = detail);
      show(sending || detail.revision < newest ? wanted : desired.consumers);
      auto.hidden = !desired.auto;
      label(pause, desired.listening ? "Pause" : "Resume", `stage ${name}`);
      label(stop, desired.running ? "Drain …" : "Start", `stage ${name}`);
    },
  };
}

// stored → prepared n/N → committed, or undone and why.
export function sentenceOf({ state, generation, ready, wanted, on_trial: trial, left, reason, seconds: ago }) {
  if (state === "preparing") return `Generation ${generation} is stored; prepared: ${ready} of ${wanted || "…"} Consumers`;
  if (state === "undone") return `Generation ${generation} was undone ${seconds(ago)} ago: ${reason}`;
  const more = [`Generation ${generation} is committed`, trial && "it has not finished a message yet", left && `${left} old ones left`, reason];
  return more.filter(Boolean).join("; ");
}
