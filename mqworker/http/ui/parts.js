// Parts that several views are made of: buttons, panels, tables.

import { h } from "./dom.js";

export function button(label, click, kind = null, name = null) {
  return h("button", { type: "button", class: kind, "aria-label": name, text: label, on: { click } });
}

export function panel(title, ...nodes) {
  return h("section", { class: "panel" }, title && h("h2", { text: title }), ...nodes);
}

// A table with these column heads; `kind` "cards": rows are cards where it is narrow.
export function table(heads, body, kind = null) {
  const cells = heads.map((name) => (name ? h("th", { scope: "col", text: name }) : h("td")));
  return h("div", { class: "table" }, h("table", { class: kind }, h("thead", {}, h("tr", {}, cells)), body));
}

// A row of cells: [key, label, class, ...nodes]. Returns {root, and each cell by its key}.
export function cells(...columns) {
  const made = { root: h("tr") };
  for (const [key, label, kind, ...nodes] of columns) {
    made[key] = h("td", { class: kind || null, "data-label": label || null }, ...nodes);
    made.root.append(made[key]);
  }
  return made;
}
