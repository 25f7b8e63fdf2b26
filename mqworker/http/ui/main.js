// Begins the page: the session, the Feed, and which view is shown. The address behind # says it: #/ · #/stage/NAME[/params|/chain] ·
// #/failures/NAME · #/letter/NAME/ID · #/message/ID · #/logs · #/audit, each with ?names=values.
//
// A view module exports `view(route)`, which returns {root, topics, update(state, route), close?, query?}: `root` is made
// once, `update` is called after each frame with news and when the route changes, `topics` (a list, or a function of the
// route) are those of the Feed, `query()` adds filters to them. The last KEPT views stay, with what is half filled in them.

import { call } from "./api.js";
import * as audit from "./audit.js";
import { left, tell } from "./dialog.js";
import { attr, dot, text } from "./dom.js";
import * as failures from "./failures.js";
import { Feed } from "./feed.js";
import { clock, time } from "./format.js";
import * as letter from "./letter.js";
import { logIn, login } from "./login.js";
import * as logs from "./logs.js";
import * as message from "./message.js";
import * as overview from "./overview.js";
import * as stage from "./stage.js";
import { away, store } from "./store.js";
import { LISTEN, Tabs } from "./tabs.js";

const VIEWS = { overview, stage, failures, letter, message, logs, audit };
const IDENTITY = { stage: 1, failures: 1, letter: 2, message: 1 }; // parts of an address that make it another view
const KEPT = 12;
const LINK = { // level, and a sentence out of the reason and for how long
  connecting: ["info", () => "Connecting …"],
  live: ["ok", () => "Live"],
  hangs: ["error", (_reason, ago) => `The service hangs: what is shown is ${clock(ago)} old`],
  asking: ["warning", (reason) => `Every 2 s: ${reason}`],
  lost: ["error", (reason, ago) => `No answer for ${clock(ago)}: ${reason}`],
  draining: ["error", (_reason, ago) => `The service drains or starts again (${clock(ago)})`],
  login: ["error", () => "Not logged in"],
};
const find = (id) => document.getElementById(id);
const shown = new Map(); // identity to view, the newest last
let feed;
let current;
let asking = false; // for a login
let up = null; // whether there is a connection; null: there has been none

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // whoever wrote the link has not encoded it
  }
}

function parse(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const [name, ...parts] = path.split("/").map(decode);
  return { view: Object.hasOwn(VIEWS, name) ? name : "overview", parts, query: new URLSearchParams(query) };
}

function go() {
  if (location.hash === "#main") return; // the link that skips the bar
  const route = parse(location.hash);
  const identity = [route.view, ...route.parts.slice(0, IDENTITY[route.view] ?? 0)].join("/");
  const view = shown.get(identity) ?? VIEWS[route.view].view(route);
  shown.delete(identity);
  shown.set(identity, view);
  if (shown.size > KEPT) {
    const [[oldest, { close }]] = shown;
    close?.();
    shown.delete(oldest);
  }
  if (current?.view !== view) {
    find("main").replaceChildren(view.root);
    find("find").elements.id.value = route.view === "message" ? route.parts[0] ?? "" : "";
    left();
    scrollTo(0, 0);
  }
  current = { view, route };
  for (const link of document.querySelectorAll("[data-view]")) {
    attr(link, "aria-current", link.dataset.view === route.view && "page");
  }
  document.title = [route.parts[0], route.view, "mqworker"].filter(Boolean).join(" · ");
  update(store.state);
  listen();
}

// Tells the Feed what the view wants to hear. Views send the event "listen" when their topics have changed, and with the detail "lines"
// when other log lines are wanted.
function listen({ detail } = {}) {
  if (detail === "lines") feed.after = feed.after.replace(/\d+$/, "0");
  const { view, route } = current;
  const topics = typeof view.topics === "function" ? view.topics(route) : view.topics;
  feed.want({ topics: [...new Set(["overview", ...topics])].join(","), ...view.query?.() });
}

function update(state) {
  const { role, service, session: { by, login: needed } } = state;
  text(find("service"), service?.service === "mqworker" ? "" : service?.service);
  text(find("session"), [role === "read" && "Read only", needed && by].filter(Boolean).join(" · "));
  find("logout").hidden = !needed;
  document.documentElement.dataset.role = role;
  current.view.update(state, current.route);
}

function showLink({ link: { state, since, reason }, overview }) {
  const stale = overview?.service.stale; // its main thread does not answer; its threads for HTTP do
  const now = !away({ state });
  const shown = now && stale ? "hangs" : state;
  const [level, sentence] = LINK[shown];
  if (up && !now) tell("The connection to the service is lost.", "error");
  if (up === false && now) tell("The connection to the service is back.");
  if (up !== null || now) up = now;
  find("link").dataset.state = shown;
  const isOld = level === "error" && Boolean(overview);
  attr(document.documentElement, "data-away", isOld); // grey, and without commands
  const old = isOld && !now ? ` · as of ${time(since / 1000)}` : "";
  dot(find("link"), level, sentence(reason, now ? stale : (Date.now() - since) / 1000) + old);
}

async function needLogin() {
  if (asking) return;
  asking = true;
  find("main").hidden = !store.state.overview; // nothing has been shown yet
  await login(find("main"));
  find("main").hidden = false;
  asking = false;
}

// Logs in with the address of `mqworker ui`, also one that is pasted into the open page; `before` is what the address was.
async function redeem(before = "#/") {
  const ticket = /^#t=([\w-]+)$/.exec(location.hash)?.[1];
  if (!ticket) return;
  history.replaceState(null, "", before); // it leaves the address before anything else happens
  const { ok, problem } = await logIn({ ticket });
  if (!ok) tell(`This address has been used already, or is too old: ${problem}`, "error");
}

async function moved({ oldURL }) {
  await redeem(oldURL);
  go();
}

function heard(event) {
  if (event.data.state === "login") needLogin();
  store.dispatch(event);
}

async function begin() {
  await redeem();
  const { ok, status, data } = await call("GET", "session");
  if (ok) store.dispatch({ type: "session", data });
  feed = new Feed(heard, new Tabs(data?.instance ?? location.pathname, () => feed?.tabsChanged()));
  addEventListener("login", needLogin);
  addEventListener("session", (event) => {
    store.dispatch({ type: "session", data: event.detail });
    feed.again();
  });
  addEventListener("listen", listen);
  addEventListener("hashchange", moved);
  find("find").addEventListener("submit", (event) => {
    event.preventDefault();
    const id = event.target.elements.id.value.trim();
    if (id) location.hash = `#/message/${encodeURIComponent(id)}`;
  });
  find("logout").addEventListener("click", async () => {
    await call("DELETE", "session");
    location.reload(); // nothing stays of what was shown
  });
  go();
  store.subscribe(Object.keys(store.state), update);
  store.subscribe(["link", "overview"], showLink);
  setInterval(() => showLink(store.state), 1000);
  if (status === 401) needLogin();
  setTimeout(() => feed.run(), LISTEN);
}

begin();
