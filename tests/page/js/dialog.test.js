import assert from "node:assert/strict";
import { test } from "node:test";

import { outcome } from "./dialog.js";

const preparing = { change: 5, state: "preparing" };
const undone = { change: 5, state: "undone", reason: "ImportError: x" };

test("A deed is said to be done when its own stage has applied it, and its change is prepared and committed", () => {
  const cases = [ // what is stored, the newest revision that is told of, the stage; what is said
    [{ revision: 8 }, 7, { applied: 7, change: null }, undefined],
    [{ revision: 8 }, 8, { applied: 7, change: null }, undefined],
    [{ revision: 8 }, 9, { applied: 8, change: null }, ["X."]],
    [{ revision: 8 }, 9, { applied: 8, change: preparing }, ["X."]], // of somebody else
    [{ revision: 8, change: 5 }, 7, { applied: 8, change: null }, undefined],
    [{ revision: 8, change: 5 }, 8, { applied: 8, change: preparing }, undefined],
    [{ revision: 8, change: 5 }, 9, { applied: 8, change: undone }, ["Not done: X: it was undone: ImportError: x", "error"]],
    [{ revision: 8, change: 5 }, 9, { applied: 7, change: { change: 5, state: "committed" } }, undefined],
    [{ revision: 8, change: 5 }, 9, { applied: 9, change: { change: 5, state: "committed" } }, ["X."]],
    [{ revision: 8, change: 5 }, 9, { applied: 9, change: { ...undone, change: 4 } }, ["X."]],
    [{ revision: 8, change: 5 }, 9, { applied: 9, change: { ...preparing, change: 6 } }, ["X: stored; another change has come after it.", "info"]],
    [{ revision: 8 }, 9, undefined, ["X: stored; the stage is no longer there.", "error"]],
  ];
  for (const [stored, newest, stage, said] of cases) assert.deepEqual(outcome("X", stored, newest, stage), said, JSON.stringify([stored, newest, stage]));
});
