// The page: what the server tells of the run, into its views.

import { clientLines, curve, fit } from "./curves.js";
import { at, choices, element, size, table } from "./dom.js";
import { gantt } from "./gantt.js";
import { tabs } from "./tabs.js";

const MAX_ROWS = 50;
let run = null, view = "curves", busy = false, again = false;

async function ask(path) {
  const answer = await fetch(path);
  if (answer.ok) return answer;
  throw new Error((await answer.json().catch(() => ({}))).error ?? `${path}: ${answer.status}`);
}

const last = (values) => values.findLast((value) => value !== null) ?? null;

function drawCurves() {
  const { scores, rounds } = run, evaluated = clientLines(run.evaluated, scores.version.length);
  const byVersion = new Map(rounds.round.map((round, i) => [round, i]));
  const onVersions = (values) => scores.version.map((version) => values[byVersion.get(version)] ?? null);
  const trained = clientLines(run.trained, rounds.round.length).map(([label, values]) => [`${label}, training`, onVersions(values)]);
  const clients = evaluated.length ? evaluated : trained;
  curve("loss", "Loss, nats per token", scores.version, [["global", scores.loss], ...clients]);
  const perplexities = evaluated.map(([label, values]) => [label, values.map((loss) => loss === null ? null : Math.exp(loss))]);
  curve("perplexity", "Perplexity", scores.version, [["global", scores.perplexity], ...perplexities]);
  const wanted = at("find").value.toLowerCase(), sizes = run.provenance.clients;
  const worstFirst = Object.keys(sizes).filter((name) => name.toLowerCase().includes(wanted))
    .map((name) => [name, sizes[name].num_examples, last(run.trained[name] ?? []), last(run.evaluated[name] ?? [])])
    .sort((a, b) => (b[3] ?? b[2] ?? -1) - (a[3] ?? a[2] ?? -1));
  const caption = `${Math.min(MAX_ROWS, worstFirst.length)} of ${worstFirst.length} clients, the highest last loss first`;
  at("clients").replaceChildren(table(caption, ["client", "texts", "training loss", "held-out loss"], worstFirst.slice(0, MAX_ROWS)));
}

async function drawTimeline() {
  const rounds = run.rounds.round;
  choices(at("timeline-round"), rounds, rounds.at(-1));
  const round = at("timeline-round").value;
  if (round) gantt(round, await (await ask(`/api/rounds/${round}/spans`)).json());
}

function drawWorkers() {
  const awaited = run.live?.awaited ?? [];
  const rows = Object.entries(run.workers).map(([name, of]) => [name, of.clients, of.trainings, of.seconds, of.last_round]);
  at("worker-table").replaceChildren(element("p", {}, awaited.length ? `Waiting for: ${awaited.join("; ")}` : "Nobody is awaited."),
    table("Workers", ["worker", "clients hosted", "trainings", "seconds of training", "last update in round"], rows));
  at("warnings").replaceChildren(...run.warnings.slice(-50).map((text) => element("li", {}, text)));
}

function drawBytes() {
  const { round, bytes_up, bytes_down, seconds, clients } = run.rounds;
  at("total").textContent = `In all: up ${size(run.bytes_up)}, down ${size(run.bytes_down)}`;
  curve("traffic", "MB per round", round, [["up", bytes_up.map((n) => n / 1e6)], ["down", bytes_down.map((n) => n / 1e6)]]);
  const rows = round.map((name, i) => [name, clients[i], size(bytes_up[i]), size(bytes_down[i]), seconds[i]]).reverse();
  at("byte-table").replaceChildren(table("Rounds, the newest first", ["round", "clients", "up", "down", "seconds"], rows));
}

function drawData() {
  const counts = Object.values(run.provenance.clients).map((client) => client.num_examples).sort((a, b) => b - a);
  curve("sizes", `Texts of each of ${counts.length} clients, the largest first`, counts.map((_, i) => i + 1), [["texts", counts]]);
}

function drawTexts() {
  const versions = [...new Set(run.generations.map((text) => text.version))];
  choices(at("left"), versions, versions[0]);
  choices(at("right"), versions, versions.at(-1));
  const of = (id) => run.generations.filter((text) => String(text.version) === at(id).value);
  const right = of("right");
  const rows = of("left").map((text, i) => [text.prompt, text.text, right[i]?.text]);
  at("text-table").replaceChildren(table("Continuations of the same openings", ["opening", `version ${at("left").value}`, `version ${at("right").value}`], rows));
}

async function drawLogs() {
  const names = await (await ask("/api/logs")).json();
  choices(at("log-name"), names, names[0]);
  const text = names.length ? await (await ask(`/api/logs/${encodeURIComponent(at("log-name").value)}`)).text() : "No logs are here (--log-dir says where they are).";
  const shown = at("log-text"), atEnd = shown.scrollTop + shown.clientHeight >= shown.scrollHeight - 40;
  shown.textContent = text;
  if (atEnd) shown.scrollTop = shown.scrollHeight;
}

const VIEWS = { curves: drawCurves, timeline: drawTimeline, workers: drawWorkers, bytes: drawBytes, data: drawData, texts: drawTexts, logs: drawLogs,
  config: () => { at("config-text").textContent = JSON.stringify(run.provenance.config, null, 2); } };

async function draw() {
  if (!run) return;
  at("name").textContent = run.experiment_name;
  document.title = `${run.experiment_name}: ${run.status}`;
  const now = run.live?.phase ? `, ${run.live.phase}, round ${run.live.round}` : "";
  const status = `${run.status}${run.reason ? ` (${run.reason})` : ""}, committed round ${run.committed ?? "none"} of ${run.num_rounds}${now}`;
  if (at("status").textContent !== status) at("status").textContent = status;
  at("damage").replaceChildren(...run.damage.map((line) => element("li", {}, line)));
  await VIEWS[view]();
  fit();
  document.body.dataset.drawn = run.committed ?? "none";
}

const failed = (error) => { at("status").textContent = `cannot be shown: ${error.message}`; };

async function refresh() {
  if (busy) { again = true; return; }
  busy = true;
  try {
    do {
      again = false;
      run = await (await ask("/api/run")).json();
      await draw();
    } while (again);
  } catch (error) { failed(error); } finally { busy = false; }
}

tabs((id) => { view = id; draw().catch(failed); });
for (const select of document.querySelectorAll("select")) {
  select.addEventListener("change", () => { select.dataset.chosen = select.value; draw().catch(failed); });
}
at("find").addEventListener("input", () => { if (run) drawCurves(); });
addEventListener("resize", fit);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw().catch(failed));
const changes = new EventSource("/api/changes");
changes.addEventListener("changed", refresh);
changes.onerror = () => { at("status").textContent = "the dashboard's server does not answer; what is shown may be old"; };
