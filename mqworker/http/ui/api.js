// Calls of the control API. One request, one answer; nothing here waits for a change to be in force. Addresses are relative
// to …/ui/, so they hold below every path prefix.

import { parse, stringify } from "./exact.js";

const TIMEOUT = 35_000; // ms: a check of user's code takes up to 30 s
const HOUR = 3_600_000; // ms: an export

// `path` is below /api/v1/ (made by `at`). `body`: a value; a string or a Blob goes out as it is. Options: `etag` (If-Match), `exact`
// (numbers of the answer stay text), `type` and `headers` of the body, `file` (data is a Blob). Returns {ok, status, data, problem, etag} and never
// throws: `problem` is a sentence. A 401 sends the event "login" to the window.
export async function call(method, path, body, { etag, exact, file, type = "application/json", headers } = {}) {
  const sent = new Headers({ Accept: "application/json", "X-Mqworker": "page", ...headers });
  if (etag) sent.set("If-Match", etag);
  if (body !== undefined) sent.set("Content-Type", type);
  const raw = body === undefined || typeof body === "string" || body instanceof Blob;
  try {
    const answer = await fetch(`../api/v1/${path}`, { method, headers: sent, body: raw ? body : stringify(body), cache: "no-store",
      redirect: "error", signal: AbortSignal.timeout(file ? HOUR : TIMEOUT) });
    const { ok, status } = answer;
    if (ok && file) return { ok, status, data: await answer.blob() };
    const written = await answer.text();
    const json = written && answer.headers.get("Content-Type").includes("json");
    const data = json ? (exact && ok ? parse : JSON.parse)(written) : written;
    if (status === 401 && path !== "session") dispatchEvent(new Event("login"));
    return { ok, status, data, problem: ok ? "" : (data.detail ?? `the service answered ${status}`), etag: answer.headers.get("ETag") };
  } catch ({ name, message }) {
    const problems = { TimeoutError: `no answer within ${TIMEOUT / 1000} s`, SyntaxError: message };
    return { ok: false, status: 0, data: null, problem: problems[name] ?? "the service cannot be reached" };
  }
}

// Returns a path with encoded parts: at`stages/${name}/dlq`.
export function at(strings, ...parts) {
  return String.raw({ raw: strings }, ...parts.map(encodeURIComponent));
}
