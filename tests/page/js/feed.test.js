import assert from "node:assert/strict";
import { test } from "node:test";

import { Feed, parser, pause } from "./feed.js";
import { MOST, mayStream } from "./tabs.js";

globalThis.document = { addEventListener() {} };
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

// Runs one connection of a Feed, in which these events come before it is closed. Returns how long to wait, what was told of
// the link, and the address that was asked for.
async function connection(feed, events) {
  const lines = events.map(({ type, id, data }) => `id: ${id}\nevent: ${type}\ndata: ${JSON.stringify(data)}\n\n`);
  let asked;
  globalThis.fetch = async (url) => new Response(lines.join(""), { status: (asked = url) && 200 });
  const links = [];
  feed.emit = ({ type, data }) => type === "link" && links.push(data.state);
  const wait = await feed.attempt(true);
  clearTimeout(feed.timer);
  return { wait, links, asked };
}

test("A stream that ends because it is old is followed by the next at once, and nothing is told of it", async () => {
  const feed = new Feed();
  const bye = (reason) => ({ type: "bye", id: "", data: { reason } });
  assert.deepEqual(await connection(feed, [...EVENTS, bye("renew")]), { wait: 0, links: ["live"], asked: "../api/v1/feed?" });
  const { links, asked } = await connection(feed, [...EVENTS, bye("draining")]);
  assert.deepEqual([links, asked], [["live", "draining"], "../api/v1/feed?&after=b.1.0"]);
  assert.deepEqual((await connection(feed, EVENTS)).links, ["live", "lost"]);
});

test("Other topics come with all that was before; the log goes on behind its last line", async () => {
  const feed = new Feed();
  await connection(feed, [{ type: "tick", id: "b.17.42", data: { n: 17 } }]);
  feed.want({ topics: "overview,stage:a" });
  assert.equal((await connection(feed, EVENTS)).asked, "../api/v1/feed?topics=overview%2Cstage%3Aa&after=b.0.42");
});
