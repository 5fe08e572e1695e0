// The views of a run but for its logs: each is drawn when it is looked at and something of its own has changed.

import { clientLines, curve } from "./curves.js";
import { at, choices, element, shown, size, table } from "./dom.js";
import { gantt } from "./gantt.js";
import { cell, newest } from "./run.js";

const MAX_ROWS = 50, MAX_TEXTS = 100;
const DOING = { train: "training", evaluate: "evaluating" };

export async function ask(path) {
  const answer = await fetch(path);
  if (answer.ok) return answer.json();
  throw new Error((await answer.json().catch(() => ({}))).error ?? `${path}: ${answer.status}`);
}

function drawCurves(run) {
  const scores = run.all("score"), rounds = run.all("round").filter(([, of]) => of.client.length);
  const xs = [...new Set([...scores, ...rounds].map(([number]) => number))].sort((a, b) => a - b);
  const over = (parts) => xs.map((x) => [x, parts.get(x) ?? { client: [], losses: null, loss: null }]);
  const byVersion = new Map(scores), byRound = new Map(rounds);
  const evaluated = scores.some(([, of]) => of.client.length), given = (name) => xs.map((x) => byVersion.get(x)?.[name] ?? null);
  const wanted = at("find").value;
  const clients = evaluated ? clientLines(run, over(byVersion), "losses", "", wanted) : clientLines(run, over(byRound), "loss", ", training", wanted);
  curve("loss", "Loss, nats per token", "round", xs, [{ label: "global", values: given("loss") }, ...clients]);
  const own = evaluated ? clientLines(run, over(byVersion), "losses", "", wanted, (loss) => Math.exp(Math.min(loss, 700))) : [];
  at("coverage").textContent = coverage(run, scores);
  curve("perplexity", "Perplexity", "round", xs, [{ label: "global", values: given("perplexity") }, ...own]);
  drawClients(run, newest(rounds, "loss"), newest(scores, "losses"));
}

/** What the newest global loss is of. */
function coverage(run, scores) {
  if (!scores.length) return "No version is scored yet.";
  const [version, { client }] = scores.at(-1), missing = run.clients.length - client.length;
  return client.length && missing ? `The global loss of version ${version} is of ${client.length} of ${run.clients.length} clients.` : "";
}

function drawClients(run, trained, evaluated) {
  const { client, examples, gone } = run.part("clients"), wanted = at("find").value;
  const rows = client.map((number, i) => [run.clients[number] + (cell(gone, i) ? " (given up)" : ""), examples[i], trained[number] ?? null, evaluated[number] ?? null])
    .filter(([name]) => name.includes(wanted)).sort((a, b) => (b[3] ?? b[2] ?? -1) - (a[3] ?? a[2] ?? -1));
  at("clients").replaceChildren(table(`${Math.min(MAX_ROWS, rows.length)} of ${rows.length} clients, the highest last loss first`,
    ["client", "texts", "training loss", "held-out loss"], rows.slice(0, MAX_ROWS)));
}

async function drawTimeline(run) {
  const rounds = run.all("round").map(([round]) => round);
  choices(at("last-round"), rounds, rounds.at(-1));
  if (!rounds.length) return at("gantt").replaceChildren("No round has begun yet.");
  const last = Number(at("last-round").value), first = Math.max(0, last - at("num-rounds").value + 1);
  gantt(first === last ? `Round ${last}.` : `Rounds ${first} to ${last}.`, await ask(`/api/timeline?first=${first}&last=${last}`));
}

function drawWorkers(run) {
  const { status, notes, num_notes } = run.part("head"), live = run.part("live"), { workers } = run.part("clients");
  const known = run.workers.map((name) => ({ name, clients: 0, trainings: 0, seconds: 0, last: null }));
  for (const hosts of workers) for (const worker of hosts) known[worker].clients += 1;
  for (const [round, of] of run.all("round")) {
    of.client.forEach((_, i) => {
      const worker = known[cell(of.worker, i)];
      worker.trainings += 1; worker.seconds += cell(of.seconds, i) ?? 0; worker.last = round;
    });
  }
  const now = new Map((live?.workers ?? []).map((worker) => [worker.worker, worker]));
  for (const name of now.keys()) if (!run.workers.includes(name)) known.push({ name, clients: now.get(name).clients, trainings: 0, seconds: 0, last: null });
  const rows = known.map((of) => [of.name, health(status, live, now.get(of.name)), now.get(of.name)?.tokens_per_s ?? null, of.clients, of.trainings, of.seconds, of.last]);
  at("worker-table").replaceChildren(table(`${known.length} workers`,
    ["worker", "now", "tokens/s", "clients hosted", "trainings", "seconds of training", "last update in round"], rows));
  at("awaited").textContent = live ? (live.awaited.length ? `Waiting for: ${live.awaited.slice(0, 10).join("; ")}${live.awaited.length > 10 ? ` and ${live.awaited.length - 10} more` : ""}` : "Nobody is awaited.") : "";
  const newestFirst = notes.toReversed().map(([seconds, level, text]) => [new Date(1000 * seconds).toLocaleString(), level, text]);
  at("notes").replaceChildren(notes.length ? table(`The newest ${notes.length} of ${num_notes}`, ["when", "level", "what"], newestFirst) : "None.");
}

