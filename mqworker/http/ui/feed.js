// The client of GET /feed: one stream of numbered events at 1 Hz, kept alive, resumed, or asked for where it may not be.
//
// fetch and a reader of our own, because EventSource gives up after a 503. Each event goes to `emit` as {type, id, data}; so
// does how the link is, {type: "link", data: {state, reason}}: live, asking, lost, draining, login. A stream that is silent
// for SILENCE is given up; the next one comes after `pause` and resumes behind the last event. A tab that has no right to a
// stream (tabs.js), or was answered 503, asks for the same events every two seconds. A hidden tab does nothing.

const SILENCE = 1800; // ms: events come every second, and a lost service must show within two
const EVERY = 2000; // ms between two questions
const PATIENCE = 3000; // ms for one question
const PROVEN = 5000; // ms: a stream that lived for so long begins the pauses anew
const AGAIN = "again"; // why we end a connection ourselves

// Pure. Returns a function that takes pieces of text as they come, and returns the events that are complete.
export function parser() {
  let rest = "";
  return (piece) => {
    const blocks = (rest + piece).split("\n\n");
    rest = blocks.pop();
    return blocks.map(parsed).filter(({ data }) => data !== "");
  };
}

function parsed(block) {
  const event = { type: "message", id: "", data: "" };
  for (const line of block.split("\n")) {
    const [, name, value] = /^([a-z]+): ?(.*)$/.exec(line) ?? [];
    if (name === "event") event.type = value;
    else if (name === "id") event.id = value;
    else if (name === "data") event.data = JSON.parse(value);
  }
  return event;
}

// Pure. Milliseconds before the next attempt: 250, 500, 1000, then 2000, each a quarter more or less.
export function pause(tries, random = Math.random()) {
  return Math.min(2000, 250 * 2 ** tries) * (0.75 + random / 2);
}

export class Feed {
  constructor(emit, tabs) {
    Object.assign(this, { emit, tabs, query: "", after: "", tries: 0, doing: "", stopped: false, draining: false, abort: null });
    this.wake = () => {};
    document.addEventListener("visibilitychange", () => this.again());
  }

  // Asks for other topics and filters: names and values of the query.
  want(query) {
    const wanted = String(new URLSearchParams(Object.entries(query).filter(([, value]) => value)));
    if (wanted === this.query) return;
    this.query = wanted;
    this.again();
  }

  // Ends what is under way and goes on at once.
  again() {
    this.tries = 0;
    this.stopped = false;
    this.abort?.abort(AGAIN);
    this.wake();
  }

  // Another tab came or went: a stream may have to end, or may begin.
  tabsChanged() {
    const may = this.tabs.mayStream();
    if (this.doing === "streaming" && !may) this.abort?.abort(AGAIN);
    else if (this.doing === "waiting its turn" && may) this.wake();
  }

  async run() {
    for (;;) {
      if (document.hidden || this.stopped) {
        await this.sleep(3_600_000);
      } else if (this.tabs.mayStream()) {
        await this.sleep(await this.attempt(() => this.stream()));
      } else {
        this.reason = "this browser has four streams in other tabs";
        await this.attempt(() => this.ask());
        this.doing = "waiting its turn";
        await this.sleep(EVERY);
      }
    }
  }

  // Runs one connection; returns how long to wait before the next.
  async attempt(connect) {
    this.abort = new AbortController();
    const { signal } = this.abort;
    try {
      return (await connect()) ?? this.lost("the connection was closed");
    } catch {
      if (signal.reason === AGAIN) return 0;
      return this.lost(signal.aborted ? signal.reason : "the service cannot be reached");
    } finally {
      this.abort = null;
      this.doing = "";
    }
  }

  lost(reason) {
    this.link(this.draining ? "draining" : "lost", reason);
    return pause(this.tries++);
  }

  link(state, reason = "") {
    this.emit({ type: "link", data: { state, reason } });
  }

  async stream() {
    const { abort } = this;
    let timer;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort("it is silent"), SILENCE);
    };
    alive();
    try {
      const answer = await this.fetch("");
      if (answer.status === 503) return await this.refused(answer);
      if (!this.accepted(answer)) return EVERY;
      this.doing = "streaming";
      const read = parser();
      const begun = performance.now();
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return null;
        alive();
        this.take(read(value), "live");
        if (performance.now() - begun > PROVEN) this.tries = 0;
      }
    } finally {
      clearTimeout(timer);
    }
  }

  // All places of the service are taken: asks meanwhile.
  async refused(answer) {
    this.reason = "all streams of the service are taken";
    await this.ask();
    return Math.max(EVERY, 1000 * Number(answer.headers.get("Retry-After")));
  }

  async ask() {
    const { abort } = this;
    const timer = setTimeout(() => abort.abort("perhaps this browser has no connection left"), PATIENCE);
    try {
      const answer = await this.fetch("&once=1");
      if (this.accepted(answer)) this.take(parser()(await answer.text()), "asking");
      return EVERY;
    } finally {
      clearTimeout(timer);
    }
  }

  fetch(more) {
    const after = this.after && `&after=${this.after}`;
    const headers = { Accept: "text/event-stream", "X-Mqworker": "page" };
    const { signal } = this.abort;
    return fetch(`../api/v1/feed?${this.query}${more}${after}`, { signal, headers, cache: "no-store", redirect: "error" });
  }

  accepted({ ok, status }) {
    this.stopped = status === 401;
    if (this.stopped) this.link("login");
    else if (!ok) this.link("lost", `the service answered ${status}`);
    return ok;
  }

  take(events, state) {
    this.draining = events.some(({ type }) => type === "bye");
    for (const event of events) {
      this.after = event.id || this.after;
      this.emit(event);
    }
    if (events.length) this.link(state, state === "asking" ? this.reason : "");
  }

  sleep(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
