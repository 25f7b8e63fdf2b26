// One dead letter: what failed and where, the body as text, the headers, the difference to another one, edit and replay.
//
// Nothing of it is interpreted here: the service has made text of body and headers, so 64-bit integers stay as they are.

import { at, call } from "./api.js";
import { act, confirm, tell } from "./dialog.js";
import { button, h, table, text } from "./dom.js";
import { apply } from "./failures.js";
import { bytes, plural, time } from "./format.js";

const LINES = 2000; // that two letters are compared by
const EDITED = 1_048_576; // bytes of a body that can be edited

// Returns the lines of both texts as [sign, line]: " " in both, "-" only in the first, "+" only in the second.
export function lineDifference(one, other) {
  const [a, b] = [one, other].map((written) => written.split("\n").slice(0, LINES));
  const longest = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1)); // common part of what follows
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      longest[i][j] = a[i] === b[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const lines = [];
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    if (i < a.length && j < b.length && a[i] === b[j]) lines.push([" ", a[i++], j++].slice(0, 2));
    else if (j === b.length || (i < a.length && longest[i + 1][j] >= longest[i][j + 1])) lines.push(["-", a[i++]]);
    else lines.push(["+", b[j++]]);
  }
  return lines;
}

const panel = (title, ...nodes) => h("section", { class: "panel" }, h("h2", { text: title }), ...nodes);
const whole = ({ header_rows: rows, preview }) => [...rows.map(([name, , value]) => `${name}: ${value}`), "", preview.text].join("\n");

export function view({ parts: [stage, id] }) {
  const path = at`stages/${stage}/dlq`;
  const failures = at`#/failures/${stage}`;
  const facts = h("section", { class: "panel", text: "Looking …" });
  const editor = h("div");
  const rest = h("div");
  const difference = h("div");
  const root = h("div", {}, h("p", { class: "row head" }, h("h1", {}, "Dead letter of ", h("a", { href: failures, text: stage }))), facts, editor, rest);
  let letter, compared;

  async function read(which) {
    const answer = await call("GET", `${path}/${which}`, undefined, { exact: true });
    return answer.ok ? answer.data : void tell(answer.problem, "error");
  }

  async function load() {
    letter = await read(id);
    if (!letter) return facts.replaceChildren(button("Try again", load));
    const { preview, message_id: message, equal, content_type: type, size } = letter;
    const shown = [
      ["Message", message && h("a", { class: "id", href: at`#/message/${message}`, text: message })],
      ["Fault", [letter.reason, letter.error_type, letter.place].filter(Boolean).join(" · ")],
      ["Error", letter.message && h("span", { class: "error said", text: letter.message })],
      ["Failed", [letter.failed_at && time(letter.failed_at), letter.first_failed_at && `first ${time(letter.first_failed_at)}`].filter(Boolean).join(", ")],
      ...["attempt", "crashes", "generation", "replayed", "host"].map((name) => [name[0].toUpperCase() + name.slice(1), letter[name]]),
      ["Body", `${type ?? "no content type"}, ${bytes(Number(size))}`],
      ["Equal ones", Number(equal) > 1 && `${plural(Number(equal), "letter")} with this id: what is done here is done to all`],
    ];
    const editable = ["json", "text"].includes(preview.kind) && preview.complete && Number(size) <= EDITED;
    facts.replaceChildren(
      h("dl", {}, shown.filter(([, value]) => value).flatMap(([name, value]) => [h("dt", { text: name }), h("dd", {}, value instanceof Node ? value : String(value))])),
      h("p", { class: "row command" }, button("Replay …", () => use("replay"), null, "primary"), editable && button("Edit and replay …", edit),
        button("Drop …", () => use("drop"), null, "danger")));
    const other = h("input", { "aria-label": "Id of another dead letter", placeholder: "id of another letter", spellcheck: "false" });
    const submit = (event) => {
      event.preventDefault();
      compare(other.value.trim());
    };
    const headers = table([["name", "Name", "mono wrap"], ["type", "Type", "muted"], ["value", "Value", "mono wrap wide"]], ([name]) => name, () => {}, (row, values) =>
      ["name", "type", "value"].forEach((column, index) => text(row[column], values[index])));
    headers.update(letter.header_rows);
    rest.replaceChildren(...written("Traceback", letter.traceback), ...written("How the Consumer ended", letter.exit),
      ...written(`Body as ${preview.kind}${preview.complete ? "" : ", its beginning"}`, preview.text),
      panel("Headers", headers.root),
      panel("Difference", h("form", { class: "row", on: { submit } }, other, h("button", { text: "Compare" })), difference));
    if (compared) compare(compared);
  }

  const written = (title, value) => (value ? [panel(title, h("pre", { tabindex: "0", role: "region", "aria-label": title, text: value }))] : []);

  async function use(kind) {
    const frozen = await call("POST", `${path}/selections`, { ids: [id] });
    if (!frozen.ok) tell(`Not done: ${frozen.problem}`, "error");
    else if (await apply(stage, kind, frozen.data)) location.hash = failures;
  }

  function edit() {
    const body = h("textarea", { rows: 16, "aria-label": "The edited body", spellcheck: "false" });
    body.value = letter.preview.text;
    const type = h("input", { "aria-label": "Content type", value: letter.content_type ?? "text/plain" });
    const submit = async (event) => {
      event.preventDefault();
      if (!(await confirm("Replay the edited letter?", "What is edited goes into the stage's input; this letter is gone then.", "Replay 1"))) return;
      const answer = await act(`${stage}: 1 edited letter is replayed`, "POST", `${path}/${id}/messages`, body.value, { type: type.value });
      if (answer.ok) location.hash = failures;
    };
    editor.replaceChildren(panel("Edit", h("form", { on: { submit } }, body, h("p", { class: "row" }, type, h("button", { class: "primary", text: "Replay edited …" }),
      button("Cancel", () => editor.replaceChildren())))));
    body.focus();
  }

  async function compare(wanted) {
    const other = letter && wanted && (await read(wanted));
    if (!other) return;
    const kinds = { "-": "error", "+": "ok", " ": null };
    const lines = lineDifference(whole(letter), whole(other)).map(([sign, line]) => h("span", { class: kinds[sign], text: `${sign} ${line}\n` }));
    text(difference, "");
    difference.append(h("p", { class: "muted" }, "− this letter, + ", h("a", { class: "id", href: at`#/letter/${stage}/${wanted}`, text: wanted })),
      h("pre", { tabindex: "0", role: "region", "aria-label": "Difference" }, lines));
  }

  load();
  return {
    root,
    topics: [],
    update(_, { query }) {
      const wanted = query.get("with");
      if (wanted && wanted !== compared) compare((compared = wanted));
    },
  };
}
