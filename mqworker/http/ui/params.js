// The parameters of a stage: the form, what it would change, earlier parameters, and somebody else's change meanwhile.
//
// Part of the view of a stage. Sent is a merge patch of the differences, on the condition that nobody else has changed
// anything since (If-Match). Nothing that is typed is overwritten unasked.

import { at, call } from "./api.js";
import { act, tell } from "./dialog.js";
import { attr, h, keyed, text } from "./dom.js";
import { stringify } from "./exact.js";
import { plural } from "./format.js";
import { assembled, compared, fields, leaves, patch, shown } from "./params_form.js";
import { button, panel, table } from "./parts.js";

const LEFT_OUT = "not set";
const AGAIN = 3000; // ms after a failed request
const arrow = ({ name, values: [from, to] }) => `${name}: ${from ?? LEFT_OUT} → ${to ?? LEFT_OUT}`;
let ids = 0;

export function view({ parts: [stage] }) {
  const path = at`stages/${stage}/params`;
  const typed = new Map(); // key of a field to text, or null
  const refused = new Map(); // key to what the service said about it
  let schema, defaults, loaded, newest;
  let list = [];
  let controls = [];
  let busy = false;
  let asked = -Infinity;

  const about = h("p", { class: "muted" });
  const news = h("div", { role: "status" });
  const set = h("fieldset", { class: "fields", disabled: true });
  const wrong = h("p", { class: "problem", role: "alert" });
  const changes = h("ul", { class: "changes" });
  const send = h("button", { class: "primary", disabled: true });
  const reset = button("Reset", () => fill(loaded));
  const form = h("form", { on: { submit, input } }, set, wrong, changes, h("p", { class: "row command" }, send, reset));
  const past = h("tbody");
  const back = button("Back to the parameters before", () => command("parameters before are back", "POST", `${path}/rollback`));
  const earlier = h("details", {}, h("summary", { text: "Earlier parameters" }), h("p", { class: "command" }, back),
    table(["Generation", "What is different now", ""], past));
  const root = panel("Parameters", about, news, form, earlier);

  async function load() {
    asked = performance.now();
    const [got, made] = await Promise.all([path, `${path}/schema`].map((each) => call("GET", each, undefined, { exact: true })));
    if (!got.ok) return void text(about, got.problem);
    ({ schema = null, defaults } = made.ok ? made.data : {});
    newest = { ...got.data, generation: Number(got.data.generation), etag: got.etag };
    text(about, `Generation ${newest.generation}${made.ok ? "" : `; no form from the handler: ${made.problem}`}`);
    return newest;
  }

  // Shows these parameters; what `keep(field)` returns stays typed instead.
  function fill(from, keep = () => undefined) {
    loaded = from;
    refused.clear();
    news.replaceChildren();
    list = fields(schema, from.params);
    for (const each of leaves(list)) {
      const kept = keep(each);
      typed.set(each.key, kept === undefined ? shown(each, from.params) : kept);
    }
    controls = [];
    set.replaceChildren(...list.map(node));
    past.replaceChildren(...[...from.history].reverse().map(version));
    attr(back, "disabled", !from.history.length);
    refresh();
  }

  function node(each) {
    const { schema: given, kind, key, required } = each;
    const label = each.path.at(-1) ?? "further parameters";
    if (kind === "group") return h("fieldset", { class: "fields" }, h("legend", { text: label }), each.fields.map(node));
    const id = `param-${(ids += 1)}`;
    const known = each.path.reduce((value, name) => value?.[name], defaults) ?? given.default ?? null;
    const unset = required ? "required" : known === null ? LEFT_OUT : `default ${stringify(known)}`;
    const more = { id, name: key, "aria-describedby": `${id}-hint ${id}-wrong`, placeholder: unset, spellcheck: "false" };
    const choices = kind === "boolean" ? ["true", "false"] : kind === "choice" && given.enum.map((choice) => stringify(choice));
    const options = () => [["", unset], ...choices.map((choice) => [choice, choice])].map(([value, shows]) => h("option", { value, text: shows }));
    const input = choices ? h("select", more, options()) : h(kind === "json" ? "textarea" : "input", more);
    const leave = button("Leave out", () => change(each, null), "small plain command", `Leave out ${key}`);
    const { minimum, maximum, exclusiveMinimum: above, exclusiveMaximum: below, description } = given;
    const limits = [[minimum, "from"], [above, "above"], [maximum, "to"], [below, "below"]];
    const range = limits.filter(([limit]) => limit).map(([limit, word]) => `${word} ${limit}`);
    const problem = h("span", { id: `${id}-wrong`, class: "problem" });
    controls.push({ each, input, leave, problem });
    return h("div", { class: "field" }, h("label", { for: id, text: label }), h("span", {}, input, required ? null : leave, problem),
      h("span", { id: `${id}-hint`, class: "muted", text: [[choices ? "" : kind, ...range].join(" "), description].filter(Boolean).join(": ") }));
  }

  function input({ target: { name, value } }) {
    const { each } = controls.find((control) => control.each.key === name);
    change(each, value === "" && each.kind !== "string" ? null : value);
  }

  function change({ key }, value) {
    typed.set(key, value);
    refused.delete(key);
    refresh();
  }

  const altered = (each) => typed.get(each.key) !== shown(each, loaded.params);
  const dirty = () => controls.some(({ each }) => altered(each));

  // Brings the form up to date with what is typed; returns the parameters that it makes.
  function refresh() {
    const { params, problems } = assembled(list, typed, loaded.params);
    const others = new Map(refused);
    for (const { each: { key }, input: own, leave, problem } of controls) {
      const value = typed.get(key);
      if (own.value !== (value ?? "")) own.value = value ?? "";
      const said = problems.get(key) ?? refused.get(key) ?? "";
      attr(own, "aria-invalid", said ? "true" : null);
      text(problem, said);
      attr(leave, "hidden", value === null);
      others.delete(key);
    }
    text(wrong, [...others].map(([key, said]) => `${key} ${said}`).join("; "));
    const rows = compared(loaded.params, params);
    keyed(changes, rows.map(arrow), (each) => each, (each) => h("li", { text: each }));
    text(send, busy ? "The code is being checked …" : rows.length ? `Change ${plural(rows.length, "parameter")}` : "Nothing to change");
    attr(send, "disabled", busy || !rows.length || problems.size > 0);
    attr(reset, "disabled", busy || !dirty());
    return params;
  }

  function submit(event) {
    event.preventDefault();
    if (!send.disabled) command("parameters are changed", "PATCH", path, patch(loaded.params, refresh()));
  }

  async function command(what, method, where, body) {
    busy = true;
    refresh();
    const answer = await act(`${stage}: ${what}`, method, where, body, { stage, etag: loaded.etag });
    busy = false;
    const other = answer.ok || answer.status === 412 ? await load() : null;
    if (answer.status === 422) {
      const said = answer.data.fields ?? [{ field: "", problem: answer.problem }];
      for (const { field, problem } of said) refused.set(field.replace(/^params\.?/, ""), problem);
    }
    if (answer.ok) return fill(other ?? loaded);
    refresh();
    if (other) conflict(other);
    controls.find(({ input: own }) => own.hasAttribute("aria-invalid"))?.input.focus();
  }

  // Shows what was loaded, what somebody else has made of it, and what is typed, side by side.
  function conflict(other) {
    const rows = compared(loaded.params, other.params, refresh()).map(({ name, values }) =>
      h("tr", {}, h("th", { scope: "row", text: name }), values.map((value) => h("td", { class: "mono wrap", text: value ?? LEFT_OUT }))));
    const mine = new Map(leaves(list).filter(altered).map(({ key }) => [key, typed.get(key)]));
    news.replaceChildren(
      h("p", { class: "warning", text: `Somebody has changed the parameters meanwhile: generation ${other.generation}.` }),
      table(["Parameter", "As loaded", "Theirs, stored", "Mine, not sent"], h("tbody", {}, rows)),
      h("p", { class: "row" }, button("Keep what I typed, take the rest", () => fill(other, ({ key }) => mine.get(key))),
        button("Take theirs", () => fill(other))));
  }

  function version({ generation, params }) {
    const take = () => {
      fill(loaded, (each) => shown(each, params));
      tell(`Generation ${generation} is in the form; nothing is sent.`, "info");
    };
    const rows = compared(params, loaded.params);
    return h("tr", {}, h("th", { scope: "row", text: generation }), h("td", { class: "mono wrap", text: rows.map(arrow).join("; ") || "nothing" }),
      h("td", { class: "command" }, button("Take into the form", take, "small", `Take generation ${generation} into the form`)));
  }

  async function look() {
    const other = await load();
    if (!other) return;
    if (!loaded || (!dirty() && !form.contains(document.activeElement))) fill(other);
    else if (other.generation > loaded.generation) conflict(other);
  }

  return {
    root,
    topics: [`stage:${stage}`],
    update(state) {
      attr(set, "disabled", state.role === "read");
      const stale = !newest || state.stages[stage]?.detail?.desired.generation > newest.generation;
      if (stale && !busy && performance.now() - asked > AGAIN) look();
    },
  };
}
