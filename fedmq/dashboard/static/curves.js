// Curves by uPlot: each client as a line while they can be told apart, bands beyond that.

import uPlot from "./uplot.js";
import { asTable, at, element, shown, table } from "./dom.js";
import { cell, spread } from "./run.js";

const MAX_LINES = 12, TABLE_ROWS = 100;
const COLOURS = ["blue", "orange", "green", "purple", "red", "teal", "brown", "pink"];
const drawn = new Map();
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** A column of the clients over time, as {label, values}: of each that is wanted, or of all their spread, with a few that are. */
export function clientLines(run, parts, column, what, wanted, change = (value) => value) {
  const changed = (value) => (value === null || value === undefined ? null : change(value));
  const places = parts.map(([, part]) => new Map(part.client.map((client, i) => [client, cell(part[column], i)])));
  const found = run.clients.flatMap((name, client) => (name.includes(wanted) ? [{ label: `${name}${what}`, values: places.map((of) => changed(of.get(client))) }] : []));
  if (run.clients.length <= MAX_LINES) return found;
  const spreads = parts.map(([, part]) => spread(part, column));
  const of = (i) => spreads.map((values) => changed(values[i]));
  return [{ label: `worst client${what}`, values: of(4), edge: true }, { label: `90 %${what}`, values: of(3), edge: true },
    { label: `median${what}`, values: of(2) }, { label: `10 %${what}`, values: of(1), edge: true },
    { label: `best client${what}`, values: of(0), edge: true }, ...(found.length <= MAX_LINES ? found : [])];
}

/** Lines as the series of a plot; edges of bands have no colour of their own. */
function series(lines) {
  let next = 0;
  return lines.map(({ label, edge }, i) => {
    const stroke = colour(edge ? "muted" : COLOURS[next % COLOURS.length]);
    const dash = edge ? [2, 3] : next++ < COLOURS.length ? undefined : [6, 4];
    return { label, stroke, dash, width: i ? 1.2 : 2.5, spanGaps: true };
  });
}

/** Between the edges: the worst and the best, and in it 90 % and 10 %. */
function bands(lines) {
  const first = lines.findIndex(({ edge }) => edge) + 1;
  return first ? [{ series: [first, first + 4], fill: `${colour("orange")}22` }, { series: [first + 1, first + 3], fill: `${colour("orange")}44` }] : [];
}

/** Draw lines over numbered steps into a figure, once; later calls give it new data. The y axis begins at `least`, if given. */
export function curve(id, title, step, xs, lines, least) {
  const figure = at(id);
  const labels = lines.map(({ label }) => label).join("\n") + matchMedia("(prefers-color-scheme: dark)").matches;
  const data = [xs, ...lines.map(({ values }) => values)];
  const known = drawn.get(id);
  if (known?.labels === labels) known.plot.setData(data);
  else {
    known?.plot.destroy();
    const axis = { stroke: colour("ink"), grid: { stroke: colour("grid") }, ticks: { stroke: colour("grid") } };
    const plot = new uPlot({
      width: Math.max(figure.clientWidth - 24, 200), height: 260,
      scales: { x: { time: false }, ...(least === undefined ? {} : { y: { range: (_, __, most) => [least, most * 1.05 || 1] } }) },
      axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 1000] }, { ...axis, size: 70 }],
      series: [{ label: step }, ...series(lines)],
      bands: bands(lines),
    }, data);
    plot.root.setAttribute("aria-hidden", "true");
    figure.replaceChildren(element("figcaption", {}, title), plot.root);
    drawn.set(id, { labels, plot });
  }
  const from = Math.max(0, xs.length - TABLE_ROWS);
  asTable(figure, () => table(`${title}${from ? `, the last ${TABLE_ROWS}` : ""}`, [step, ...lines.map(({ label }) => label)],
    xs.slice(from).map((x, i) => [x, ...lines.map(({ values }) => shown(values[from + i]))])));
}

/** Charts fit their figures, also those that were hidden when they were drawn; legends show the last step. */
export function fit() {
  for (const [id, { plot }] of drawn) {
    const width = at(id).clientWidth - 24;
    if (width > 0 && width !== plot.width) plot.setSize({ width, height: plot.height });
    requestAnimationFrame(() => { if (plot.cursor.idx == null) plot.setLegend({ idx: plot.data[0].length - 1 }); });
  }
}
