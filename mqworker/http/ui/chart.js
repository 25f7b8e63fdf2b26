// Charts and sparklines as SVG. `path`, `ceiling` and `gaps` are pure; a Chart is made once and changes only `d` and texts.
//
// A series is a Float64Array, the newest point last; NaN: nobody knows. Where there are more than two points a pixel, each
// column is drawn from its least to its greatest, so a peak of one second is seen in six hours too.

import { attr, h, keyed, s, text } from "./dom.js";
import { time } from "./format.js";

const HEIGHT = 112;
const LEFT = 46; // pixels for the texts of the vertical axis
const TOP = 6;
const BOTTOM = 18;

// The next of 1, 2, 5, 10, 20 … that is not below `most`.
export function ceiling(most) {
  if (!(most > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * size).find((each) => each >= most * 0.999999);
}

// The `d` of a line that fills width × height, 0 at the bottom and `most` at the top.
export function path(values, width, height, most) {
  const n = values.length;
  const y = (value) => (height - (Math.min(value, most) / most) * height).toFixed(1);
  let d = "";
  let run = 0; // points since the pen was put down
  const point = (x, value) => {
    d += `${run ? "L" : "M"}${x} ${y(value)}`;
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
      if (greatest === -Infinity) {
        lift();
      } else {
        point(x, least);
        if (greatest > least) point(x, greatest);
      }
    }
  }
  lift();
  return d;
}

// Where nothing is known between two known points, as [x, width]; `least` missing points make a gap.
export function gaps(values, width, least = 2) {
  const step = width / Math.max(1, values.length - 1);
  const found = [];
  let last = -1;
  for (let i = 0; i < values.length; i++) {
    if (Number.isNaN(values[i])) continue;
    if (last >= 0 && i - last > least) found.push([last * step, (i - last) * step]);
    last = i;
  }
  return found;
}

// The mean of each of `parts` equal pieces; NaN where nothing is known.
export function means(values, parts) {
  return Array.from({ length: parts }, (_, part) => {
    const [from, to] = [part, part + 1].map((each) => Math.round((each * values.length) / parts));
    const known = Array.from(values.subarray(from, to)).filter((each) => !Number.isNaN(each));
    return known.length ? known.reduce((sum, each) => sum + each, 0) / known.length : NaN;
  });
}

export function latest(values) {
  return values?.length ? values[values.length - 1] : NaN;
}

const EMPTY = new Float64Array(900).fill(NaN);

