// JSON whose numbers stay as they are written: 9223372036854775807 and 1.10 come out as they went in.
//
// Pure. Elsewhere every number is a double, which changes 64-bit integers; letters and parameters are read and written here.
// It relies on the source texts that JSON.parse passes on, in all browsers since 2025; an older one gets a message.

export class Exact {
  constructor(text) {
    this.text = text;
  }
  toString() {
    return this.text;
  }
}

export function isNumber(text) {
  return /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/.test(text);
}

// Returns the value, its numbers as Exact; throws SyntaxError.
export function parse(text) {
  if (!JSON.rawJSON) throw new SyntaxError("this browser is too old: it cannot show numbers exactly");
  return JSON.parse(text, (_name, value, { source }) => (typeof value === "number" ? new Exact(source) : value));
}

// Returns JSON text; `indent` is a number of spaces.
export function stringify(value, indent = 0) {
  return JSON.stringify(value, (_name, each) => (each instanceof Exact ? JSON.rawJSON(each.text) : each), indent) ?? "null";
}

// Whether two values are the same, numbers by their spelling.
export function same(one, other) {
  if (!one || !other || typeof one !== "object" || typeof other !== "object") return one === other;
  const names = Object.keys(one);
  return one.constructor === other.constructor && names.length === Object.keys(other).length &&
    names.every((name) => Object.hasOwn(other, name) && same(one[name], other[name]));
}
