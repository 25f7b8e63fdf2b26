// Nodes of the page: makes them, writes their texts, keeps lists in step. The only module that creates elements.
//
// Under Trusted Types 'none' nothing parses markup; no attribute is a handler or a style, no address other than relative. What
// comes from messages and logs is only ever a text, with control characters and those that turn a line written out (`visible`).

const SVG = "http://www.w3.org/2000/svg";
const REFUSED = /^(on|style$|src|action|formaction)/i;
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;

export function visible(value) {
  return String(value).replace(INVISIBLE, (each) => "\\u" + each.charCodeAt(0).toString(16).padStart(4, "0"));
}

// Writes an attribute only if it differs. null, undefined, false: none; true: an empty one.
export function attr(node, name, value) {
  const wanted = value === true ? "" : visible(value ?? "");
  if (REFUSED.test(name) || (name === "href" && !/^(#|\.\.\/api\/v1\/|$)/.test(wanted))) throw new Error(`no ${name}="${wanted}"`);
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== wanted) node.setAttribute(name, wanted);
}

// Writes the one text of a node, only if it differs, so that a selection in it and the layout stay.
export function text(node, value) {
  if (node.told === value && value !== undefined) return; // nearly always
  node.told = value;
  const wanted = visible(value ?? "");
  const first = node.firstChild;
  if (first?.nodeType !== Node.TEXT_NODE || first.nextSibling) node.replaceChildren(wanted);
  else if (first.data !== wanted) first.data = wanted;
}

// Makes an element: `properties` are attributes, besides `on` (event to function) and `text`; strings become text nodes.
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

// The same for SVG.
export function s(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(node, { on = {}, text: own, ...attributes }, children) {
  for (const name in attributes) attr(node, name, attributes[name]);
  for (const event in on) node.addEventListener(event, on[event]);
  if (own !== undefined) text(node, own);
  for (const child of children.flat()) {
    if (child || child === 0) node.append(child instanceof Node ? child : visible(child));
  }
  return node;
}

// A button; `name` is what a screen reader says where the label alone does not tell.
export function button(label, click, name = null, kind = null) {
  return h("button", { type: "button", class: kind, "aria-label": name, text: label, on: { click } });
}

// A state by word and colour: "ok", "info", "warning" or "error".
export function dot(node, level, words) {
  if (!node.firstElementChild) node.replaceChildren(h("span"), h("span"));
  attr(node.firstChild, "class", `dot ${level}`);
  text(node.lastChild, words);
}

// A part of a view, with its title.
export function panel(title, ...nodes) {
  return h("section", { class: "panel", "aria-label": title }, h("h2", { text: title }), nodes);
}

const lists = new WeakMap(); // parent to Map of key to part

// Keeps the children of `parent` in step with `items`. `make(item)` returns a node, or a part with its `root`;
// `update(part, item)` brings it up to date. A part lives as long as its key, so focus and half-filled fields stay.
export function keyed(parent, items, key, make, update = () => {}) {
  const old = lists.get(parent) ?? new Map();
  const now = new Map();
  for (const item of items) {
    let name = String(key(item));
    while (now.has(name)) name += "'"; // equal keys are somebody's mistake: show both
    now.set(name, [old.get(name) ?? make(item), item]);
  }
  for (const [name, part] of old) if (!now.has(name)) (part.root ?? part).remove();
  let next = parent.firstChild;
  for (const [name, [part, item]] of now) {
    const root = part.root ?? part;
    if (root === next) next = next.nextSibling;
    else parent.insertBefore(root, next);
    update(part, item);
    now.set(name, part);
  }
  lists.set(parent, now);
}

// A table whose rows follow items, and which is cards where it is narrow. `columns`: [name, label, class, text of an item]. A row is a
// part with `root` and a cell by each name; `make(row, item)` fills it once, `update(row, item)` each time. Returns {root, update(items)}.
export function table(columns, key, make = () => {}, update = () => {}, kind = "") {
  const body = h("tbody");
  const row = (item) => {
    const made = { root: h("tr") };
    for (const [name, label, look] of columns) made.root.append((made[name] = h("td", { class: look, "data-label": label || null })));
    make(made, item);
    return made;
  };
  const change = (made, item) => {
    for (const [name, , , show] of columns) if (show) text(made[name], show(item));
    update(made, item);
  };
  const heads = columns.map(([, label, look]) => (label ? h("th", { scope: "col", class: look, text: label }) : h("td")));
  return {
    root: h("div", { class: "table" }, h("table", { class: `cards ${kind}` }, h("thead", {}, h("tr", {}, heads)), body)),
    update: (items) => keyed(body, items, key, row, change),
  };
}

// Saves a Blob as a file. A link to it at the service would come without our header, and over plain http without what a
// browser says of itself: the service would have to take it for another site's.
export function save(blob, name) {
  const link = h("a", { download: name });
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
