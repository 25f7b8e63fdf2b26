// The login: a token, or the address that `mqworker ui` prints. It stands above the view, which keeps what it holds.
//
// The token goes out once, by fetch (a form's own POST would send "Origin: null" under no-referrer), and becomes a cookie
// that no script can read.

import { call } from "./api.js";
import { h, text } from "./dom.js";

// Shows the login above `main` until it has succeeded; resolves with {role, expires}.
export function login(main) {
  return new Promise((resolve) => {
    const problem = h("p", { id: "login-problem", class: "problem", role: "alert" });
    const token = h("input", {
      id: "token", type: "password", autocomplete: "current-password", required: true, "aria-describedby": "login-problem",
    });
    const submit = async (event) => {
      event.preventDefault();
      const path = location.pathname.replace(/ui\/$/, "");
      const answer = await call("POST", "session", { token: token.value, path });
      text(problem, answer.ok ? "" : answer.problem);
      if (!answer.ok) return token.select();
      form.remove();
      main.inert = false;
      resolve(answer.data);
    };
    const form = h(
      "form",
      { class: "panel login", "aria-labelledby": "login-title", on: { submit } },
      h("h1", { id: "login-title", text: "Log in" }),
      h("p", {}, "Open the address that ", h("code", { text: "mqworker ui" }), " prints, or enter the token of ",
        h("code", { text: "[control]" }), "."),
      h("label", { for: "token", text: "Token" }),
      h("p", { class: "row" }, token, h("button", { class: "primary", text: "Log in" })),
      problem,
    );
    main.inert = true;
    main.before(form);
    token.focus();
  });
}
