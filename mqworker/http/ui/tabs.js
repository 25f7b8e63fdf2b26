// Which tabs of this browser hold a stream. A browser opens six connections to one host, all tabs together: with six
// streams the seventh tab would not even load. So the four oldest visible tabs stream, the others ask (feed.js).
//
// Each tab decides for itself from what it hears. A tab that hears of a new one answers at once, and a tab that has lost its right
// ends its stream (`changed`): else a new tab would wait.

export const MOST = 4; // streams of one browser
export const LISTEN = 300; // ms in which a new tab hears of the others before it streams
const FORGOTTEN = 3000; // ms without a word

// Pure: whether `me` is among the oldest. `others`: id to {born, at}.
export function mayStream(others, me, now) {
  const older = ([id, { born, at }]) => now - at < FORGOTTEN && (born < me.born || (born === me.born && id < me.id));
  return [...others].filter(older).length < MOST;
}

export class Tabs {
  // `name` is the same for all tabs of one service; `changed` is called when another tab has announced itself.
  constructor(name, changed) {
    this.me = { id: Math.random().toString(36).slice(2), born: performance.timeOrigin };
    this.others = new Map();
    this.changed = changed;
    this.channel = new BroadcastChannel(`mqworker-${name}`);
    this.channel.onmessage = ({ data }) => this.hear(data);
    addEventListener("pagehide", () => this.say(true));
    document.addEventListener("visibilitychange", () => this.say());
    setInterval(() => document.hidden || this.say(), 1000);
    this.say();
  }

  say(gone = document.hidden) {
    this.channel.postMessage({ ...this.me, gone });
  }

  hear({ id, born, gone }) {
    const fresh = !gone && !this.others.has(id);
    if (gone) this.others.delete(id);
    else this.others.set(id, { born, at: Date.now() });
    if (fresh && !document.hidden) this.say();
    this.changed();
  }

  mayStream() {
    return mayStream(this.others, this.me, Date.now());
  }
}