// `lines`: [series, label, class]; `format` writes a value. `update(ring)` draws; what is pointed at stands in the legend.
export class Chart {
  constructor(title, lines, format) {
    this.title = title;
    this.format = format;
    this.width = 0;
    this.ring = null;
    this.pointed = null; // a share of the width
    this.lines = lines.map(([series, label, kind]) => ({
      series, label, path: s("path", { class: `line ${kind}` }), swatch: kind, value: h("b"),
    }));
    this.grid = [0, 0.5, 1].map((share) => ({
      share, rule: s("path", { class: "rule" }), label: s("text", { class: "tick", "text-anchor": "end" }),
    }));
    this.times = [0, 1 / 3, 2 / 3, 1].map((share) => ({
      share, label: s("text", { class: "tick", "text-anchor": share === 0 ? "start" : share === 1 ? "end" : "middle" }),
    }));
    this.gaps = s("g", { class: "gaps" });
    this.cross = s("path", { class: "cross" });
    const [rules, labels] = [this.grid.map((each) => each.rule), [...this.grid, ...this.times].map((each) => each.label)];
    this.plot = s("g", {}, this.gaps, ...rules, ...this.lines.map((each) => each.path), this.cross);
    this.svg = s("svg", { role: "img", class: "chart", on: {
      pointermove: ({ offsetX }) => this.point((offsetX - LEFT) / (this.width - LEFT)),
      pointerleave: () => this.point(null),
    } }, this.plot, ...labels);
    this.when = h("span", { class: "muted when" });
    this.rows = h("tbody");
    this.table = h("div", { class: "table short", hidden: true, tabindex: 0, role: "region", "aria-label": `${title}, as a table` },
      h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col", text: "Until" }),
        lines.map(([, label]) => h("th", { scope: "col", class: "number", text: label })))), this.rows));
    this.button = h("button", { type: "button", class: "plain small push", "aria-expanded": "false",
      "aria-label": `Show ${title} as a table`, text: "Table", on: { click: () => this.toggle() } });
    this.root = h("figure", { class: "panel figure" },
      h("figcaption", { class: "row" }, h("h2", { text: title }),
        this.lines.map(({ label, swatch, value }) =>
          h("span", { class: "legend" }, h("i", { class: `swatch ${swatch}` }), `${label} `, value)),
        this.when, this.button),
      this.svg, this.table);
    new ResizeObserver(([{ contentRect }]) => this.resize(Math.floor(contentRect.width))).observe(this.svg);
  }

  resize(width) {
    if (width === this.width || width < 80) return;
    this.width = width;
    const [right, bottom] = [width - LEFT, HEIGHT - TOP - BOTTOM];
    attr(this.svg, "viewBox", `${-LEFT} ${-TOP} ${width} ${HEIGHT}`);
    for (const { share, rule, label } of this.grid) {
      attr(rule, "d", `M0 ${bottom * (1 - share)}H${right}`);
      attr(label, "x", -6);
      attr(label, "y", bottom * (1 - share) + 4);
    }
    for (const { share, label } of this.times) {
      attr(label, "x", right * share);
      attr(label, "y", bottom + 14);
    }
    if (this.ring) this.update(this.ring);
  }

  toggle() {
    this.table.hidden = !this.table.hidden;
    attr(this.button, "aria-expanded", String(!this.table.hidden));
    if (this.ring) this.update(this.ring);
  }

  point(share) {
    this.pointed = share === null || share < 0 || share > 1 ? null : share;
    if (this.ring) this.say();
  }

  update(ring) {
    this.ring = ring;
    if (!this.width) return;
    const [width, height] = [this.width - LEFT, HEIGHT - TOP - BOTTOM];
    let most = 0;
    for (const { series } of this.lines) for (const value of ring.series[series] ?? EMPTY) if (value > most) most = value;
    most = ceiling(most);
    for (const { series, path: line } of this.lines) attr(line, "d", path(ring.series[series] ?? EMPTY, width, height, most));
    for (const { share, label } of this.grid) text(label, this.format(most * share));
    const size = (ring.series.in ?? EMPTY).length;
    for (const { share, label } of this.times) text(label, time((ring.end - (1 - share) * (size - 1)) * ring.every).slice(-8, -3));
    const make = () => s("rect", { y: 0, fill: "url(#hatch)" });
    keyed(this.gaps, gaps(ring.series.in ?? EMPTY, width), ([x]) => x.toFixed(1), make, (rect, [x, wide]) => {
      attr(rect, "x", x.toFixed(1));
      attr(rect, "width", wide.toFixed(1));
      attr(rect, "height", height);
    });
    this.say();
    if (!this.table.hidden) this.fill(size);
  }

  // Writes the values at what is pointed at, or the newest, and the same for those who do not see.
  say() {
    const { ring, pointed } = this;
    const size = (ring.series.in ?? EMPTY).length;
    const index = pointed === null ? size - 1 : Math.round(pointed * (size - 1));
    const values = this.lines.map(({ series }) => this.format((ring.series[series] ?? EMPTY)[index]));
    this.lines.forEach(({ value }, line) => text(value, values[line]));
    text(this.when, pointed === null ? "" : time((ring.end - (size - 1 - index)) * ring.every));
    const x = (index / (size - 1)) * (this.width - LEFT);
    attr(this.cross, "d", pointed === null ? null : `M${x.toFixed(1)} 0V${HEIGHT - TOP - BOTTOM}`);
    if (pointed === null) {
      attr(this.svg, "aria-label", `${this.title}: ${this.lines.map(({ label }, line) => `${label} ${values[line]}`).join(", ")}`);
    }
  }

  fill(size) {
    const parts = 15;
    const columns = this.lines.map(({ series }) => means(this.ring.series[series] ?? EMPTY, parts));
    const rows = Array.from({ length: parts }, (_, part) => ({
      part, until: this.ring.end - Math.round(((parts - 1 - part) * size) / parts),
    })).reverse();
    const make = () => h("tr", {}, h("th", { scope: "row" }), this.lines.map(() => h("td", { class: "number" })));
    keyed(this.rows, rows, ({ part }) => part, make, (row, { part, until }) => {
      text(row.children[0], time(until * this.ring.every).slice(-8, -3));
      columns.forEach((column, line) => text(row.children[line + 1], this.format(column[part])));
    });
  }
}

// The last minute of one series, in a line of text.
export class Spark {
  constructor(label) {
    this.line = s("path", { class: "line one" });
    this.root = s("svg", { class: "spark", role: "img", viewBox: "0 -2 120 24", "aria-label": label }, this.line);
  }

  update(values) {
    const last = (values ?? EMPTY).subarray(-60);
    let most = 0;
    for (const value of last) if (value > most) most = value;
    attr(this.line, "d", path(last, 120, 20, most || 1));
  }
}

// The pattern of gaps; once in the page.
export function hatch() {
  const pattern = s("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse" }, s("path", { d: "M0 6L6 0", class: "rule" }));
  return s("svg", { class: "away", width: 0, height: 0, "aria-hidden": "true" }, pattern);
}
