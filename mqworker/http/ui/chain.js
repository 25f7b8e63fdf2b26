// The chain of a stage. Not here yet.

import { h } from "./dom.js";

// Embedded in the view of a stage: `route.parts` is [stage, "chain"].
export function view() {
  return { root: h("section", { class: "panel" }), topics: [], update() {} };
}
