// The parameters of a stage. Not here yet.

import { h } from "./dom.js";

// Embedded in the view of a stage: `route.parts` is [stage, "params"].
export function view() {
  return { root: h("section", { class: "panel" }), topics: [], update() {} };
}
