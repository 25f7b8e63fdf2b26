// Begins the page: the session, the Feed, and which view is shown. The address behind # is the only state of the page that
// outlives it: #/ · #/stage/NAME[/params|/chain] · #/failures/NAME · #/letter/NAME/ID · #/message/ID · #/logs · #/audit, each
// with ?names=values.
//
// A view module exports `view(route)`, which returns {root, topics, update(state, route), close?, query?}: `root` is made
// once, `update` is called after each frame with news and when the route changes, `topics` (a list, or a function of the
// route) are those of the Feed, `query()` adds filters to them. Views stay for the last KEPT addresses, so that what is half
// filled is there when one comes back.

import { call } from "./api.js";
import * as audit from "./audit.js";
import { tell } from "./dialog.js";
import { attr, text } from "./dom.js";
import * as failures from "./failures.js";
import { Feed } from "./feed.js";
import { clock } from "./format.js";
import * as letter from "./letter.js";
import { login } from "./login.js";
import * as logs from "./logs.js";
import * as message from "./message.js";
import * as overview from "./overview.js";
import * as stage from "./stage.js";
import { store } from "./store.js";
import { LISTEN, Tabs } from "./tabs.js";

const VIEWS = { overview, stage, failures, letter, message, logs, audit };
const IDENTITY = { stage: 1, failures: 1, letter: 2, message: 1 }; // parts of an address that make it another view
const KEPT = 12;
const LINK = {
  connecting: () => "Connecting …",
  live: () => "Live",
  asking: (reason) => `Every 2 s: ${reason}`,
  lost: (reason, ago) => `No answer for ${clock(ago)}: ${reason}`,
  draining: (reason, ago) => `The service drains or starts again (${clock(ago)})`,
  login: () => "Not logged in",
};

const main = document.getElementById("main");
const shown = new Map(); // identity to view, the newest last
let feed;
let current;
let logging = null; // the login that is shown

export function parseRoute(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const decode = (part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  };
  const [name = "", ...parts] = path.split("/").map(decode);
  return { view: Object.hasOwn(VIEWS, name) ? name : "overview", parts, query: new URLSearchParams(query) };
}

function route() {
  const wanted = parseRoute(location.hash);
  const identity = JSON.stringify([wanted.view, ...wanted.parts.slice(0, IDENTITY[wanted.view] ?? 0)]);
  const view = shown.get(identity) ?? VIEWS[wanted.view].view(wanted);
  shown.delete(identity);
  shown.set(identity, view);
  for (const [old, each] of shown) {
    if (shown.size <= KEPT) break;
    each.close?.();
    shown.delete(old);
  }
  const other = current?.view !== view;
  current = { view, route: wanted };
  if (other) {
    main.replaceChildren(view.root);
    scrollTo(0, 0);
  }
  for (const link of document.querySelectorAll("nav a")) {
    attr(link, "aria-current", link.dataset.view === wanted.view ? "page" : null);
  }
  document.title = [wanted.parts[0], wanted.view === "overview" ? "" : wanted.view, "mqworker"].filter(Boolean).join(" · ");
  update(store.state);
  listen();
}

// Tells the Feed what the view wants to hear. Views call it by the event "listen" when their filters have changed.
function listen() {
  const { view, route: wanted } = current;
  const topics = new Set(["overview", ...(typeof view.topics === "function" ? view.topics(wanted) : view.topics)]);
  feed?.want({ topics: [...topics].join(","), ...view.query?.() });
}

function update(state) {
  text(document.getElementById("service"), state.service?.service ?? "");
  document.documentElement.dataset.role = state.role;
  current?.view.update(state, current.route);
}

function showLink({ link }) {
  const line = document.getElementById("link");
  if (line.dataset.state !== link.state) {
    line.dataset.state = link.state;
    if (link.state === "lost" || link.state === "draining") tell("The connection to the service is lost.", "error");
    else if (link.state === "live" || link.state === "asking") heard();
  }
  const ago = Math.max(0, (Date.now() - link.since) / 1000);
  text(document.getElementById("link-text"), LINK[link.state](link.reason, ago));
}

let lostOnce = false;
function heard() {
  if (lostOnce) tell("The connection to the service is back.");
  lostOnce = true;
}

async function needLogin() {
  if (logging) return;
  logging = login(main);
  store.dispatch({ type: "session", data: await logging });
  logging = null;
  feed.again();
}

// The ticket of `mqworker ui` leaves the address before anything else happens.
function ticket() {
  const found = /^#t=([\w-]+)$/.exec(location.hash)?.[1];
  if (found) history.replaceState(null, "", "#/");
  return found;
}

async function begin() {
  const given = ticket();
  if (given) {
    const answer = await call("POST", "session", { ticket: given, path: location.pathname.replace(/ui\/$/, "") });
    if (!answer.ok) tell(`The address has been used already or is too old: ${answer.problem}`, "error");
  }
  const session = await call("GET", "session");
  if (session.ok) store.dispatch({ type: "session", data: session.data });
  const tabs = new Tabs(session.data?.instance ?? location.pathname, () => feed?.tabsChanged());
  feed = new Feed((event) => {
    if (event.type === "link") event.data.at = Date.now();
    if (event.data.state === "login") needLogin();
    store.dispatch(event);
  }, tabs);
  addEventListener("login", needLogin);
  addEventListener("listen", listen);
  addEventListener("hashchange", route);
  store.subscribe(["link"], showLink);
  setInterval(() => showLink(store.state), 1000);
  route();
  store.subscribe(["role", "service", "overview", "stages", "logs", "operations", "audit", "peers", "link"], update);
  const find = document.getElementById("find");
  find.addEventListener("submit", (event) => {
    event.preventDefault();
    const id = find.elements.id.value.trim();
    if (id) location.hash = `#/message/${encodeURIComponent(id)}`;
  });
  if (session.status === 401) needLogin();
  setTimeout(() => feed.run(), LISTEN);
}

begin();
