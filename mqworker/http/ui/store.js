// What the page knows, and how each event of the Feed changes it.
//
// `reduce` is pure but for the rings, which are written in place: a state has a new object for each part that has changed. `Store`
// keeps the state and tells its subscribers, once a frame however many events came. When the service is another one (`boot`),
// nothing is forgotten: seconds that nobody saw stay NaN, and charts draw them as a gap.

export const SIZES = { 1: 900, 15: 1440 }; // points of a ring, by seconds of a point: 15 minutes, 6 hours
const LINES = 2000;
const RECORDS = 1000;

export function begin() {
  return {
    boot: "",
    base: 0, // wall clock of second 0 of the Feed's numbers
    role: "",
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
  if (slot > ring.end) {
    const step = Math.min(size, slot - ring.end);
    for (const each of Object.values(ring.series)) each.copyWithin(0, step).fill(NaN, size - step);
    ring.end = slot;
  }
  const index = size - 1 - (ring.end - slot);
  for (const name in values) {
    if (index < 0 || values[name] === null) continue;
    (ring.series[name] ??= new Float64Array(size).fill(NaN))[index] = values[name];
  }
}

// Writes series that begin at number `from` after `base`.
function putAll(ring, base, { from, series }) {
  const names = Object.keys(series);
  for (let index = 0; index < (series[names[0]]?.length ?? 0); index++) {
    const values = Object.fromEntries(names.map((name) => [name, series[name][index]]));
    put(ring, base + (from + index) * ring.every, values);
  }
}

function withStage(state, name, change) {
  const old = Object.hasOwn(state.stages, name)
    ? state.stages[name]
    : { detail: null, rings: { 1: ring(1), 15: ring(15) }, faults: new Map() };
  return { ...state, stages: { ...state.stages, [name]: { ...old, ...change(old) } } };
}

function withLines({ lines, seen }, more) {
  const keyed = more.map((each, index) => ({ key: seen + index, ...each }));
  return { lines: [...lines, ...keyed].slice(-LINES), seen: seen + more.length };
}

const by = (name, items) => items.map((each) => [each[name], each]);

const REDUCERS = {
  session: (state, { role }) => ({ ...state, role }),
  overview: (state, overview) => ({ ...state, overview }),
  peers: (state, { peers }) => ({ ...state, peers }),
  operations: (state, { operations }) => ({ ...state, operations: new Map([...state.operations, ...by("operation", operations)]) }),
  "logs cleared": (state) => ({ ...state, logs: { ...state.logs, lines: [] } }),

  link(state, { state: now, reason, at }) {
    const { link } = state;
    if (link.state === now && link.reason === reason) return state;
    return { ...state, link: { state: now, reason, since: link.state === now ? link.since : at } };
  },

  hello(state, service) {
    const { boot, now, n, role } = service;
    const other = state.boot && state.boot !== boot && state.logs.lines.length;
    const logs = other ? withLines(state.logs, [{ gap: "the service was started again" }]) : state.logs;
    return { ...state, boot, role, service, logs, base: now - n };
  },

  history(state, { stage, every, from, series }) {
    return withStage(state, stage, ({ rings }) => {
      putAll(rings[every], state.base, { from, series });
      return { rings: { ...rings } };
    });
  },

  // The answer of GET /stages/{s}/history.
  past(state, { stage, every, until, series }) {
    const [{ length }] = Object.values(series);
    return REDUCERS.history(state, { stage, every, series, from: (until - state.base) / every - length + 1 });
  },

  stage(state, { points, faults, ...detail }) {
    return withStage(state, detail.name, ({ rings, faults: known }) => {
      putAll(rings[1], state.base, points);
      return { detail, rings: { ...rings }, faults: faults?.length ? new Map([...known, ...by("key", faults)]) : known };
    });
  },

  logs(state, { lines, gap }) {
    const more = [...(gap ? [{ gap }] : []), ...lines.map(([, event]) => ({ event }))];
    return more.length ? { ...state, logs: withLines(state.logs, more) } : state;
  },

  audit(state, { records }) {
    const all = new Map([...by("n", state.audit), ...by("n", records)]);
    return { ...state, audit: [...all.values()].sort((one, other) => other.n - one.n).slice(0, RECORDS) };
  },
};

// Unknown events change nothing: a newer service may send some.
export function reduce(state, { type, data }) {
  return Object.hasOwn(REDUCERS, type) ? REDUCERS[type](state, data) : state;
}

export class Store {
  constructor(frame = (callback) => requestAnimationFrame(callback)) {
    this.state = begin();
    this.frame = frame;
    this.subscribers = new Set();
    this.waiting = false;
  }

  dispatch(event) {
    this.state = reduce(this.state, event);
    if (this.waiting) return;
    this.waiting = true;
    this.frame(() => this.tell());
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
    const { state } = this;
    for (const each of [...this.subscribers]) {
      const changed = each.keys.some((key) => state[key] !== each.seen[key]);
      each.seen = state;
      if (changed) each.update(state);
    }
  }
}

export const store = new Store();
