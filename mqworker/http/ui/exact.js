// JSON whose numbers stay as they are written: 9223372036854775807 and 1.10 come out as they went in.
//
// Pure. JSON.parse makes every number a double, which changes 64-bit integers and the spelling of others; letters and
// parameters are read and written with this module. Objects have no prototype, so "__proto__" is a name like any other.

export class Exact {
  constructor(text) {
    this.text = text;
  }
  toString() {
    return this.text;
  }
}

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const SPACE = /[ \t\n\r]*/y;
const WORDS = { true: true, false: false, null: null };
const DEPTH = 500; // levels: below what the stack of a browser holds

// Whether `text` is a JSON number as it stands.
export function isNumber(text) {
  NUMBER.lastIndex = 0;
  return NUMBER.exec(text)?.[0].length === text.length && text.length > 0;
}

// Returns the value; throws SyntaxError with the position.
export function parse(text) {
  let at = 0;
  const fail = (what) => {
    throw new SyntaxError(`${what} at character ${at + 1}`);
  };
  const match = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found === null) return null;
    at = pattern.lastIndex;
    return found[0];
  };
  const skip = () => match(SPACE);
  const string = () => {
    const found = match(STRING);
    return found === null ? fail("not a string") : JSON.parse(found);
  };
  const list = (end, depth, item) => {
    at += 1;
    skip();
    if (text[at] === end) return void (at += 1);
    for (;;) {
      item(depth + 1);
      skip();
      const sign = text[at];
      if (sign !== "," && sign !== end) fail(`neither "," nor "${end}"`);
      at += 1;
      if (sign === end) return;
      skip();
    }
  };
  const value = (depth) => {
    if (depth > DEPTH) fail("too deep");
    const sign = text[at];
    if (sign === '"') return string();
    if (sign === "{") {
      const found = Object.create(null);
      list("}", depth, (deeper) => {
        const name = string();
        skip();
        if (text[at] !== ":") fail('no ":"');
        at += 1;
        skip();
        found[name] = value(deeper);
      });
      return found;
    }
    if (sign === "[") {
      const found = [];
      list("]", depth, (deeper) => found.push(value(deeper)));
      return found;
    }
    for (const word in WORDS) {
      if (text.startsWith(word, at)) {
        at += word.length;
        return WORDS[word];
      }
    }
    const number = match(NUMBER);
    return number === null ? fail("not JSON") : new Exact(number);
  };
  skip();
  const found = value(0);
  skip();
  if (at < text.length) fail("more than one value");
  return found;
}

// Returns JSON text; `indent` is a number of spaces. Exact numbers keep their spelling.
export function stringify(value, indent = 0, level = 0) {
  if (value instanceof Exact) return value.text;
  if (value === null || typeof value !== "object") return JSON.stringify(value) ?? "null";
  const array = Array.isArray(value);
  const inner = (each) => stringify(each, indent, level + 1);
  const parts = array
    ? value.map(inner)
    : Object.keys(value)
        .filter((name) => value[name] !== undefined)
        .map((name) => `${JSON.stringify(name)}:${indent ? " " : ""}${inner(value[name])}`);
  const [open, close] = array ? "[]" : "{}";
  if (!parts.length) return open + close;
  if (!indent) return open + parts.join(",") + close;
  const pad = "\n" + " ".repeat(indent * (level + 1));
  return open + pad + parts.join("," + pad) + "\n" + " ".repeat(indent * level) + close;
}

// Whether two values are the same, numbers by their spelling.
export function same(one, other) {
  if (one instanceof Exact || other instanceof Exact) return String(one) === String(other) && typeof one === typeof other;
  if (one === null || other === null || typeof one !== "object" || typeof other !== "object") return one === other;
  if (Array.isArray(one) !== Array.isArray(other)) return false;
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => name in other && same(one[name], other[name]));
}
