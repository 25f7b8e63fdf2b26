// Charts and sparklines as SVG. `path`, `ceiling` and `gaps` are pure; a Chart is made once and changes only `d` and texts.
//
// A series is a Float64Array, the newest point last; NaN: nobody knows. Where there are more than two points a pixel, each
// column is drawn from its least to its greatest, so a peak of one second is seen in six hours too.

import { attr, h, keyed, s, text } from "./dom.js";
import { time } from "./format.js";

const HEIGHT = 88; // pixels of the plot
const LEFT = 46; // for the texts of the vertical axis
const GRID = [0, 0.5, 1]; // shares of the height
const TIMES = [[0, "start"], [0.5, "middle"], [1, "end"]]; // shares of the width
const SHORTEST = 120; // points of the axis of a young service
const UNKNOWN = new Float64Array(900).fill(NaN);

// The next of 1, 2, 5, 10, 20 … that is not below `most`.
export function ceiling(most) {
  if (!(most > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(most));
  return size * [1, 2, 5, 10].find((step) => step * size >= most * 0.999999);
}

// The `d` of a line that fills width × height, 0 at the bottom and `most` at the top.
export function path(values, width, height, most) {
  const n = values.length;
  let d = "";
  let run = 0; // points since the pen was put down
  const point = (x, value) => {
    if (Number.isFinite(value)) d += `${run++ ? "L" : "M"}${x} ${(height - (value / most) * height).toFixed(1)}`;
    else lift();
  };
  const lift = () => {
    if (run === 1) d += "m-1.5 0h3m-1.5-1.5v3"; // a point alone is a dot that is seen
    run = 0;
  };
  if (n <= 2 * width) {
    for (let i = 0; i < n; i++) point(((i * width) / (n - 1)).toFixed(1), values[i]);
  } else {
    for (let x = 0; x < width; x++) {
      let [least, greatest] = [Infinity, -Infinity];
      for (let i = Math.floor((x * n) / width), end = Math.floor(((x + 1) * n) / width); i < end; i++) {
        if (values[i] < least) least = values[i];
        if (values[i] > greatest) greatest = values[i];
      }
      point(x, least);
      if (greatest > least) point(x, greatest);
    }
  }
  lift();
  return d;
}

// How many of the newest points the axis has: from the first that is known on.
export function span(values) {
  const first = values.findIndex((value) => !Number.isNaN(value));
  return Math.max(Math.min(SHORTEST, values.length), first < 0 ? 0 : values.length - first);
}

// Where nothing is known between two known points, as [x, width].
export function gaps(values, width) {
  const step = width / (values.length - 1);
  const found = [];
  let last = Infinity;
  values.forEach((value, i) => {
    if (Number.isNaN(value)) return;
    if (i - last > 1) found.push([last * step, (i - last) * step]);
    last = i;
  });
  return found;
}

export function latest(values = UNKNOWN) {
  return values.at(-1);
}

const greatest = (values) => values.reduce((most, each) => (each > most ? each : most), 0);

// `lines`: [series, label, class]; `format` writes a value. `update(ring)` draws; the legend has the values of the moment that
// is pointed at, or the newest.
export class Chart {
  constructor(title, lines, format) {
    Object.assign(this, { title, lines, format, width: 0, points: 0, ring: null, pointed: null });
    this.paths = lines.map(([, , kind]) => s("path", { class: `line ${kind}` }));
    this.values = lines.map(() => h("b"));
    this.rules = s("path", { class: "rule" });
    this.scale = GRID.map((share) => s("text", { x: -6, y: HEIGHT * (1 - share) + 4, "text-anchor": "end" }));
    this.times = TIMES.map(([, anchor]) => s("text", { y: HEIGHT + 14, "text-anchor": anchor }));
    this.gaps = s("g");
    this.cross = s("path", { class: "cross" });
    this.when = h("span", { class: "muted" });
    const on = { pointermove: ({ offsetX }) => this.point((offsetX - LEFT) / this.width), pointerleave: () => this.point(null) };
    this.svg = s("svg", { class: "chart", role: "img", on }, this.gaps, this.rules, this.scale, this.times, this.paths, this.cross);
    const legend = lines.map(([, label, kind], index) =>
      h("span", { class: "legend muted" }, h("i", { class: kind }), `${label} `, this.values[index]));
    this.root = h("figure", { class: "panel" }, h("figcaption", { class: "row" }, h("h2", { text: title }), legend, this.when), this.svg);
    new ResizeObserver(([{ contentRect }]) => this.resize(contentRect.width)).observe(this.svg);
  }

  resize(width) {
    if (width < 100) return; // not shown
    this.width = Math.floor(width) - LEFT;
    attr(this.svg, "viewBox", `${-LEFT} -6 ${Math.floor(width)} ${HEIGHT + 24}`);
    attr(this.rules, "d", GRID.map((share) => `M0 ${HEIGHT * share}H${this.width}`).join(""));
    this.times.forEach((label, index) => attr(label, "x", TIMES[index][0] * this.width));
    this.update(this.ring);
  }

  point(share) {
    this.pointed = share >= 0 && share <= 1 ? share : null;
    this.update(this.ring);
  }

  // The time of a share of the width; "" before anything is known.
  at(share) {
    const { end, every } = this.ring;
    return end ? time((end - Math.round((1 - share) * (this.points - 1))) * every) : "";
  }

  update(ring) {
    this.ring = ring;
    if (!ring || !this.width) return;
    const { lines, width, format } = this;
    const newest = (name) => (ring.series[name] ?? UNKNOWN).subarray(-this.points);
    this.points = span(ring.series.in ?? UNKNOWN);
    const known = newest("in");
    const all = lines.map(([name]) => newest(name));
    const most = ceiling(Math.max(...all.map(greatest)));
    all.forEach((each, index) => attr(this.paths[index], "d", path(each, width, HEIGHT, most)));
    this.scale.forEach((label, index) => text(label, format(most * GRID[index])));
    this.times.forEach((label, index) => text(label, this.at(TIMES[index][0]).slice(-8, -3)));
    const make = () => s("rect", { height: HEIGHT, fill: "url(#hatch)" });
    keyed(this.gaps, gaps(known, width), ([x]) => x, make, (rect, [x, wide]) => {
      attr(rect, "x", x.toFixed(1));
      attr(rect, "width", wide.toFixed(1));
    });
    const share = this.pointed ?? 1;
    const told = all.map((each) => format(each[Math.round(share * (each.length - 1))]));
    told.forEach((value, index) => text(this.values[index], value));
    text(this.when, this.pointed === null ? "" : this.at(share));
    attr(this.cross, "d", this.pointed === null ? null : `M${(share * width).toFixed(1)} 0V${HEIGHT}`);
    attr(this.svg, "aria-label", `${this.title}: ${lines.map(([, label], index) => `${label} ${told[index]}`).join(", ")}`);
  }
}

// The last minute of one series, in a line of text.
export class Spark {
  constructor(label) {
    this.line = s("path", { class: "line one" });
    this.root = s("svg", { class: "spark", role: "img", viewBox: "0 -2 120 24", "aria-label": label }, this.line);
  }

  update(values = UNKNOWN) {
    const last = values.subarray(-60);
    attr(this.line, "d", path(last, 120, 20, greatest(last) || 1));
  }
}

// The pattern of gaps, once in a view.
export function hatch() {
  const pattern = s("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse" }, s("path", { d: "M0 6L6 0", class: "rule" }));
  return s("svg", { class: "away", "aria-hidden": "true" }, pattern);
}
