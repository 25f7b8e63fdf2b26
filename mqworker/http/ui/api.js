// Calls of the control API from the page. One request, one answer; nothing here waits for a change to be in force.
//
// A call never throws: what went wrong is `problem`, a sentence. 401 sends the event "login" to the window, so that the
// page asks for a login above what it shows; a call that gets no answer within TIMEOUT ends. Addresses are relative to
// …/ui/, so they hold below every path prefix.

import { parse, stringify } from "./exact.js";

const ROOT = "../api/v1/";
const TIMEOUT = 35_000; // a check of user's code takes up to 30 s

// `path` is below /api/v1/, with encoded parts (`at`). `body` is a value; a string or a Blob goes out as it is.
// Options: `etag` (If-Match), `exact` (numbers of the answer stay text), `type` and `headers` of the body, `signal`.
// Returns {ok, status, data, problem, etag, retryAfter}; `data` of a problem is its document.
export async function call(method, path, body, { etag, exact, type, headers = {}, signal, timeout = TIMEOUT } = {}) {
  const sent = { Accept: "application/json", "X-Mqworker": "page", ...headers };
  if (etag) sent["If-Match"] = etag;
  if (body !== undefined) sent["Content-Type"] = type ?? "application/json";
  const raw = typeof body === "string" || body instanceof Blob;
  const limit = AbortSignal.timeout(timeout);
  try {
    const answer = await fetch(ROOT + path, {
      method,
      headers: sent,
      body: body === undefined || raw ? body : stringify(body),
      cache: "no-store",
      credentials: "same-origin",
      redirect: "error",
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    const written = await answer.text();
    const json = (answer.headers.get("Content-Type") ?? "").includes("json");
    const data = !json ? written : written === "" ? null : exact && answer.ok ? parse(written) : JSON.parse(written);
    if (answer.status === 401 && path !== "session") dispatchEvent(new Event("login"));
    return {
      ok: answer.ok,
      status: answer.status,
      data,
      problem: answer.ok ? "" : (data?.detail ?? `the service answered ${answer.status} ${answer.statusText}`),
      etag: answer.headers.get("ETag"),
      retryAfter: Number(answer.headers.get("Retry-After")) || 0,
    };
  } catch (error) {
    const late = error.name === "TimeoutError";
    const problem = late ? `no answer within ${timeout / 1000} s` : "no answer: the service cannot be reached";
    return { ok: false, status: 0, data: null, problem, etag: null, retryAfter: 0, aborted: error.name === "AbortError" };
  }
}

// Returns a path with encoded parts: at`stages/${name}/dlq`.
export function at(strings, ...parts) {
  return String.raw({ raw: strings }, ...parts.map((part) => encodeURIComponent(part)));
}