/** How a worker is, in words. */
function health(status, live, worker) {
  if (!live) return status === "running" ? "not known yet" : "the run is over";
  if (!worker) return "away";
  const jobs = worker.jobs.map((job) => job.split("/")).map(([kind, , ...unit]) => `${DOING[kind] ?? kind} ${unit.join("/")}`);
  const steps = jobs.length && worker.total_steps ? `, step ${worker.step} of ${worker.total_steps}` : "";
  return `${worker.suspect ? "silent; " : ""}${jobs.join(", ") || "idle"}${steps}`;
}

function drawBytes(run) {
  const rounds = run.all("round"), of = (name) => rounds.map(([, round]) => round.bytes[name]);
  const sum = (name) => size(of(name).reduce((all, n) => all + n, 0)), mega = (name) => of(name).map((n) => n / 1e6);
  at("total").textContent = `In all: up ${sum("bytes_up")}, down ${sum("bytes_down")}`;
  curve("traffic", "MB per round", "round", rounds.map(([round]) => round), [{ label: "up", values: mega("bytes_up") }, { label: "down", values: mega("bytes_down") }], 0);
}

function drawData(run) {
  const { client, examples, tokens, workers, gone } = run.part("clients");
  const rows = client.map((number, i) => [run.clients[number], examples[i], tokens[i], workers[i].map((worker) => run.workers[worker]).join(", "), cell(gone, i) ? "given up" : ""])
    .sort((a, b) => b[1] - a[1]);
  curve("sizes", `Texts of each of ${rows.length} clients, the largest first`, "place", rows.map((_, i) => i + 1), [{ label: "texts", values: rows.map(([, texts]) => texts) }], 0);
  at("size-table").replaceChildren(table(`The ${Math.min(MAX_ROWS, rows.length)} largest of ${rows.length} clients`, ["client", "texts", "tokens", "hosted by", ""], rows.slice(0, MAX_ROWS)));
}

function drawTexts(run) {
  const texts = new Map(run.all("texts")), versions = [...texts.keys()];
  choices(at("left"), versions, versions[0]);
  choices(at("right"), versions, versions.at(-1));
  const of = (id) => texts.get(Number(at(id).value)) ?? [], right = of("right");
  const rows = of("left").slice(0, MAX_TEXTS).map(([prompt, text], i) => [prompt, text, right[i]?.[1]]);
  at("text-table").replaceChildren(versions.length
    ? table("Continuations of the same openings", ["opening", `version ${at("left").value}`, `version ${at("right").value}`], rows)
    : "None yet. generation.prompts and generation.every in the config say which and when.");
}

function drawConfig(run) {
  const { config, facts, software } = run.part("settings");
  at("config-text").textContent = config;
  const names = [...new Set(software.flatMap((versions) => Object.keys(versions)))];
  at("facts").replaceChildren(
    table("What it takes to make this run again", ["what", "value"], Object.entries(facts).map(([name, value]) => [name.replaceAll("_", " "), value])),
    table("Software", ["name", ...software.map((_, i) => (i ? `gone on with, ${i}` : "begun with"))], names.map((name) => [name, ...software.map((versions) => versions[name])])));
}

/** By the id of its panel: what draws it, and kinds of parts that it is made of. */
export const VIEWS = {
  curves: [drawCurves, ["names", "clients", "round", "score"]],
  timeline: [drawTimeline, ["round", "score"]],
  workers: [drawWorkers, ["head", "live", "names", "clients", "round"]],
  bytes: [drawBytes, ["round"]],
  data: [drawData, ["names", "clients"]],
  texts: [drawTexts, ["texts"]],
  config: [drawConfig, ["settings"]],
};
