// Which tabs of this browser hold a stream. A browser opens six connections to one host, all tabs together: with six
// streams the seventh tab would not even load. So the four oldest visible tabs stream, the others ask (feed.js).
//
// Tabs talk over a BroadcastChannel; nobody decides for others. Two rules keep a new tab from waiting: who hears of a
// new tab answers at once, and a tab that has lost its right ends its stream by itself (`changed`).

export const MOST = 4; // streams of one browser
const FORGOTTEN = 3000; // ms without a word
export const LISTEN = 300; // ms in which a new tab hears of the others before it streams

// Pure: whether `me` is among the oldest. `others`: id to {born, at}.
export function mayStream(others, me, now) {
  const older = ({ born }, id) => born < me.born || (born === me.born && id < me.id);
  return [...others].filter(([id, other]) => now - other.at < FORGOTTEN && older(other, id)).length < MOST;
}

export class Tabs {
  // `name` is the same for all tabs of one service; `changed` is called when another tab has come or gone.
  constructor(name, changed) {
    this.me = { id: Math.random().toString(36).slice(2), born: performance.timeOrigin };
    this.others = new Map();
    this.changed = changed;
    this.channel = new BroadcastChannel(`mqworker-${name}`);
    this.channel.onmessage = ({ data }) => this.hear(data);
    addEventListener("pagehide", () => this.channel.postMessage({ id: this.me.id, gone: true }));
    document.addEventListener("visibilitychange", () => this.say());
    setInterval(() => document.hidden || this.say(), 1000);
    this.say();
  }

  say() {
    this.channel.postMessage({ ...this.me, gone: document.hidden });
  }

  hear({ id, born, gone }) {
    if (gone) {
      this.others.delete(id);
    } else {
      const fresh = !this.others.has(id);
      this.others.set(id, { born, at: Date.now() });
      if (fresh && !document.hidden) this.say();
    }
    this.changed();
  }

  mayStream() {
    return mayStream(this.others, this.me, Date.now());
  }
}
