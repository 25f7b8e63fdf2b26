// Charts and sparklines as SVG. `path`, `ceiling` and `gaps` are pure; a Chart is made once and changes only `d` and texts.
//
// A series is a Float64Array, the newest point last; NaN: nobody knows. Where there are more than two points a pixel, each
// column is drawn from its least to its greatest, so a peak of one second is seen in six hours too.

import { attr, h, keyed, s, text } from "./dom.js";
import { time } from "./format.js";

const HEIGHT = 88; // pixels of the plot
const LEFT = 46; // for the texts of the vertical axis
const TOP = 6;
const BOTTOM = 18;
const SHARES = [0, 1 / 3, 2 / 3, 1]; // of the width, where the time stands
const ANCHORS = ["start", "middle", "middle", "end"];
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
    d += `${run ? "L" : "M"}${x} ${(height - (value / most) * height).toFixed(1)}`;
    run += 1;
  };
  const lift = () => {
    if (run === 1) d += "h.1"; // a point alone is a dot
    run = 0;
  };
  if (n <= 2 * width) {
    for (let i = 0; i < n; i++) {
      if (Number.isNaN(values[i])) lift();
      else point(((i * width) / Math.max(1, n - 1)).toFixed(1), values[i]);
    }
  } else {
    for (let x = 0; x < width; x++) {
      let [least, greatest] = [Infinity, -Infinity];
      for (let i = Math.floor((x * n) / width), end = Math.floor(((x + 1) * n) / width); i < end; i++) {
        if (values[i] < least) least = values[i];
        if (values[i] > greatest) greatest = values[i];
      }
      if (greatest < least) lift();
      else point(x, least);
      if (greatest > least) point(x, greatest);
    }
  }
  lift();
  return d;
}

// Where nothing is known between two known points, as [x, width].
export function gaps(values, width) {
  const step = width / (values.length - 1);
  const found = [];
  let last = Infinity;
  for (let i = 0; i < values.length; i++) {
    if (Number.isNaN(values[i])) continue;
    if (i - last > 2) found.push([last * step, (i - last) * step]); // a second that came late is none
    last = i;
  }
  return found;
}

export function latest(values = UNKNOWN) {
  return values[values.length - 1];
}

function greatest(values) {
  let most = 0;
  for (const value of values) if (value > most) most = value;
  return most;
}

// `lines`: [series, label, class]; `format` writes a value. `update(ring)` draws; the legend has the values of the moment that
// is pointed at, or the newest.
export class Chart {
  constructor(title, lines, format) {
    Object.assign(this, { title, format, width: 0, ring: null, pointed: null });
    this.lines = lines.map(([series, label, kind]) => ({ series, label, kind, path: s("path", { class: `line ${kind}` }), value: h("b") }));
    this.grid = [0, 0.5, 1].map((share) => {
      const y = HEIGHT * (1 - share);
      return { share, rule: s("path", { class: "rule" }), label: s("text", { x: -6, y: y + 4, "text-anchor": "end" }), y };
    });
    this.times = ANCHORS.map((anchor) => s("text", { y: HEIGHT + 14, "text-anchor": anchor }));
    this.gaps = s("g");
    this.cross = s("path", { class: "cross" });
    const on = { pointermove: ({ offsetX }) => this.point((offsetX - LEFT) / this.width), pointerleave: () => this.point(null) };
    this.svg = s("svg", { class: "chart", role: "img", on }, this.gaps, this.grid.flatMap(({ rule, label }) => [rule, label]),
      this.times, this.lines.map((each) => each.path), this.cross);
    this.when = h("span", { class: "muted" });
    const legend = this.lines.map(({ label, kind, value }) => h("span", { class: "legend" }, h("i", { class: kind }), `${label} `, value));
    this.root = h("figure", { class: "panel" }, h("figcaption", { class: "row" }, h("h2", { text: title }), legend, this.when),
      this.svg);
    new ResizeObserver(([{ contentRect }]) => this.resize(Math.floor(contentRect.width))).observe(this.svg);
  }

  resize(width) {
    if (width < 100) return;
    this.width = width - LEFT;
    attr(this.svg, "viewBox", `${-LEFT} ${-TOP} ${width} ${TOP + HEIGHT + BOTTOM}`);
    for (const { rule, y } of this.grid) attr(rule, "d", `M0 ${y}H${this.width}`);
    this.times.forEach((label, index) => attr(label, "x", SHARES[index] * this.width));
    this.update(this.ring);
  }

  point(share) {
    this.pointed = share >= 0 && share <= 1 ? share : null;
    if (this.ring) this.say();
  }

  series(name) {
    return this.ring.series[name] ?? UNKNOWN;
  }

  // The time of a share of the width; "" before anything is known.
  at(share) {
    return this.ring.end ? time((this.ring.end - Math.round((1 - share) * (this.series("in").length - 1))) * this.ring.every) : "";
  }

  update(ring) {
    this.ring = ring;
    if (!ring || !this.width) return;
    const most = ceiling(Math.max(...this.lines.map(({ series }) => greatest(this.series(series)))));
    for (const { series, path: line } of this.lines) attr(line, "d", path(this.series(series), this.width, HEIGHT, most));
    for (const { share, label } of this.grid) text(label, this.format(most * share));
    this.times.forEach((label, index) => text(label, this.at(SHARES[index]).slice(-8, -3)));
    const make = () => s("rect", { y: 0, height: HEIGHT, fill: "url(#hatch)" });
    keyed(this.gaps, gaps(this.series("in"), this.width), ([x]) => x, make, (rect, [x, wide]) => {
      attr(rect, "x", x.toFixed(1));
      attr(rect, "width", wide.toFixed(1));
    });
    this.say();
  }

  say() {
    const share = this.pointed ?? 1;
    const values = this.lines.map(({ series }) => this.series(series)).map((each) => this.format(each[Math.round(share * (each.length - 1))]));
    this.lines.forEach(({ value }, index) => text(value, values[index]));
    text(this.when, this.pointed === null ? "" : this.at(share));
    attr(this.cross, "d", this.pointed === null ? null : `M${(share * this.width).toFixed(1)} 0V${HEIGHT}`);
    attr(this.svg, "aria-label", `${this.title}: ${this.lines.map(({ label }, index) => `${label} ${values[index]}`).join(", ")}`);
  }
}

// The last minute of one series, in a line of text.
export class Spark {
  constructor(label) {
    this.line = s("path", { class: "line" });
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
  return s("svg", { class: "away", width: 0, height: 0, "aria-hidden": "true" }, pattern);
}
