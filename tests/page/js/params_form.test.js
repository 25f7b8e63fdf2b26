import assert from "node:assert/strict";
import { test } from "node:test";

import { parse, stringify } from "./exact.js";
import { assembled, compared, fields, patch, read, shown } from "./params_form.js";

const SCHEMA = parse(`{"$ref": "#/$defs/Params", "$defs": {
  "Swarm": {"type": "object", "properties": {"size": {"type": "integer"}, "inertia": {"anyOf": [{"type": "number"}, {"type": "null"}]}},
    "required": ["size"]},
  "Params": {"type": "object", "required": ["gamma"], "properties": {"gamma": {"type": "number"}, "seed": {"type": "integer"},
    "method": {"enum": ["cg", "bfgs", 3]}, "verbose": {"type": "boolean"}, "label": {"type": "string"}, "name": {"type": "string"},
    "weights": {"type": "array", "items": {"type": "number"}}, "swarm": {"$ref": "#/$defs/Swarm"}, "odd": {"type": "integer"}}}}}`);
const LOADED = parse('{"gamma": 0.90, "seed": 9223372036854775807, "label": "", "name": "x", "weights": [1.10, 2], "swarm": {"size": 5}, "odd": "text", "extra": true}');

function form(changes, schema = SCHEMA, loaded = LOADED) {
  const list = fields(schema, loaded);
  const typed = new Map(list.map((each) => [each.key, changes[each.name] ?? shown(each, loaded)]));
  const { params, problems } = assembled(list, typed, loaded);
  return { params, problems: new Map([...problems].map(([key, problem]) => [list.find((each) => each.key === key).name, problem])) };
}
const sent = (...form_of) => {
  const { params, problems } = form(...form_of);
  assert.equal(problems.size, 0, [...problems].join());
  const made = patch(form_of[2] ?? LOADED, params);
  return made === undefined ? undefined : stringify(made);
};

test("A schema makes a field of each kind; what does not fit its kind, and what is no plain value, is edited as JSON", () => {
  const kinds = Object.fromEntries(fields(SCHEMA, LOADED).map((each) => [each.name, each.kind]));
  assert.deepEqual(kinds, { gamma: "number", seed: "integer", method: "choice", verbose: "boolean", label: "json", name: "string", weights: "json",
    "swarm.size": "integer", "swarm.inertia": "number", odd: "json", extra: "boolean" });
});

test("Without a change nothing is sent, whatever the parameters and the schema are", () => {
  const values = ['{}', '{"a": {}}', '{"a": {"b": {"c": {"d": 1.0}}}}', '{"a": [null, {"b": ""}], "c": "", "d": "two\\nlines", "e": -0}', '{"swarm": {}, "gamma": 1}',
    '{"gamma": 1e2, "swarm": "odd"}', '{"a.b": "1", "a": {"b": "2"}, "": {"": 3}}'].map(parse);
  for (const loaded of [...values, LOADED]) {
    for (const schema of [SCHEMA, null, {}]) {
      const { params } = form({}, schema, loaded);
      assert.equal(patch(loaded, params), undefined, stringify(loaded));
    }
  }
});

test("Sent is a merge patch of the differences only, with numbers as they were typed", () => {
  const cases = [
    [{ gamma: "0.950" }, '{"gamma":0.950}'],
    [{ seed: "-9223372036854775808" }, '{"seed":-9223372036854775808}'],
    [{ seed: "" }, '{"seed":null}'],
    [{ method: "3" }, '{"method":3}'],
    [{ method: '"cg"', verbose: "false" }, '{"method":"cg","verbose":false}'],
    [{ "swarm.inertia": "0.7" }, '{"swarm":{"inertia":0.7}}'],
    [{ weights: "[1.10, 2, 3]" }, '{"weights":[1.10,2,3]}'],
    [{ name: "" }, '{"name":null}'],
    [{ label: '"later"' }, '{"label":"later"}'],
  ];
  for (const [changes, wanted] of cases) assert.equal(sent(changes), wanted);
  assert.deepEqual([...form({ "swarm.size": "", gamma: "" }).problems], [["gamma", "is required"], ["swarm.size", "is required"]]);
});

test("A field whose text is no value makes no difference: it keeps what it had", () => {
  const { params, problems } = form({ seed: "many", gamma: "", "swarm.size": "5,", "swarm.inertia": "1", odd: "{" });
  assert.equal(stringify(patch(LOADED, params)), '{"swarm":{"inertia":1}}');
  assert.deepEqual([...problems.keys()].sort(), ["gamma", "odd", "seed", "swarm.size"]);
  assert.equal(patch({}, form({ seed: "many", gamma: "" }, SCHEMA, {}).params), undefined);
});

test("Where no schema is known, further parameters can be added as JSON", () => {
  assert.equal(sent({ "": '{"new": 1.50}', gamma: "1" }, null), '{"gamma":1,"new":1.50}');
  assert.equal(form({ "": "[]" }, null).problems.get(""), "is not a JSON object");
});

test("Names with dots are not taken for objects in objects", () => {
  const loaded = parse('{"a.b": "1", "a": {"b": "2"}}');
  const list = fields(parse('{"properties": {"a": {"properties": {"b": {"type": "string"}}}, "a.b": {"type": "string"}}}'), loaded);
  assert.deepEqual(list.map((each) => each.name), ["a.b", "a.b"]);
  const typed = new Map(list.map((each) => [each.key, each.path.length === 1 ? "new" : "2"]));
  const { params } = assembled(list, typed, loaded);
  assert.equal(stringify(patch(loaded, params)), '{"a.b":"new"}');
  assert.deepEqual(compared(loaded, params), [{ name: "a.b", values: ['"1"', '"new"'] }]);
});

test("What is no value of its kind is refused at its field", () => {
  const cases = [["number", "1,5"], ["number", "0x10"], ["integer", "1.0"], ["integer", "1e3"], ["json", "{"], ["json", "NaN"], ["json", "[1,]"]];
  for (const [kind, written] of cases) assert.ok(read({ path: ["k"], kind, schema: {} }, written).problem, `${kind} ${written}`);
  for (const [kind, written] of [["number", " -1.5E+3 "], ["integer", "-0"], ["json", "[]"]]) {
    assert.ok(!read({ path: ["k"], kind, schema: {} }, written).problem, `${kind} ${written}`);
  }
});

test("A patch turns one value into another, leaf by leaf, and differences name each leaf of any of them", () => {
  const [one, two, three] = ['{"a": {"b": 1, "c": 2}, "d": [1]}', '{"a": {"b": 1.0}, "e": "x"}', '{"a": 5, "d": [1]}'].map(parse);
  assert.equal(stringify(patch(one, two)), '{"d":null,"a":{"c":null,"b":1.0},"e":"x"}');
  assert.equal(stringify(patch(one, three)), '{"a":5}');
  assert.equal(stringify(patch(three, one)), '{"a":{"b":1,"c":2}}');
  assert.deepEqual(compared(one, two, three), [
    { name: "a.b", values: ["1", "1.0", undefined] }, { name: "a.c", values: ["2", undefined, undefined] },
    { name: "d", values: ["[1]", undefined, "[1]"] }, { name: "e", values: [undefined, '"x"', undefined] }, { name: "a", values: [undefined, undefined, "5"] }]);
});
