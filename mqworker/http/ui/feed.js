// The client of GET /feed: one stream of numbered events at 1 Hz, kept alive, resumed, or asked for where it may not be.
//
// fetch and a reader of our own, because EventSource gives up after a 503. Each event goes to `emit` as {type, id, data};
// so does how the link is, as {type: "link", data: {state, reason}}: live, asking, lost, draining, login. A stream that says nothing
// for SILENCE is given up; the next attempt comes after `pause`, and resumes behind the last event. A tab without a
// right to a stream (tabs.js), or that was answered 503, asks for the same events every two seconds.

const SILENCE = 1800; // ms: events come every second, and a lost service must show within two
const EVERY = 2000; // ms between two questions
const PATIENCE = 3000; // ms for one question
const PROVEN = 5000; // ms: a stream that lived for so long begins the pauses anew

// Pure. Returns a function that takes pieces of text as they come, and returns the events that are complete.
export function parser() {
  let rest = "";
  return (piece) => {
    rest += piece;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    return blocks.flatMap((block) => {
      const event = { type: "message", id: "", data: "" };
      for (const line of block.split("\n")) {
        const [, name, value] = /^([a-z]+): ?(.*)$/.exec(line) ?? [];
        if (name === "event") event.type = value;
        else if (name === "id") event.id = value;
        else if (name === "data") event.data += value;
      }
      return event.data ? [{ ...event, data: JSON.parse(event.data) }] : [];
    });
  };
}

// Pure. Milliseconds before the next attempt: 250, 500, 1000, then 2000, each a quarter more or less.
export function pause(tries, random = Math.random()) {
  return Math.min(2000, 250 * 2 ** tries) * (0.75 + random / 2);
}

export class Feed {
  constructor(emit, tabs) {
    this.emit = emit;
    this.tabs = tabs;
    this.query = new URLSearchParams();
    this.after = "";
    this.tries = 0;
    this.stopped = false;
    this.wake = () => {};
    this.abort = null;
    this.streaming = false;
    document.addEventListener("visibilitychange", () => this.again());
  }

  // Asks for other topics and filters: a Map-like object of query names and values.
  want(query) {
    const wanted = new URLSearchParams(Object.entries(query).filter(([, value]) => value));
    if (String(wanted) === String(this.query)) return;
    this.query = wanted;
    this.again();
  }

  // Ends what is under way and goes on at once.
  again() {
    this.tries = 0;
    this.stopped = false;
    this.abort?.abort("again");
    this.wake();
  }

  // Another tab came or went: a stream may have to end, or may begin.
  tabsChanged() {
    if (this.streaming && !this.tabs.mayStream()) this.abort?.abort("again");
    else if (!this.streaming && this.asked && this.tabs.mayStream()) this.wake();
  }

  async run() {
    for (;;) {
      if (document.hidden || this.stopped || !this.query.has("topics")) {
        await this.sleep(3_600_000);
      } else if (this.tabs.mayStream()) {
        const wait = await this.attempt(() => this.stream());
        if (wait) await this.sleep(wait);
      } else {
        this.reason = "this browser has four streams in other tabs";
        await this.attempt(() => this.ask());
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
    } catch (error) {
      if (signal.reason === "again") return 0;
      return this.lost(signal.aborted ? String(signal.reason) : "the service cannot be reached", error);
    } finally {
      this.abort = null;
      this.streaming = false;
    }
  }

  lost(reason) {
    if (!this.stopped) this.link("lost", reason);
    return pause(this.tries++);
  }

  link(state, reason = "") {
    if (state === "lost" && this.draining) state = "draining";
    if (state === "live" || state === "asking") this.draining = false;
    this.emit({ type: "link", data: { state, reason } });
  }

  async stream() {
    const { abort } = this;
    let timer;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort("no answer"), SILENCE);
    };
    alive();
    const begun = performance.now();
    try {
      const answer = await this.fetch({}, abort.signal);
      if (answer.status === 503) return await this.refused(answer);
      if (!this.accepted(answer)) return EVERY;
      this.streaming = true;
      this.asked = false;
      const read = parser();
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return undefined;
        alive();
        this.take(read(value), "live");
        if (performance.now() - begun > PROVEN) this.tries = 0;
      }
    } finally {
      clearTimeout(timer);
    }
  }

  // All places are taken: asks meanwhile.
  async refused(answer) {
    this.reason = "all streams of the service are taken";
    const wait = Math.max(EVERY, 1000 * Number(answer.headers.get("Retry-After")));
    await answer.body?.cancel();
    await this.ask();
    return wait;
  }

  async ask() {
    this.asked = true;
    const { abort } = this;
    const timer = setTimeout(() => abort.abort("no answer: perhaps this browser has no connection left"), PATIENCE);
    try {
      const answer = await this.fetch({ once: 1 }, abort.signal);
      if (this.accepted(answer)) this.take(parser()((await answer.text()) + "\n\n"), "asking");
      return EVERY;
    } finally {
      clearTimeout(timer);
    }
  }

  fetch(more, signal) {
    const query = new URLSearchParams(this.query);
    for (const name in more) query.set(name, more[name]);
    if (this.after) query.set("after", this.after);
    const headers = { Accept: "text/event-stream", "X-Mqworker": "page" };
    return fetch(`../api/v1/feed?${query}`, { signal, headers, cache: "no-store", redirect: "error" });
  }

  accepted(answer) {
    if (answer.ok) return true;
    this.stopped = answer.status === 401;
    if (this.stopped) this.link("login");
    else this.link("lost", `the service answered ${answer.status}`);
    return false;
  }

  take(events, state) {
    for (const event of events) {
      if (event.id) this.after = event.id;
      if (event.type === "bye") this.draining = true;
      else this.emit(event);
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
