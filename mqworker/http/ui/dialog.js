// Questions, answers and commands: what an operator does goes out here, and how it went is said in the status line.
//
// A command is sent without ?wait=, so it holds no place of the service; that it is in force is seen in the Feed.

import { call } from "./api.js";
import { h, text } from "./dom.js";
import { store } from "./store.js";

const STAYS = 15_000; // ms: how long an answer is shown
let fading;

// Says how a command went. `level`: "ok", "info" or "error"; errors stay until the next answer.
export function tell(sentence, level = "ok") {
  const line = document.getElementById("answer");
  text(line, sentence);
  line.dataset.level = level;
  clearTimeout(fading);
  if (level !== "error") fading = setTimeout(() => text(line, ""), STAYS);
}

// Opens a dialog with `nodes` and buttons, [value, label, class]; resolves with the value of the one that was chosen, "" for none.
export function ask(title, nodes, buttons) {
  return new Promise((resolve) => {
    const close = (value) => () => dialog.close(value);
    const dialog = h(
      "dialog",
      { "aria-labelledby": "dialog-title", on: { close: () => (dialog.remove(), resolve(dialog.returnValue)) } },
      h("h2", { id: "dialog-title", text: title }),
      ...nodes,
      h(
        "p",
        { class: "buttons" },
        h("button", { type: "button", text: "Cancel", on: { click: close("") } }),
        buttons.map(([value, label, kind = ""]) =>
          h("button", { type: "button", class: kind, text: label, on: { click: close(value) } }),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

// Asks whether to do something that names its number and effect; `verb` is the button ("Replay 37"). Resolves with a bool.
export async function confirm(title, sentence, verb, { danger = false } = {}) {
  return (await ask(title, [h("p", { text: sentence })], [["yes", verb, danger ? "danger" : "primary"]])) === "yes";
}

// Sends a command and says how it went: `what` is the deed in the past tense ("energy paused"). With `stage`, also when the
// stage has applied it. A 409 that names what would be destroyed asks once more. Returns the answer of `call`.
export async function act(what, method, path, body, { stage, ...options } = {}) {
  tell("Sent …", "info");
  const answer = await call(method, path, body, options);
  if (answer.status === 409 && answer.data?.destroyed) {
    const sure = await confirm("This destroys messages", answer.problem, "Do it all the same", { danger: true });
    if (sure) return act(what, method, `${path}${path.includes("?") ? "&" : "?"}force=true`, body, { stage, ...options });
    tell("Nothing was done.", "info");
  } else if (!answer.ok) {
    tell(`Not done: ${answer.problem}`, "error");
  } else {
    const { revision } = answer.data ?? {};
    if (stage && revision) whenApplied(what, stage, revision);
    else tell(`${what}.`);
  }
  return answer;
}

// The deed is stored; it is done when the stage has applied its revision.
function whenApplied(what, stage, revision) {
  const applied = () => store.state.overview?.stages.find((each) => each.name === stage)?.applied >= revision;
  if (applied()) return tell(`${what}.`);
  tell(`${what}: stored as revision ${revision}, being applied …`, "info");
  const until = performance.now() + STAYS;
  const end = store.subscribe(["overview"], () => {
    if (applied()) tell(`${what}.`);
    if (applied() || performance.now() > until) queueMicrotask(() => end());
  });
}
