// The chain of a stage: order, on and off, adding and removing; how far a change is; earlier generations.
//
// Part of the view of a stage. The whole chain is sent at once, on the condition that nobody else has changed it (If-Match).

import { at, call } from "./api.js";
import { act, confirm } from "./dialog.js";
import { attr, h, keyed, text } from "./dom.js";
import { button, cells, panel, table } from "./parts.js";

const AGAIN = 3000; // ms after a failed request
const written = (links) => links.map(({ name, job, enabled }) => (name ?? job) + (enabled ? "" : " (off)")).join(" → ") || "no jobs";

// Returns the sentence on a change of the code or the chain: stored, prepared n of N, committed, or undone and why.
export function progress(change) {
  if (!change) return "";
  const { state, generation, ready, wanted, reason, left, seconds } = change;
  if (state === "undone") return `Generation ${generation} was undone ${Math.round(seconds)} s ago: ${reason}`;
  const how = state === "preparing" ? `stored, ${ready} of ${wanted} Consumers prepared` : left
    ? `committed, ${left} Consumers of the one before finish their messages` : "committed, on trial until it has finished messages";
  return `Generation ${generation}: ${how}${reason ? ` (${reason})` : ""}`;
}

export function view({ parts: [stage] }) {
  const path = at`stages/${stage}`;
  let loaded; // {chain, etag, generation}
  let draft = [];
  let asked = -Infinity;
  let seen = 0;

  const step = h("span");
  const bar = h("progress", { "aria-label": "Prepared Consumers" });
  const takeBack = button("Take it back …", () => goBack(), "command");
  const news = h("p", { class: "warning", role: "status" });
  const rows = h("tbody");
  const job = h("input", { name: "job", "aria-label": "Job to add", placeholder: "module:name", spellcheck: "false" });
  const becomes = h("p", { class: "wrap" });
  const send = button("Change the chain", submit, "primary");
  const reset = button("Reset", () => take(loaded));
  const past = h("tbody");
  const root = panel("Chain", h("p", { class: "row" }, step, bar, takeBack), news, table(["Job", "Runs", "On", ""], rows, "cards"),
    h("form", { class: "row command", on: { submit: append } }, job, h("button", { text: "Add" })), becomes,
    h("p", { class: "row command" }, send, reset),
    h("details", {}, h("summary", { text: "Earlier generations" }), table(["Generation", "Chain", "Code", ""], past)));

  async function load() {
    asked = performance.now();
    const [jobs, all] = await Promise.all([call("GET", `${path}/jobs`), call("GET", `${path}/generations`)]);
    if (!jobs.ok || !all.ok) return void text(news, jobs.problem || all.problem);
    past.replaceChildren(...all.data.generations.map(earlier));
    const { chain, generation } = jobs.data.next ?? jobs.data;
    seen = generation;
    return { chain, generation, etag: jobs.etag };
  }

  function take(from) {
    loaded = from;
    draft = from.chain.map((link) => ({ ...link }));
    text(news, "");
    refresh();
  }

  function refresh() {
    keyed(rows, draft, (link) => link.name ?? `new ${link.job}`, row, (part, link) => {
      part.link = link;
      part.up.disabled = link === draft[0];
      part.down.disabled = link === draft.at(-1);
      part.box.checked = link.enabled;
    });
    const changed = written(draft) !== written(loaded.chain);
    text(becomes, changed ? `${written(loaded.chain)} becomes ${written(draft)}` : "");
    send.disabled = reset.disabled = !changed;
  }

  function row({ name, job: runs }) {
    const shown = name ?? runs;
    const move = (by) => () => {
      const index = draft.indexOf(part.link);
      draft.splice(index + by, 0, ...draft.splice(index, 1));
      refresh();
      (by < 0 === part.up.disabled ? part.down : part.up).focus();
    };
    const remove = () => {
      draft = draft.filter((each) => each !== part.link);
      refresh();
      job.focus();
    };
    const toggle = ({ target }) => {
      part.link.enabled = target.checked;
      refresh();
    };
    const [up, down] = [button("↑", move(-1), "small", `Move ${shown} up`), button("↓", move(1), "small", `Move ${shown} down`)];
    const box = h("input", { type: "checkbox", "aria-label": `${shown} is on`, on: { change: toggle } });
    const part = cells(["name", "", "wide", h("strong", { text: shown })], ["runs", "Runs", "mono wrap wide", runs], ["on", "On", "", box],
      ["act", "", "command", h("span", { class: "row" }, up, down, button("Remove", remove, "small", `Remove ${shown}`))]);
    return Object.assign(part, { up, down, box });
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

  function earlier({ generation, chain, jobs, code, undone }, index) {
    const back = index > 0 && button("Go back to it …", () => goBack(generation), "small command", `Go back to generation ${generation}`);
    return h("tr", {}, h("th", { scope: "row", text: generation }),
      h("td", { class: "wrap" }, chain ? written(chain) : (jobs ?? []).join(" → "), undone && h("p", { class: "error", text: `undone: ${undone}` })),
      h("td", { class: "mono", text: code?.slice(0, 8) }), h("td", {}, back));
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

  async function look() {
    const other = await load();
    if (!other) return;
    if (!loaded || written(draft) === written(loaded.chain)) take(other);
    else if (other.generation > loaded.generation) meanwhile(other);
  }

  return {
    root,
    topics: [`stage:${stage}`],
    update(state) {
      const { change, desired } = state.stages[stage]?.detail ?? {};
      text(step, progress(change));
      attr(step, "class", change?.state === "undone" ? "error" : null);
      bar.hidden = takeBack.hidden = change?.state !== "preparing";
      if (change?.wanted) [bar.max, bar.value] = [change.wanted, change.ready];
      const generation = Math.max(desired?.generation ?? 0, change?.state === "preparing" ? change.generation : 0);
      if ((!loaded || generation !== seen) && performance.now() - asked > AGAIN) look();
    },
  };
}
