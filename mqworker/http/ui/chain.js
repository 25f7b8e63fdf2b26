// The chain of a stage: order, on and off, adding and removing; how far a change is; earlier generations.
//
// Part of the view of a stage. The whole chain is sent at once, on the condition that nobody else has changed it (If-Match).

import { at, call } from "./api.js";
import { act, confirm } from "./dialog.js";
import { attr, button, h, table, text } from "./dom.js";

const AGAIN = 3000; // ms after a failed request
const written = (links) => links.map(({ name, job, enabled }) => (name ?? job) + (enabled ? "" : " (off)")).join(" → ") || "no jobs";

// Returns the sentence on a change of the code or the chain: stored, prepared n of N, committed, or undone and why.
export function progress(change) {
  if (!change) return "";
  const { state, generation, ready, wanted, reason, left, seconds } = change;
  if (state === "undone") return `Generation ${generation} was undone ${Math.round(seconds)} s ago: ${reason}`;
  const how = state === "preparing" ? `stored, ${ready} of ${wanted} Consumers prepared`
    : left ? `committed, ${left} Consumers of the one before finish their messages` : "committed, on trial until it has finished messages";
  return `Generation ${generation}: ${how}${reason ? ` (${reason})` : ""}`;
}

export function view({ parts: [stage] }) {
  const path = at`stages/${stage}`;
  let draft = [];
  let asked = -Infinity;
  let loaded, seen; // loaded: {chain, etag, generation}

  const step = h("span");
  const bar = h("progress", { "aria-label": "Prepared Consumers" });
  const takeBack = button("Take it back …", () => goBack(), null, "command");
  const news = h("p", { class: "warning", role: "status" });
  const links = table([["name", "Job", "strong"], ["runs", "Runs", "mono wrap wide"], ["on", "On"], ["act", "", "command"]],
    (link) => link.name ?? `new ${link.job}`, makeLink, updateLink);
  const job = h("input", { "aria-label": "Job to add", placeholder: "module:name", spellcheck: "false" });
  const becomes = h("p", { class: "wrap" });
  const send = button("Change the chain", submit, null, "primary");
  const reset = button("Reset", () => take(loaded));
  const past = table([["generation", "Generation"], ["chain", "Chain", "wrap wide"], ["code", "Code", "mono"], ["act", ""]],
    (each) => each.generation, makeEarlier, updateEarlier);
  const root = h("section", { class: "panel" }, h("h2", { text: "Chain" }), h("p", { class: "row" }, step, bar, takeBack), news, links.root,
    h("form", { class: "row command", on: { submit: append } }, job, h("button", { text: "Add" })), becomes, h("p", { class: "row command" }, send, reset),
    h("details", {}, h("summary", { text: "Earlier generations" }), past.root));

  async function load() {
    asked = performance.now();
    const [jobs, all] = await Promise.all([call("GET", `${path}/jobs`), call("GET", `${path}/generations`)]);
    if (!jobs.ok || !all.ok) return void text(news, jobs.problem || all.problem);
    const { chain, generation } = jobs.data.next ?? jobs.data;
    past.update(all.data.generations.map((each, index) => ({ ...each, present: index === 0 })));
    return { chain, generation, etag: jobs.etag };
  }

  function take(from) {
    loaded = from;
    draft = from.chain.map((link) => ({ ...link }));
    text(news, "");
    refresh();
  }

  function refresh() {
    links.update(draft);
    const changed = written(draft) !== written(loaded.chain);
    text(becomes, changed ? `${written(loaded.chain)} becomes ${written(draft)}` : "");
    send.disabled = reset.disabled = !changed;
  }

  function makeLink(row, { name, job: runs }) {
    const shown = name ?? runs;
    const move = (by) => {
      const index = draft.indexOf(row.link);
      draft.splice(index + by, 0, ...draft.splice(index, 1));
      refresh();
      (by < 0 === row.up.disabled ? row.down : row.up).focus();
    };
    const remove = () => {
      draft = draft.filter((each) => each !== row.link);
      refresh();
      job.focus();
    };
    const change = () => {
      row.link.enabled = row.box.checked;
      refresh();
    };
    row.up = button("↑", () => move(-1), `Move ${shown} up`, "small");
    row.down = button("↓", () => move(1), `Move ${shown} down`, "small");
    row.box = h("input", { type: "checkbox", "aria-label": `${shown} is on`, on: { change } });
    row.on.append(row.box);
    row.act.append(row.up, " ", row.down, " ", button("Remove", remove, `Remove ${shown}`, "small"));
    text(row.name, shown);
    text(row.runs, runs);
  }

  function updateLink(row, link) {
    row.link = link;
    row.up.disabled = link === draft[0];
    row.down.disabled = link === draft.at(-1);
    row.box.checked = link.enabled;
  }

  function append(event) {
    event.preventDefault();
    if (!job.value.trim()) return;
    draft.push({ job: job.value.trim(), enabled: true });
    job.value = "";
    refresh();
  }

  async function submit() {
    const answer = await act(`${stage}: the chain is changed`, "PUT", `${path}/jobs`, { jobs: draft }, { stage, etag: loaded.etag });
    const other = answer.ok || answer.status === 412 ? await load() : null;
    if (other) (answer.ok ? take : meanwhile)(other);
  }

  async function goBack(generation) {
    const [what, how] = generation ? [`Go back to generation ${generation}`, "Its jobs, parameters and code are prepared first; messages go on meanwhile."]
      : ["Take back the change", "The present generation works on."];
    if (!(await confirm(`${what}?`, how, what))) return;
    await act(`${stage}: ${what.toLowerCase()}`, "POST", `${path}/rollback`, generation ? { generation } : {}, { stage });
    const other = await load();
    if (other) take(other);
  }

  function makeEarlier(row, { generation, chain, jobs, code }) {
    row.back = button("Go back to it …", () => goBack(generation), `Go back to generation ${generation}`, "small command");
    row.why = h("p", { class: "error" });
    row.chain.append(h("div", { text: chain ? written(chain) : (jobs ?? []).join(" → ") }), row.why);
    row.act.append(row.back);
    text(row.generation, generation);
    text(row.code, code?.slice(0, 8));
  }

  function updateEarlier(row, { undone, present }) {
    text(row.why, undone && `undone: ${undone}`);
    row.back.hidden = present;
  }

  // The chain is another than the one that the draft began with; the draft stays until somebody chooses.
  function meanwhile(other) {
    const keep = () => {
      loaded = other;
      text(news, "");
      refresh();
    };
    news.replaceChildren(`Somebody has changed the chain meanwhile: generation ${other.generation} is ${written(other.chain)}. `,
      button("Take theirs", () => take(other)), " ", button("Keep mine", keep));
  }

  async function look(now) {
    const other = await load();
    if (!other) return;
    seen = now;
    if (!loaded || written(draft) === written(loaded.chain)) take(other);
    else if (other.generation > loaded.generation) meanwhile(other);
  }

  return {
    root,
    topics: [`stage:${stage}`],
    update(state) {
      const { change, desired } = state.stages[stage]?.detail ?? {};
      const preparing = change?.state === "preparing";
      text(step, progress(change));
      attr(step, "class", change?.state === "undone" ? "error" : null);
      bar.hidden = takeBack.hidden = !preparing;
      if (change?.wanted) [bar.max, bar.value] = [change.wanted, change.ready];
      const generations = `${desired?.generation} ${preparing && change.generation}`;
      if (generations !== seen && performance.now() - asked > AGAIN) look(generations);
    },
  };
}
