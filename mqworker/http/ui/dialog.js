// Questions, answers and commands: what an operator does goes out here, and how it went is said in the status line.
//
// A command is sent without ?wait=, so it holds no place of the service; that it is in force is seen in the Feed.

import { call } from "./api.js";
import { attr, button, h, text } from "./dom.js";
import { store } from "./store.js";

const STAYS = 8_000; // ms: how long an answer is shown
const JUST = 2000; // ms
let fading;
let said = 0;

// Says how something went. `level`: "ok", "info" or "error"; errors stay until the next answer.
export function tell(sentence, level = "ok") {
  const line = document.getElementById("answer");
  text(line, sentence);
  attr(line, "class", level);
  clearTimeout(fading);
  said = Date.now();
  if (level !== "error") fading = setTimeout(() => text(line, ""), STAYS);
}

// Another view is shown: what was said in the one before goes, but for the answer that leads here.
export function left() {
  if (Date.now() - said > JUST) tell("");
}

// Opens a dialog with `nodes` and buttons, [value, label, class]; resolves with the value of the one that was chosen, or "".
export function ask(title, nodes, choices) {
  const { promise, resolve } = Promise.withResolvers();
  const buttons = [["", choices.length ? "Cancel" : "Close"], ...choices].map(([value, label, kind]) =>
    button(label, () => dialog.close(value), null, kind));
  const dialog = h("dialog", { "aria-label": title, on: { close: () => resolve(dialog.returnValue) } },
    h("h2", { text: title }), nodes, h("p", { class: "buttons" }, buttons));
  document.body.append(dialog);
  dialog.showModal();
  return promise.finally(() => dialog.remove());
}

// Asks whether to do something that names its number and effect; `verb` is the button ("Replay 37"). Resolves with a bool.
export async function confirm(title, sentence, verb, { danger = false } = {}) {
  return Boolean(await ask(title, [h("p", { text: sentence })], [["yes", verb, danger ? "danger" : "primary"]]));
}

// Sends a command and says how it went: `what` is its effect ("Stage energy is paused"). With `stage`, also when it is applied there,
// or undone. A 409 that names what would be destroyed asks once more. Returns the answer of `call`.
export async function act(what, method, path, body, { stage, ...options } = {}) {
  tell("Sent …", "info");
  const answer = await call(method, path, body, options);
  if (answer.data?.destroyed && (await confirm("This destroys messages", answer.problem, "Do it all the same", { danger: true }))) {
    return act(what, method, `${path}?force=true`, body, { stage, ...options });
  }
  if (!answer.ok) tell(`Not done: ${answer.problem}`, "error");
  else if (stage) whenOver(what, stage, answer.data);
  else tell(`${what}.`);
  return answer;
}

// Pure. Returns the outcome of a command that is stored under this revision, for which `change` is being prepared (if so): [sentence,
// level], or undefined as long as it is not over. `summary` is the stage in the overview of revision `newest`.
export function outcome(what, { revision, change }, newest, summary) {
  if (newest < revision) return undefined; // the overview was on its way
  if (!summary) return [`${what}: stored; the stage is no longer there.`, "error"];
  const { state, reason, change: code } = summary.change ?? {};
  if (change && code > change) return [`${what}: stored; another change has come after it.`, "info"];
  if (change && code === change && state === "undone") return [`Not done: ${what}: it was undone: ${reason}`, "error"];
  if ((change && code === change && state === "preparing") || summary.applied < revision) return undefined;
  return [`${what}.`];
}

function whenOver(what, stage, stored) {
  tell(`${what}: stored as revision ${stored.revision}, being applied …`, "info");
  const end = store.subscribe(["overview"], ({ overview }) => {
    const over = overview && outcome(what, stored, overview.service.revision, overview.stages.find(({ name }) => name === stage));
    if (over) tell(...over);
    if (over) queueMicrotask(() => end());
  });
}
