// The login: a token, or the address that `mqworker ui` prints. It stands above the view, which keeps what it holds. The token
// goes out by fetch (a form's own POST would send "Origin: null" under no-referrer), and becomes a cookie that no script can read.

import { call } from "./api.js";
import { h, text } from "./dom.js";

// Logs in with a token or a ticket; returns the answer, and sends the event "session" to the window. The cookie is for the page's
// own prefix.
export async function logIn(credentials) {
  const answer = await call("POST", "session", { ...credentials, path: location.pathname.replace(/ui\/$/, "") });
  if (answer.ok) dispatchEvent(new CustomEvent("session", { detail: answer.data }));
  return answer;
}

// Shows the login above `main` until somebody has logged in, here or by an address; resolves then.
export function login(main) {
  const { promise, resolve } = Promise.withResolvers();
  const problem = h("p", { id: "login-problem", class: "problem", role: "alert" });
  const token = h("input", { id: "token", type: "password", autocomplete: "current-password", required: true,
    "aria-describedby": "login-problem" });
  const submit = async (event) => {
    event.preventDefault();
    const answer = await logIn({ token: token.value });
    text(problem, answer.problem);
    token.select();
  };
  addEventListener("session", () => {
    form.remove();
    main.inert = false;
    resolve();
  }, { once: true });
  const form = h("form", { class: "panel login", "aria-label": "Log in", on: { submit } }, h("h1", { text: "Log in" }),
    h("p", { text: "Open the address that “mqworker ui” prints, or enter the token of [control]." }),
    h("label", { for: "token", text: "Token" }), h("p", { class: "row" }, token, h("button", { class: "primary", text: "Log in" })), problem);
  main.inert = true;
  main.before(form);
  token.focus();
  return promise;
}
