// Curves by uPlot: each client as a line while they can be told apart, bands of percentiles beyond that.

import uPlot from "./uplot.js";
import { at, element, shown } from "./dom.js";

const MAX_LINES = 12;
const drawn = new Map();
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function percentile(sorted, share) {
  return sorted.length ? sorted[Math.round(share * (sorted.length - 1))] : null;
}

/** Lines of the clients, or of their spread: [[label, values]]. */
export function clientLines(rows, length) {
  const names = Object.keys(rows);
  if (names.length <= MAX_LINES) return names.map((name) => [name, rows[name]]);
  const columns = Array.from({ length }, (_, i) =>
    names.map((name) => rows[name][i]).filter((value) => value !== null).sort((a, b) => a - b));
  return [["best", 0], ["10 %", 0.1], ["median", 0.5], ["90 %", 0.9], ["worst", 1]].map(([label, share]) =>
    [`${label} client`, columns.map((column) => percentile(column, share))]);
}

/** Draw lines over rounds into a figure, once; later calls give it new data. */
export function curve(id, title, xs, lines) {
  const figure = at(id);
  const labels = lines.map(([label]) => label).join("\n") + matchMedia("(prefers-color-scheme: dark)").matches;
  const last = lines.map(([label, values]) => `${label} ${shown(values.at(-1))}`).slice(0, 6).join(", ");
  figure.setAttribute("aria-label", `${title}. Last: ${last}`);
  const data = [xs, ...lines.map(([, values]) => values)];
  const known = drawn.get(id);
  if (known?.labels === labels) return known.plot.setData(data);
  const axis = { stroke: colour("ink"), grid: { stroke: colour("grid") }, ticks: { stroke: colour("grid") } };
  const colours = ["blue", "orange", "green", "purple", "rose", "teal", "gold", "brown", "muted"].map(colour);
  const plot = new uPlot({
    width: Math.max(figure.clientWidth - 24, 200), height: 260,
    scales: { x: { time: false } },
    axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 1000] }, { ...axis, size: 70 }],
    series: [{ label: "round" }, ...lines.map(([label], i) => ({
      label, stroke: colours[i % colours.length], width: i ? 1.2 : 2.5, spanGaps: true,
      dash: i < colours.length ? undefined : [6, 4] }))],
  }, data);
  figure.setAttribute("role", "group");
  figure.replaceChildren(element("figcaption", {}, title), plot.root);
  drawn.set(id, { labels, plot });
}

/** Charts fit their figures, also those that were hidden when they were drawn; legends show the last round. */
export function fit() {
  for (const [id, { plot }] of drawn) {
    const width = at(id).clientWidth - 24;
    if (width > 0 && width !== plot.width) plot.setSize({ width, height: plot.height });
    requestAnimationFrame(() => { if (plot.cursor.idx == null) plot.setLegend({ idx: plot.data[0].length - 1 }); });
  }
}
