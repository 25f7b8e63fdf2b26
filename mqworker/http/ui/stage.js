// One stage.

import { h } from "./dom.js";

export function view() {
  return { root: h("section", { class: "panel" }), topics: ["overview"], update() {} };
}
