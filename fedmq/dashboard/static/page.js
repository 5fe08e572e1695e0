// The page: what the server tells of the run, into the view that is looked at.

import { fit } from "./curves.js";
import { at, element } from "./dom.js";
import { drawLogs } from "./logs.js";
import { Run } from "./run.js";
import { tabs } from "./tabs.js";
import { VIEWS, ask } from "./views.js";

const LOGS_EVERY_MS = 1000;
const run = new Run();
let view = "curves", connection = "", failure = "";

function drawHead() {
  const head = run.part("head"), live = run.part("live"), trouble = run.part("trouble");
  at("name").textContent = head.name;
  document.title = `${head.name}: ${head.status}`;
  const now = live ? `, ${live.phase}, round ${live.round}` : "";
  const status = `${head.status}${head.reason && ` (${head.reason})`}, committed round ${head.committed ?? "none"} of ${head.num_rounds}${now}`;
  if (at("status").textContent !== status) at("status").textContent = status;
  const lines = [...head.damage, ...(trouble ? [`What is shown is from before: ${trouble}`] : []), ...[connection, failure].filter(Boolean)];
  if (lines.join("\n") !== [...at("trouble").children].map((line) => line.textContent).join("\n")) {
    at("trouble").replaceChildren(...lines.map((line) => element("li", {}, line)));
  }
}

async function draw(changed) {
  if (!run.part("head")) return;
  drawHead();
  if (view === "logs") await drawLogs();
  else if (!changed || VIEWS[view][1].some((kind) => changed.has(kind))) {
    await VIEWS[view][0](run);
    fit();
  }
  document.body.dataset.drawn = run.part("head").committed ?? "none";
}

// One after the other: a view may wait for an answer of the server.
let drawing = Promise.resolve();
function redraw(changed) {
  drawing = drawing.then(() => { failure = ""; return draw(changed); }).catch((error) => {
    failure = connection ? "" : `cannot be shown: ${error.message}`;
    if (run.part("head")) drawHead(); else at("status").textContent = failure;
  });
}

function told(news) {
  connection = "";
  redraw(run.take(news));
}

function follow(seen) {
  const events = new EventSource(`/api/events?since=${seen}`);
  events.onopen = () => { connection = ""; redraw(new Set()); };
  events.onmessage = (event) => told(JSON.parse(event.data));
  events.onerror = () => { connection = "The dashboard's server does not answer; what is shown may be old."; redraw(new Set()); };
  events.addEventListener("end", () => {
    events.close();
    connection = "The dashboard has ended; what is shown is the last that it knew.";
    redraw(new Set());
  });
}

tabs((id) => { view = id; redraw(); });
for (const select of document.querySelectorAll("select")) {
  select.addEventListener("change", () => { select.dataset.chosen = select.value; redraw(); });
}
at("find").addEventListener("input", () => redraw());
addEventListener("resize", fit);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
setInterval(() => { if (view === "logs" && !connection) redraw(new Set()); }, LOGS_EVERY_MS);
ask("/api/run").then((all) => {
  told(all);
  follow(`${all.epoch}-${all.version}`);
}).catch((error) => { at("status").textContent = `cannot be shown: ${error.message}`; });
