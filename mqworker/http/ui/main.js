// Logs in with the ticket of the address, and shows what each stage does, as text.

const page = document.getElementById("page");

async function call(method, path, body) {
  const headers = {"X-Mqworker": "page"};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(`../api/v1/${path}`, {method, headers, body: body && JSON.stringify(body)});
  return {status: answer.status, data: await answer.json()};
}

async function logIn() {
  const ticket = new URLSearchParams(location.hash.slice(1)).get("t");
  if (!ticket) return;
  history.replaceState(null, "", location.pathname);
  await call("POST", "session", {ticket, path: location.pathname.replace(/ui\/$/, "")});
}

function show(lines) {
  page.replaceChildren(...lines.map((line) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = line;
    return paragraph;
  }));
}

async function look() {
  const {status, data} = await call("GET", "stages");
  if (status === 401) return show(["Log in with the address that `mqworker ui` prints."]);
  if (status !== 200) return show([data.detail]);
  const told = (stage) => `${stage.name}: ${stage.why?.sentence ?? stage.problem ?? ""} (${stage.state})`;
  show(data.stages.map(told));
}

await logIn();
await look();
setInterval(look, 2000);
