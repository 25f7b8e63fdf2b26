// The parameters of a stage: the form, what it would change, earlier parameters, and somebody else's change meanwhile.
//
// Part of the view of a stage. Sent is a merge patch of the differences, on the condition that nobody else has changed
// anything since (If-Match). Nothing that is typed is overwritten unasked.

import { at, call } from "./api.js";
import { act, tell } from "./dialog.js";
import { attr, button, h, keyed, panel, table, text } from "./dom.js";
import { same, stringify } from "./exact.js";
import { plural } from "./format.js";
import { assembled, compared, fields, patch, shown } from "./params_form.js";

const NOT_SET = "not set";
const AGAIN = 3000; // ms after an answer
const WORDS = { minimum: "from", exclusiveMinimum: "above", maximum: "to", exclusiveMaximum: "below" };
let ids = 0;

export function view({ parts: [stage] }) {
  const path = at`stages/${stage}/params`;
  const typed = new Map(); // key of a field to its text
  const refused = new Map(); // name of a field to what the service said about it
  const controls = new Map(); // key of a field to its nodes
  let list = [];
  let busy = false;
  let [asked, due] = [0, 0]; // number of the last question, and when the next one may follow; Infinity: it is under way
  let schema = null;
  let defaults, unsure, loaded, newest; // unsure: it is not known yet whether the handler has a form

  const about = h("p", { class: "muted", text: "Reading the parameters …" });
  const news = h("div", { role: "status" });
  const set = h("fieldset", { class: "bare" });
  const wrong = h("p", { class: "problem", role: "alert" });
  const changes = h("p", { class: "mono said" });
  const send = h("button", { class: "primary" });
  const reset = button("Reset", () => fill(loaded));
  const form = h("form", { hidden: true, on: { submit, input } }, set, wrong, changes, h("p", { class: "row command" }, send, reset));
  const arrow = ({ name, values }) => `${name}: ${values.map((value) => value ?? unset(name)).join(" → ")}`;
  const back = button("", () => command("parameters before are back", "POST", `${path}/rollback`));
  const differs = ({ params }) => compared(loaded.params, params).map(arrow).join("; ") || "nothing";
  const past = table([["generation", "Generation", "", (each) => each.generation], ["differs", "Would change", "mono wrap wide", differs], ["act", "", "command"]],
    (each) => each.generation, version);
  const root = panel("Parameters", about, news, form, h("details", {}, h("summary", { text: "Earlier parameters" }), h("p", { class: "command" }, back), past.root));

  async function load() {
    const mine = (asked += 1);
    due = Infinity;
    const [got, made] = await Promise.all([path, `${path}/schema`].map((each) => call("GET", each, undefined, { exact: true })));
    if (mine !== asked) return;
    due = performance.now() + AGAIN;
    if (!got.ok) return void text(about, got.problem);
    unsure = made.status === 0 || made.status === 503;
    if (!unsure) ({ schema = null, defaults } = made.ok ? made.data : {});
    newest = { ...got.data, generation: Number(got.data.generation), etag: got.etag };
    text(about, `Generation ${newest.generation}${made.ok ? "" : `; no form from the handler${unsure ? " yet" : ""}: ${made.problem}`}`);
    return newest;
  }

  // Shows these parameters; where `keep(field)` returns a text, that stays typed instead. Fields that are the same stay what they are.
  function fill(from, keep = () => undefined) {
    loaded = from;
    refused.clear();
    news.replaceChildren();
    list = fields(schema, from.params);
    for (const each of list) typed.set(each.key, keep(each) ?? shown(each, from.params));
    controls.clear();
    keyed(set, list, (each) => stringify([each, usual(each)]), node, (part, { key }) => controls.set(key, part));
    past.update([...from.history].reverse());
    text(back, from.back ? `Back to generation ${from.back}` : "Nothing to go back to");
    back.disabled = !from.back;
    form.hidden = false;
    refresh();
  }

  // Returns what a field is called while nothing is in it. The service reports the defaults of what is not set alone.
  function usual({ schema: { default: own }, path: names, required }) {
    const within = (all) => names.reduce((value, name) => value?.[name], all);
    const known = own ?? (within(loaded.params) === undefined ? within(defaults) : null) ?? null;
    return required ? "required" : known === null ? NOT_SET : `default ${stringify(known)}`;
  }

  function unset(name) {
    const field = list.find((each) => each.name === name && !each.required);
    return field ? usual(field) : NOT_SET;
  }

  function node(field) {
    const { schema: given, kind, key, name: label } = field;
    const id = `param-${(ids += 1)}`;
    const empty = usual(field);
    const more = { id, name: key, "aria-describedby": `${id}-hint ${id}-wrong`, placeholder: empty, spellcheck: "false" };
    const choices = { boolean: ["true", "false"], choice: given.enum?.map((each) => stringify(each)) }[kind];
    const options = choices && ["", ...choices].map((value) => h("option", { value, text: value || empty }));
    const own = h(choices ? "select" : kind === "json" ? "textarea" : "input", more, options);
    const limits = Object.keys(WORDS).filter((name) => given[name]).map((name) => `${WORDS[name]} ${given[name]}`);
    const problem = h("span", { id: `${id}-wrong`, class: "problem" });
    const hint = [[choices ? "" : kind, ...limits].join(" "), given.description].filter(Boolean).join(": ");
    const root = h("div", { class: "field" }, h("label", { for: id, text: label || "further parameters" }), h("span", {}, own, problem),
      h("span", { id: `${id}-hint`, class: "muted", text: hint }));
    return { root, own, problem, label };
  }

  function input({ target: { name: key, value } }) {
    typed.set(key, value);
    refused.delete(controls.get(key).label);
    for (const name of refused.keys()) if (!named(name)) refused.delete(name); // it may have been this field
    refresh();
  }

  const named = (name) => list.some((each) => each.name === name);
  const altered = (each) => typed.get(each.key) !== shown(each, loaded.params);
  // Returns a function for `fill`: what is typed by now, where it is something else than what this Map of key to text has.
  const since = (known) => ({ key }) => (known.has(key) && known.get(key) !== typed.get(key) ? typed.get(key) : undefined);
  const asLoaded = () => new Map(list.map((each) => [each.key, shown(each, loaded.params)]));

  // Brings the form up to date with what is typed; returns the parameters that it makes.
  function refresh() {
    const { params, problems } = assembled(list, typed, loaded.params);
    for (const [key, { own, problem, label }] of controls) {
      if (own.value !== typed.get(key)) own.value = typed.get(key);
      const said = problems.get(key) ?? refused.get(label);
      attr(own, "aria-invalid", said ? "true" : null);
      text(problem, said);
    }
    const elsewhere = [...refused].filter(([name]) => !named(name));
    text(wrong, elsewhere.map(([name, said]) => `${name} ${said}`).join("; "));
    const rows = compared(loaded.params, params);
    text(changes, rows.map(arrow).join("\n"));
    text(send, busy ? "The code is being checked …" : problems.size ? `Correct ${plural(problems.size, "field")}` : rows.length ? `Change ${plural(rows.length, "parameter")}` : "Nothing to change");
    send.disabled = busy || !rows.length || problems.size > 0;
    reset.disabled = busy || !list.some(altered);
    return params;
  }

  function submit(event) {
    event.preventDefault();
    if (!send.disabled) command("parameters are changed", "PATCH", path, patch(loaded.params, refresh()));
  }

  async function command(what, method, where, body) {
    const sent = body ? new Map(typed) : asLoaded();
    busy = true;
    refresh();
    const answer = await act(`${stage}: ${what}`, method, where, body, { stage, etag: loaded.etag });
    busy = false;
    const other = answer.ok || answer.status === 412 ? await load() : null;
    if (answer.ok && other) return fill(other, since(sent));
    if (answer.status === 422) {
      const said = answer.data.fields ?? [{ field: "", problem: answer.problem }];
      for (const { field, problem } of said) {
        const name = field.replace(/^params\.?/, ""); // "": the handler's own check, which may begin with the name of a field
        refused.set(name || (list.find((each) => each.name && problem.startsWith(`${each.name} `))?.name ?? ""), problem);
      }
    }
    refresh();
    if (other) meanwhile(other);
    set.querySelector("[aria-invalid]")?.focus();
  }

  // The parameters are of another generation, while something is typed: that stays. Where others have changed them, it is shown side by
  // side what was loaded, what they have made of it, and what is typed, if anything.
  function meanwhile(other) {
    const columns = ["As loaded", "Theirs, stored", "Mine, not sent"].map((name, index) => [name, name, "wrap", ({ name: field, values }) => (index === 2 && values[2] === values[0] ? "–" : values[index] ?? unset(field))]);
    const rows = table([["name", "Parameter", "", (each) => each.name], ...columns], (each) => each.name);
    const mine = refresh();
    rows.update(compared(loaded.params, other.params, mine));
    const theirs = !same(loaded.params, other.params) && !same(mine, other.params);
    fill(other, since(asLoaded()));
    if (theirs) news.append(h("p", { class: "warning", text: "Somebody has changed the parameters meanwhile." }), rows.root, h("p", { text: "What you typed stays in the form; nothing is sent." }));
  }

  function version(row, { generation, params }) {
    const take = () => {
      fill(loaded, (each) => shown(each, params));
      tell(`Generation ${generation} is in the form; nothing is sent.`, "info");
    };
    row.act.append(button("Take into the form", take, `Take generation ${generation} into the form`, "small"));
  }

  async function look() {
    const other = await load();
    if (!other) return;
    if (!loaded || (!list.some(altered) && !form.contains(document.activeElement))) fill(other);
    else if (other.generation > loaded.generation) meanwhile(other);
  }

  return {
    root,
    topics: [`stage:${stage}`],
    update(state) {
      set.disabled = state.role === "read";
      const stale = !newest || unsure || state.stages[stage]?.detail?.desired.generation > newest.generation;
      if (stale && !busy && performance.now() > due) look();
    },
  };
}
