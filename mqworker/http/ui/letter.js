// One dead letter: what failed and where, the body as text, the headers, the difference to another one, edit and replay.
//
// Nothing of it is interpreted here: the service has made text of body and headers, so 64-bit integers stay as they are.

import { at, call } from "./api.js";
import { act, confirm, tell } from "./dialog.js";
import { button, h, panel, table, text } from "./dom.js";
import { apply } from "./failures.js";
import { bytes, plural, time } from "./format.js";

const LINES = 2000; // that two letters are compared by
const AGAIN = [3000, 60_000]; // ms after a failed request, at first and at most: each can be a look through the queue
const EDITED = 1_048_576; // bytes of a body that can be edited

// Returns the lines of both texts as [sign, line]: " " in both, "-" only in the first, "+" only in the second.
export function lineDifference(one, other) {
  const [a, b] = [one, other].map((written) => written.split("\n").slice(0, LINES));
  const longest = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1)); // common part of what follows
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) longest[i][j] = a[i] === b[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
  }
  const lines = [];
  for (let [i, j] = [0, 0]; i < a.length || j < b.length; ) {
    if (i < a.length && j < b.length && a[i] === b[j]) j += lines.push([" ", a[i++]]) && 1;
    else if (j === b.length || (i < a.length && longest[i + 1][j] >= longest[i][j + 1])) lines.push(["-", a[i++]]);
    else lines.push(["+", b[j++]]);
  }
  return lines;
}

const whole = ({ header_rows: rows, preview }) => [...rows.map(([name, , value]) => `${name}: ${value}`), "", preview.text].join("\n");
const written = (title, value) => value && panel(title, h("pre", { tabindex: "0", text: value }));

export function view({ parts: [stage, id] }) {
  const path = at`stages/${stage}/dlq`;
  const failures = at`#/failures/${stage}`;
  const body = h("div", { text: "Looking …" });
  const difference = h("div");
  const root = h("div", {}, h("p", { class: "row head" }, h("h1", {}, "Dead letter of ", h("a", { href: failures, text: stage }))), body);
  let [due, pause] = [0, AGAIN[0]]; // when to ask for the letter; Infinity: asked for, or never
  let letter, compared, sought;

  const read = (which) => call("GET", `${path}/${which}`, undefined, { exact: true });

  async function load() {
    due = Infinity;
    const { ok, status, data, problem } = await read(id);
    if (!ok) {
      if (!status || status === 401 || status >= 500) due = performance.now() + pause;
      pause = Math.min(2 * pause, AGAIN[1]);
      return text(body, status === 404 ? "It is no longer there." : `It cannot be shown: ${problem}`);
    }
    letter = data;
    const { preview, message_id: message, equal, content_type: type, size } = letter;
    const shown = [
      ["Letter", h("span", { class: "mono", text: id })],
      ["Message", message && h("a", { href: at`#/message/${message}`, text: message })],
      ["Fault", [letter.reason, letter.error_type, letter.place].filter(Boolean).join(" · ")],
      ["Error", letter.message && h("span", { class: "error said", text: letter.message })],
      ["Failed", letter.failed_at && `${time(letter.failed_at)}, attempt ${letter.attempt ?? "unknown"}`],
      ["Body", `${type ?? "no content type"}, ${bytes(Number(size))}`],
      ["Equal ones", Number(equal) > 1 && `${plural(Number(equal), "letter")} with this id: what is done here is done to all`],
    ].filter(([, value]) => value);
    const other = h("input", { "aria-label": "Id of another dead letter", placeholder: "id of another letter", spellcheck: "false" });
    const submit = (event) => {
      event.preventDefault();
      compare(other.value.trim());
    };
    const headers = table([["name", "Name", "mono wide", (row) => row[0]], ["type", "Type", "muted when", (row) => row[1]], ["value", "Value", "mono wrap wide", (row) => row[2]]], (row) => row[0]);
    headers.update(letter.header_rows.filter(([, , value]) => value !== letter.traceback && value !== letter.exit)); // they stand above
    body.replaceChildren(panel("Failure", h("dl", {}, shown.flatMap(([name, value]) => [h("dt", { text: name }), h("dd", {}, value)])),
      h("p", { class: "row command" }, button("Replay …", () => use("replay"), null, "primary"), button("Drop …", () => use("drop"), null, "danger")),
      ["json", "text"].includes(preview.kind) && preview.complete && Number(size) <= EDITED && editor(preview.text, type)),
      ...[written("Traceback", letter.traceback), written("How the Consumer ended", letter.exit)].filter(Boolean),
      written(`Body as ${preview.kind}${preview.complete ? "" : ", its beginning"}`, preview.text || " "), panel("Headers", headers.root),
      panel("Difference", h("form", { class: "row", on: { submit } }, other, h("button", { text: "Compare" })), difference));
    if (compared) compare(compared);
  }

  async function use(kind) {
    const { ok, data, problem } = await call("POST", `${path}/selections`, { ids: [id] });
    if (!ok) tell(`Not done: ${problem}`, "error");
    else if (await apply(stage, kind, data)) location.hash = failures;
  }

  function editor(given, kind) {
    const edited = h("textarea", { rows: 14, "aria-label": "The edited body", spellcheck: "false" });
    edited.value = given;
    const type = h("input", { "aria-label": "Content type", value: kind ?? "text/plain" });
    const submit = async (event) => {
      event.preventDefault();
      if (!(await confirm("Replay the edited letter?", "What is edited goes into the stage's input; this letter is gone then.", "Replay 1"))) return;
      const { ok } = await act(`${stage}: 1 edited letter is replayed`, "POST", `${path}/${id}/messages`, edited.value, { type: type.value });
      if (ok) location.hash = failures;
    };
    return h("details", { class: "command" }, h("summary", { text: "Edit and replay" }),
      h("form", { on: { submit } }, edited, h("p", { class: "row" }, type, h("button", { class: "primary", text: "Replay edited …" }))));
  }

  async function compare(wanted) {
    if (!letter || !wanted) return;
    sought = wanted;
    const { ok, data: other, problem } = await read(wanted);
    if (sought !== wanted) return; // one has compared it with another since
    if (!ok) return tell(problem, "error");
    const kinds = { "-": "error", "+": "ok" };
    const lines = lineDifference(whole(letter), whole(other)).map(([sign, line]) => h("span", { class: kinds[sign], text: `${sign} ${line}\n` }));
    difference.replaceChildren(h("p", { class: "muted" }, "− this letter, + ", h("a", { href: at`#/letter/${stage}/${wanted}`, text: wanted })),
      h("pre", { tabindex: "0" }, lines));
  }

  return {
    root,
    topics: [],
    update({ link }, { query }) {
      if (link.state === "live" && performance.now() > due) load();
      const wanted = query.get("with");
      if (wanted && wanted !== compared) compare((compared = wanted));
    },
  };
}
