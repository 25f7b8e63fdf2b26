// What the page knows, and how each event of the Feed changes it.
//
// `reduce` is pure but for the rings, which are written in place: a state has a new object for each part that has changed. `Store`
// keeps the state and tells its subscribers, once a frame however many events came. When the service is another one (`boot`),
// nothing is forgotten: seconds that nobody saw stay NaN, and charts draw them as a gap.

const SIZES = { 1: 900, 15: 1440 }; // points of a ring, by seconds of a point: 15 minutes, 6 hours
const LINES = 2000;
const RECORDS = 1000;

export function begin() {
  return {
    boot: "",
    base: 0, // wall clock of second 0 of the Feed's numbers
    role: "",
    session: {}, // who the page is logged in as: by, login
    service: null, // the last hello
    link: { state: "connecting", since: Date.now(), reason: "" },
    overview: null,
    stages: {}, // name to {detail, rings: {1, 15}, faults: Map}
    logs: { lines: [], seen: 0 }, // {key, event} or {key, gap}; how many there have been
    operations: new Map(),
    audit: [], // newest first
    peers: [],
  };
}

export function ring(every) {
  return { every, end: 0, series: {} };
}

// Writes the values of one moment (wall clock); what lies between it and the newest becomes NaN. What is known stays.
export function put(ring, when, values) {
  const size = SIZES[ring.every];
  const slot = Math.round(when / ring.every);
  const step = Math.min(size, slot - ring.end);
  if (step > 0) {
    for (const each of Object.values(ring.series)) each.copyWithin(0, step).fill(NaN, size - step);
    ring.end = slot;
  }
  const index = size - 1 - (ring.end - slot);
  for (const name in values) {
    if (index >= 0 && values[name] !== null) (ring.series[name] ??= new Float64Array(size).fill(NaN))[index] = values[name];
  }
}

// Writes series that begin at number `from` after `base`.
function putAll(ring, base, { from, series }) {
  const entries = Object.entries(series);
  const length = entries[0]?.[1].length ?? 0;
  for (let index = 0; index < length; index++) {
    put(ring, base + (from + index) * ring.every, Object.fromEntries(entries.map(([name, values]) => [name, values[index]])));
  }
}

function withStage(state, name, change) {
  const old = Object.hasOwn(state.stages, name) ? state.stages[name] : { rings: { 1: ring(1), 15: ring(15) }, faults: new Map() };
  return { ...state, stages: { ...state.stages, [name]: { ...old, ...change(old) } } };
}

function withLines({ lines, seen }, more) {
  const keyed = more.map((each, index) => ({ key: seen + index, ...each }));
  return { lines: [...lines, ...keyed].slice(-LINES), seen: seen + more.length };
}

// A Map with these items in it, by what they are called.
const merged = (old, name, items) => new Map([...old, ...items.map((each) => [each[name], each])]);

const REDUCERS = {
  session: (state, session) => ({ ...state, role: session.role, session }),
  overview: (state, overview) => ({ ...state, overview }),
  peers: (state, { peers }) => ({ ...state, peers }),
  operations: (state, { operations }) => ({ ...state, operations: merged(state.operations, "operation", operations) }),
  "logs cleared": (state) => ({ ...state, logs: { ...state.logs, lines: [] } }),

  link(state, { state: now, reason, at }) {
    const { link } = state;
    if (link.state === now && link.reason === reason) return state;
    return { ...state, link: { state: now, reason, since: link.state === now ? link.since : at } };
  },

  hello(state, service) {
    const { boot, now, n, role } = service;
    if (state.boot === boot) return { ...state, role, service };
    const logs = state.logs.lines.length ? withLines(state.logs, [{ gap: "the service was started again" }]) : state.logs;
    return { ...state, boot, role, service, logs, base: now - n }; // once: points stay where they are
  },

  // Also the answer of GET /stages/{s}/history.
  history(state, { stage, every, ...points }) {
    return withStage(state, stage, ({ rings }) => {
      putAll(rings[every], state.base, points);
      return { rings: { ...rings } };
    });
  },

  stage(state, { points, faults, ...detail }) {
    return withStage(state, detail.name, ({ rings, faults: old }) => {
      putAll(rings[1], state.base, points);
      return { detail, rings: { ...rings }, faults: faults.length ? merged(old, "key", faults) : old };
    });
  },

  logs(state, { lines, gap }) {
    const more = [...(gap ? [{ gap }] : []), ...lines.map(([, event]) => ({ event }))];
    return more.length ? { ...state, logs: withLines(state.logs, more) } : state;
  },

  audit(state, { records }) {
    const all = merged(state.audit.map((each) => [each.n, each]), "n", records);
    return { ...state, audit: [...all.values()].sort((one, other) => other.n - one.n).slice(0, RECORDS) };
  },
};

// Unknown events change nothing: a newer service may send some.
export function reduce(state, { type, data }) {
  return Object.hasOwn(REDUCERS, type) ? REDUCERS[type](state, data) : state;
}

export class Store {
  constructor(frame = (callback) => requestAnimationFrame(callback)) {
    Object.assign(this, { state: begin(), frame, subscribers: new Set(), waiting: false });
  }

  dispatch(event) {
    this.state = reduce(this.state, event);
    if (!this.waiting) this.frame(() => this.tell());
    this.waiting = true;
  }

  // Calls `update(state)` now, and after each frame in which one of these parts has changed. Returns what ends it.
  subscribe(keys, update) {
    const subscriber = { keys, update, seen: this.state };
    this.subscribers.add(subscriber);
    update(this.state);
    return () => this.subscribers.delete(subscriber);
  }

  tell() {
    this.waiting = false;
    for (const each of this.subscribers) {
      const { seen } = each;
      each.seen = this.state;
      if (each.keys.some((key) => each.seen[key] !== seen[key])) each.update(each.seen);
    }
  }
}

// Whether nothing comes from the service, so that what is shown is old.
export const away = ({ state }) => state !== "live" && state !== "asking";

export const store = new Store();
