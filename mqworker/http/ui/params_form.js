// The model of the parameter form: the fields that a JSON Schema makes, what is typed into them, how values differ.
//
// Pure. Values come from exact.js, so numbers stay as written. A field is {path, key, kind, ...}, what is typed into it is
// text; null: it is left out, so that the default of the handler's `Params` applies. Ranges and patterns are the service's.

import { Exact, isNumber, parse, same, stringify } from "./exact.js";

const LEVELS = 3; // of objects in objects; deeper ones, and lists, are edited as JSON
const plain = (value) => value !== null && typeof value === "object" && !Array.isArray(value) && !(value instanceof Exact);
const member = (value, name) => (plain(value) && Object.hasOwn(value, name) ? value[name] : undefined);

// Follows $ref and single alternatives; a union with null becomes its other member.
function resolved(schema, root) {
  let found = plain(schema) ? schema : {};
  for (let steps = 0; steps < 20; steps += 1) {
    const { $ref, anyOf, allOf, ...rest } = found;
    const many = (anyOf ?? allOf)?.filter((each) => each.type !== "null");
    if ($ref) found = { ...$ref.split("/").slice(1).reduce(member, root), ...rest };
    else if (many?.length === 1) found = { ...many[0], ...rest };
    else break;
  }
  return found;
}

const fits = {
  choice: (value, schema) => schema.enum.some((each) => same(each, value)),
  group: plain,
  integer: (value) => value instanceof Exact,
  number: (value) => value instanceof Exact,
  boolean: (value) => typeof value === "boolean",
  string: (value) => typeof value === "string" && !/[\n\r]/.test(value),
  json: () => true,
};

function field(path, given, root, value, required) {
  const schema = resolved(given, root);
  let kind = schema.enum ? "choice" : schema.properties && path.length < LEVELS ? "group" : schema.type;
  if (!Object.hasOwn(fits, kind) || (value !== undefined && value !== null && !fits[kind](value, schema))) kind = "json";
  const made = { path, key: path.join("."), kind, schema, required };
  return kind === "group" ? { ...made, fields: members(path, schema, root, value) } : made;
}

function members(path, schema, root, value) {
  const names = new Set([...Object.keys(schema.properties ?? {}), ...Object.keys(plain(value) ? value : {})]);
  return [...names].map((name) => {
    const own = member(value, name);
    const given = member(schema.properties, name) ?? { type: own instanceof Exact ? "number" : typeof own };
    return field([...path, name], given, root, own, schema.required?.includes(name) ?? false);
  });
}

// Returns the fields for these parameters. What the schema does not know gets the kind of its value; where there is no
// schema, a last field takes further parameters as a JSON object.
export function fields(schema, params) {
  const top = resolved(schema, schema);
  const made = members([], top, schema, params);
  return top.properties ? made : [...made, { path: [], key: "", kind: "json", schema: {}, required: false }];
}

// All fields that are typed into: not the groups, but their members.
export const leaves = (list) => list.flatMap((each) => (each.kind === "group" ? leaves(each.fields) : [each]));

// Returns what a field shows for these parameters.
export function shown({ path, key, kind }, params) {
  const value = key === "" ? null : (path.reduce(member, params) ?? null);
  return value === null || kind === "string" ? value : stringify(value, kind === "json" ? 2 : 0);
}

// Returns {value, problem} for what is typed.
export function read({ key, kind, schema, required }, written) {
  if (written === null) return { problem: required && "is required" };
  const number = written.trim();
  if (kind === "string") return { value: written };
  if (kind === "boolean") return { value: written === "true" };
  if (kind === "choice") return { value: schema.enum.find((each) => stringify(each) === written) };
  if (kind === "integer" && !/^-?\d+$/.test(number)) return { problem: "is not a whole number" };
  if (kind !== "json") return isNumber(number) ? { value: new Exact(number) } : { problem: "is not a number" };
  try {
    const value = parse(written);
    return { value, problem: key === "" && !plain(value) && "is not a JSON object" };
  } catch (error) {
    return { problem: `is not JSON: ${error.message}` };
  }
}

// Returns {params, problems} of what is typed; `typed` is a Map of key to text or null, `before` what was loaded.
export function assembled(list, typed, before) {
  const problems = new Map();
  const fill = (some, old) => {
    const made = Object.create(null);
    for (const each of some) {
      const [name, was] = [each.path.at(-1), member(old, each.path.at(-1))];
      if (each.kind === "group") {
        const used = each.required || was !== undefined || leaves(each.fields).some(({ key }) => typed.get(key) !== null);
        if (used) made[name] = fill(each.fields, was);
        continue;
      }
      const { value, problem } = read(each, typed.get(each.key));
      if (problem) problems.set(each.key, problem);
      else if (each.key === "") Object.assign(made, value);
      else if (value !== undefined) made[name] = value;
    }
    return made;
  };
  return { params: fill(list, before), problems };
}

// Returns the merge patch (RFC 7396) that turns `before` into `after`; undefined: they are the same.
export function patch(before, after) {
  if (same(before, after)) return undefined;
  if (!plain(after)) return after;
  const made = Object.create(null);
  for (const name of Object.keys(plain(before) ? before : {})) if (!Object.hasOwn(after, name)) made[name] = null;
  for (const name of Object.keys(after)) {
    const part = patch(member(before, name), after[name]);
    if (part !== undefined) made[name] = part;
  }
  return made;
}

// Returns rows {name, values}: one for each leaf in which these parameters differ; undefined: left out there.
export function compared(...all) {
  const found = new Map();
  const walk = (value, name, at) => {
    if (plain(value)) for (const each of Object.keys(value)) walk(value[each], name ? `${name}.${each}` : each, at);
    else found.set(name, Object.assign(found.get(name) ?? Array(all.length).fill(undefined), { [at]: stringify(value) }));
  };
  all.forEach((params, at) => walk(params, "", at));
  const rows = [...found].map(([name, values]) => ({ name, values }));
  return rows.filter(({ values }) => values.some((value) => value !== values[0]));
}
