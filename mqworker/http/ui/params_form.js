// The model of the parameter form: the fields that a JSON Schema makes, what is typed into them, how values differ.
//
// Pure. Values come from exact.js, so numbers stay as written. A field is {path, name, key, kind, schema, required}: `name` is for
// people, with dots, `key` tells paths apart that have dots of their own. Nothing typed into it: it is left out, so that the
// default of the handler's `Params` applies. Ranges and patterns are the service's.

import { Exact, isNumber, parse, same, stringify } from "./exact.js";

const LEVELS = 3; // of objects in objects; deeper ones, and lists, are edited as JSON
const isExact = (value) => value instanceof Exact;
const plain = (value) => value !== null && typeof value === "object" && !Array.isArray(value) && !isExact(value);
const member = (value, name) => (plain(value) && Object.hasOwn(value, name) ? value[name] : undefined);
const names = (value) => Object.keys(plain(value) ? value : {});

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
  choice: (value, { schema }) => schema.enum.some((each) => same(each, value)),
  integer: isExact,
  number: isExact,
  boolean: (value) => typeof value === "boolean",
  string: (value, { required }) => typeof value === "string" && !/[\n\r]/.test(value) && (required || value !== ""),
  json: () => true,
};

function below(path, schema, root, value) {
  return [...new Set([...names(schema.properties), ...names(value)])].flatMap((name) => {
    const own = member(value, name) ?? undefined;
    const given = member(schema.properties, name) ?? { type: isExact(own) ? "number" : typeof own };
    const inner = resolved(given, root);
    const deeper = [...path, name];
    if (deeper.length < LEVELS && names(inner.properties).length && (own === undefined || plain(own))) return below(deeper, inner, root, own);
    const made = { path: deeper, name: deeper.join("."), key: JSON.stringify(deeper), schema: inner, required: schema.required?.includes(name) ?? false };
    const kind = inner.enum ? "choice" : inner.type;
    const usual = Object.hasOwn(fits, kind) && (own === undefined || fits[kind](own, made));
    return [{ ...made, kind: usual ? kind : "json" }];
  });
}

// Returns the fields for these parameters. What the schema does not know gets the kind of its value; where there is no
// schema, a last field takes further parameters as a JSON object.
export function fields(schema, params) {
  const top = resolved(schema, schema);
  const made = below([], top, schema, params);
  return top.properties ? made : [...made, { path: [], name: "", key: "[]", kind: "json", schema: {}, required: false }];
}

// Returns the text that a field shows for these parameters.
export function shown({ path, kind }, params) {
  const value = !path.length ? null : (path.reduce(member, params) ?? null);
  return value === null ? "" : kind === "string" ? value : stringify(value, kind === "json" ? 2 : 0);
}

// Returns {value, problem} for what is typed.
export function read({ path, kind, schema, required }, written) {
  const number = written.trim();
  if (kind === "string" && (written || required)) return { value: written };
  if (number === "") return { problem: required && "is required" };
  if (kind === "boolean") return { value: written === "true" };
  if (kind === "choice") return { value: schema.enum.find((each) => stringify(each) === written) };
  if (kind === "integer" && !/^-?\d+$/.test(number)) return { problem: "is not a whole number" };
  if (kind !== "json") return isNumber(number) ? { value: new Exact(number) } : { problem: "is not a number" };
  try {
    const value = parse(written);
    return { value, problem: !path.length && !plain(value) && "is not a JSON object" };
  } catch (error) {
    return { problem: `is not JSON: ${error.message}` };
  }
}

// Returns {params, problems} of what is typed; `typed` is a Map of key to text, `before` what was loaded: an object that was
// there stays, if only as an empty one, and so does the value of a field whose text is none.
export function assembled(list, typed, before) {
  const [params, problems] = [{}, new Map()];
  for (const each of list) {
    let { value, problem } = read(each, typed.get(each.key));
    if (problem) {
      problems.set(each.key, problem);
      value = each.path.length ? each.path.reduce(member, before) : undefined;
    }
    let [into, was] = [params, before];
    for (const name of each.path.slice(0, -1)) {
      was = member(was, name);
      if (value !== undefined || was !== undefined) into &&= into[name] ??= {};
      else into = null;
    }
    if (value === undefined) continue;
    if (!each.path.length) Object.assign(into, value);
    else into[each.path.at(-1)] = value;
  }
  return { params, problems };
}

// Returns the merge patch (RFC 7396) that turns `before` into `after`; undefined: they are the same.
export function patch(before, after) {
  if (same(before, after)) return undefined;
  if (!plain(after)) return after;
  const made = {};
  for (const name of names(before)) if (!Object.hasOwn(after, name)) made[name] = null;
  for (const name of names(after)) {
    const part = patch(member(before, name), after[name]);
    if (part !== undefined) made[name] = part;
  }
  return made;
}

// Returns rows {name, values}: one for each leaf in which these parameters differ; undefined: left out there.
export function compared(...all) {
  const flat = (value, path) =>
    plain(value) ? names(value).flatMap((each) => flat(value[each], [...path, each])) : [[JSON.stringify(path), stringify(value)]];
  const maps = all.map((params) => new Map(flat(params, [])));
  const keys = new Set(maps.flatMap((each) => [...each.keys()]));
  const rows = [...keys].map((key) => ({ name: JSON.parse(key).join("."), values: maps.map((each) => each.get(key)) }));
  return rows.filter(({ values }) => new Set(values).size > 1);
}
