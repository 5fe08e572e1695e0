// Who did what when in one round, as bars: a row for each client, or for each worker where clients are many.

import { at, element, shown, table } from "./dom.js";

const MAX_ROWS = 24;
const KINDS = { wait: "waiting", train: "training", transfer: "transfer", evaluate: "evaluation", aggregate: "aggregation" };

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function gantt(round, spans) {
  const figure = at("gantt");
  const begin = Math.min(...spans.start), length = Math.max(...spans.end) - begin || 1e-9;
  if (!spans.kind.length) return figure.replaceChildren("Nothing is known of times in this round yet.");
  const byClient = new Set(spans.who).size <= MAX_ROWS;
  const rowOf = (i) => spans.kind[i] === "aggregate" ? "aggregation" : (byClient ? spans.who[i] : spans.worker[i] || "no worker yet");
  const names = [...new Set(spans.kind.map((_, i) => rowOf(i)))]
    .sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  const rows = names.slice(0, 100), height = 22 * rows.length + 24, left = 150, width = 1000 - left - 10;
  const totals = Object.entries(KINDS).map(([kind, label]) =>
    [label, spans.kind.reduce((sum, of, i) => sum + (of === kind ? spans.end[i] - spans.start[i] : 0), 0)]);
  const alt = `Round ${round}, ${shown(length)} seconds. Seconds in all: ${totals.map(([label, s]) => `${label} ${shown(s)}`).join(", ")}`;
  const picture = svg("svg", { viewBox: `0 0 1000 ${height}`, role: "img", "aria-label": alt, width: "100%" });
  rows.forEach((name, row) => picture.append(svg("text", { x: 0, y: 22 * row + 15 }, name.length > 22 ? `${name.slice(0, 21)}…` : name)));
  spans.kind.forEach((kind, i) => {
    const row = rows.indexOf(rowOf(i));
    if (row < 0) return;
    const bar = svg("rect", { class: kind, x: left + (spans.start[i] - begin) / length * width, y: 22 * row + 3, height: 16,
      width: Math.max((spans.end[i] - spans.start[i]) / length * width, 1) });
    bar.append(svg("title", {}, `${KINDS[kind]} ${spans.who[i]} ${shown(spans.end[i] - spans.start[i])} s`));
    picture.append(bar);
  });
  picture.append(svg("text", { x: left, y: height - 4 }, "0 s"), svg("text", { x: 990, y: height - 4, "text-anchor": "end" }, `${shown(length)} s`));
  const keys = Object.entries(KINDS).map(([kind, label]) => {
    const box = svg("svg", { "aria-hidden": "true" });
    box.append(svg("rect", { class: kind, width: 12, height: 12 }));
    return element("span", { class: "key" }, box, ` ${label}`);
  });
  const more = names.length > rows.length ? ` The first ${rows.length} of ${names.length} rows.` : "";
  figure.replaceChildren(element("figcaption", {}, ...keys, more), picture,
    element("details", {}, element("summary", {}, "As a table"), table("Seconds in all", ["what", "seconds"], totals)));
}
