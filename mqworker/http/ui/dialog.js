// Questions, answers and commands: what an operator does goes out here, and how it went is said in the status line.
//
// A command is sent without ?wait=, so it holds no place of the service; that it is in force is seen in the Feed.

import { call } from "./api.js";
import { attr, button, h, text } from "./dom.js";
import { store } from "./store.js";

const STAYS = 15_000; // ms: how long an answer is shown
let fading;

// Says how something went. `level`: "ok", "info" or "error"; errors stay until the next answer.
export function tell(sentence, level = "ok") {
  const line = document.getElementById("answer");
  text(line, sentence);
  attr(line, "class", level);
  clearTimeout(fading);
  if (level !== "error") fading = setTimeout(() => text(line, ""), STAYS);
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

// Sends a command and says how it went: `what` is the deed ("Stage energy is paused"). With `stage`, also when it is applied. A 409
// that names what would be destroyed asks once more. Returns the answer of `call`.
export async function act(what, method, path, body, { stage, ...options } = {}) {
  tell("Sent …", "info");
  const answer = await call(method, path, body, options);
  if (answer.data?.destroyed && (await confirm("This destroys messages", answer.problem, "Do it all the same", { danger: true }))) {
    return act(what, method, `${path}?force=true`, body, { stage, ...options });
  }
  if (!answer.ok) tell(`Not done: ${answer.problem}`, "error");
  else if (stage) whenApplied(what, answer.data.revision);
  else tell(`${what}.`);
  return answer;
}

// The deed is stored; it is done when the service has applied its revision.
function whenApplied(what, revision) {
  tell(`${what}: stored as revision ${revision}, being applied …`, "info");
  const until = Date.now() + STAYS;
  const end = store.subscribe(["overview"], ({ overview }) => {
    const applied = overview?.service.applied >= revision;
    if (applied) tell(`${what}.`);
    if (applied || Date.now() > until) queueMicrotask(() => end());
  });
}
