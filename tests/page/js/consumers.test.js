import assert from "node:assert/strict";
import { test } from "node:test";

import { holds } from "./consumers.js";

const one = { pid: 42, seq: 7, messages: [], message_seconds: 9, message_id: "m-7" };

test("a Consumer is killed for the message that was alone in it for a while, or else whatever it has", () => {
  for (const [each, held] of [
    [one, { pid: 42, seq: 7, id: "m-7" }],
    [{ ...one, messages: [{}] }, { pid: 42, seq: 7, id: "m-7" }],
    [{ ...one, messages: [{}, {}] }, { pid: 42 }],
    [{ ...one, message_id: null }, { pid: 42, seq: 7, id: null }],
    [{ ...one, message_seconds: 1.9 }, { pid: 42 }],
    [{ ...one, seq: 0, message_seconds: null, message_id: null }, { pid: 42 }],
    [{ ...one, pid: 0, seq: 0, message_seconds: null, message_id: null }, { pid: null }],
  ]) assert.deepEqual(holds(each), held);
});
