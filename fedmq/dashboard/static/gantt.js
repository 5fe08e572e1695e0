// Who did what when, as bars: a row for each client, or for each worker where clients are many.

import { asTable, at, element, shown, table } from "./dom.js";
import { cell } from "./run.js";

const MAX_CLIENTS = 24, MAX_ROWS = 100, ROW = 22, LEFT = 150, WIDTH = 1000;
const KINDS = { wait: "waiting", train: "training", transfer: "transfer", evaluate: "evaluation", aggregate: "aggregation" };

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** The columns as a list, with the row that each span is drawn in. */
function spansOf(columns) {
  const byClient = columns.names.length <= MAX_CLIENTS;
  return columns.start.map((start, i) => {
    const kind = cell(columns.kind, i), who = columns.names[cell(columns.who, i)], worker = columns.workers[cell(columns.worker, i)];
    const row = kind === "aggregate" ? "aggregation" : byClient ? who : worker || "no worker yet";
    return { kind, who, worker, row, round: cell(columns.round, i), start, end: columns.end[i] };
  });
}

const inWords = ({ kind, who, worker, round, start, end }) =>
  `${KINDS[kind]}${who && ` ${who}`}${worker && ` on ${worker}`}, round ${round}, ${shown(end - start)} s`;

export function gantt(title, columns) {
  const figure = at("gantt"), spans = spansOf(columns);
  if (!spans.length) return figure.replaceChildren("Nothing is known of times here yet.");
  const length = Math.max(...spans.map(({ end }) => end)) || 1e-9;
  const names = [...new Set(spans.map(({ row }) => row))].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  const rows = new Map(names.slice(0, MAX_ROWS).map((name, i) => [name, i]));
  const height = ROW * rows.size + 24, x = (seconds) => LEFT + seconds / length * (WIDTH - LEFT - 10);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, width: "100%", "aria-hidden": "true" });
  for (const [name, i] of rows) picture.append(svg("text", { x: 0, y: ROW * i + 15 }, name.length > 22 ? `${name.slice(0, 21)}…` : name));
  const begins = new Map();
  for (const { round, start } of spans) begins.set(round, Math.min(start, begins.get(round) ?? Infinity));
  if (begins.size > 1) for (const start of begins.values()) picture.append(svg("line", { x1: x(start), x2: x(start), y1: 0, y2: height - 20 }));
  // One path for each kind: a round of five hundred clients has thousands of bars.
  const paths = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, []]));
  for (const { kind, row, start, end } of spans) {
    if (rows.has(row)) paths[kind].push(`M${x(start).toFixed(1)} ${ROW * rows.get(row) + 3}h${Math.max(x(end) - x(start), 1).toFixed(1)}v16H${x(start).toFixed(1)}z`);
  }
  for (const [kind, path] of Object.entries(paths)) picture.append(svg("path", { class: kind, d: path.join("") }));
  picture.append(svg("text", { x: LEFT, y: height - 4 }, "0 s"), svg("text", { x: WIDTH - 10, y: height - 4, "text-anchor": "end" }, `${shown(length)} s`));

  const pointed = element("output", {});
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect(), scale = WIDTH / box.width;
    const seconds = ((event.clientX - box.left) * scale - LEFT) / (WIDTH - LEFT - 10) * length;
    const row = Math.floor((event.clientY - box.top) * scale / ROW);
    const found = spans.filter((span) => rows.get(span.row) === row && span.start <= seconds && seconds <= span.end);
    pointed.textContent = found.slice(0, 4).map(inWords).join("; ");
  });
  const keys = Object.entries(KINDS).map(([kind, label]) => {
    const box = svg("svg", { "aria-hidden": "true" });
    box.append(svg("rect", { class: kind, width: 12, height: 12 }));
    return element("span", { class: "key" }, box, ` ${label}`);
  });
  const open = figure.querySelector("details")?.open ?? false;
  const more = names.length > rows.size ? ` The first ${rows.size} of ${names.length} rows.` : "";
  figure.replaceChildren(element("figcaption", {}, `${title} ${more}`, element("br"), ...keys), picture, pointed);
  asTable(figure, () => {
    const sum = (row, kind) => spans.reduce((all, of) => all + (of.row === row && of.kind === kind ? of.end - of.start : 0), 0);
    return table("Seconds in all", ["row", ...Object.values(KINDS)], names.map((row) => [row, ...Object.keys(KINDS).map((kind) => sum(row, kind))]));
  });
  figure.querySelector("details").open = open;
}
