import assert from "node:assert/strict";
import { test } from "node:test";

import { at } from "./api.js";
import { visible } from "./dom.js";
import { Exact, isNumber, parse, same, stringify } from "./exact.js";
import { bytes, clock, count, figure, plural, rate, seconds, time } from "./format.js";

test("Numbers come out as they went in, also 64 bits and odd spellings", () => {
  for (const text of ["9223372036854775807", "-0", "1.10", "1.10e400", "[12345678901234567890,{\"a\":0.1}]", '{"__proto__":1,"b":null}']) {
    assert.equal(stringify(parse(text)), text);
  }
  assert.equal(stringify(parse('{"n":[1.0]}'), 2), '{\n  "n": [\n    1.0\n  ]\n}');
  for (const text of ["", "{", "01", "1 2", "NaN"]) assert.throws(() => parse(text), SyntaxError);
});

test("Values are the same by structure, numbers by their spelling", () => {
  const cases = [["1", "1", true], ["1", "1.0", false], ["1", '"1"', false], ['{"a":1,"b":[2]}', '{"b":[2],"a":1}', true],
    ["[]", "{}", false], ["null", "{}", false], ["[1,2]", "[1]", false], ['{"a":null}', '{"b":null}', false]];
  for (const [one, other, wanted] of cases) assert.equal(same(parse(one), parse(other)), wanted, `${one} ${other}`);
  assert.ok(new Exact("7") instanceof Exact && isNumber("-1.5e3") && !isNumber("01") && !isNumber("1 ") && !isNumber(""));
});

test("Control characters and those that turn a line are written out", () => {
  assert.equal(visible("a\u202eb\u0000c\n\td\u2066\ufeff"), "a\\u202eb\\u0000c\n\td\\u2066\\ufeff");
});

test("Parts of a path are encoded", () => assert.equal(at`stages/${"a/b ?#"}/dlq`, "stages/a%2Fb%20%3F%23/dlq"));

test("Figures are as an operator reads them", () => {
  const cases = [
    [count(12345), "12,345"], [count(null), "–"], [figure(0.0421), "0.042"], [figure(3.456), "3.46"], [figure(99.94), "99.9"],
    [rate(1234.5), "1,235/s"], [rate(undefined), "–"], [seconds(0), "0"], [seconds(0.0000042), "4.2 µs"], [seconds(0.0123), "12.3 ms"],
    [seconds(9.96), "10 s"], [seconds(59.7), "1 min"], [seconds(125), "2 min 5 s"], [seconds(3600), "1 h"], [seconds(11_040), "3 h 4 min"],
    [seconds(180_000), "2 d 2 h"], [clock(7.9), "0:07"], [clock(760), "12:40"], [clock(3723), "1:02:03"], [clock(null), "–"],
    [bytes(999), "999 B"], [bytes(52_345_678), "49.9 MiB"], [bytes(123_456_789_000), "115 GiB"], [plural(1, "line"), "1 line"],
    [plural(2000, "dead letter"), "2,000 dead letters"], [time(""), "–"], [time("no time"), "no time"],
  ];
  for (const [found, wanted] of cases) assert.equal(found, wanted);
  const now = new Date(2026, 10, 28, 12).getTime();
  assert.equal(time(now / 1000 - 60, now), "11:59:00");
  assert.equal(time(now / 1000 - 86_400, now), "2026-11-27 12:00:00");
});
