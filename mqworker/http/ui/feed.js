// The client of GET /feed: one stream of events at 1 Hz, kept alive, resumed, or asked for where it may not be.
//
// fetch and a reader of our own, because EventSource gives up after a 503. Each event goes to `emit` as {type, id, data}; so does
// how the link is, as "link" with {state, reason}: live, asking, lost, draining, login. A silent stream is given up; the next one
// comes after `pause` and resumes behind the last event. A tab that may not stream (tabs.js; 503) asks every two seconds for the
// same events. A hidden tab does nothing.

const SILENCE = 1800; // ms: events come every second, and a lost service must show within two
const EVERY = 2000; // ms between two questions
const PATIENCE = 3000; // ms for one question
const PROVEN = 5000; // ms: after a stream that lasted this long the pauses are short again
const AGAIN = "again"; // why we end a connection ourselves

// Pure. Returns a function that takes pieces of text as they come, and returns the events that are complete.
export function parser() {
  let rest = "";
  return (piece) => {
    const blocks = (rest + piece).split("\n\n");
    rest = blocks.pop();
    return blocks.map((block) => {
      const { event: type = "message", id = "", data } = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s)));
      return { type, id, data: data && JSON.parse(data) };
    }).filter(({ data }) => data);
  };
}

// Pure. Milliseconds before the next attempt: 250, 500, 1000, then 2000, each a quarter more or less.
export function pause(tries, random = Math.random()) {
  return Math.min(2000, 250 * 2 ** tries) * (0.75 + random / 2);
}

export class Feed {
  constructor(emit, tabs) {
    Object.assign(this, { emit, tabs, query: "", after: "", tries: 0, doing: "", stopped: false, bye: "", abort: null });
    this.wake = () => {};
    document.addEventListener("visibilitychange", () => this.again());
  }

  // Asks for other topics and filters: names and values of the query.
  want(query) {
    const wanted = String(new URLSearchParams(query));
    if (wanted === this.query) return;
    this.query = wanted;
    this.after = this.after.replace(/\.\d+/, ".0"); // of other topics nothing is known: their whole history
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
    if (this.doing === "streaming" && !may) this.abort.abort(AGAIN);
    else if (this.doing === "waiting its turn" && may) this.wake();
  }

  async run() {
    for (;;) {
      const idle = document.hidden || this.stopped;
      const may = this.tabs.mayStream();
      const wait = idle ? 3_600_000 : await this.attempt(may);
      this.doing = idle || may ? "" : "waiting its turn";
      await new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, wait);
      });
    }
  }

  // Runs one connection; returns how long to wait before the next.
  async attempt(may) {
    this.abort = new AbortController();
    const { signal } = this.abort;
    try {
      if (may && !this.missing) return await this.stream();
      return await this.ask(may ? "there is no such stage" : "this browser has four streams in other tabs");
    } catch {
      if (signal.reason === AGAIN) return 0;
      this.link(this.bye === "draining" ? this.bye : "lost", signal.aborted ? signal.reason : "the service cannot be reached");
      return pause(this.tries++);
    } finally {
      this.abort = null;
    }
  }

  link(state, reason = "") {
    this.emit({ type: "link", data: { state, reason, at: Date.now() } });
  }

  // Gives the connection up when it was silent for that long; each call restarts the time.
  guard(milliseconds, reason) {
    const { abort } = this;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => abort.abort(reason), milliseconds);
  }

  async stream() {
    this.guard(SILENCE, "it is silent");
    const answer = await this.fetch("");
    if (answer.status === 503) {
      await this.ask("all streams of the service are taken");
      return Math.max(EVERY, 1000 * answer.headers.get("Retry-After"));
    }
    if (!this.accepted(answer)) return this.missing ? 0 : EVERY;
    this.doing = "streaming";
    const read = parser();
    const begun = Date.now();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done && this.bye === "renew") return 0; // it was old
      if (done) throw new Error("the connection was closed");
      this.guard(SILENCE, "it is silent");
      this.take(read(value), "live");
      if (Date.now() - begun > PROVEN) this.tries = 0;
    }
  }

  async ask(reason) {
    this.guard(PATIENCE, "perhaps this browser has no connection left");
    const answer = await this.fetch("&once=1");
    if (this.accepted(answer)) this.take(parser()(await answer.text()), "asking", reason);
    clearTimeout(this.timer);
    return EVERY;
  }

  fetch(more) {
    const after = this.after && `&after=${this.after}`;
    const headers = { Accept: "text/event-stream", "X-Mqworker": "page" };
    const query = this.missing ? "topics=overview" : this.query;
    return fetch(`../api/v1/feed?${query}${more}${after}`, { signal: this.abort.signal, headers, cache: "no-store", redirect: "error" });
  }

  accepted({ ok, status }) {
    this.stopped = status === 401;
    this.missing = status === 404; // a stage that is gone, or not yet there: the overview is asked for, then all of it again
    if (!ok && !this.missing) this.link(this.stopped ? "login" : "lost", `the service answered ${status}`);
    return ok;
  }

  take(events, state, reason) {
    if (events.length) this.link(state, reason);
    for (const event of events) {
      if (event.type === "bye") this.bye = event.data.reason;
      if (event.type === "hello") this.bye = "";
      this.after = event.id || this.after;
      this.emit(event);
    }
  }
}
