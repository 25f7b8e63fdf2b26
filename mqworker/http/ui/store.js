// What the page knows, and how each event of the Feed changes it.
//
// `reduce` is pure but for the rings, which are written in place: a state has a new object for each part that changed, and
// only that tells. `Store` keeps the state and tells its subscribers, once a frame however many events came. Nothing is
// forgotten when the service is another (`boot`): seconds that nobody saw stay NaN, and charts draw them as a gap.

export const SIZES = { 1: 900, 15: 1440 }; // points of a ring: 15 minutes, 6 hours
const LINES = 2000;
const RECORDS = 1000;

export function begin() {
  return {
    boot: "",
    base: 0, // wall clock of second 0 of the Feed's numbers
    role: "",
    service: null,
    link: { state: "connecting", since: 0, reason: "" },
    overview: null,
    stages: {}, // name to {detail, rings: {1, 15}, faults: Map}
    logs: { lines: [], seen: 0 }, // lines: {key, event} or {key, gap}; how many have been seen
    operations: new Map(),
    audit: [], // newest first
    peers: [],
  };
}

export function ring(every) {
  return { every, end: 0, series: {} };
}

// Writes the values of one moment (wall clock, seconds); what lies between it and the newest becomes NaN.
export function put(target, when, values) {
  const size = SIZES[target.every];
  const slot = Math.round(when / target.every);
  if (slot > target.end) {
    const step = target.end ? Math.min(size, slot - target.end) : size;
    for (const each of Object.values(target.series)) {
      each.copyWithin(0, step);
      each.fill(NaN, size - step);
    }
    target.end = slot;
  }
  const index = size - 1 - (target.end - slot);
  if (index < 0) return;
  for (const name in values) {
    const value = values[name];
    if (value === null || value === undefined) continue; // what was seen before is not taken back
    (target.series[name] ??= new Float64Array(size).fill(NaN))[index] = value;
  }
}

const STAGE = { detail: null, rings: null, faults: new Map() };

function withStage(state, name, change) {
  const old = Object.hasOwn(state.stages, name) ? state.stages[name] : { ...STAGE, rings: { 1: ring(1), 15: ring(15) } };
  return { ...state, stages: { ...state.stages, [name]: { ...old, ...change(old) } } };
}

function withLines({ lines, seen }, more) {
  const keyed = more.map((each, index) => ({ key: seen + index, ...each }));
  return { lines: [...lines, ...keyed].slice(-LINES), seen: seen + more.length };
}

const REDUCERS = {
  link(state, { state: now, reason, at }) {
    if (state.link.state === now && state.link.reason === reason) return state;
    const since = state.link.state === now ? state.link.since : at;
    return { ...state, link: { state: now, since, reason } };
  },

  session(state, session) {
    return { ...state, role: session.role };
  },

  hello(state, hello, id) {
    const other = state.boot !== "" && state.boot !== hello.boot;
    const second = Number(id.split(".")[1]) || 0;
    return {
      ...state,
      boot: hello.boot,
      base: hello.now - second,
      role: hello.role,
      service: hello,
      logs: other ? withLines(state.logs, [{ gap: "the service was started again" }]) : state.logs,
    };
  },

  history(state, { stage, every, from, series }) {
    return withStage(state, stage, ({ rings }) => {
      const length = Math.max(0, ...Object.values(series).map((each) => each.length));
      for (let index = 0; index < length; index++) {
        const values = {};
        for (const name in series) values[name] = series[name][index];
        put(rings[every], state.base + from + index * every, values);
      }
      return { rings: { ...rings } };
    });
  },

  overview(state, overview) {
    return { ...state, overview };
  },

  stage(state, { name, points, faults, n, ...detail }) {
    detail.second = n;
    return withStage(state, name, ({ rings, faults: old }) => {
      if (points) put(rings[1], state.base + n, points);
      const known = faults?.length ? new Map([...old, ...faults.map((each) => [each.key, each])]) : old;
      return { detail, faults: known, rings: { ...rings } };
    });
  },

  logs(state, { lines, gap }) {
    const more = [...(gap ? [{ gap }] : []), ...lines.map(([, event]) => ({ event }))];
    return more.length ? { ...state, logs: withLines(state.logs, more) } : state;
  },

  "logs cleared": (state) => ({ ...state, logs: { ...state.logs, lines: [] } }),

  // The answer of GET /stages/{s}/history.
  past(state, { stage, every, until, series }) {
    const from = until - (Object.values(series)[0].length - 1) * every - state.base;
    return REDUCERS.history(state, { stage, every, from, series });
  },

  operations(state, { operations }) {
    return { ...state, operations: new Map([...state.operations, ...operations.map((each) => [each.operation, each])]) };
  },

  audit(state, { records }) {
    const known = new Set(state.audit.map((each) => each.n));
    const fresh = records.filter((each) => !known.has(each.n));
    if (!fresh.length) return state;
    return { ...state, audit: [...fresh, ...state.audit].sort((one, other) => other.n - one.n).slice(0, RECORDS) };
  },

  peers(state, { peers }) {
    return { ...state, peers };
  },
};

// Unknown events change nothing: a newer service may send some.
export function reduce(state, { type, data, id = "" }) {
  return Object.hasOwn(REDUCERS, type) ? REDUCERS[type](state, data, id) : state;
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

  // Calls `update(state)` now, and after each frame in which one of these parts has changed. Returns the end of it.
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
      const { seen } = each;
      each.seen = state;
      if (each.keys.some((key) => state[key] !== seen[key])) each.update(state);
    }
  }
}

export const store = new Store();
