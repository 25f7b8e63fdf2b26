import assert from "node:assert/strict";
import { test } from "node:test";

import { parser, pause } from "./feed.js";
import { MOST, mayStream } from "./tabs.js";

const WIRE = ': mqworker\n\nevent: hello\ndata: {"n":1}\n\nid: b.1.0\nevent: tick\ndata: {"n":1}\n\n';
const EVENTS = [{ type: "hello", id: "", data: { n: 1 } }, { type: "tick", id: "b.1.0", data: { n: 1 } }];

test("Events are the same wherever the pieces of a stream are cut; comments are none", () => {
  for (let cut = 0; cut <= WIRE.length; cut++) {
    const read = parser();
    assert.deepEqual([...read(WIRE.slice(0, cut)), ...read(WIRE.slice(cut))], EVENTS);
  }
});

test("Pauses grow to two seconds, a quarter more or less", () => {
  assert.deepEqual([0, 1, 2, 3, 9].map((tries) => pause(tries, 0.5)), [250, 500, 1000, 2000, 2000]);
  assert.deepEqual([pause(0, 0), pause(9, 1)], [187.5, 2500]);
});

test("Of any number of visible tabs the oldest four stream, whoever is asked; silent ones are forgotten", () => {
  const now = 10_000;
  const all = Array.from({ length: 8 }, (_, index) => ({ id: `t${index}`, born: index < 2 ? 0 : index, at: now - (index ? 0 : 3001) }));
  const may = all.map((me) => mayStream(new Map(all.filter((each) => each !== me).map((each) => [each.id, each])), me, now));
  assert.equal(may.slice(1).filter(Boolean).length, MOST);
  assert.deepEqual(may, [true, true, true, true, true, false, false, false]);
});
