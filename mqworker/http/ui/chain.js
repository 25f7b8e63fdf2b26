// The chain of a stage as lines of text, and earlier generations.
//
// Part of the view of a stage, which says how far a change is. The whole chain is sent at once, on the condition that nobody else has changed it (If-Match).

import { at, call } from "./api.js";
import { act, confirm } from "./dialog.js";
import { button, h, panel, table, text } from "./dom.js";

const AGAIN = 3000; // ms after an answer
const LINE = /^(#)?\s*(?:([^\s=]+)\s*=\s*)?(.+)$/;

// Returns the lines of a chain: NAME = module:name, in their order; # before one that is switched off.
export const written = (chain) => chain.map(({ name, job, enabled }) => `${enabled ? "" : "# "}${name} = ${job}`).join("\n");

// Returns the chain that such lines mean; a job without a name gets one from the service.
export function read(lines) {
  const found = lines.split("\n").map((line) => LINE.exec(line.trim())).filter(Boolean);
  return found.map(([, off, name, job]) => ({ name, job, enabled: !off }));
}

export function view({ parts: [stage] }) {
  const path = at`stages/${stage}`;
  let [asked, due] = [0, 0]; // number of the last question, and when the next one may follow; Infinity: it is under way
  let loaded, seen; // loaded: {lines, etag}

  const takeBack = button("Take it back …", () => goBack(), null, "command");
  const news = h("p", { class: "warning", role: "status" });
  const draft = h("textarea", { "aria-label": "Jobs of the chain", "aria-describedby": "chain-hint", spellcheck: "false", on: { input: refresh } });
  const send = h("button", { class: "primary", text: "Change the chain" });
  const reset = button("Reset", () => take(loaded));
  const past = table([["generation", "Generation", "", (each) => each.generation], ["chain", "Chain", "wrap wide"], ["code", "Code", "mono", (each) => each.code?.slice(0, 8)], ["act", ""]],
    (each) => each.generation, makeEarlier, updateEarlier);
  const root = panel("Chain", h("p", {}, takeBack), news,
    h("form", { on: { submit } }, h("p", { id: "chain-hint", class: "muted", text: "NAME = module:name, a job a line, in their order; # before one that is off" }),
      draft, h("p", { class: "row command" }, send, reset)),
    h("details", {}, h("summary", { text: "Earlier generations" }), past.root));

  async function load() {
    const mine = (asked += 1);
    due = Infinity;
    const [jobs, all] = await Promise.all([call("GET", `${path}/jobs`), call("GET", `${path}/generations`)]);
    if (mine !== asked) return;
    due = performance.now() + AGAIN;
    if (!jobs.ok || !all.ok) return void text(news, jobs.problem || all.problem);
    past.update(all.data.generations.map((each, index) => ({ ...each, present: index === 0 })));
    return { lines: written((jobs.data.next ?? jobs.data).chain), etag: jobs.etag };
  }

  function take(from) {
    loaded = from;
    draft.value = from.lines;
    text(news, "");
    refresh();
  }

  function refresh() {
    send.disabled = reset.disabled = !changed();
  }

  const changed = () => loaded && draft.value.trim() !== loaded.lines;

  // The chain is another than the one that the draft began with: the draft stays, to be sent in its place or to be reset.
  function meanwhile(other) {
    if (other.lines !== loaded.lines) text(news, `Somebody has changed the chain meanwhile: ${other.lines.replaceAll("\n", " → ")}. Yours stays here; nothing is sent.`);
    loaded = other;
    refresh();
  }

  async function submit(event) {
    event.preventDefault();
    const answer = await act(`${stage}: the chain is changed`, "PUT", `${path}/jobs`, { jobs: read(draft.value) }, { stage, etag: loaded.etag });
    const other = answer.ok || answer.status === 412 ? await load() : null;
    if (other) (answer.ok ? take : meanwhile)(other);
  }

  async function goBack(generation) {
    const what = generation ? `Go back to generation ${generation}` : "Take back the change";
    if (!(await confirm(`${what}?`, "Parameters and code go with the chain; messages go on meanwhile.", what))) return;
    await act(`${stage}: ${what.toLowerCase()}`, "POST", `${path}/rollback`, generation ? { generation } : {}, { stage });
    const other = await load();
    if (other) take(other);
  }

  function makeEarlier(row, { generation, chain, jobs }) {
    row.back = button("Go back to it …", () => goBack(generation), `Go back to generation ${generation}`, "small command");
    row.why = h("span", { class: "error" });
    row.chain.append(chain ? written(chain).replaceAll("\n", " → ") : (jobs ?? []).join(" → "), row.why);
    row.act.append(row.back);
  }

  function updateEarlier(row, { undone, present }) {
    text(row.why, undone && ` undone: ${undone}`);
    row.back.hidden = present;
  }

  return {
    root,
    topics: [`stage:${stage}`],
    async update(state) {
      const { change, desired } = state.stages[stage]?.detail ?? {};
      const preparing = change?.state === "preparing";
      takeBack.hidden = !preparing;
      draft.readOnly = state.role === "read";
      const generations = `${desired?.generation} ${preparing && change.generation}`;
      if (generations === seen || performance.now() < due) return;
      const other = await load();
      if (!other) return;
      seen = generations;
      (changed() ? meanwhile : take)(other);
    },
  };
}
